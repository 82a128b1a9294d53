"""Who hears whom, and what is made of it: means and attention by hand, gates, death, the mute twin."""

import copy
import functools
import math

import pytest
import torch

from marl.agents import commnet, ic3net, tarmac
from marl.channel import PerfectLink
from marl.comm import Attention, Mean
from marl.rng import Rng

CPU = torch.device("cpu")
AGENTS = {
    "commnet": commnet.Config,
    "ic3net": ic3net.Config,
    "tarmac": tarmac.Config,
    "tarmac paper": functools.partial(tarmac.Config, form="paper"),
}


def _build(spec, name="ic3net", **config):
    return AGENTS[name](**({"hidden": 8} | config)).build(spec=spec, rng=Rng(0), device=CPU)


def _carry(team, B, gate=None):
    g = torch.Generator().manual_seed(3)
    carry = team.initial_carry(B)
    for name in ("h_BNH", "c_BNH"):
        if name in carry:
            carry[name] = torch.randn(carry[name].shape, generator=g)
    if gate is not None:
        carry["gate_BN"] = torch.tensor(gate).expand(B, -1)
    return carry


class _Spy(PerfectLink):
    """Remembers what was wanted."""

    def send(self, message_BNM, wanted_BNN, carry):
        self.wanted_BNN, self.calls = wanted_BNN, getattr(self, "calls", 0) + 1
        return super().send(message_BNM, wanted_BNN, carry)


def _act(team, ts, carry, link=None):
    rng = Rng(0).stream("act", ts.obs_BNO.shape[0])
    return team.act(ts, carry, rng=rng, explore=1.0, link=link or _Spy(CPU))


def test_mean_by_hand():
    """Divided by the living others, whoever of them talks."""
    h = torch.tensor([[[1.0], [10.0], [100.0], [1000.0]]])
    alive = torch.tensor([[True, True, True, False]])
    delivered = torch.zeros(1, 4, 4, dtype=torch.bool)
    delivered[0, 0, 1] = delivered[0, 1, 2] = delivered[0, 1, 0] = delivered[0, 3, 0] = True
    received = torch.where(delivered[..., None], h[:, None], 0.0)
    m = Mean(1)(h, h, received, delivered, alive)
    assert m.flatten().tolist() == [5.0, 50.5, 0.0, 0.0]
    alone = torch.tensor([[True, False, False, False]])
    assert torch.isfinite(Mean(1)(h, h, received * 0, delivered & False, alone)).all()


