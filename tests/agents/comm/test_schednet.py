"""SchedNet: schedules, what the weight generator and the critic learn from, what is stored."""

import itertools
import math

import pytest
import torch
from torch.nn.utils import vector_to_parameters

from marl.agents.schednet import Config
from marl.agents.schednet.network import Critic, WeightGenerator, schedule_of
from marl.channel import PerfectLink
from marl.errors import MarlError
from marl.rng import Rng

CPU = torch.device("cpu")


def build(spec, **changes):
    return Config(**({"hidden": 8} | changes)).build(spec=spec, rng=Rng(0), device=CPU)


def stream(rows=2):
    return Rng(0).stream("act", rows)


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_the_k_largest_weights_are_scheduled(k):
    weight = torch.tensor([[0.3, 0.9, 0.5], [0.1, 0.2, 0.0]])
    may = torch.tensor([[True, True, True], [True, False, True]])
    order = [[1, 2, 0], [0, 2]]
    chosen = schedule_of(weight, may, k)
    for row, ranked in enumerate(order):
        assert sorted(chosen[row].nonzero().flatten().tolist()) == sorted(ranked[:k])


@pytest.mark.parametrize("k", [1, 2])
def test_softmax_schedules_are_drawn_without_return(make_spec, make_step, k):
    """Frequencies of sets against the product of softmax shares, over all orders of drawing."""
    spec, B = make_spec(), 6000
    team, one = build(spec, schedule="softmax", k=k), make_step(spec, B=1)
    ts = one.map(lambda x: x.expand(B, *x.shape[1:]))
    extras = team.act(ts, team.initial_carry(B), rng=stream(B), explore=0.0).extras
    assert (extras["scheduled"].sum(-1) == k).all()
    p = extras["weight"][0].softmax(-1).tolist()
    for group in itertools.combinations(range(3), k):
        expected = 0.0
        for drawn in itertools.permutations(group):
            share, left = 1.0, 1.0
            for i in drawn:
                share, left = share * p[i] / left, left - p[i]
            expected += share
        mask = torch.tensor([i in group for i in range(3)])
        found = (extras["scheduled"] == mask).all(-1).float().mean().item()
        assert abs(found - expected) < 5 * math.sqrt(expected * (1 - expected) / B)


def test_only_the_scheduled_talk_and_they_hear_themselves(make_spec, make_step):
    spec = make_spec()
    team, ts, link = build(spec, k=1), make_step(spec, B=5), PerfectLink(CPU)
    act = team.act(ts, team.initial_carry(5), rng=stream(5), explore=0.0, link=link)
    scheduled, delivered = act.extras["scheduled"], act.extras["delivered"]
    others = ~torch.eye(3, dtype=torch.bool)
    assert torch.equal(delivered, scheduled[:, None] & others)
    assert torch.equal(scheduled, act.extras["weight"] == act.extras["weight"].amax(-1, keepdim=True))
    assert link.statistics()["talk"] == pytest.approx(1 / 3)
    torch.testing.assert_close(act.carry["average_BN"], scheduled / 2)
    again = team.act(ts, act.carry, rng=stream(5), explore=0.0)
    torch.testing.assert_close(again.extras["average"], scheduled / 2)
    torch.testing.assert_close(again.carry["average_BN"], scheduled * 0.75)

    before = team.scores(ts, team.initial_carry(5))
    silent = team.online.agents.speaker
    with torch.no_grad():
        for p in silent.parameters():
            p.zero_()
    after = team.scores(ts, team.initial_carry(5))
    assert not torch.isclose(before, after).all(-1).all(-1).any()  # all rows heard something


