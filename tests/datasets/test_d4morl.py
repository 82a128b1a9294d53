"""D4MORL's files: what becomes of honest ones, and what is refused."""

import collections
import pickle

import numpy as np
import pytest
import torch

from marl.datasets import d4morl, memory_of
from marl.errors import CorruptFileError, MarlError
from tests.datasets.robot import robot_spec

CPU = torch.device("cpu")


def trajectory(T, seed=0, **changes):
    rng = np.random.default_rng(seed)
    out = collections.defaultdict(list)
    seen = rng.normal(size=(T + 1, 3))
    out["observations"], out["next_observations"] = seen[:-1], seen[1:]
    out["actions"] = rng.uniform(-1, 1, size=(T, 2))
    out["raw_rewards"] = rng.normal(size=(T, 2))
    out["preference"] = np.tile([0.25, 0.75], (T, 1))
    out["terminals"] = np.arange(T) == T - 1
    out.update(changes)
    return out


def test_published_files_become_episodes(tmp_path):
    """Two trajectories, one that ended early and one that was cut off at the limit."""
    pkl, npz = tmp_path / "set.pkl", tmp_path / "set.npz"
    source = [trajectory(4), trajectory(6, seed=1)]
    pkl.write_bytes(pickle.dumps(source))
    assert d4morl.convert(pkl, npz, limit=6) == {"trajectories": 2, "transitions": 10}
    ended, cut = d4morl.read(npz, robot_spec())
    assert (ended.terminated, cut.terminated) == (True, False)
    assert (ended.length, cut.length) == (4, 6)
    wanted = np.concatenate([source[0]["observations"], source[0]["next_observations"][-1:]])
    assert np.array_equal(ended.state_US.numpy(), wanted.astype(np.float32))
    assert np.array_equal(cut.reward_LK.numpy(), source[1]["raw_rewards"].astype(np.float32))
    assert memory_of(robot_spec(), d4morl.read(npz, robot_spec()), CPU).entries == 12
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
            list(d4morl.read(out, robot_spec()))

    for content in (pkl.read_bytes(), npz.read_bytes()[:900], b""):
        refused(content, r"convert a published one with python -m marl\.datasets\.d4morl")
    with np.load(npz) as file:
        arrays = dict(file)
    refused({"a": np.zeros(3)}, "it is not a converted D4MORL file")
    refused(arrays | {"actions": np.zeros((3, 2))}, "of unequal length")
    refused(arrays | {"traj_starts": np.array([0, 4, 4])}, "traj_starts do not rise")
    for wrong in (np.array([0.0, 4.0]), np.array([[0, 4]]), np.array(0), np.array(["a"])):
        refused(arrays | {"traj_starts": wrong}, "traj_starts are no list of row numbers")
    refused(arrays | {"traj_starts": np.zeros(0, int)}, "traj_starts do not rise")
    table, numbers = "which is not a table", "are not an array of numbers"
    for name, wrong, message in (
        ("next_observations", np.zeros((10, 5)), "next observations of another size"),
        ("next_observations", np.zeros(10), rf"next_observations of shape \(10,\), {table}"),
        ("observations", np.zeros((10, 3, 1)), rf"observations of shape \(10, 3, 1\), {table}"),
        ("raw_rewards", np.zeros((10, 3)), "rewards and preferences of unequal number"),
        ("raw_rewards", np.array(1.0), rf"raw_rewards of shape \(\), {table}"),
        ("raw_rewards", np.full((10, 2), 1j), f"raw_rewards that {numbers}"),
        ("actions", np.full((10, 2), "a"), f"actions that {numbers}"),
        ("terminals", np.full(10, 0.5), f"terminals that {numbers} 0 and 1"),
        ("timeouts", np.zeros(3, bool), r"timeouts of shape \(3,\): give one for each of its 10 steps"),
    ):
        refused(arrays | {name: wrong}, rf"other\.npz cannot be used: it has {message}")


