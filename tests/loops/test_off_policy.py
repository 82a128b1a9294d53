"""The off-policy loop: exact update counts, schedules, resume, learning."""

import pytest
import torch

from marl.agents.iql import Config as IQL
from marl.agents.qmix import Config as QMIX
from marl.envs.relay_game import Config as Relay
from marl.errors import FieldError
from marl.evaluate import evaluate
from marl.loops import BatchConfig, ExploreConfig, OffPolicyConfig, UpdatesConfig
from marl.replay import MemoryConfig
from marl.rng import Rng

CPU = torch.device("cpu")


class Counting:
    """An agent that only counts: stays silent where it may."""

    extras_spec = {}  # noqa: RUF012

    def __init__(self, spec):
        self.spec, self.seen, self.batches = spec, [], []

    def initial_carry(self, rows):
        return {}

    def act(self, ts, carry, *, rng, explore, link=None):
        from marl.types import Act

        self.seen.append(explore)
        return Act(actions_BN=ts.avail_BNA.to(torch.uint8).argmax(-1), carry={})

    def update(self, batch, *, rng):
        self.batches.append(batch)
        return {"loss": torch.zeros(())}


def counting_loop(num_envs=4, **changes):
    env = Relay().build(num_envs=num_envs, device=CPU)
    agent = Counting(env.spec)
    return OffPolicyConfig(**changes).build(env=env, agent=agent, rng=Rng(0)), agent


@pytest.mark.parametrize("ratio", [0.3, 1 / 3, 0.001, 2.5])
def test_updates_per_step_are_exact(ratio):
    loop, _ = counting_loop(updates=UpdatesConfig(ratio=ratio, per="step"), batch=BatchConfig(sequences=1))
    free = None  # steps before anything could be learned from
    for _ in range(150):
        had_memory = loop.memory.episodes > 0
        before = loop.steps
        loop.iterate()
        if free is None and loop.memory.episodes > 0 and not had_memory:
            free = before
        if free is not None:
            assert loop.updates == int(round(ratio * (loop.steps - free), 9))


def test_updates_per_episode_and_learning_starts():
    loop, _ = counting_loop(updates=UpdatesConfig(ratio=0.5, per="episode", learning_starts=100))
    start = None
    for _ in range(100):
        before = loop.episodes
        loop.iterate()
        if loop.steps < 100:
            assert loop.updates == 0
        elif start is None:
            start = before
        if start is not None:
            assert loop.updates == (loop.episodes - start) // 2
    assert loop.updates > 10


def test_exploration_decays_linearly_over_team_steps():
    loop, agent = counting_loop(explore=ExploreConfig(start=0.9, end=0.1, steps=40), rollout_steps=5)
    loop.iterate()
    metrics = loop.iterate()
    loop.iterate()
    expected = [0.9 - 0.8 * s / 40 for s in range(0, 40, 4)] + [0.1] * 5
    assert agent.seen == pytest.approx(expected)
    assert metrics["train/epsilon"] == pytest.approx(expected[9])


@pytest.mark.parametrize(("length", "expected"), [(0, None), (6, 6), (None, 10)])
def test_batches_have_the_length_asked_for(length, expected):
    loop, agent = counting_loop(batch=BatchConfig(sequences=5, length=length))
    for _ in range(20):
        loop.iterate()
    for batch in agent.batches:
        assert len(batch.filled_BT) == 5
        assert batch.start_BT[:, 0].all()
        if expected:
            assert batch.filled_BT.shape[1] == expected
        else:
            assert batch.filled_BT.sum(1).max() == batch.filled_BT.shape[1] - 1
            assert (batch.start_BT.sum(1) == 1).all()


def test_short_windows_are_pointed_out(caplog):
    counting_loop(batch=BatchConfig(length=6))
    assert "less than a whole episode (10 entries)" in caplog.text
    caplog.clear()
    counting_loop(batch=BatchConfig(length=6, starts="any"))
    counting_loop(batch=BatchConfig(length=None))
    assert not caplog.text


def test_windows_from_anywhere_are_pointed_out_to_recurrent_teams(caplog):
    env = Relay().build(num_envs=2, device=CPU)
    team = IQL(hidden=8).build(spec=env.spec, rng=Rng(0), device=CPU)
    for starts in ("episode", "any"):
        config = OffPolicyConfig(batch=BatchConfig(length=10, starts=starts))
        config.build(env=env, agent=team, rng=Rng(0))
        assert ("begin without the state" in caplog.text) is (starts == "any")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchConfig(length=1), "length=1 .*give null, 0 or"),
        (lambda: BatchConfig(starts="any"), "starts='any'"),
        (lambda: UpdatesConfig(ratio=0.0), "ratio=0.0 "),
        (lambda: ExploreConfig(end=1.5), "end=1.5 "),
        (lambda: OffPolicyConfig(rollout_steps=0), "rollout_steps=0 "),
    ],
)
def test_bad_settings_name_the_field(make, message):
    with pytest.raises(FieldError, match=message):
        make()


@pytest.mark.parametrize(
    ("agent", "batch"),
    [
        (QMIX(target_every=7, hidden=8, embed=4, hyper_hidden=4), BatchConfig(sequences=4)),
        (IQL(target_every=7, hidden=8), BatchConfig(sequences=3, length=None)),
        (IQL(target_every=7, hidden=8), BatchConfig(sequences=9, length=2, starts="any")),
    ],
    ids=["qmix episodes", "iql windows", "iql transitions"],
)
def test_resume_is_bit_exact(check_resume, agent, batch):
    config = OffPolicyConfig(
        rollout_steps=2,
        memory=MemoryConfig(capacity=60),
        batch=batch,
        updates=UpdatesConfig(ratio=0.31, per="step"),
        explore=ExploreConfig(steps=400),
    )
    state, loop = check_resume(config, Relay(limit=5), agent, k=25)
    assert state["rollout"]["timestep"]["t_B"].any()  # mid-episode
    assert int(state["memory"]["first"][-1]) > 60  # the memory has wrapped
    assert state["agent"]["counters"]["updates"] % 7 != 0  # between two target copies
    assert state["counters"]["credit"] != 0  # between two updates
    assert state["counters"]["steps"] < 400  # epsilon is moving
    assert loop.updates > 20


def trained_return(learning_rate):
    rng, world = Rng(0), Relay(runners=2, max_leg=2)
    env = world.build(num_envs=16, device=CPU)
    agent = IQL(learning_rate=learning_rate, hidden=32).build(
        spec=env.spec, rng=rng.child("agent"), device=CPU
    )
    config = OffPolicyConfig(
        rollout_steps=4,
        batch=BatchConfig(length=None),
        updates=UpdatesConfig(ratio=1 / 16, per="step"),
        explore=ExploreConfig(steps=3000),
    )
    loop = config.build(env=env, agent=agent, rng=rng.child("loop"))
    while loop.steps < 6000:
        loop.iterate()
    return evaluate(agent, world, episodes=64, rng=Rng(1), device=CPU, threads=1).means()["return"]


def test_learns_to_remember_and_does_not_without_learning():
    """Above what a team without memory can earn (0.656); the best is 1."""
    assert Relay(runners=2, max_leg=2).memoryless_return == 0.65625
    assert trained_return(1e-3) > 0.9
    assert trained_return(1e-12) < 0.5