def test_weights_are_explored_as_actions_are(make_spec, make_step):
    spec, B = make_spec(), 400
    team, one = build(spec), make_step(spec, B=1)
    ts = one.map(lambda x: x.expand(B, *x.shape[1:]))
    own = team.act(ts, team.initial_carry(B), rng=stream(B), explore=0.0).extras["weight"]
    seen = team.act(ts, team.initial_carry(B), rng=stream(B), explore=0.3).extras["weight"]
    random = (seen != own).all(-1)
    assert torch.equal(random, (seen != own).any(-1))  # all agents of a world or none
    assert abs(random.float().mean() - 0.3) < 5 * math.sqrt(0.21 / B)
    few = ts.map(lambda x: x[:7])
    again = team.act(few, team.initial_carry(7), rng=stream(7), explore=0.3).extras["weight"]
    torch.testing.assert_close(again, seen[:7])


def test_the_dead_may_be_left_out(make_spec, make_step):
    spec = make_spec()
    ts = make_step(spec, B=30)
    ts.alive_BN = torch.tensor([[True, False, False]] * 30)
    for dead_talk, expected in ((True, 2), (False, 1)):
        team = build(spec, k=2, dead_talk=dead_talk)
        scheduled = team.act(ts, team.initial_carry(30), rng=stream(30), explore=0.0).extras["scheduled"]
        assert (scheduled.sum(-1) == expected).all()


# Learning


def test_a_weight_depends_on_its_agents_observation_alone(make_spec):
    """The released code gave agent 0 all observations and the others none."""
    team, obs = build(make_spec()), torch.randn(1, 3, 4, requires_grad=True)
    for i in range(3):
        (slope,) = torch.autograd.grad(team.generator(obs)[0, i], obs)
        assert (slope[0, i] != 0).any()
        slope[0, i] = 0.0
        assert (slope == 0).all()


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_the_critics_target_is_cut_at_an_end(make_spec, make_talk, end):
    """(r + gamma Q(s', w'^-) - Q(s, w))^2 entry by entry; the released code never cut it."""
    spec = make_spec()
    team, batch = build(spec, gamma=0.9), make_talk(spec)
    for late in team._late:
        late.vector.data.add_(0.1)  # unlike what it follows
    ends = batch.filled_BT & ~batch.filled_BT.roll(-1, 1)
    batch.terminated_BT, batch.truncated_BT = ends & (end == "terminated"), ends & (end == "truncated")
    average, errors = team._averages(batch), []
    with torch.no_grad():
        for b, t in batch.filled_BT.nonzero().tolist():
            late = team._late_generator(batch.obs_BTNO[b, t + 1])
            ahead = team._late_critic(batch.state_BTS[b, t + 1], average[b, t + 1], late)
            target = batch.reward_BT[b, t] + 0.9 * ahead * ~batch.terminated_BT[b, t]
            weight = batch.extras["weight"][b, t]
            errors.append((target - team.critic(batch.state_BTS[b, t], average[b, t], weight)) ** 2)
        torch.testing.assert_close(team._critic_loss(batch, average), torch.cat(errors).mean())


def test_the_critic_learns_the_sum_of_agents_rewards_at_their_scale(make_spec, make_talk):
    """As the mixed values: a team whose agents are paid apart is worth what all of them get."""
    losses = {}
    for reward in ("agent", "team"):
        spec = make_spec(reward=reward)
        team, batch = build(spec, reward_scale=0.1 if reward == "agent" else 1.0), make_talk(spec)
        own_BTN = torch.stack([batch.reward_BT, 2 * batch.reward_BT, -batch.reward_BT / 2], -1)
        batch.reward_BT, batch.agent_reward_BTN = (
            (None, own_BTN) if reward == "agent" else (0.1 * own_BTN.sum(-1), None)
        )
        losses[reward] = team._critic_loss(batch, team._averages(batch))
    torch.testing.assert_close(losses["agent"], losses["team"])


def test_no_past_schedule_reaches_over_an_episodes_start(make_spec, make_talk):
    """A window may end with the first entry of an episode, which is not filled then."""
    spec = make_spec()
    team, batch = build(spec), make_talk(spec, B=1)
    batch.filled_BT[0, -2:], batch.start_BT[0, -1] = False, True
    batch.extras["average"][0, -2:], batch.extras["scheduled"][0, -2] = 0.5, True
    assert (team._averages(batch)[0, -1] == 0).all()


