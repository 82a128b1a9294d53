"""`marl attack` from its words to its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from marl import cli, compose, train
from marl.errors import FieldError
from marl.robust.attack import curve_of, load


def victim(runs: Path, run_id: str, *more: str) -> Path:
    words = ["env=predator_prey/easy", "agent=qmix", "agent.hidden=8", "total_steps=20", "num_envs=2"]
    quick = [
        "logger=none",
        "video=false",
        "threads=1",
        "evaluation.episodes=1",
        "evaluation.final_episodes=0",
    ]
    train.run(compose.compose([*words, *quick, f"runs_dir={runs}", f"run_id={run_id}", *more]))
    return runs / run_id


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return victim(tmp_path_factory.mktemp("runs"), "victim")


def attack(folder: Path, *words: str) -> tuple[dict[str, object], Path]:
    before = set((folder / "attacks").glob("*")) if (folder / "attacks").exists() else set()
    assert cli.main(["attack", f"run={folder}", *words]) == 0
    (made,) = set((folder / "attacks").glob("*")) - before
    return json.loads((made / "report.json").read_text()), made


def test_a_report_with_curve_and_film(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("attack=local_worst", "attack.force=pgd", "attack.budget.linf=0.5", "attack.iterations=3")
    out, made = attack(folder, *words, "episodes=3", "curve=linf:0.5,0,0.1")
    shown, progress = capsys.readouterr()
    parts = ["left alone", "under attack", "linf 0", "linf 0.1", "linf 0.5"]
    assert [line.split(":")[0] for line in progress.splitlines() if ": return" in line] == parts
    for part in (
        "team return",
        "attacked agent-steps per episode",
        "mean L1 per attacked step",
        "side_by_side.gif",
    ):
        assert part in shown
    clean, attacked, curve = out["clean"], out["attacked"], out["curve"]
    assert isinstance(clean, dict)
    assert isinstance(attacked, dict)
    assert isinstance(curve, dict)
    assert out["victims"] == [0]
    assert clean["steps_attacked"] is None
    assert attacked["steps_attacked"] > 0
    assert attacked["linf"] <= 0.5 + 1e-6
    assert curve["values"] == [0.0, 0.1, 0.5]
    assert curve["returns"][0] == out["episodes"]["clean"]["return"], "nothing is changed at 0"  # type: ignore[index]
    assert curve["returns"][2] == out["episodes"]["attacked"]["return"]  # type: ignore[index]
    assert curve["numbers"][0]["misclassified"] == 0.0
    with Image.open(made / "curve.png") as picture:
        assert picture.size[0] > 300
    with Image.open(made / "side_by_side.gif") as film:
        assert film.n_frames > 1  # type: ignore[attr-defined]
        assert film.size[0] > 1.3 * film.size[1]


def test_another_teams_adversary_is_called_a_transfer(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained against one team, used on it and then on another of the same world."""
    quick = ("episodes=2", "curve=none", "video=false", "attack=ow", "attack.force=control")
    sizes = {"total_steps": 60, "num_envs": 2, "hidden": 8, "explore_steps": 50, "update_ratio": 0.2}
    out, _ = attack(folder, *quick, *(f"attack.learner.{name}={value}" for name, value in sizes.items()))
    assert out["learned_on"] == "victim"
    assert "transfer" not in capsys.readouterr().out
    (adversary,) = (folder / "adversaries").iterdir()
    other = victim(tmp_path, "other", "seed=1")
    out, _ = attack(other, *quick, f"attack.adversary={adversary}")
    assert out["learned_on"] == "victim"
    assert "adversary of victim (transfer)" in capsys.readouterr().out


def test_other_settings_and_episodes_have_their_own_folder(folder: Path) -> None:
    rest = ("attack.force=control", "episodes=2", "curve=none", "video=false")
    _, one = attack(folder, "attack=random", *rest)
    _, two = attack(folder, "attack=random", *rest, "seed=4")
    _, three = attack(folder, "attack=random", *rest, "attack.timing.steps=1")
    assert len({one, two, three}) == 3
    assert sorted(p.name for p in one.iterdir()) == ["report.json"]


def test_a_report_that_is_written_again_keeps_no_picture_of_the_last(folder: Path) -> None:
    words = ("attack=random", "attack.force=control", "episodes=1", "video=false", "seed=9")
    _, made = attack(folder, *words, "curve=steps:0,1")
    assert (made / "curve.png").is_file()
    assert cli.main(["attack", f"run={folder}", *words, "curve=none"]) == 0
    assert json.loads((made / "report.json").read_text())["curve"]["values"] == []
    assert not (made / "curve.png").exists()


def test_every_shipped_attack_can_be_read() -> None:
    for name in compose.options("attack"):
        made = load(name, [])
        budget, values = curve_of("auto", made)
        assert values[0] == 0
        made.within(budget, values[-1])


@pytest.mark.parametrize("text", ["linf", "linf:a", "l1:-1,2", "none,"])
def test_wrong_curves_say_so(text: str) -> None:
    with pytest.raises(FieldError, match="give auto, none or <budget>"):
        curve_of(text, load("random", []))


def test_the_pages_commands_can_be_read() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "attack.md"
    lines = [
        line.split("#")[0].split() for line in page.read_text().splitlines() if line.startswith("marl attack")
    ]
    assert len(lines) >= 5
    for words in lines:
        settings = dict(word.split("=", 1) for word in words[2:])
        made = load(settings["attack"], [w for w in words if w.startswith("attack.")])
        curve_of(settings.get("curve", "auto"), made)
