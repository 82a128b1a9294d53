"""Somebody else's environment, in a scratch file outside the repository, trains by its dotted path alone."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from marl import checkpoint, cli, config
from marl.errors import FieldError

if TYPE_CHECKING:
    from tests.contracts.conftest import Marl

# The scout sees 3 numbers, has 2 actions and dies at step 3; the guard sees 5, has 4 and lives to step 6.
# Each earns 1 for action 1, so that the best return is 3 + 6; a team that draws its actions earns 1.5 + 1.5.
SCRATCH = """
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Watch(ParallelEnv):
    metadata = {"name": "watch", "max_cycles": 6}
    possible_agents = ["scout", "guard"]

    def __init__(self, crash_at=0):
        self.crash_at, self.steps = crash_at, 0

    def observation_space(self, agent):
        return spaces.Box(-1, 1, (3 if agent == "scout" else 5,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(2 if agent == "scout" else 4)

    def _observe(self):
        sizes = {a: self.observation_space(a).shape for a in self.agents}
        return {a: self.rng.uniform(-1, 1, size).astype(np.float32) for a, size in sizes.items()}

    def reset(self, seed=None, options=None):
        self.rng, self.t, self.agents = np.random.default_rng(seed), 0, ["scout", "guard"]
        return self._observe(), {a: {} for a in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.t += 1
        self.steps += 1
        if self.steps == self.crash_at:
            raise ZeroDivisionError("the watch is over")
        observations = self._observe()
        rewards = {a: float(action == 1) for a, action in actions.items()}
        ends = {a: self.t == (3 if a == "scout" else 6) for a in self.agents}
        no = dict.fromkeys(self.agents, False)
        self.agents = [a for a in self.agents if not ends[a]]
        return observations, rewards, ends, no, {a: {} for a in observations}


def make(**kwargs):
    return Watch(**kwargs)
"""
QUICK = ("logger=none", "video=false", "threads=1", "evaluation.episodes=4", "evaluation.final_episodes=8")
WORDS = ("env=pettingzoo", "env.target=scratch:make", "num_envs=4", "evaluation.every_steps=200")
MAPPO = ("agent=mappo", "agent.hidden=16", "agent.learning_rate=0.01", "loop.rollout_steps=12")
QMIX = ("agent=qmix", "agent.hidden=16", "agent.learning_rate=0.01", "loop.explore.steps=600")


@pytest.fixture
def home(marl: Marl) -> Marl:
    (marl.folder / "scratch.py").write_text(SCRATCH)
    return marl


def results(home: Marl, run: str) -> dict[str, Any]:
    out = json.loads((home.folder / "runs" / run / "results.json").read_bytes())
    assert isinstance(out, dict)
    return out


def learned(run: dict[str, Any]) -> bool:
    assert run["status"] == "finished"
    assert set(run["final"]["length"][0]) == {6}
    assert sum(run["curve"][0]["return"][0]) / 4 < 7, "it was there before learning"
    return sum(run["final"]["return"][0]) / 8 > 7


def test_ppo_learns_by_dotted_path_and_numbers_do_not_depend_on_workers(home: Marl) -> None:
    words = (*WORDS, *MAPPO, "total_steps=1600")
    started = [home.start("train", *QUICK, f"run_id=on{n}", f"env.workers={n}", *words) for n in (0, 2)]
    for process in started:
        home.end(process)
    here, there = results(home, "on0"), results(home, "on2")
    assert learned(here), "drawn actions earn 3 of 9"
    assert here["final"] == there["final"]
    assert [e["return"] for e in here["curve"]] == [e["return"] for e in there["curve"]]


def test_values_learn_by_dotted_path(home: Marl) -> None:
    home.train("run", *WORDS, *QMIX, "total_steps=1600")
    assert learned(results(home, "run"))


def test_a_stored_run_is_data_until_its_package_is_trusted_and_resumes_with_a_sentence(
    home: Marl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home.train("run", *WORDS, *MAPPO, "total_steps=240")
    monkeypatch.chdir(home.folder)
    refusal = (
        "marl: env.target='scratch:make' cannot be used: its code is not trusted; "
        "add trust=[scratch] if you trust that package\n"
    )
    for command in (["evaluate", "run=runs/run"], ["train", "resume=runs/run", "total_steps=480"]):
        assert cli.main(command) == 2
        assert capsys.readouterr().err == refusal
    assert "return" in home.run("evaluate", "run=runs/run", "episodes=4", "trust=[scratch]")
    shown = home.run("train", "resume=runs/run", "total_steps=480", "trust=[scratch]")
    assert "whose state cannot be kept: running episodes are cut off here and new ones begin" in shown
    assert results(home, "run")["steps"] == 480


def test_a_crash_in_a_worker_is_one_sentence_and_the_checkpoint_survives(home: Marl) -> None:
    crash = ("env.kwargs.crash_at=80", "env.workers=2", "checkpoint.every_steps=100")
    shown = home.train("run", *WORDS, *MAPPO, *crash, "total_steps=4000", code=2)
    sentence = shown.strip().splitlines()[-1]
    match = re.fullmatch(
        r"marl: env \d of scratch:make, step \d of its episode \d+: it crashed with "
        r"ZeroDivisionError: the watch is over \(traceback: (\S+)\); run stopped at step \d+: "
        r"continue from its checkpoint of step (\d+) with 'marl train resume=runs/run'",
        sentence,
    )
    assert match, sentence
    log = Path(match[1])
    assert "the watch is over" in log.read_text()
    log.unlink()
    log.parent.rmdir()
    saved, skipped = checkpoint.latest(home.folder / "runs" / "run")
    assert saved is not None
    assert (saved.step, skipped) == (int(match[2]), [])
    assert results(home, "run")["status"] == "failed"
    home.run("train", "resume=runs/run", f"total_steps={saved.step + 96}", "trust=[scratch]")
    assert results(home, "run")["status"] == "finished"


def test_bad_targets_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, sentence in (
        (
            ["env.target=nowhere:make"],
            "env.target='nowhere:make' cannot be used: there is no module nowhere; install its package or "
            "put its folder into PYTHONPATH",
        ),
        ([], "env.target is missing: give env.target=<text>"),
    ):
        assert cli.main(["train", *QUICK, "env=pettingzoo", *words, *MAPPO]) == 2
        assert capsys.readouterr().err == f"marl: {sentence}\n"


def test_even_our_own_code_is_called_by_a_stored_config_only_when_trusted() -> None:
    stored = {"_target_": "marl.envs.pettingzoo.Config", "target": "marl.files:remove_folder"}
    with pytest.raises(FieldError, match=r"env.target='marl.files:remove_folder' .*add trust=\[marl\]"):
        config.make(stored, where="env")


def test_ctrl_c_leaves_a_checkpoint_and_no_process(home: Marl) -> None:
    temporary = home.folder / "temporary"
    temporary.mkdir()
    words = ("checkpoint.every_steps=48", "evaluation.episodes=1", "total_steps=100000000", "run_id=run")
    process = home.start("train", *QUICK, *WORDS, *MAPPO, "env.workers=2", *words, TMPDIR=str(temporary))
    checkpoints = home.folder / "runs" / "run" / "checkpoints"
    deadline = time.monotonic() + 120
    while not (checkpoints.is_dir() and checkpoint.steps(checkpoints.parent)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.send_signal(signal.SIGINT)
    assert "continue with 'marl train resume=runs/run'" in home.end(process, code=128 + signal.SIGINT)
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    assert list(temporary.glob("marl-env-*")) == []
