"""What stops a run leaves a sentence and a state to look at: NaN, a full disk, damaged and foreign files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from marl import checkpoint, cli, sealed

if TYPE_CHECKING:
    from tests.contracts.conftest import Marl

WORDS = ("env=matrix_game", "agent=vdn", "agent.hidden=8", "num_envs=4", "evaluation.every_steps=40")

# From the 41st team step on the disk is full.
_FULL = """
import errno, os, sys
from marl import cli, loops
from marl.loops.off_policy import OffPolicy
real, iterate, full = os.write, OffPolicy.iterate, False
def write(handle, data):
    if full and handle > 2:
        real(handle, bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")
    return real(handle, data)
def watched(self):
    global full
    full = self.steps >= 40
    return iterate(self)
os.write, OffPolicy.iterate = write, watched
sys.exit(cli.main(sys.argv[1:]))
"""


def finite(state: object) -> bool:
    if isinstance(state, torch.Tensor):
        return not state.is_floating_point() or bool(torch.isfinite(state).all())
    if isinstance(state, dict):
        return all(map(finite, state.values()))
    return True


def test_nan_stops_the_run_with_step_tensor_and_the_state_before(marl: Marl) -> None:
    diverging = ("agent.learning_rate=1e30", "agent.td_loss=squared", "agent.max_grad_norm=1e30")
    shown = marl.train("run", *WORDS, *diverging, "total_steps=4000", code=2)
    sentence = shown.strip().splitlines()[-1]
    assert sentence.startswith("marl: ")
    assert "is NaN or infinite: step " in sentence
    assert "the state before it is in runs/run/checkpoints/" in sentence
    assert sentence.endswith("lower learning rate")
    assert "Traceback" not in shown
    saved, _ = checkpoint.latest(marl.folder / "runs" / "run")
    assert saved is not None
    assert f"step {saved.step}" in sentence
    assert finite(saved.state["agent"])
    assert json.loads((marl.folder / "runs" / "run" / "results.json").read_bytes())["status"] == "failed"


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(marl: Marl) -> None:
    words = (*WORDS, "total_steps=80", "checkpoint.every_steps=40", "logger=none", "video=false", "threads=1")
    process = marl.python(_FULL, "train", *words, "run_id=run", "logger.every_steps=20")
    shown = marl.end(process, code=2)
    assert "marl: the disk is full: " in shown
    assert "could not be written; free space there and run the command again" in shown
    assert "Traceback" not in shown
    run = marl.folder / "runs" / "run"
    assert [p.name for p in run.rglob(".tmp-*")] == []
    saved, skipped = checkpoint.latest(run)
    assert saved is not None
    assert (saved.step, skipped) == (40, [])
    assert "did you mean none?" in marl.run("train", "resume=runs/run", "logger=nonee", code=2)
    marl.run("train", "resume=runs/run", "logger=none")
    assert json.loads((run / "results.json").read_bytes())["status"] == "finished"


def test_damaged_and_foreign_files_are_refused_by_name(
    marl: Marl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert cli.main(words) == 2
        return capsys.readouterr().err

    marl.train("run", *WORDS, "total_steps=40")
    monkeypatch.chdir(marl.folder)
    run = Path("runs/run")
    (folder,) = (run / "checkpoints").iterdir()
    target = folder / "agent.networks.safetensors"
    good = target.read_bytes()
    target.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    shown = refused("train", "resume=runs/run", "total_steps=80")
    assert shown == f"marl: {target} cannot be used: its content does not match its hash\n"
    assert shown == refused("evaluate", "run=runs/run", "episodes=4")
    target.write_bytes(good)

    proof = marl.folder / "code-was-run"
    meta = json.loads((folder / "meta.json").read_bytes())
    meta["info"]["config"]["agent"] = {"_target_": "os.mkdir", "path": str(proof)}
    del meta["sha256"]
    meta["sha256"] = checkpoint.files.sha256(sealed.dump(meta))
    (folder / "meta.json").write_bytes(sealed.dump(meta))
    for command in (("train", "resume=runs/run", "total_steps=80"), ("evaluate", "run=runs/run")):
        shown = refused(*command)
        assert "agent._target_='os.mkdir' cannot be used: only marl.* may be named" in shown
    assert not proof.exists()
