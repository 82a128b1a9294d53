"""Data sets on disk: Minari's layout both ways, D4MORL's pickles, and what is refused."""

import collections
import pickle

import numpy as np
import pytest
import torch

from marl.datasets import d4morl, episodes_of, memory_of, minari
from marl.datasets.behaviour import Unsteady
from marl.datasets.collect import play
from marl.envs.momdp import Config as World
from marl.envs.predator_prey import Config as Hunt
from marl.envs.predator_prey.continuous import Config as Chase
from marl.errors import CorruptFileError, FieldError, MarlError
from marl.rng import Rng
from marl.rollout import Rollout
from marl.types import Act, Box, EnvSpec

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


# D4MORL


def trajectory(T, seed=0, **changes):
    rng = np.random.default_rng(seed)
    out = collections.defaultdict(list)
    out["observations"] = rng.normal(size=(T, 3))
    out["next_observations"] = rng.normal(size=(T, 3))
    out["actions"] = rng.uniform(-1, 1, size=(T, 2))
    out["raw_rewards"] = rng.normal(size=(T, 2))
    out["preference"] = np.tile([0.25, 0.75], (T, 1))
    out["terminals"] = np.arange(T) == T - 1
    out.update(changes)
    return out


def spec_of():
    return EnvSpec(
        name="robot",
        agents=("robot",),
        agent_types=("robot",),
        obs_size=3,
        state_size=3,
        action_spaces=(Box(low=(-1.0, -1.0), high=(1.0, 1.0)),),
        reward="vector",
        objectives=("speed", "energy"),
        episode_limit=6,
    )


def test_published_files_become_episodes(tmp_path):
    """Two trajectories, one that ended early and one that was cut off at the limit."""
    pkl, npz = tmp_path / "set.pkl", tmp_path / "set.npz"
    source = [trajectory(4), trajectory(6, seed=1)]
    pkl.write_bytes(pickle.dumps(source))
    assert d4morl.convert(pkl, npz, limit=6) == {"trajectories": 2, "transitions": 10}
    ended, cut = d4morl.read(npz, spec_of())
    assert (ended.terminated, cut.terminated) == (True, False)
    assert (ended.length, cut.length) == (4, 6)
    wanted = np.concatenate([source[0]["observations"], source[0]["next_observations"][-1:]])
    assert np.array_equal(ended.state_US.numpy(), wanted.astype(np.float32))
    assert np.array_equal(cut.reward_LK.numpy(), source[1]["raw_rewards"].astype(np.float32))
    assert memory_of(spec_of(), d4morl.read(npz, spec_of()), CPU).entries == 12
    with pytest.raises(MarlError, match="exists already"):
        d4morl.convert(pkl, npz)


def test_what_is_no_converted_file_is_refused(tmp_path):
    """Whatever it is instead: the pickle itself, half a file, nothing, or other arrays."""
    pkl, npz, out = tmp_path / "set.pkl", tmp_path / "new" / "set.npz", tmp_path / "other.npz"
    pkl.write_bytes(pickle.dumps([trajectory(4), trajectory(6, seed=1)]))
    d4morl.convert(pkl, npz, limit=6)
    assert [path.name for path in npz.parent.iterdir()] == ["set.npz"]

    def refused(content, message):
        if isinstance(content, bytes):
            out.write_bytes(content)
        else:
            np.savez(out, **content)
        with pytest.raises(CorruptFileError, match=message):
            list(d4morl.read(out, spec_of()))

    for content in (pkl.read_bytes(), npz.read_bytes()[:900], b""):
        refused(content, r"convert a published one with python -m marl\.datasets\.d4morl")
    with np.load(npz) as file:
        arrays = dict(file)
    refused({"a": np.zeros(3)}, "it is not a converted D4MORL file")
    refused(arrays | {"actions": np.zeros((3, 2))}, "of unequal length")
    refused(arrays | {"traj_starts": np.array([0, 4, 4])}, "traj_starts do not rise")


def test_old_protocols_are_read(tmp_path):
    """Protocol 2, whose arrays go through _codecs.encode, and numpy 1's module names."""
    data = pickle.dumps([trajectory(4)], protocol=2)
    (tmp_path / "old.pkl").write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert len(d4morl.load(tmp_path / "old.pkl")) == 1


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import pathlib

        return (pathlib.Path.touch, (pathlib.PosixPath(self.path),))


class Script:
    def __reduce__(self):
        return (eval, ("__import__('os').system('touch bombed')",))


@pytest.mark.parametrize("kind", ["path", "eval"])
def test_a_malicious_file_is_refused_and_runs_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile = Bomb(str(tmp_path / "bombed")) if kind == "path" else Script()
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps([trajectory(3, extra=hostile)]))
    with pytest.raises(
        CorruptFileError, match=r"it was refused: it asks for \S+, which is no array or container"
    ):
        d4morl.load(tmp_path / "evil.pkl")
    assert not (tmp_path / "bombed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a pickle", "it was refused"),
        ({"a": 1}, "it is not a list of trajectories"),
        ([], "it is not a list of trajectories"),
        ([trajectory(3), [1]], "trajectory 1 is not a mapping"),
        ([{k: v for k, v in trajectory(3).items() if k != "preference"}], "trajectory 0 has no preference"),
        ([trajectory(3, actions=np.zeros((2, 2)))], "parts of unequal length"),
        ([trajectory(3, raw_rewards=np.full((3, 2), np.nan))], "NaN or infinite"),
        ([trajectory(3, preference=np.arange(6.0).reshape(3, 2))], "changes its preference"),
        ([trajectory(3, actions=np.array([["a"], ["b"], ["c"]]))], "not an array of numbers"),
        ([trajectory(3, observations=np.zeros((3, 9)))], "next observations of another size"),
    ],
)
def test_damaged_files_are_refused(content, message, tmp_path):
    data = content if isinstance(content, bytes) else pickle.dumps(content)
    (tmp_path / "set.pkl").write_bytes(data)
    with pytest.raises(CorruptFileError, match=message):
        d4morl.load(tmp_path / "set.pkl")
