"""Environments of MO-Gymnasium as worlds with a vector of rewards."""

import sys

import numpy as np
import pytest
import torch

from marl.envs.mo_gymnasium import Config
from marl.errors import EnvError, FieldError
from marl.rng import Rng

pytestmark = pytest.mark.usefixtures("camp")
CPU = torch.device("cpu")


def build(target, num_envs=1, workers=0, **settings):
    return Config(target=target, workers=workers, **settings).build(num_envs=num_envs, device=CPU)


@pytest.mark.parametrize("workers", [0, 2])
def test_rewards_are_vectors(workers):
    env = build("camp:Treasure", 2, workers)
    assert (env.spec.reward, env.spec.objectives) == ("vector", ("objective_0", "objective_1"))
    ts = env.reset(Rng(0))
    assert ts.reward_B is None
    assert ts.reward_BK.tolist() == [[0, 0], [0, 0]]
    for t in range(1, 6):
        ts = env.step(torch.tensor([[0], [2]]))  # actions -1 and 1 of the environment
        assert ts.reward_BK.tolist() == [[-1, -1], [1, -1]]
        assert ts.truncated_B.tolist() == [t == 5] * 2
    env.load_state_dict(env.state_dict())
    ts = env.step(torch.tensor([[2], [2]]))  # a resumed run cuts its episodes off
    assert ts.reward_BK.abs().sum() == 0
    assert bool(ts.truncated_B.all())
    env.close()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("shape", r"the reward has shape \(3,\), its space says \(2,\)"),
        ("nan", "objective 1 of the reward is nan"),
    ],
)
def test_a_wrong_reward_is_one_sentence(fault, said):
    env = build("camp:Treasure", kwargs={"fault": fault})
    env.reset(Rng(0))
    with pytest.raises(EnvError, match=said):
        env.step(torch.zeros(1, 1, dtype=torch.int64))


def test_one_reward_is_no_vector():
    with pytest.raises(FieldError, match=r"its reward_space is None, .* use env=gymnasium for one reward"):
        build("camp:Single")


def test_without_the_package_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mo_gymnasium", None)
    with pytest.raises(FieldError, match=r"MO-Gymnasium cannot be imported .*: install it with pip install"):
        build("deep-sea-treasure-v0")


@pytest.mark.filterwarnings("ignore")  # the package's own
@pytest.mark.parametrize("name", ["deep-sea-treasure-v0", "mo-hopper-2obj-v5"])
def test_the_package_itself(name):
    """Two episodes' beginnings equal those of the package's own make, numbers and seeds alike."""
    package = pytest.importorskip("mo_gymnasium", reason="mo-gymnasium is in the extra morl")
    pytest.importorskip("mujoco", reason="mujoco is in the extra morl")
    env, copy = build(name), package.make(name)
    space = env.spec.action_spaces[0]
    ts = env.reset(Rng(5))
    seed = int(Rng(5).stream("foreign", 1).fold(torch.tensor([0])).integers(2**31 - 1)[0])
    obs, _ = copy.reset(seed=seed)
    K = copy.unwrapped.reward_space.shape[0]
    assert env.spec.objectives == tuple(f"objective_{k}" for k in range(K))
    for t in range(12):
        np.testing.assert_allclose(ts.obs_BNO[0, 0].numpy(), np.asarray(obs, np.float32))
        if env.spec.discrete:
            given, own = torch.tensor([[1 + 2 * (t % 2)]]), 1 + 2 * (t % 2)  # down, right, down, ...
        else:
            given = torch.full((1, 1, len(space.low)), 0.1 * (t % 3))
            own = given[0, 0].numpy()
        ts = env.step(given)
        obs, reward, terminated, truncated, _ = copy.step(own)
        np.testing.assert_allclose(ts.reward_BK[0].numpy(), np.asarray(reward, np.float32), rtol=1e-6)
        assert bool(ts.terminated_B[0]) == terminated
        if terminated or truncated:
            break
    env.close()