def test_attention_by_hand():
    """One signature feature: weights exp(q k) over itself and whom it heard."""
    attention = Attention(1, signature=1, value=1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        attention.say.weight.copy_(torch.tensor([[1.0], [2.0]]))  # k = h, v = 2 h
        attention.query.weight.fill_(3.0)  # q = 3 h
        attention.say.bias.zero_()
        attention.query.bias.zero_()
    h = torch.tensor([[[0.5], [1.0], [-0.5]]])
    delivered = torch.tensor([[[False, True, False], [False, False, False], [True, True, False]]])
    said = attention.message(h)
    received = torch.where(delivered[..., None], said[:, None], 0.0)
    m = attention(h, said, received, delivered, torch.tensor([[True, True, False]])).flatten().tolist()
    a, b = math.exp(1.5 * 0.5), math.exp(1.5 * 1.0)
    assert m == pytest.approx([(a * 1.0 + b * 2.0) / (a + b), 2.0, 0.0], rel=1e-5)


@pytest.mark.parametrize(
    "make", [lambda _: Mean(6), lambda g: Attention(6, signature=3, value=4, generator=g)]
)
def test_what_was_said_needs_no_copy_for_every_pair(make):
    """Without `received`, m and its gradient are those of messages that arrived as they were said."""
    g = torch.Generator().manual_seed(0)
    aggregate, delivered = make(g), torch.rand(5, 4, 4, generator=g) < 0.5
    delivered &= ~torch.eye(4, dtype=torch.bool)
    alive, found = torch.rand(5, 4, generator=g) < 0.7, []
    h = torch.randn(5, 4, 6, generator=g).requires_grad_()
    for copies in (True, False):
        said = aggregate.message(h)
        received = torch.where(delivered[..., None], said[:, None], 0.0) if copies else None
        m = aggregate(h, said, received, delivered, alive)
        found.append((m, *torch.autograd.grad((m * m.detach().cos()).sum(), h)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    assert found[0][1].abs().sum() > 0


def test_a_silent_agent_still_receives(make_spec, make_step):
    """Gates 1, 0, 1: agent 1 hears 0 and 2, and nobody hears 1."""
    spec = make_spec()
    team, ts, link = _build(spec), make_step(spec, B=1), _Spy(CPU)
    act = _act(team, ts, _carry(team, 1, [True, False, True]), link)
    expected = [[False, False, True], [True, False, True], [True, False, False]]
    assert act.extras["delivered"][0, 0].tolist() == expected
    base, other = _carry(team, 1, [True, False, True]), _carry(team, 1, [True, False, True])
    other["h_BNH"] = base["h_BNH"].clone()
    other["h_BNH"][:, 1] += 1.0
    first, second = team.scores(ts, base), team.scores(ts, other)
    assert torch.equal(first[:, [0, 2]], second[:, [0, 2]])
    other["h_BNH"] = base["h_BNH"].clone()
    other["h_BNH"][:, 0] += 1.0
    assert not torch.equal(first[:, 1], team.scores(ts, other)[:, 1])


def test_the_gate_sampled_now_opens_at_the_next_step(make_spec, make_step):
    spec = make_spec()
    team, ts = _build(spec), make_step(spec, B=50)
    act = _act(team, ts, team.initial_carry(50))
    assert not act.extras["delivered"].any(), "nobody talks in an episode's first step"
    gate_BN = act.extras["gate"]
    assert 0 < gate_BN.float().mean() < 1
    after = _act(team, ts, act.carry).extras["delivered"][:, 0]
    others = ~torch.eye(3, dtype=torch.bool)
    assert torch.equal(after, gate_BN[:, None] & others)


@pytest.mark.parametrize(
    ("name", "recurrent"),
    [(name, r) for name in AGENTS for r in (True, False) if r or name != "tarmac paper"],  # it has a GRU
)
def test_the_dead_neither_talk_nor_hear(make_spec, make_step, name, recurrent):
    spec = make_spec()
    team = _build(spec, name, recurrent=recurrent)
    ts = make_step(spec)
    ts.alive_BN = torch.tensor([[True, True, False], [True, True, True]])
    gate = [True] * 3 if name == "ic3net" else None
    act = _act(team, ts, _carry(team, 2, gate))
    delivered = act.extras["delivered"][:, 0]
    assert not delivered[0, 2].any()
    assert not delivered[0, :, 2].any()
    assert delivered[0, 0, 1]
    assert delivered[1].sum() == 6


@pytest.mark.parametrize("name", AGENTS)
def test_rounds_are_sends_and_the_mute_twin_wants_none(make_spec, make_step, name):
    spec = make_spec()
    ts = make_step(spec)
    team, mute = _build(spec, name, rounds=3), _build(spec, name, rounds=3, messages=False)
    gate = [True] * 3 if name == "ic3net" else None
    for a, b in zip(team.network.parameters(), mute.network.parameters(), strict=True):
        assert torch.equal(a, b), "the mute twin is the same network"
    loud, silent = _Spy(CPU), _Spy(CPU)
    assert _act(team, ts, _carry(team, 2, gate), loud).extras["delivered"].shape == (2, 3, 3, 3)
    _act(mute, ts, _carry(mute, 2, gate), silent)
    assert loud.calls == silent.calls == 3
    assert loud.statistics()["talk"] == 1.0
    assert silent.statistics()["messages"] == 0
    other = _carry(mute, 2, gate)
    other["h_BNH"][:, 0] += 1.0
    before, after = mute.scores(ts, _carry(mute, 2, gate)), mute.scores(ts, other)
    assert torch.equal(before[:, 1:], after[:, 1:])


def test_an_open_gate_is_no_gate(make_spec, make_step):
    spec = make_spec()
    team = _build(spec, gate="open")
    act = _act(team, make_step(spec), team.initial_carry(2))
    assert act.extras["delivered"].sum() == 2 * 6
    assert "gate" not in act.extras
    assert "gate_BN" not in act.carry


@pytest.mark.parametrize("name", AGENTS)
def test_scores_are_differentiable_in_the_observation(make_spec, make_step, name):
    spec = make_spec()
    team, ts = _build(spec, name), make_step(spec)
    ts.obs_BNO.requires_grad_()
    (slope,) = torch.autograd.grad(team.scores(ts, team.initial_carry(2))[0, 1, 2], ts.obs_BNO)
    assert slope[0, 1].abs().max() > 0


def test_greedy_is_the_likeliest_available_action(make_spec, make_step):
    spec = make_spec()
    team, ts = _build(spec), make_step(spec, B=40)
    carry, rng = team.initial_carry(40), Rng(0).stream("act", 40)
    greedy = team.act(ts, carry, rng=rng, explore=0.0).actions_BN
    scores = team.scores(ts, carry).masked_fill(~ts.avail_BNA, -torch.inf)
    assert torch.equal(greedy, scores.argmax(-1))
    sampled = team.act(ts, carry, rng=rng, explore=1.0)
    assert ts.avail_BNA.gather(-1, sampled.actions_BN[..., None]).all()
    few = team.act(ts.map(lambda x: x[:5]), team.initial_carry(5), rng=Rng(0).stream("act", 5), explore=1.0)
    assert torch.equal(few.actions_BN, sampled.actions_BN[:5])
    assert torch.equal(few.extras["gate"], sampled.extras["gate"][:5])


def test_where_a_newcomer_took_a_slot_is_stored(make_spec, make_step):
    spec = make_spec()
    team, ts = _build(spec), make_step(spec)
    assert not _act(team, ts, team.initial_carry(2)).extras["left"].any()
    ts = copy.copy(ts)
    ts.info = {"left": torch.tensor([[False, True, False]] * 2)}
    assert torch.equal(_act(team, ts, team.initial_carry(2)).extras["left"], ts.info["left"])
