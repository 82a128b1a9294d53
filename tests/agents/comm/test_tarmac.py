"""TarMAC in its paper's form: a step agent by agent, the critic of all, and what its learner makes of it."""

import math

import pytest
import torch

from marl.agents import tarmac
from marl.errors import MarlError
from marl.rng import Rng

CPU = torch.device("cpu")


def _build(spec, **config):
    settings = {"form": "paper", "hidden": 6, "signature": 3, "value": 4} | config
    return tarmac.Config(**settings).build(spec=spec, rng=Rng(0), device=CPU)


def _heard(net, g, i, heard):
    """c of agent i by eq. 2 to 4, from the states g of all; itself included."""
    say, query = net.aggregate.say, net.aggregate.query
    scores = {j: float(query(g[i]) @ say(g[j])[:3]) / math.sqrt(3) for j in (i, *heard)}
    total = sum(math.exp(s) for s in scores.values())
    return sum(math.exp(s) / total * say(g[j])[3:] for j, s in scores.items())


def test_a_step_is_the_papers_agent_by_agent(make_spec):
    """Two rounds; agent 0 hears 1, then 1 and 2; agent 1 hears nobody; agent 2 hears 0 in the second."""
    net = _build(make_spec(O=5), rounds=2).network
    oracle = torch.nn.GRUCell(6 + 4, 6)
    with torch.no_grad():
        for ours, theirs in {"input": "ih", "recurrent": "hh"}.items():
            getattr(oracle, f"weight_{theirs}").copy_(getattr(net.gru, ours).weight)
            getattr(oracle, f"bias_{theirs}").copy_(getattr(net.gru, ours).bias)
    g = torch.Generator().manual_seed(1)
    obs, h = torch.randn(1, 3, 5, generator=g), torch.randn(1, 3, 6, generator=g)
    heard = [{0: (1,), 1: (), 2: ()}, {0: (1, 2), 1: (), 2: (0,)}]
    delivered = torch.zeros(2, 1, 3, 3, dtype=torch.bool)
    for r, pairs in enumerate(heard):
        for i, senders in pairs.items():
            delivered[r, 0, i, list(senders)] = True
    rounds = iter(delivered)
    with torch.no_grad():
        exchange = lambda said: (None, next(rounds))  # noqa: E731
        (new,) = net.step(net.encode(obs), (h,), torch.ones(1, 3, dtype=torch.bool), exchange)
        first = [_heard(net, h[0], i, heard[0][i]) for i in range(3)]
        inner = torch.stack([torch.tanh(net.W(torch.cat((first[i], h[0, i])))) for i in range(3)])
        for i in range(3):
            c = _heard(net, inner, i, heard[1][i])
            x = torch.cat((net.encoder(obs[0, i]).clamp(min=0), c))
            torch.testing.assert_close(new[0, i], oracle(x[None], h[:, i])[0])


def test_gradients_flow_back_through_states_and_messages(make_spec, make_rollout):
    team, batch = _build(make_spec(), chunk=0), make_rollout(make_spec(), B=1, T=6, hidden=6)
    batch.start_BT[:, 1:] = False
    batch.alive_BTN[:] = True
    obs = batch.obs_BTNO.requires_grad_()
    net, state = team.network, (batch.extras["carry.h_BNH"],)
    everyone = ~torch.eye(3, dtype=torch.bool).expand(1, 6, 1, 3, 3)
    (h,) = net(net.encode(obs), batch.start_BT, batch.alive_BTN, everyone, state)
    (slope,) = torch.autograd.grad(h[0, -1, 0].sum(), obs)
    assert (slope[0, 0].abs().sum(-1) > 0).all(), "of every agent's first observation"


def test_the_critic_sees_all_that_can_act(make_spec):
    spec = make_spec()
    net, g = _build(spec).network, torch.Generator().manual_seed(2)
    h, action = torch.randn(3, 6, generator=g), torch.eye(spec.n_actions)[torch.tensor([0, 1, 0])]
    alive = torch.tensor([True, True, False])
    q = net.joint_value(h, alive, action)
    assert (q == q[0]).all()
    for agent, matters in ((0, True), (1, True), (2, False)):
        other_h, other_action = h.clone(), action.clone()
        other_h[agent] += 1.0
        other_action[agent] = action[agent].roll(1)
        assert torch.equal(net.joint_value(other_h, alive, action), q) is not matters
        assert torch.equal(net.joint_value(h, alive, other_action), q) is not matters


def test_the_policy_is_weighed_by_q_and_q_by_the_next_one(make_spec, make_rollout):
    """gain = Q; target = r + 0.99 Q', with no Q' after an end."""
    spec = make_spec()
    team, batch = _build(spec, chunk=0), make_rollout(spec, hidden=6)
    x = team._chunks(batch)
    live = x["live"]
    assert torch.equal(x["gain"], x["value"])
    ahead = torch.cat((x["value"][:, 1:], torch.zeros_like(x["value"][:, :1])), 1)
    ended = batch.terminated_BT[..., None]
    expected = batch.reward_BT[..., None] + 0.99 * torch.where(ended, 0.0, ahead)
    torch.testing.assert_close(x["return"][live], expected.expand_as(ahead)[live])
    metrics = team._reinforce(x, Rng(0).stream("update", 1))
    count = batch.filled_BT.sum()
    by_hand = -(x["value"] * x["log_prob"])[live].sum() / count
    torch.testing.assert_close(metrics["policy_loss"], by_hand)
    error = (x["value"] - x["return"])[live].square().sum() / count
    torch.testing.assert_close(metrics["value_loss"], error)


def test_defaults_are_the_papers_and_can_be_set():
    paper = tarmac.Config(form="paper").chosen
    names = ("gamma", "trace", "learning_rate", "entropy")
    assert [paper[name] for name in names] == [0.99, 0.0, 7e-4, 0.01]
    assert tarmac.Config(form="paper", gamma=0.9).chosen["gamma"] == 0.9
    assert tarmac.Config(form="paper", learner="ppo").chosen["trace"] == 0.95
    assert tarmac.Config().chosen["gamma"] == 1.0


@pytest.mark.parametrize("wrong", [{"form": "own"}, {"own_rewards": True}, {"recurrent": False}])
def test_what_does_not_fit_is_refused(wrong):
    with pytest.raises(MarlError, match=next(iter(wrong))):
        tarmac.Config(**({"form": "paper"} | wrong))
