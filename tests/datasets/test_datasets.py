"""Data sets on disk: Minari's layout both ways, and what is refused."""

import numpy as np
import pytest
import torch

from marl.datasets import episodes_of, memory_of, minari
from marl.datasets.behaviour import Unsteady
from marl.datasets.collect import play
from marl.envs.momdp import Config as World
from marl.envs.predator_prey import Config as Hunt
from marl.envs.predator_prey.continuous import Config as Chase
from marl.errors import CorruptFileError, FieldError, MarlError
from marl.rng import Rng
from marl.rollout import Rollout
from marl.types import Act, Discrete
from tests.datasets.robot import MOTORS, robot_spec

CPU = torch.device("cpu")


class Dice:
    """Acts uniformly at random."""

    extras_spec = {}  # noqa: RUF012

    def __init__(self, spec):
        self.spec = spec

    def initial_carry(self, rows):
        return {}

    def act(self, ts, carry, *, rng, explore, link=None):
        return Act(actions_BN=rng.integers(self.spec.n_actions, self.spec.n_agents), carry=carry)


def played(config, episodes=7, seed=0):
    env = config.build(num_envs=3, device=CPU)
    return env.spec, play(env, Dice(env.spec), episodes=episodes, rng=Rng(seed), explore=1.0)


def same(one, other):
    for name in ("obs_UNO", "state_US", "avail_UNA", "alive_UN", "actions_LN", "reward_LK"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.terminated == other.terminated


WORLDS = {"rooms": World(world="four_rooms", limit=30, goals=((2, 4), (4, 2))), "hunt": Hunt(limit=9)}


@pytest.mark.parametrize("name", WORLDS)
def test_played_episodes_are_what_the_world_said(name):
    """Beside the same steps, noted down one by one; of every env as many: short ones don't crowd in."""
    spec, episodes = played(WORLDS[name])
    rollout = Rollout(WORLDS[name].build(num_envs=3, device=CPU), Dice(spec), Rng(0))
    running = [[(rollout.ts.state_BS[b].clone(), None, None)] for b in range(3)]
    ended, left = [], [3, 2, 2]
    while len(ended) < 7:
        act, _ = rollout.step(1.0)
        ts = rollout.ts
        reward_BK = ts.reward_BK if ts.reward_BK is not None else ts.agent_reward_BN
        for b in range(3):
            running[b].append((ts.final_state_BS[b].clone(), act.actions_BN[b].clone(), reward_BK[b].clone()))
            if ts.done_B[b]:
                if left[b]:
                    ended.append((running[b], bool(ts.terminated_B[b])))
                left[b] -= left[b] > 0
                running[b] = [(ts.state_BS[b].clone(), None, None)]
    for one, (rows, terminated) in zip(episodes, ended, strict=True):
        assert torch.equal(one.state_US, torch.stack([row[0] for row in rows]))
        assert torch.equal(one.actions_LN, torch.stack([row[1] for row in rows[1:]]))
        assert torch.equal(one.reward_LK, torch.stack([row[2] for row in rows[1:]]))
        assert one.terminated == terminated


class Steady(Dice):
    """Always the same action: 1, or 1.0 in every dimension."""

    def act(self, ts, carry, *, rng, explore, link=None):
        shape = ts.avail_BNA.shape
        own = torch.ones(shape[:2], dtype=torch.int64) if self.spec.discrete else torch.ones(shape)
        return Act(actions_BN=own, carry=carry)


def test_members_are_spoiled_as_often_as_asked():
    spec = Hunt(limit=9).build(num_envs=1, device=CPU).spec
    env = Hunt(limit=9).build(num_envs=4000, device=CPU)
    ts = env.reset(Rng(0))
    ts.avail_BNA = ts.avail_BNA.clone()
    ts.avail_BNA[..., 2] = False
    team = Unsteady(Steady(spec), spec, random=(0.0, 0.3, 1.0), scaled=0.0)
    actions_BN = team.act(ts, {}, rng=Rng(0).stream("act", 4000), explore=0.0).actions_BN
    other = (actions_BN != 1).float().mean(0)
    rest = spec.n_actions - 2  # actions that are neither 1 nor unavailable
    assert other[0] == 0
    assert other[1:].tolist() == pytest.approx([0.3 * rest / (rest + 1), rest / (rest + 1)], abs=0.03)
    assert not bool((actions_BN == 2).any())
    each = Unsteady(Steady(spec), spec, random=(0.5,), scaled=0.0)  # every member by a draw of its own
    other = each.act(ts, {}, rng=Rng(0).stream("act", 4000), explore=0.0).actions_BN != 1
    q = 0.5 * rest / (rest + 1)
    assert float((other[:, 0] & ~other[:, 1]).float().mean()) == pytest.approx(q * (1 - q), abs=0.02)
    with pytest.raises(FieldError, match="give one probability, or 3 of them"):
        Unsteady(Steady(spec), spec, random=(0.1, 0.2), scaled=0.0)
    with pytest.raises(FieldError, match=r"scaled=0\.5"):
        Unsteady(Steady(spec), spec, random=(0.1,), scaled=0.5)


def test_amateurs_scale_their_actions_inside_the_box():
    hunt = Chase(n_agents=2, actions="continuous", limit=9)
    env = hunt.build(num_envs=4000, device=CPU)
    ts, spec = env.reset(Rng(0)), env.spec
    team = Unsteady(Steady(spec), spec, random=(0.0,), scaled=0.65)
    actions_BNA = team.act(ts, {}, rng=Rng(0).stream("act", 4000), explore=0.0).actions_BN
    assert torch.equal(actions_BNA[..., 0], actions_BNA[..., 1])  # one factor per action
    assert float(actions_BNA.max()) == 1.0  # cut at the Box
    low = actions_BNA[..., 0][actions_BNA[..., 0] < 1]
    assert 0.35 <= float(low.min()) < 0.37
    # Half of the factors, uniform in [0.35, 1.65], are below 1.
    assert len(low) / actions_BNA[..., 0].numel() == pytest.approx(0.65 / 2, abs=0.03)


@pytest.mark.parametrize("name", WORLDS)
def test_memories_give_their_episodes_back(name):
    spec, episodes = played(WORLDS[name])
    memory = memory_of(spec, episodes, CPU)
    assert memory.episodes == 7
    for one, other in zip(episodes, episodes_of(memory), strict=True):
        same(one, other)
    wrong = World(states=9).build(num_envs=1, device=CPU).spec
    with pytest.raises(
        MarlError, match=r"the data's \w+ has shape .* use the env that the data were made in"
    ):
        memory_of(wrong, episodes, CPU)
    with pytest.raises(MarlError, match="holds no episode"):
        memory_of(spec, [], CPU)


@pytest.mark.parametrize("name", WORLDS)
def test_minari_both_ways(name, tmp_path):
    pytest.importorskip("h5py", reason="h5py is in the extra morl")
    spec, episodes = played(WORLDS[name])
    rows = ((e, {"source": i % 2}) for i, e in enumerate(episodes))
    counts = minari.write(tmp_path / "set", spec, rows, {"algorithm": "dice", "sources": [{"seed": 0}]})
    assert counts == {"episodes": 7, "steps": sum(e.length for e in episodes)}
    assert minari.is_dataset(tmp_path / "set")
    assert minari.about(tmp_path / "set")["marl"]["sources"] == [{"seed": 0}]
    for one, other in zip(episodes, minari.read(tmp_path / "set", spec), strict=True):
        same(one, other)
    with pytest.raises(MarlError, match="exists already"):
        minari.write(tmp_path / "set", spec, iter(()), {})
    with pytest.raises(MarlError, match="no episode to write"):
        minari.write(tmp_path / "other", spec, iter(()), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


@pytest.mark.parametrize("name", WORLDS)
def test_minari_itself_loads_them(name, tmp_path):
    library = pytest.importorskip("minari", reason="minari is in the extra morl")
    pytest.importorskip("h5py", reason="h5py is in the extra morl")
    spec, episodes = played(WORLDS[name])
    minari.write(tmp_path / "set", spec, ((e, {}) for e in episodes), {"algorithm": "dice"})
    loaded = library.MinariDataset(tmp_path / "set" / "data")
    assert loaded.total_episodes == 7
    for one, other in zip(episodes, loaded.iterate_episodes(), strict=True):
        seen = other.observations
        wanted = one.obs_UNO.numpy() if name == "hunt" else one.obs_UNO[:, 0].numpy()
        assert np.array_equal(seen["obs"] if name == "hunt" else seen, wanted)
        assert np.array_equal(other.rewards, one.reward_LK.numpy())
        assert bool(other.terminations[-1]) == one.terminated
        assert bool(other.truncations[-1]) != one.terminated
        assert loaded.action_space.contains(other.actions[0])


def test_what_is_no_data_set_is_refused(tmp_path):
    assert not minari.is_dataset(tmp_path)
    with pytest.raises(CorruptFileError, match="it holds no Minari data set"):
        minari.about(tmp_path)


def broken(path, h5py, kind):
    """Damage a data set's file."""
    if kind in ("torn", "empty"):
        path.write_bytes(path.read_bytes()[: 5000 if kind == "torn" else 0])
        return
    with h5py.File(path, "r+") as file:
        if kind == "short":
            del file["episode_1/rewards"]
            file["episode_1/rewards"] = np.zeros((1, 2), np.float32)
        elif kind == "group":
            del file["episode_1/rewards"]
            file["episode_1"].create_group("rewards")
        elif kind == "name":
            file.create_group("notes")
        else:
            del file["episode_1/terminations"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("torn", "it is no whole HDF5 file"),
        ("empty", "it is no whole HDF5 file"),
        ("short", "episode_1 is not whole"),
        ("group", "episode_1 is not whole"),
        ("missing", "episode_1 is not whole"),
        ("name", "its group 'notes' is none of episode_<number>"),
    ],
)
def test_damaged_data_sets_are_refused(kind, message, tmp_path):
    h5py = pytest.importorskip("h5py")
    spec, episodes = played(WORLDS["rooms"])
    minari.write(tmp_path / "set", spec, [(e, {}) for e in episodes], {})
    broken(tmp_path / "set/data/main_data.hdf5", h5py, kind)
    with pytest.raises(CorruptFileError, match=message):
        list(minari.read(tmp_path / "set", spec))


def test_actions_that_the_world_lacks_are_refused():
    spec, episodes = played(WORLDS["rooms"])
    episodes[1].actions_LN[0] = 4
    with pytest.raises(MarlError, match="actions reach from 0 to 4, env=momdp_four_rooms has 0 to 3"):
        memory_of(spec, episodes, CPU)


def test_a_vector_is_not_taken_for_the_teams_reward():
    """A world whose weights make one reward of it learns not from data of the vector."""
    _, episodes = played(World(states=6, limit=5))
    one = World(states=6, limit=5, weights=(1.0, 1.0, 1.0)).build(num_envs=1, device=CPU).spec
    with pytest.raises(MarlError, match=r"the data's reward has shape \(5, 3\), env=\S+ has \(5, 1\)"):
        memory_of(one, episodes, CPU)


def steps_of(discrete, **changes):
    """Arrays of a plain episode of four steps."""
    rng = np.random.default_rng(0)
    out = {
        "observations": rng.normal(size=(5, 3)),
        "actions": np.arange(4) if discrete else rng.uniform(-1, 1, size=(4, 2)),
        "rewards": rng.normal(size=(4, 2)),
        "terminations": np.arange(4) == 3,
        "truncations": np.zeros(4, bool),
    }
    return out | changes


def foreign(folder, h5py, discrete, **changes):
    """The data set of somebody else, its second episode changed, and a world that it fits otherwise."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "metadata.json").write_text("{}")
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for i, arrays in enumerate((steps_of(discrete), steps_of(discrete, **changes))):
            for name, value in arrays.items():
                if value is not None:
                    file[f"episode_{i}/{name}"] = value
    return robot_spec(Discrete(n=4) if discrete else MOTORS)


@pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
def test_data_sets_of_others_are_read(discrete, tmp_path):
    """With and without truncations; whole numbers may come as floats, booleans as 0 and 1."""
    h5py = pytest.importorskip("h5py")
    actions = {"actions": np.array([3.0, 0.0, 1.0, 2.0])} if discrete else {}
    changed = {"truncations": None, "terminations": np.zeros(4, np.int8), **actions}
    spec = foreign(tmp_path / "set", h5py, discrete, **changed)
    one, other = minari.read(tmp_path / "set", spec)
    assert (one.terminated, other.terminated) == (True, False)
    if discrete:
        assert other.actions_LN[:, 0].tolist() == [3, 0, 1, 2]
    assert memory_of(spec, [one, other], CPU).episodes == 2


LONG = {
    "observations": np.zeros((8, 3)),
    "actions": np.zeros((7, 2)),
    "rewards": np.zeros((7, 2)),
    "terminations": np.zeros(7, bool),
    "truncations": np.arange(7) == 6,
}


@pytest.mark.parametrize(
    ("discrete", "changes", "message"),
    [
        (False, {"terminations": np.arange(4) % 2 == 1}, "goes on after step 1 of 4, where its terminations"),
        (False, {"truncations": np.arange(4) == 0}, "goes on after step 0 of 4, where its truncations"),
        (False, {"terminations": np.array([True])}, r"terminations of shape \(1,\): .* each of its 4 steps"),
        (False, {"terminations": np.zeros(0, bool)}, r"terminations of shape \(0,\)"),
        (False, {"terminations": np.full(4, 0.5)}, "terminations that are not an array of numbers 0 and 1"),
        (False, {"truncations": np.zeros(3, bool)}, r"truncations of shape \(3,\)"),
        (
            False,
            {"rewards": np.ones((4, 2)) * 1j},
            "rewards that are not an array of numbers, but of complex",
        ),
        (False, {"observations": np.full((5, 3), b"1.0")}, "observations that are not an array of numbers"),
        (False, {"actions": np.ones((4, 2)) * 1j}, "actions that are not an array of numbers"),
        (True, {"actions": np.array([0.2, 0.9, 2.7, 3.4])}, "actions that are no whole numbers, .* 0 to 3"),
        (True, {"actions": np.array([0.0, np.nan, 2.0, 3.0])}, "actions that are no whole numbers"),
        (True, {"actions": np.arange(4) + 0j}, "actions that are not an array of numbers"),
        (True, {"actions": np.arange(4) - 1}, "actions reach from -1 to 2"),
        (False, {"actions": np.full((4, 2), 9.0)}, r"action 9 of robot in step 0, .* outside \[-1, 1\]"),
        (False, {"actions": np.full((4, 2), np.nan)}, "data's action holds NaN or infinite numbers: repair"),
        (False, {"rewards": np.full((4, 2), 1e300)}, "data's reward holds NaN or infinite numbers"),
        (False, {"observations": np.full((5, 3), np.nan)}, "data's obs holds NaN or infinite numbers"),
        (False, LONG, "has 7 steps, episodes of env=robot have 1 to 6: .* or split or drop it"),
    ],
)
def test_wrong_data_of_others_are_refused(discrete, changes, message, tmp_path):
    """With the file's and the episode's name."""
    h5py = pytest.importorskip("h5py")
    spec = foreign(tmp_path / "set", h5py, discrete, **changes)
    with pytest.raises(MarlError, match=rf"main_data\.hdf5.*episode_1\b.*{message}"):
        memory_of(spec, minari.read(tmp_path / "set", spec), CPU)
