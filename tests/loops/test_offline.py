"""The offline loop: another run's memory, read from its checkpoint."""

import pytest
import torch

from marl import checkpoint
from marl.agents.bc import Config as BC
from marl.agents.iql import Config as IQL
from marl.config import unmake
from marl.datasets import minari
from marl.datasets.collect import play
from marl.envs.momdp import Config as World
from marl.envs.relay_game import Config as Relay
from marl.errors import FieldError, MarlError
from marl.evaluate import evaluate
from marl.loops import (
    BatchConfig,
    ExploreConfig,
    OfflineConfig,
    OffPolicyConfig,
    OnPolicyConfig,
    UpdatesConfig,
    load_memory,
)
from marl.replay import MemoryConfig
from marl.rng import Rng

CPU = torch.device("cpu")
WORLD = Relay(runners=2, max_leg=2)


def agent_of(env, **changes):
    return IQL(**({"hidden": 32} | changes)).build(spec=env.spec, rng=Rng(0, "agent"), device=CPU)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The checkpoint of a run that acted at random and learned nothing; half precision states."""
    env = WORLD.build(num_envs=16, device=CPU)
    config = OffPolicyConfig(
        rollout_steps=100,
        memory=MemoryConfig(capacity=5000, state_dtype="float16"),
        updates=UpdatesConfig(ratio=1e-9),
        explore=ExploreConfig(end=1.0),
    )
    loop = config.build(env=env, agent=agent_of(env), rng=Rng(5))
    for _ in range(6):
        loop.iterate()
    folder = tmp_path_factory.mktemp("run")
    checkpoint.write(folder, loop.steps, loop.state_dict(), loop.segments(), info={})
    return folder, loop


def test_the_memory_arrives_whole(data):
    folder, source = data
    env = WORLD.build(num_envs=1, device=CPU)
    loop = OfflineConfig(data=folder).build(env=env, agent=agent_of(env), rng=Rng(0))
    stream = Rng(1).stream("s", 1)
    for length in (0, 9):
        a, b = loop.memory.sample(stream, 30, length), source.memory.sample(stream, 30, length)
        for name in ("obs_BTNO", "state_BTS", "avail_BTNA", "actions_BTN", "reward_BT", "filled_BT"):
            assert torch.equal(getattr(a, name), getattr(b, name))
    assert list(loop.segments()) == list(source.segments())
    assert len(loop.segments()) > 1
    assert loop.memory.capacity == source.memory.entries


def trained_return(folder, learning_rate):
    env = WORLD.build(num_envs=1, device=CPU)
    agent = agent_of(env, learning_rate=learning_rate)
    loop = OfflineConfig(data=folder, batch=BatchConfig(length=None)).build(env=env, agent=agent, rng=Rng(0))
    while loop.steps < 500:
        metrics = loop.iterate()
    assert loop.steps == loop.updates == 500
    assert "train/loss" in metrics
    return evaluate(agent, WORLD, episodes=64, rng=Rng(1), device=CPU, threads=1).means()["return"]


def test_learns_from_random_episodes_and_does_not_without_learning(data):
    folder, _ = data
    assert trained_return(folder, 2e-3) > 0.8
    assert trained_return(folder, 1e-12) < 0.5  # 0.375 is what guessing in time earns


def test_resume_is_bit_exact_and_needs_the_data_no_more(data, check_resume, monkeypatch):
    folder, _ = data
    config = OfflineConfig(data=folder, updates=3, batch=BatchConfig(sequences=4))
    state, _ = check_resume(config, WORLD, IQL(hidden=8, target_every=7), k=4)
    assert state["counters"]["updates"] % 7  # between two target copies
    env = WORLD.build(num_envs=1, device=CPU)
    agent = agent_of(env, hidden=8, target_every=7)
    alone = OfflineConfig(data=folder / "gone").build(env=env, agent=agent, rng=Rng(11).child("loop"))
    saved, _ = checkpoint.latest(folder)
    alone.load_state_dict(state, saved.read_segment)
    assert alone.iterate()["train/loss"] > 0


def test_what_is_no_data_set_is_refused(data, tmp_path, a2c):
    folder, _ = data
    env = WORLD.build(num_envs=2, device=CPU)
    with pytest.raises(
        FieldError, match="there is no checkpoint in it; give the folder of an off-policy run"
    ):
        OfflineConfig(data=tmp_path).build(env=env, agent=agent_of(env), rng=Rng(0)).iterate()
    nowhere = OfflineConfig(data=tmp_path / "gone").build(env=env, agent=agent_of(env), rng=Rng(0))
    with pytest.raises(FieldError, match="there is no such path; give a run's folder, a data set's"):
        nowhere.iterate()
    agent = a2c().build(spec=env.spec, rng=Rng(0), device=CPU)
    on_policy = OnPolicyConfig(rollout_steps=3).build(env=env, agent=agent, rng=Rng(0))
    on_policy.iterate()
    checkpoint.write(tmp_path, 3, on_policy.state_dict(), on_policy.segments(), info={})
    with pytest.raises(FieldError, match="its run keeps no memory"):
        OfflineConfig(data=tmp_path).build(env=env, agent=agent_of(env), rng=Rng(0)).iterate()
    other = Relay(runners=3).build(num_envs=1, device=CPU)
    vector = World(states=6).build(num_envs=1, device=CPU)
    with pytest.raises(
        FieldError, match="its rewards are of kind team, those of env=momdp_random of kind vector"
    ):
        load_memory(folder, vector, BC().build(spec=vector.spec, rng=Rng(0), device=CPU))
    with pytest.raises(MarlError, match="the stored memory does not fit: its field 'obs' is"):
        OfflineConfig(data=folder).build(env=other, agent=agent_of(other), rng=Rng(0)).iterate()


@pytest.mark.parametrize(
    ("there", "said"), [({}, None), ({"model": 3}, "model=3"), ({"limit": 9}, "limit=9")]
)
def test_data_of_another_world_of_the_same_sizes_are_said(there, said, tmp_path, caplog):
    """Nothing else would tell: the arrays fit."""
    pytest.importorskip("h5py")
    made = World(**({"states": 6} | there))
    env = made.build(num_envs=2, device=CPU)
    episodes = play(
        env, BC(hidden=4).build(spec=env.spec, rng=Rng(0), device=CPU), episodes=2, rng=Rng(0), explore=1.0
    )
    minari.write(tmp_path / "set", env.spec, [(e, {}) for e in episodes], {"world": unmake(made)})
    env = World(states=6).build(num_envs=1, device=CPU)
    assert load_memory(tmp_path / "set", env, BC().build(spec=env.spec, rng=Rng(0), device=CPU)).episodes == 2
    wanted = [] if said is None else [f"made in another world than env=momdp_random: with {said}"]
    assert [record.getMessage().removeprefix("the data were ") for record in caplog.records] == wanted
