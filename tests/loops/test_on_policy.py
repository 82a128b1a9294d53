"""The on-policy loop: what a batch holds, by hand; recurrent state; resume; learning."""

import pytest
import torch

from marl.envs.relay_game import Config as Relay
from marl.errors import FieldError
from marl.evaluate import evaluate
from marl.loops import OnPolicyConfig
from marl.loops.base import Means
from marl.returns import lambda_returns
from marl.rng import Rng

CPU = torch.device("cpu")


@pytest.fixture
def loop(script, a2c):
    """Two envs: episodes of 2 terminated, 3 truncated, 2 ...; and episodes of 5 truncated."""
    env = script([[(2, "T"), (3, "C")], [(5, "C")]])
    agent = a2c().build(spec=env.spec, rng=Rng(0), device=CPU)
    return OnPolicyConfig(rollout_steps=4).build(env=env, agent=agent, rng=Rng(0))


def rows(tensor):
    return tensor.to(torch.int64).tolist()


def test_a_batch_by_hand(loop):
    b = loop.collect(Means())
    # env 0: two steps, their final observation, two steps of the next episode, the newest observation
    assert rows(b.obs_BTNO[0, :, 0]) == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]
    # env 1: four steps and the newest observation, repeated as padding
    assert rows(b.obs_BTNO[1, :, 0]) == [[1, 0, 0], [1, 0, 1], [1, 0, 2], [1, 0, 3], [1, 0, 4], [1, 0, 4]]
    assert rows(b.filled_BT) == [[1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 0, 0]]
    assert rows(b.start_BT) == [[1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert rows(b.terminated_BT) == [[0, 1, 0, 0, 0, 0], [0] * 6]
    assert rows(b.truncated_BT) == [[0] * 6, [0] * 6]
    assert rows(b.reward_BT) == [[0, 1, 0, 10, 11, 0], [100, 101, 102, 103, 0, 0]]

    b = loop.collect(Means())
    # env 0: the third step (truncated), then a terminated episode of two, then one step
    assert rows(b.obs_BTNO[0, :, 0]) == [
        [0, 1, 2],
        [0, 1, 3],
        [0, 2, 0],
        [0, 2, 1],
        [0, 2, 2],
        [0, 3, 0],
        [0, 3, 1],
    ]
    assert rows(b.filled_BT) == [[1, 0, 1, 1, 0, 1, 0], [1, 0, 1, 1, 1, 0, 0]]
    assert rows(b.start_BT) == [[0, 0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0, 0]]
    assert rows(b.terminated_BT) == [[0, 0, 0, 1, 0, 0, 0], [0] * 7]
    assert rows(b.truncated_BT) == [[1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]
    assert rows(b.reward_BT) == [[12, 0, 20, 21, 0, 30, 0], [104, 0, 110, 111, 112, 0, 0]]
    assert (loop.steps, loop.episodes) == (16, 4)


def test_padding_behind_an_episodes_first_entry_starts_nothing(script, a2c):
    """Env 1 ends an episode with the rollout's last step, and env 0 two before: 6 and 7 entries."""
    env = script([[(2, "T"), (1, "T"), (3, "C")], [(4, "C")]])
    agent = a2c().build(spec=env.spec, rng=Rng(0), device=CPU)
    b = OnPolicyConfig(rollout_steps=4).build(env=env, agent=agent, rng=Rng(0)).collect(Means())
    assert rows(b.obs_BTNO[1, 4:, 0]) == [[1, 0, 4], [1, 1, 0], [1, 1, 0]]
    assert rows(b.start_BT) == [[1, 0, 0, 1, 0, 1, 0], [1, 0, 0, 0, 0, 1, 0]]
    assert rows(b.filled_BT) == [[1, 1, 0, 1, 0, 1, 0], [1, 1, 1, 1, 0, 0, 0]]
    assert rows(b.truncated_BT[1]) == [0, 0, 0, 1, 0, 0, 0]


def test_actions_and_last_actions_are_one_sequence(loop):
    for _ in range(3):
        b = loop.collect(Means())
        goes_on = b.filled_BT[:, :-1]
        assert torch.equal(b.last_actions_BTN[:, 1:][goes_on], b.actions_BTN[:, :-1][goes_on])
        assert (b.last_actions_BTN[b.start_BT] == -1).all()
        assert (b.actions_BTN[~b.filled_BT] == 0).all()
    assert (b.last_actions_BTN[:, 0] >= 0).any()  # mid-episode at the rollout's start


def test_truncation_bootstraps_and_termination_does_not(loop):
    loop.collect(Means())
    b = loop.collect(Means())
    value_BT1 = (b.obs_BTNO[..., 0, 1] * 10 + b.obs_BTNO[..., 0, 2])[..., None] * 10  # 100 episode + 10 t
    one_step = lambda_returns(
        b.reward_BT[..., None], value_BT1, b.terminated_BT, b.filled_BT, gamma=0.5, trace=0.0
    )[0, :, 0]
    assert one_step[0] == 12 + 0.5 * 130  # truncated: the value of its final observation (episode 1, t 3)
    assert one_step[2] == 20 + 0.5 * 210
    assert one_step[3] == 21  # terminated
    assert one_step[5] == 30 + 0.5 * 310  # the rollout's end: the newest observation


def test_recomputed_log_probabilities_equal_those_of_acting(a2c):
    """Carry at the start, resets, order of envs and steps, availability: any mistake would show here."""
    env = Relay(limit=5).build(num_envs=5, device=CPU)
    agent = a2c().build(spec=env.spec, rng=Rng(0), device=CPU)
    loop = OnPolicyConfig(rollout_steps=7).build(env=env, agent=agent, rng=Rng(0))
    carried = False
    for _ in range(6):
        carried |= bool(loop.rollout.carry["h"].any())
        loop.iterate()
    assert carried
    assert agent.largest_logp_error < 1e-5
    wrong = loop.collect(Means())
    wrong.extras["carry.h"] = wrong.extras["carry.h"].flip(0)
    agent.largest_logp_error = 0.0
    agent.update(wrong, rng=None)
    assert agent.largest_logp_error > 1e-3


def test_hidden_state_resets_at_an_episodes_start(a2c):
    env = Relay().build(num_envs=4, device=CPU)
    agent = a2c().build(spec=env.spec, rng=Rng(0), device=CPU)
    loop = OnPolicyConfig(rollout_steps=20).build(env=env, agent=agent, rng=Rng(0))
    b = loop.collect(Means())
    logp, _ = agent.unroll(b)
    env_index, at = b.start_BT[:, 1:].nonzero()[0].tolist()
    alone = {
        f: getattr(b, f)[[env_index], at + 1 :] for f in ("obs_BTNO", "avail_BTNA", "start_BT", "filled_BT")
    }
    later = type(b)(**{f.name: None for f in b.__dataclass_fields__.values()} | alone)
    later.last_actions_BTN = b.last_actions_BTN[[env_index], at + 1 :]
    later.extras = {"carry.h": torch.full((1, 3, 32), 9.0)}  # must be forgotten
    torch.testing.assert_close(agent.unroll(later)[0][0], logp[env_index, at + 1 :])


def test_resume_is_bit_exact(check_resume, a2c):
    state, loop = check_resume(OnPolicyConfig(rollout_steps=4), Relay(limit=5), a2c(), k=9)
    assert state["rollout"]["timestep"]["t_B"].any()  # mid-episode
    assert loop.episodes > 20


def test_rollout_steps_must_be_positive():
    with pytest.raises(FieldError, match="rollout_steps=0 "):
        OnPolicyConfig(rollout_steps=0)


def trained_return(a2c, learning_rate):
    rng, world = Rng(0), Relay(runners=2, max_leg=2)
    env = world.build(num_envs=32, device=CPU)
    agent = a2c(learning_rate).build(spec=env.spec, rng=rng.child("agent"), device=CPU)
    loop = OnPolicyConfig(rollout_steps=6).build(env=env, agent=agent, rng=rng.child("loop"))
    for _ in range(60):
        loop.iterate()
    return evaluate(agent, world, episodes=64, rng=Rng(1), device=CPU, threads=1).means()["return"]


def test_learns_to_remember_and_does_not_without_learning(a2c):
    assert trained_return(a2c, 1e-2) > 0.9  # 0.375 without memory, 1 is best
    assert trained_return(a2c, 0.0) < 0.5
