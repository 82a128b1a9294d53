"""The minutes of a fresh clone: each row says when and of which commit it was measured."""

import json
from pathlib import Path

from experiments.ground import fresh_clone

ROWS = """commit,target,minutes,wins
old,train,3.0,0.99
old,test,5.0,
new,test,8.0,
new,test,9.0,
new,test,7.0,
"""


def test_a_row_is_of_its_own_newest_commit(tmp_path: Path) -> None:
    raw = tmp_path / fresh_clone.RAW
    raw.parent.mkdir(parents=True)
    raw.write_text(ROWS)
    assert fresh_clone.train_minutes(raw) == (3.0, 3.0, 3.0, 1)
    assert fresh_clone.test_minutes(raw) == (8.0, 7.0, 9.0, 3)
    fresh_clone.claim("train", tmp_path)
    path = tmp_path / "experiments" / "ground" / "claims.json"
    (train,) = before = json.loads(path.read_text())
    assert (train["commit"], train["trial"]) == ("old", True)
    train["date"] = "2026-01-01"  # as if measured long ago
    path.write_text(json.dumps(before))
    fresh_clone.claim("test", tmp_path)
    test, again = json.loads(path.read_text())
    assert (test["id"], test["commit"], test["value"]) == ("ground.make_test_minutes", "new", 8.0)
    assert again == train


def test_the_published_rows_name_the_commits_of_their_raw_file() -> None:
    rows = json.loads((fresh_clone.ROOT / "experiments" / "ground" / "claims.json").read_text())
    published = {row["id"]: row["commit"] for row in rows}
    for target in fresh_clone.TARGETS:
        (commit,) = {row["commit"] for row in fresh_clone._rows(fresh_clone.ROOT / fresh_clone.RAW, target)}
        assert published[f"ground.make_{target}_minutes"] == commit
