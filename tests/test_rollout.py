"""Batched acting: carry, streams, counters of episodes; links."""

import pytest
import torch

from marl.channel import PerfectLink
from marl.envs.relay_game import Config as Relay
from marl.rng import Rng
from marl.rollout import Rollout, Tally
from marl.types import Act, Discrete, EnvSpec, TimeStep

CPU = torch.device("cpu")


class Random:
    """Uniformly random available actions; its carry counts its own steps."""

    extras_spec = {}  # noqa: RUF012

    def __init__(self, spec, talk=False):
        self.spec, self.talk = spec, talk

    def initial_carry(self, rows):
        return {
            "age_B": torch.zeros(rows, dtype=torch.int64),
            "last_BN": torch.full((rows, self.spec.n_agents), -1),
        }

    def act(self, ts, carry, *, rng, explore, link=None):
        assert torch.equal(carry["age_B"], ts.t_B)  # reset exactly where an episode starts
        assert torch.equal(carry["last_BN"] == -1, (ts.t_B == 0)[:, None].expand_as(carry["last_BN"]))
        score = rng.uniform(*ts.avail_BNA.shape[1:]).masked_fill(~ts.avail_BNA, -1.0)
        actions = score.argmax(-1)
        if self.talk:
            wanted = torch.ones(*actions.shape, actions.shape[1], dtype=torch.bool)
            _, _, carry = link.send(ts.obs_BNO, wanted, carry)
        return Act(actions_BN=actions, carry={"age_B": carry["age_B"] + 1, "last_BN": actions})


def play(num_envs, steps=40, seed=0, talk=False):
    env = Relay(max_leg=4, limit=7).build(num_envs=num_envs, device=CPU)
    rollout = Rollout(env, Random(env.spec, talk), Rng(seed))
    log = []
    for _ in range(steps):
        act, finished = rollout.step(1.0)
        log.append((act.actions_BN, rollout.ts, finished))
    return rollout, log


def test_rows_do_not_depend_on_how_many_envs_run():
    _, many = play(6)
    _, few = play(2)
    for (a, ts, _), (b, other, _) in zip(many, few, strict=True):
        assert torch.equal(a[:2], b)
        assert torch.equal(ts.obs_BNO[:2], other.obs_BNO)
    assert not torch.equal(many[3][0], play(6, seed=1)[1][3][0])


def test_results_of_finished_episodes():
    rollout, log = play(5)
    returns, lengths, count = torch.zeros(5), torch.zeros(5, dtype=torch.int64), 0
    for _, ts, finished in log:
        returns += ts.reward_B
        lengths += 1
        done = ts.done_B
        if not done.any():
            assert finished is None
            continue
        assert finished["env"].tolist() == done.nonzero().flatten().tolist()
        torch.testing.assert_close(finished["return"].float(), returns[done])
        assert torch.equal(finished["length"], lengths[done])
        assert torch.equal(finished["success"], ts.info["success"][done])
        returns[done], lengths[done] = 0, 0
        count += int(done.sum())
    assert count > 20
    assert int(rollout.episode_B.sum()) == count


def test_goes_on_bit_for_bit_from_its_state():
    rollout, _ = play(4, steps=13)
    state, env_state = rollout.state_dict(), rollout.env.state_dict()
    assert state["timestep"]["t_B"].any()  # within an episode
    expected = [rollout.step(1.0) for _ in range(20)]
    copy, _ = play(4, steps=5)
    copy.env.load_state_dict(env_state)
    copy.load_state_dict(state)
    for act, finished in expected:
        again, finished_again = copy.step(1.0)
        assert torch.equal(act.actions_BN, again.actions_BN)
        assert (finished is None) == (finished_again is None)
        if finished is not None:
            assert all(torch.equal(finished[name], finished_again[name]) for name in finished)


def test_tally_of_objectives_and_costs():
    spec = EnvSpec(
        name="x",
        agents=("a",),
        agent_types=("any",),
        obs_size=1,
        state_size=1,
        action_spaces=(Discrete(n=2),),
        reward="vector",
        objectives=("speed", "comfort"),
        costs=("fuel",),
        episode_limit=2,
    )
    tally, yes = Tally(spec, 2, CPU), torch.ones(2, 1, dtype=torch.bool)

    def step(done):
        return tally.add(
            TimeStep(
                obs_BNO=torch.zeros(2, 1, 1),
                state_BS=torch.zeros(2, 1),
                avail_BNA=yes[..., None].expand(-1, -1, 2),
                terminated_B=torch.tensor(done),
                truncated_B=torch.tensor([False, False]),
                present_BN=yes,
                alive_BN=yes,
                t_B=torch.zeros(2, dtype=torch.int64),
                reward_BK=torch.tensor([[1.0, 2.0], [3.0, 5.0]]),
                cost_BC=torch.tensor([[7.0], [8.0]]),
            )
        )

    assert step([False, False]) is None
    out = step([False, True])
    got = {name: value.tolist() for name, value in out.items()}
    assert got == {
        "env": [1],
        "length": [2],
        "return": [16.0],
        "return.speed": [6.0],
        "return.comfort": [10.0],
        "cost.fuel": [16.0],
    }
    assert step([True, False])["return"].tolist() == [9.0]


def test_agent_rewards_are_summed():
    env = Relay().build(num_envs=1, device=CPU)
    tally, ts = Tally(env.spec, 1, CPU), env.reset(Rng(0))
    ts.reward_B, ts.agent_reward_BN = None, torch.tensor([[1.0, 2.0, 4.0]])
    ts.terminated_B = torch.tensor([True])
    assert tally.add(ts)["return"].tolist() == [7.0]


def test_perfect_link_delivers_and_counts():
    link = PerfectLink(CPU)
    message = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [float("nan"), 6.0]]])
    wanted = torch.tensor([[[True, True, False], [False, False, False], [True, True, False]]])
    received, delivered, carry = link.send(message, wanted, {"x": message})
    assert delivered.tolist() == [[[False, True, False], [False, False, False], [True, True, False]]]
    assert received[0, 0, 1].tolist() == [3.0, 4.0]
    assert received[0, 2].tolist() == [[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]
    assert received[0, 1].abs().sum() == 0  # what is not delivered is 0, whatever was said
    assert carry == {"x": message}
    assert link.statistics() == {"messages": 3, "delivered": 3, "bits": 3 * 2 * 32, "talk": 3 / 6}
    copy = PerfectLink(CPU)
    copy.load_state_dict(link.state_dict())
    copy.send(message, torch.zeros_like(wanted), {})
    assert copy.statistics()["talk"] == pytest.approx(3 / 12)


def test_the_rollout_passes_a_link():
    rollout, _ = play(5, steps=8, talk=True)
    sent = 8 * 5 * 6
    assert rollout.link.statistics() == {
        "messages": sent,
        "delivered": sent,
        "bits": sent * 7 * 32,
        "talk": 1.0,
    }
    assert play(5, steps=8)[0].link.statistics()["talk"] == 0.0
