"""pysc2 imports beside wandb and protobuf 7, and nothing of the repair stays behind."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from marl.envs.starcraft import imports
from marl.errors import MarlError

ROOT = Path(__file__).resolve().parents[3]

BOTH = """
import random, sys
import absl.flags  # adds a finder of its own
path, shuffle = list(sys.meta_path), random.shuffle
{first}
from marl.envs.starcraft import imports
modules = imports.load()
assert imports.load() == modules
{second}
from google.protobuf import __version__ as protobuf
assert int(protobuf.split(".")[0]) >= 5, protobuf
assert sys.meta_path[: len(path)] == path or set(map(id, path)) <= set(map(id, sys.meta_path))
assert not [x for x in sys.meta_path if type(x).__module__.startswith("marl.envs")]
assert random.shuffle is shuffle
# The rebuilt messages hold what the wire needs: nested fields, enums, oneofs, imports between files.
api = modules.api
request = api.Request(step=api.RequestStep(count=8), id=3)
again = api.Request.FromString(request.SerializeToString())
assert again == request and again.WhichOneof("request") == "step"
unit = modules.raw.Unit(tag=2**60, pos=modules.common.Point(x=1.5, y=2, z=3), weapon_cooldown=4)
observation = api.ResponseObservation()
observation.observation.raw_data.units.append(unit)
copy = api.ResponseObservation.FromString(observation.SerializeToString())
assert copy.observation.raw_data.units[0].pos.x == 1.5
assert api.Difficulty.Name(7) == "VeryHard" and modules.common.Race.Value("Zerg") == 2
run = wandb.init(mode="offline", dir=sys.argv[1], settings=wandb.Settings(silent=True))
run.log({{"x": 1}})
run.finish()
print("both work")
"""


def python(code, *words, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("order", ["wandb first", "pysc2 first"])
def test_wandb_and_pysc2_work_in_one_process(modules, tmp_path, order):
    lines = ("import wandb", "") if order == "wandb first" else ("", "import wandb")
    code, shown = python(BOTH.format(first=lines[0], second=lines[1]), str(tmp_path))
    assert code == 0, shown
    assert "both work" in shown


def test_pysc2s_own_mock_environment_runs(modules):
    """Features, raw units and canned observations of pysc2, which need colors.py's old shuffle."""
    code = """
from marl.envs.starcraft import imports
from marl.envs.starcraft.roster import complete
from marl.envs.battle.maps import find
modules = imports.load()
with imports.repaired():
    from pysc2.env import mock_sc2_env, sc2_env
    from pysc2.tests import dummy_observation
interface = sc2_env.AgentInterfaceFormat(feature_dimensions=sc2_env.Dimensions(screen=32, minimap=32),
                                         use_raw_units=True)
env = mock_sc2_env.SC2TestEnv(map_name="x", agent_interface_format=interface,
    players=[sc2_env.Agent(sc2_env.Race.terran),
             sc2_env.Bot(sc2_env.Race.zerg, sc2_env.Difficulty.very_hard)])
(first,) = env.reset()
assert first.observation["feature_screen"].shape == (27, 32, 32)
steps = [env.step([None])[0] for _ in range(10)]
assert [s.last() for s in steps] == [False] * 9 + [True], [s.last() for s in steps]
assert len(first.observation["raw_units"]) == 1
# The neutral robot of its raw observation belongs to no team of ours.
robot = dummy_observation.FeatureUnit(14, 3, owner=16, pos=modules.common.Point(x=1, y=1), radius=1, health=5,
                                      health_max=5, is_on_screen=True)
marine = dict(alliance=1, pos=modules.common.Point(x=1, y=1), radius=.4, health=45, health_max=45,
              is_on_screen=True)
team = [dummy_observation.FeatureUnit(1970, owner=1, **marine) for _ in range(3)]
team += [dummy_observation.FeatureUnit(48, owner=2, **marine) for _ in range(3)]
build = lambda units: dummy_observation.Builder({}).feature_units(units).build().observation.raw_data.units
assert not complete(find("3m"), build([robot, *team[1:]]))
assert complete(find("3m"), build([robot, *team]))
from marl.envs.starcraft.roster import Roster
assert Roster(find("3m"), build([robot, *team])).tags == (2, 3, 4, 5, 6, 7)
print("runs")
"""
    code, shown = python(code)
    assert code == 0, shown
    assert "runs" in shown


def test_the_shuffle_shim_is_python_3_10s():
    a, b, draws = list(range(9)), list(range(9)), iter([0.1, 0.9, 0.5, 0.3, 0.7, 0.2, 0.99, 0.0])
    imports._shuffle(a, lambda: next(draws))
    numbers = [0.1, 0.9, 0.5, 0.3, 0.7, 0.2, 0.99, 0.0]
    for i in range(8, 0, -1):  # Fisher and Yates, from the end
        j = int(numbers[8 - i] * (i + 1))
        b[i], b[j] = b[j], b[i]
    assert a == b
    state = random.getstate()
    c, d = list(range(9)), list(range(9))
    random.shuffle(c)
    random.setstate(state)
    imports._shuffle(d)
    assert c == d


def test_descriptors_are_read_without_running_the_file():
    old = "raise SystemExit\nDESCRIPTOR = _d.FileDescriptor(name='a', serialized_pb={})\n"
    assert imports.serialized_descriptor(old.format("_b('\\n\\xff')")) == b"\n\xff"
    assert imports.serialized_descriptor(old.format("b'\\n\\xff'")) == b"\n\xff"
    new = "DESCRIPTOR = _pool.Default().AddSerializedFile(b'x')\n"
    assert imports.serialized_descriptor(new) is None


def test_an_error_inside_leaves_nothing_behind():
    path, shuffle = list(sys.meta_path), random.shuffle
    inside = []
    with pytest.raises(ZeroDivisionError), imports.repaired():
        inside.append((sys.meta_path == path, random.shuffle is shuffle, 1 / 0))
    with imports.repaired():
        inside.append((sys.meta_path == path, random.shuffle is shuffle))
    assert inside == [(False, False)]
    assert sys.meta_path == path
    assert random.shuffle is shuffle


@pytest.mark.parametrize("package", ["pysc2", "s2clientprotocol"])
def test_a_missing_package_is_one_sentence(monkeypatch, package):
    find = imports.importlib.util.find_spec
    monkeypatch.setattr(
        imports.importlib.util, "find_spec", lambda name: None if name == package else find(name) or object()
    )
    with pytest.raises(
        MarlError, match=rf"^{package} is not installed: pip install 'marl-suite\[starcraft\]'$"
    ):
        imports.load()
    assert imports.find_smac() is None
