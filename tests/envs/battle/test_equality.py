"""The C++ form equals the torch form: one step from 100,000 sampled states of many maps.

The two do the same float operations in the same order, so nothing has to be left out near thresholds.
"""

import pytest
import torch

from marl.envs.battle import Config
from marl.rng import Rng

EVERY = {
    "cone": True, "obs_last_action": True, "obs_pathing": True, "obs_height": True, "obs_timestep": True,
    "obs_own_position": True, "state_timestep": True, "reward": "signed", "time_base": 16.0,
    "continuing_episode": True,
}  # fmt: skip
# map, envs, steps, options: 102,400 states; the large maps get small shares, since torch steps them slowly
CASES = [
    ("3m", 512, 90, {}),
    ("2m_vs_1z", 512, 20, {}),
    ("2s3z", 256, 60, {}),
    ("3s_vs_5z", 256, 30, {"reward": "clamp"}),
    ("MMM", 128, 45, {}),
    ("MMM", 64, 30, EVERY),
    ("1c3s5z", 64, 30, {}),
    ("2s_vs_1sc", 256, 20, {"reward": "sparse"}),
    ("6h_vs_8z", 64, 20, {}),
    ("corridor", 32, 40, {}),
    ("bane_vs_bane", 16, 20, {}),
    ("so_many_baneling", 16, 20, {}),
    ("2c_vs_64zg", 8, 40, {}),
    ("1o_2r_vs_4r", 128, 60, {}),
    ("v2/terran_5v5", 128, 30, {}),
    ("v2/terran_10v11", 32, 20, {}),
    ("v2/protoss_5v5", 128, 20, EVERY),
    ("v2/zerg_10v10", 32, 20, {}),
]


def act(env, ts, generator):
    """A third of the envs play at random, a third attacks where it can, a third also advances."""
    weight = torch.rand(ts.avail_BNA.shape, generator=generator)
    part = torch.arange(env.num_envs) % 3
    weight[part > 0, :, env.tables.attack_base :] += 1.0
    weight[part == 2, :, 4] += 0.9
    return ((weight + 0.01) * ts.avail_BNA).argmax(-1)


def compare(name, ours, oracle, tolerance=1e-5):
    assert ours.keys() == oracle.keys()
    for key, value in ours.items():
        other = oracle[key]
        assert (value.dtype, value.shape) == (other.dtype, other.shape), (name, key)
        if value.is_floating_point():
            torch.testing.assert_close(
                value, other, rtol=tolerance, atol=tolerance, msg=lambda m, key=key: f"{name} {key}: {m}"
            )
        else:
            assert torch.equal(value, other), (name, key)


def test_there_are_enough_states():
    assert sum(envs * steps for _, envs, steps, _ in CASES) >= 100_000


@pytest.mark.parametrize(("name", "envs", "steps", "options"), CASES)
def test_one_step_is_equal(name, envs, steps, options):
    cpu, generator = torch.device("cpu"), torch.Generator().manual_seed(0)
    native = Config(map=name, form="native", **options).build(num_envs=envs, device=cpu, threads=2)
    oracle = Config(map=name, form="torch", **options).build(num_envs=envs, device=cpu, threads=1)
    ts = native.reset(Rng(3))
    compare(name, ts.state_dict(), oracle.reset(Rng(3)).state_dict())
    compare(name, native.state, oracle.state)
    ended = 0
    for k in range(steps):
        if k == 10:  # the step limit too
            native.state["t_B"][::5] = native.map.limit - 1
        oracle.load_state_dict(native.state)
        actions = act(native, ts, generator)
        ts = native.step(actions)
        compare(name, ts.state_dict(), oracle.step(actions).state_dict())
        compare(name, native.state, oracle.state)
        ended += int(ts.done_B.sum())
    assert ended > 0  # resets were compared, too
