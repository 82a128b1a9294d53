"""results.json explains itself and is checked when read."""

import json
from pathlib import Path
from typing import Any

import pytest

from marl import compose, files, results
from marl.errors import CorruptFileError


def build(tmp_path: Path) -> dict[str, Any]:
    cfg = compose.compose(["env=matrix_game", "agent=vdn", "seed=3", f"runs_dir={tmp_path}", "run_id=a"])
    files.make_folder(cfg.folder)
    files.write_atomic(cfg.folder / "metrics.jsonl", b"{}\n")
    return results.build(
        cfg,
        status="finished",
        counters={"steps": 10, "episodes": 2, "updates": 1},
        wall_s=1.23456,
        curve=[{"step": 0, "wall_s": 0.1, "return": [[1.0, 2.0]]}],
        final={"return": [[1.0, 2.0, 3.0]], "success": [[0.0, 1.0, 1.0]]},
        paths=[cfg.folder / "metrics.jsonl", cfg.folder / "absent.png"],
    )


def test_everything_that_explains_a_run_is_there(tmp_path: Path) -> None:
    out = build(tmp_path)
    results.write(tmp_path / "a", out)
    assert results.read(tmp_path / "a") == out == results.read(tmp_path / "a" / "results.json")
    assert out["seeds"] == [3]
    assert out["config"]["agent"]["_target_"] == "marl.agents.vdn.Config"
    assert out["config"]["agent"]["gamma"] == 0.99  # defaults too
    assert out["files"] == {"metrics.jsonl": files.sha256(b"{}\n")}
    assert set(out["versions"]) >= {"python", "torch", "numpy", "marl"}
    assert set(out["hardware"]) == {"cpu", "simd", "cores", "memory_gib", "gpu", "platform"}
    assert set(out["git"]) == {"commit", "dirty"}
    assert len(out["config_hash"]) == 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 9}, "not a results file of schema 1"),
        ({"seeds": None}, "seeds is a NoneType"),
        ({"steps": True}, "steps is a bool"),
        ({"final": {"return": [[1.0], [2.0]]}}, "final.return needs one row for each of 1 seeds"),
        ({"status": ...}, "status is missing"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    out = build(tmp_path) | change
    out = {k: v for k, v in out.items() if v is not ...}
    (tmp_path / "results.json").write_text(json.dumps(out))
    with pytest.raises(CorruptFileError, match=words):
        results.read(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema": 2}'])
def test_foreign_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(CorruptFileError, match=r"results\.json cannot be used"):
        results.read(tmp_path)
    with pytest.raises(CorruptFileError, match="No such file"):
        results.read(tmp_path / "nowhere.json")
