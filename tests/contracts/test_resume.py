"""A run that was broken off and resumed in a new process equals the run that never was, bit for bit.

The break falls where it hurts: mid-episode, after the memory wrapped, between two target copies, with
epsilon moving. Nets, targets, optimisers, memory, worlds, counters, generators, curves and the final
episodes are compared by hash or value.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from marl import checkpoint, cli

if TYPE_CHECKING:
    from tests.contracts.conftest import Marl

QUICK = ("logger=none", "video=false", "threads=1", "evaluation.episodes=4", "evaluation.final_episodes=8")
HALF, WHOLE = 400, 800  # team steps at the break and at the end
COMMON = (
    "num_envs=4",
    "seed=3",
    "evaluation.every_steps=300",
    "checkpoint.every_steps=250",
    "logger.every_steps=90",
)
TARGET_EVERY, EXPLORE_STEPS = 3, 1000
SMALL = ("agent.hidden=16", f"agent.target_every={TARGET_EVERY}")
OFF_POLICY = (
    *SMALL,
    "loop=off_policy",
    "loop.memory.capacity=200",  # wraps before the break
    "loop.batch.sequences=4",
    "loop.updates.per=episode",
    "loop.updates.ratio=0.75",
    f"loop.explore.steps={EXPLORE_STEPS}",
)
PER_STEP = (*OFF_POLICY, "loop.updates.per=step", "loop.updates.ratio=0.05")
ON_POLICY = (*SMALL, "loop=on_policy", "loop.rollout_steps=10", "loop.explore=0.3")

LOOPS = {
    "off_policy": ("env=battle/3m", "agent=qmix", *OFF_POLICY),
    "off_policy_steps": ("env=relay_game", "agent=qplex", *PER_STEP),
    "on_policy": ("env=battle/3m", "agent=vdn", *ON_POLICY),
    "ppo": ("env=battle/3m", "agent=mappo", "agent.hidden=16", "loop.rollout_steps=10"),
    # Groups that change at nearly every step; the target follows them.
    "off_policy_grouped": (
        "env=battle/3m",
        "agent=qmix",
        *OFF_POLICY,
        "sparsity=grouped",
        "agent.sparsity.smallest=4",
        "agent.sparsity.initial_std=0.01",
    ),
    "talking_grouped": (
        "env=relay_game",
        "agent=ic3net",
        "agent.hidden=16",
        "loop.rollout_steps=13",  # the break at 104 steps of each env falls mid-episode
        "sparsity=grouped",
        "groups=3",
        "agent.sparsity.ste=selected",
        "agent.sparsity.smallest=4",
        "agent.sparsity.initial_std=0.01",
        "agent.sparsity.refresh=2",
    ),
    "off_policy_talking": ("env=relay_game", "agent=tmc", *PER_STEP, "train_channel=heavy"),
    "off_policy_scheduled": ("env=relay_game", "agent=schednet", *PER_STEP, "channel=gilbert_elliott"),
    # The attacker's network, its memory and what is left of its budget are part of the state.
    "off_policy_attacked": (
        "env=relay_game",
        "agent=qplex",
        *PER_STEP,
        "defence=byzantine",
        "defence.action=learned",
        "defence.batch=16",
        "defence.memory=100",
    ),
    "on_policy_perturbed": (
        "env=battle/3m",
        "agent=mappo",
        "agent.hidden=16",
        "loop.rollout_steps=10",
        "defence=adversarial",
        "defence.ramp=600",
    ),
    "talking": ("env=relay_game", "agent=ic3net", "agent.hidden=16", "loop.rollout_steps=10"),
}


def state_of(run: Path) -> dict[str, Any]:
    saved, skipped = checkpoint.latest(run)
    assert saved is not None
    assert skipped == []
    return saved.state


def break_and_compare(
    marl: Marl, same: Callable[[Path, Path], None], words: tuple[str, ...]
) -> dict[str, Any]:
    """Run to the end in one go, and in two; returns the state at the break."""
    whole = marl.start("train", *QUICK, "run_id=whole", *COMMON, *words, f"total_steps={WHOLE}")
    half = marl.start("train", *QUICK, "run_id=half", *COMMON, *words, f"total_steps={HALF}")
    marl.end(half)
    at_break = state_of(marl.folder / "runs" / "half")
    marl.fresh("train", "resume=runs/half", f"total_steps={WHOLE}")
    marl.end(whole)
    same(marl.folder / "runs" / "half", marl.folder / "runs" / "whole")
    return at_break


@pytest.mark.parametrize("name", LOOPS)
def test_a_resumed_run_equals_an_unbroken_one(
    name: str, marl: Marl, same_everything: Callable[[Path, Path], None]
) -> None:
    state = break_and_compare(marl, same_everything, LOOPS[name])
    assert state["counters"]["updates"] > 0
    assert state["counters"]["updates"] % TARGET_EVERY != 0, "the break must fall between two target copies"
    assert int(state["rollout"]["timestep"]["t_B"].max()) > 0, "the break must fall mid-episode"
    if "grouped" in name:
        one, two = (marl.folder / "runs" / run / "sparsity.jsonl" for run in ("half", "whole"))
        assert one.read_bytes() == two.read_bytes()
    if name.startswith("off_policy"):
        assert state["memory"]["oldest"] > 0, "the break must fall after the memory wrapped"
        assert state["counters"]["steps"] < EXPLORE_STEPS, "the break must fall while epsilon moves"


def test_a_run_that_ended_above_its_total_steps_can_still_be_finished(
    marl: Marl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kill may come after the last checkpoint, before results.json: 14 vector steps of 4 are 56 steps."""
    marl.train("run", *COMMON, *LOOPS["off_policy"], "total_steps=54")
    monkeypatch.chdir(marl.folder)
    results = Path("runs/run/results.json")
    whole = json.loads(results.read_bytes())
    assert whole["steps"] == 56
    assert cli.main(["train", "resume=runs/run"]) == 2
    assert "the run is finished; give total_steps=<more than 56>" in capsys.readouterr().err
    results.unlink()
    assert cli.main(["train", "resume=runs/run", "total_steps=50"]) == 2
    assert "total_steps=50 cannot be used: the run has made 56 steps already" in capsys.readouterr().err
    marl.run("train", "resume=runs/run")
    again = json.loads(results.read_bytes())
    assert (again["status"], again["steps"], again["final"]) == ("finished", 56, whole["final"])


def test_an_offline_run_resumes_from_its_own_checkpoint(
    marl: Marl, same_everything: Callable[[Path, Path], None]
) -> None:
    """It carries its data with it: the run that they came from may be gone."""
    marl.train("source", *COMMON, *LOOPS["off_policy"], "total_steps=400")
    data = (
        "env=battle/3m",
        "agent=qmix",
        *SMALL,
        "loop=offline",
        "loop.data=runs/source",
        "loop.batch.sequences=4",
    )
    offline = (
        "evaluation.every_steps=30",
        "checkpoint.every_steps=25",
        "logger.every_steps=10",
        "num_envs=4",
    )
    marl.train("whole", *data, *offline, "total_steps=90", "loop.updates=5")
    marl.train("half", *data, *offline, "total_steps=45", "loop.updates=5")
    (marl.folder / "runs" / "source").rename(marl.folder / "gone")
    before = (marl.folder / "runs" / "half" / "metrics.jsonl").read_bytes()
    marl.run("train", "resume=runs/half", "total_steps=90")
    after = (marl.folder / "runs" / "half" / "metrics.jsonl").read_bytes()
    assert len(after) > len(before), "it must have gone on"
    same_everything(marl.folder / "runs" / "half", marl.folder / "runs" / "whole")