def test_past_schedules_at_an_episodes_last_observation(make_spec, make_talk):
    spec = make_spec()
    team, batch = build(spec), make_talk(spec)
    average, stored = team._averages(batch), batch.extras["average"]
    for b, t in itertools.product(range(4), range(14)):
        expected = stored[b, t]
        if batch.filled_BT[b, t]:
            assert torch.equal(average[b, t], expected)
        elif t and batch.filled_BT[b, t - 1]:
            torch.testing.assert_close(
                average[b, t], (stored[b, t - 1] + batch.extras["scheduled"][b, t - 1]) / 2
            )


def test_the_generator_climbs_the_critic(make_spec, make_talk, monkeypatch):
    """An update's gradient is minus that of the mean worth of the weights, by central finite differences."""
    spec = make_spec()
    team, batch = build(spec, generator_learning_rate=0.05, narrow=8), make_talk(spec)
    optimiser, critics, seen = team._optimisers["generator"], team._optimisers["critic"].flat, {}
    flat, apply = optimiser.flat, optimiser.apply

    def spy(*args):
        vectors = {"slope": flat.grad, "before": flat.vector, "critic": critics.vector}
        seen.update({name: x.detach().clone() for name, x in vectors.items()})
        return apply(*args)

    monkeypatch.setattr(optimiser, "apply", spy)
    team.update(batch, rng=Rng(0).stream("update", 1))
    assert torch.equal(critics.vector, seen["critic"])  # the critic takes no part in this step

    generator = WeightGenerator(spec, team.config, torch.Generator()).double()
    critic = Critic(spec, team.config, torch.Generator()).double()
    critic.load_state_dict(team.critic.state_dict())
    average = team._averages(batch).double()

    @torch.no_grad()
    def worth(vector):
        vector_to_parameters(vector.double(), generator.parameters())
        value = critic(batch.state_BTS.double(), average, generator(batch.obs_BTNO.double()))
        return value[batch.filled_BT].mean().item()

    before, h = seen["before"].double(), 1e-5
    steps = h * torch.eye(len(before), dtype=torch.float64)
    expected = torch.tensor([(worth(before + step) - worth(before - step)) / (2 * h) for step in steps])
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(seen["slope"], -expected, rtol=1e-4, atol=1e-6)
    assert worth(flat.vector) > worth(before)


def test_targets_follow_softly(make_spec, make_talk):
    spec = make_spec()
    team = build(spec, schedule_tau=0.25)
    before = team.state_dict()
    team.update(make_talk(spec), rng=Rng(0).stream("update", 1))
    after = team.state_dict()
    names = [key for key in before["targets"] if key.startswith(("generator", "critic"))]
    assert len(names) == len([p for m in (team.generator, team.critic) for p in m.parameters()])
    for key in names:
        expected = 0.75 * before["targets"][key] + 0.25 * after["networks"][key]
        torch.testing.assert_close(after["targets"][key], expected)


def test_a_schedule_is_not_exported(make_spec):
    with pytest.raises(MarlError, match="schedule cannot be exported"):
        build(make_spec()).export()


def test_unshared_networks(make_spec, make_talk):
    spec = make_spec()
    team = build(spec, share=False)
    team.update(make_talk(spec), rng=Rng(0).stream("update", 1))
    assert team.state_dict()["networks"]["generator.layers.layers.0.weight"].shape[0] == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": 0}, {"schedule": "x"}, {"message": 0}, {"narrow": 0}, {"critic_hidden": 0},
        {"schedule_tau": 0.0}, {"critic_learning_rate": 0.0}, {"generator_learning_rate": -1.0},
    ],
)  # fmt: skip
def test_bad_values_name_their_field(wrong):
    with pytest.raises(MarlError, match=next(iter(wrong))):
        Config(**wrong)
