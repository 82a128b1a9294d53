"""Any single-agent Gymnasium environment as a team of one."""

import gymnasium
import numpy as np
import pytest
import torch

from marl.envs.gymnasium import Config
from marl.errors import FieldError
from marl.rng import Rng
from marl.types import Box, Discrete

pytestmark = pytest.mark.usefixtures("camp")
CPU = torch.device("cpu")


def build(target, num_envs=1, workers=0, **settings):
    return Config(target=target, workers=workers, **settings).build(num_envs=num_envs, device=CPU)


def test_the_spec_of_cartpole():
    spec = build("CartPole-v1").spec
    assert (spec.agents, spec.obs_size, spec.state_size) == (("agent",), 4, 4)
    assert (spec.action_spaces, spec.reward, spec.episode_limit) == ((Discrete(n=2),), "team", 500)
    assert build("CartPole-v1", limit=30).spec.episode_limit == 30


def test_cartpole_is_what_gymnasium_says():
    """Episodes of both ends: the pole falls (termination), or twelve steps are over (Gymnasium's limit)."""
    env = build("CartPole-v1", 2, kwargs={"max_episode_steps": 12})
    ts, seeds = env.reset(Rng(3)), Rng(3).stream("foreign", 2)
    episode, ends = [0, 0], set()
    copies = [gymnasium.make("CartPole-v1", max_episode_steps=12) for _ in range(2)]

    def fresh(b):
        seed = seeds.fold(torch.tensor(episode)).integers(2**31 - 1)[b]
        return copies[b].reset(seed=int(seed))[0]

    for b in range(2):
        np.testing.assert_array_equal(ts.obs_BNO[b, 0].numpy(), fresh(b))
    for k in range(60):
        actions = torch.tensor([[1], [k // 2 % 2]])  # always right: it falls; to and fro: it stands
        ts = env.step(actions)
        for b, copy in enumerate(copies):
            obs, reward, terminated, truncated, _ = copy.step(int(actions[b, 0]))
            assert (float(ts.reward_B[b]), bool(ts.terminated_B[b])) == (reward, terminated)
            assert bool(ts.truncated_B[b]) == (truncated and not terminated)
            if terminated or truncated:
                ends.add("fell" if terminated else "over")
                np.testing.assert_array_equal(ts.final_obs_BNO[b, 0].numpy(), obs)
                episode[b] += 1
                obs = fresh(b)
            np.testing.assert_array_equal(ts.obs_BNO[b, 0].numpy(), obs)
    assert ends == {"fell", "over"}


def test_workers_play_the_same_episodes():
    here, there = build("CartPole-v1", 3), build("CartPole-v1", 3, workers=2)
    a, b = here.reset(Rng(1)), there.reset(Rng(1))
    for k in range(30):
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name]), name
        actions = torch.full((3, 1), k % 3 // 2)
        a, b = here.step(actions), there.step(actions)
    there.close()


def test_masks_of_infos_and_actions_that_do_not_start_at_zero():
    env = build("camp:Single", limit=10)
    ts = env.reset(Rng(0))
    assert ts.obs_BNO.sum() == 1  # Discrete(4) as a one-hot vector
    assert env.spec.obs_slices["agent"][0].kind == "onehot"
    assert ts.avail_BNA[0, 0].tolist() == [True, False, True]
    ts = env.step(torch.tensor([[2]]))
    assert float(ts.reward_B) == 1.0
    assert ts.avail_BNA[0, 0].tolist() == [False, True, True]


def test_real_actions():
    env = build("Pendulum-v1", 2)
    assert env.spec.action_spaces == (Box(low=(-2.0,), high=(2.0,)),)
    env.reset(Rng(0))
    assert env.step(torch.full((2, 1, 1), 3.0)).obs_BNO.shape == (2, 1, 3)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("CartPole-v99", "Environment version `v99` for environment `CartPole` doesn't exist"),
        ("NoSuch-v0", "write a registered id such as CartPole-v1, or package.module:factory"),
        ("nowhere:NoSuch-v0", "there is no module nowhere"),
        ("camp:make", "it makes a pettingzoo.ParallelEnv; use env=pettingzoo"),
        ("camp:list_of", "camp has no function or class list_of"),
    ],
)
def test_a_target_that_cannot_be_used_is_one_sentence(target, said):
    with pytest.raises(FieldError) as raised:
        build(target)
    assert str(raised.value).startswith(f"env.target={target!r} cannot be used: ")
    assert said in str(raised.value)
