"""Distillation: the term by hand, students of every family, and a run that goes on with its teacher."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from marl import checkpoint, compose, train
from marl.agents import ic3net, ippo, qmix
from marl.errors import FieldError
from marl.policy.heads import GaussianHead
from marl.resume import resume
from marl.rng import Rng
from marl.sparse import RandomGroups
from marl.sparse.distil import Teacher, divergence
from marl.sparse.pruning import Magnitude
from marl.types import Box, Discrete, EnvSpec

CPU = torch.device("cpu")


def spec(continuous: bool = False) -> EnvSpec:
    space: Any = Box(low=(-1.0, -2.0), high=(1.0, 2.0)) if continuous else Discrete(n=5)
    return EnvSpec(
        name="test",
        agents=("a", "b", "c"),
        agent_types=("any",) * 3,
        obs_size=6,
        state_size=6,
        action_spaces=(space,) * 3,
        episode_limit=9,
    )


def test_the_term_by_hand():
    """Two actions, p_T = (3/4, 1/4), p_S = (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2."""
    taught = torch.tensor([[math.log(3.0), 0.0], [5.0, 0.0]])
    own = torch.zeros(2, 2, requires_grad=True)
    live = torch.tensor([True, False])  # the second agent does not count
    value = divergence(own, taught, live, None, temperature=1.0)
    assert value.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    value.backward()
    assert own.grad is not None
    torch.testing.assert_close(own.grad, torch.tensor([[-0.25, 0.25], [0.0, 0.0]]))  # p_S - p_T


def test_unavailable_actions_and_the_temperature():
    """A third action that is not there changes nothing; tau = 2 of doubled logits is 4 times tau = 1."""
    taught, own = torch.tensor([[1.0, -1.0, 9.0]]), torch.tensor([[0.5, 0.25, -7.0]], requires_grad=True)
    live, avail = torch.tensor([True]), torch.tensor([[True, True, False]])
    one = divergence(own, taught, live, avail, temperature=1.0)
    torch.testing.assert_close(one, divergence(own[:, :2], taught[:, :2], live, None, temperature=1.0))
    torch.testing.assert_close(4 * one, divergence(2 * own, 2 * taught, live, avail, temperature=2.0))
    one.backward()
    assert own.grad is not None
    assert own.grad[0, 2] == 0
    assert own.grad.isfinite().all()


def test_a_gaussians_term_is_torchs():
    head = GaussianHead(spec(continuous=True), share=True)
    g = torch.Generator().manual_seed(0)
    own, taught, log_std = (torch.randn(4, 3, 2, generator=g) for _ in range(3))
    head.log_std.data.copy_(torch.tensor([0.3, -0.4]))
    live = torch.rand(4, 3, generator=g) < 0.6
    x = {"taught": taught, "taught_log_std": log_std, "live": live}
    pair = [
        torch.distributions.Normal(taught, log_std.exp()),
        torch.distributions.Normal(own, head.log_std.exp()),
    ]
    wanted = torch.distributions.kl_divergence(*pair).sum(-1)[live].mean()
    torch.testing.assert_close(head.divergence(own, x, temperature=1.0), wanted)


FAMILIES = {
    "ppo": (ic3net, {"learner": "ppo"}),
    "reinforce": (ic3net, {}),
    "qmix": (qmix, {}),
    "ippo": (ippo, {}),
    "no GRU": (ippo, {"recurrent": False}),
    "Gaussian": (ippo, {}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_student_comes_to_do_what_its_teacher_does(
    name: str, make_batch: Any, monkeypatch: pytest.MonkeyPatch
):
    """The term ends far below that of the same student with a teacher that hardly counts."""
    module, settings = FAMILIES[name]
    rate, updates = (0.02, 60) if name == "qmix" else (0.005, 13)  # PPO makes several steps an update
    world = spec(continuous=name == "Gaussian")
    batch = make_batch(spec())
    batch.reward_BT.zero_()  # nothing else to learn from
    g = torch.Generator().manual_seed(5)

    def build(sparsity: Any, seed: int) -> Any:
        config = module.Config(hidden=8, learning_rate=rate, **settings, sparsity=sparsity)
        return config.build(spec=world, rng=Rng(seed), device=CPU)

    teacher = build(None, 7)
    networks = teacher.state_dict()["networks"]
    for value in networks.values():  # far from indifferent
        if value.dtype == torch.float32:
            value.mul_(4.0)
    teacher.load_state_dict(teacher.state_dict() | {"networks": networks})
    monkeypatch.setattr(Teacher, "_load", lambda self: teacher)
    B, T = batch.start_BT.shape
    for extra, field in teacher.extras_spec.items():
        drawn = torch.rand(B, T, *field.shape, generator=g)
        batch.extras[extra] = drawn < 0.5 if field.dtype == torch.bool else drawn
    batch.extras |= {f"carry.{key}": value for key, value in teacher.initial_carry(B).items()}

    def last(weight: float) -> float:
        student = build(RandomGroups(groups=2, smallest=4, distil="teacher", distil_weight=weight), 0)
        for k in range(updates):
            metrics = student.update(batch, rng=Rng(0).stream("update", 1).fold(k))
        return float(metrics["distil_loss"])

    assert last(10.0) < 0.5 * last(1e-9)


WORDS = ("env=relay_game", "agent=qmix", "agent.hidden=8", "logger=none", "video=false", "num_envs=4")
SHORT = ("evaluation.episodes=2", "evaluation.final_episodes=2", "checkpoint.every_steps=100", "threads=1")


def run(folder: Path, name: str, *words: str) -> Path:
    cfg = compose.compose([*WORDS, *SHORT, f"runs_dir={folder}", f"run_id={name}", *words])
    train.run(cfg)
    return folder / name


def test_a_run_goes_on_with_the_teacher_it_had(tmp_path: Path):
    teacher = run(tmp_path, "teacher", "total_steps=300")
    taught = ("sparsity=magnitude", "agent.sparsity.smallest=4", f"agent.sparsity.distil={teacher}")
    whole = run(tmp_path, "whole", *taught, "total_steps=800")
    half = run(tmp_path, "half", *taught, "total_steps=400")
    cfg, saved, _ = resume(half, ["total_steps=800"])
    assert saved is not None
    assert saved.state["agent"]["counters"]["teacher"] == checkpoint.steps(teacher)[0]
    train.run(cfg, saved)
    states = [checkpoint.latest(folder)[0].state["agent"]["networks"] for folder in (whole, half)]  # type: ignore
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert "train/distil_loss" in (half / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distil_weight": 2.0}, "distil_weight=2.0.*without distil="),
        ({"distil": "a", "distil_temperature": 0.0}, "distil_temperature=0.0.*above 0"),
        ({"distil": "a", "distil_decay": -1}, "distil_decay=-1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(FieldError, match=message):
        Magnitude(**settings)


def test_a_teacher_that_does_not_fit_is_named(make_batch: Any, tmp_path: Path):
    def student(folder: Path) -> Any:
        config = ippo.Config(hidden=8, sparsity=RandomGroups(groups=2, smallest=4, distil=str(folder)))
        return config.build(spec=spec(), rng=Rng(0), device=CPU)

    with pytest.raises(FieldError, match=r"agent.sparsity.distil=.*no checkpoint"):
        student(tmp_path / "nothing").teacher.lessons(make_batch(spec()))
    other = run(tmp_path, "other", "total_steps=100")
    with pytest.raises(FieldError, match=r"distil=.*team is a QTeam, the student learns as a PolicyTeam"):
        student(other).teacher.lessons(make_batch(spec()))