def test_no_trajectory_ends_or_jumps_on_the_way(tmp_path):
    """Nor does it hold what the world cannot have given; with the trajectory's number, whatever is wrong."""
    pkl, npz, out = tmp_path / "set.pkl", tmp_path / "set.npz", tmp_path / "other.npz"
    pkl.write_bytes(pickle.dumps([trajectory(4), trajectory(6, seed=1)]))
    d4morl.convert(pkl, npz, limit=6)
    with np.load(npz) as file:
        arrays = dict(file)

    def refused(message, **changes):
        np.savez(out, **(arrays | changes))
        with pytest.raises(MarlError, match=rf"other\.npz.*{message}"):
            memory_of(robot_spec(), d4morl.read(out, robot_spec()), CPU)

    def spoiled(name, row, value):
        changed = arrays[name].copy()
        changed[row] = value
        return {name: changed}

    refused("trajectory 1 goes on after step 2 of 6, where its terminals", **spoiled("terminals", 6, True))
    refused("trajectory 0 goes on after step 1 of 4, where its timeouts", **spoiled("timeouts", 1, True))
    jumps = "trajectory 1 has next_observations of step 1 that are not the observations of step 2"
    refused(jumps, **spoiled("next_observations", 5, 0.0))
    refused(jumps, **spoiled("next_observations", 5, np.nan))
    nan = "trajectory 1: the data's {} holds NaN or infinite numbers: repair or drop it"
    refused(nan.format("obs"), **spoiled("next_observations", 9, np.nan))
    refused(nan.format("action"), **spoiled("actions", 9, np.nan))
    refused(r"trajectory 1: the data's action 50 .* outside \[-1, 1\]", **spoiled("actions", 9, 50.0))
    joined = arrays["next_observations"].copy()
    joined[3] = arrays["observations"][4]
    ends = np.zeros(10, bool)
    starts = np.array([0])
    refused(
        "trajectory 0 has 10 steps, episodes of env=robot have 1 to 6",
        traj_starts=starts,
        next_observations=joined,
        terminals=ends,
        timeouts=ends,
    )
    rounded = arrays["next_observations"] * np.float32(1 + 1e-6)
    np.savez(out, **(arrays | {"next_observations": rounded}))
    assert len(list(d4morl.read(out, robot_spec()))) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("observations", "trajectory 1 has observations of width 5, where trajectory 0 has 3"),
        ("actions", "trajectory 1 has actions of width 5, where trajectory 0 has 2"),
        ("raw_rewards", "trajectory 1 has raw_rewards of width 5, where trajectory 0 has 2"),
    ],
)
def test_trajectories_of_several_widths_are_refused(name, message, tmp_path):
    twin = {"observations": "next_observations", "raw_rewards": "preference", "actions": "actions"}[name]
    pkl = tmp_path / "set.pkl"
    changed = trajectory(4, **{name: np.zeros((4, 5)), twin: np.zeros((4, 5))})
    pkl.write_bytes(pickle.dumps([trajectory(4), changed]))
    with pytest.raises(CorruptFileError, match=rf"set\.pkl cannot be used: {message}: give one world's data"):
        d4morl.convert(pkl, tmp_path / "set.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.pkl"]


ENDLESS = []
ENDLESS += [ENDLESS, ENDLESS]


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
        ([trajectory(3, actions=np.array([["a"], ["b"], ["c"]]))], "array of 'U1', not of plain numbers"),
        ([trajectory(3, actions=[["a"], ["b"], ["c"]])], "actions that are not an array of numbers"),
        ([trajectory(3, actions=[[1.0], [2.0, 3.0], [4.0]])], "actions that are not an array of numbers"),
        ([trajectory(3, actions=[[10**400]] * 3)], "actions that are not an array of numbers"),
        ([trajectory(3, actions=ENDLESS)], "actions that are not an array of numbers"),
        ([trajectory(3, actions=np.zeros((3, 2), complex))], "array of 'c16', not of plain numbers"),
        ([trajectory(3, actions=np.zeros(3))], r"actions of shape \(3,\), which is not a table"),
        ([trajectory(3, actions=1.0)], r"actions of shape \(\), which is not a table"),
        ([trajectory(3, terminals=True)], r"terminals of shape \(\): give one for each of its 3 steps"),
        ([trajectory(0)], "parts of unequal length, or empty ones"),
        ([trajectory(3, terminals=[False, True, True])], "trajectory 0 goes on after step 1 of 3"),
        (
            [trajectory(3), trajectory(3, next_observations=np.zeros((3, 3)))],
            "trajectory 1 has next_observations of step 0 that are not the observations of step 1",
        ),
        ([trajectory(3, observations=np.zeros((3, 9)))], "next observations of another size"),
    ],
)
def test_damaged_files_are_refused(content, message, tmp_path):
    data = content if isinstance(content, bytes) else pickle.dumps(content)
    (tmp_path / "set.pkl").write_bytes(data)
    with pytest.raises(CorruptFileError, match=message):
        d4morl.load(tmp_path / "set.pkl")
