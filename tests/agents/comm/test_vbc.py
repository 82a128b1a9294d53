"""VBC: its loss by hand, who asks and who replies."""

import math

import pytest
import torch

from marl.agents.ac import Config as AC
from marl.agents.vbc import Config, deviation, sureness, variance_loss
from marl.channel import Bernoulli, PerfectLink
from marl.errors import MarlError
from marl.rng import Rng
from marl.value import td_loss

CPU = torch.device("cpu")


def build(spec, **changes):
    return Config(**({"hidden": 8} | changes)).build(spec=spec, rng=Rng(0), device=CPU)


def in_use(config=None):
    link = PerfectLink(CPU) if config is None else config.build(device=CPU)
    link.testing, link.trace = True, []
    return link


def test_the_loss_by_hand():
    """Two agents, two filled entries: deviations of (1, 3), (0, 0), (2, 2), (0, 4) with divisor A - 1."""
    heard = torch.tensor([[[[1.0, 3.0], [0.0, 0.0]], [[2.0, 2.0], [0.0, 4.0]], [[9.0, -9.0]] * 2]])
    heard.requires_grad_()
    loss = variance_loss(heard, torch.tensor([[True, True, False]]))
    roots = [math.sqrt(2), 0.0, 0.0, math.sqrt(8)]
    assert loss.item() == pytest.approx(sum(roots) / 4, abs=1e-4)
    (slope,) = torch.autograd.grad(loss, heard)
    # d sd / d x_a = (x_a - mean) / ((A - 1) sd)
    by_hand = [-1 / math.sqrt(2), 1 / math.sqrt(2), 0, 0, 0, 0, -2 / math.sqrt(8), 2 / math.sqrt(8)]
    assert slope.flatten().tolist() == pytest.approx([x / 4 for x in by_hand] + [0.0] * 4, abs=1e-4)


def test_the_loss_is_differentiable_and_blind_to_padding(make_spec, make_batch):
    batch = make_batch(make_spec(), B=2, T=6)
    heard = torch.randn(2, 6, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = variance_loss(heard, batch.filled_BT)
    expected = [heard[b, t, i].std() for b in range(2) for t in range(6) for i in range(3)]
    kept = batch.filled_BT[..., None].expand(2, 6, 3).flatten()
    torch.testing.assert_close(whole, torch.stack(expected)[kept].mean(), rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(lambda x: variance_loss(x, batch.filled_BT), heard.requires_grad_())
    spoilt = torch.where(batch.filled_BT[..., None, None], heard.detach(), torch.nan)
    assert torch.isfinite(variance_loss(spoilt, batch.filled_BT))


@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_an_update_adds_the_variance_of_what_was_heard(make_spec, make_talk, combine):
    """Of Q_glb - Q_loc, its gradient included; the TD loss is that of AC."""
    spec, rng = make_spec(), Rng(0).stream("update", 1)
    batch, team = make_talk(spec), build(spec, variance_weight=0.6, combine=combine)
    x = team.online.agents.inputs(batch.obs_BTNO, batch.last_actions_BTN)
    look = team._look(team.online, x, batch)
    local_BTNA, _, _ = team.online.agents.listen(x, batch.start_BT)
    variance = variance_loss(look.q_BTNA - local_BTNA, batch.filled_BT)
    assert variance > 0.01
    td = td_loss(*team._values_and_targets(batch, x, look), batch.filled_BT, kind=team.config.td_loss)
    slopes = torch.autograd.grad(td + 0.6 * variance, list(team.online.parameters()))
    metrics = team.update(batch, rng=rng)
    torch.testing.assert_close(metrics["variance"], variance.detach())
    plain = AC(hidden=8, encoder="mlp", combine=combine).build(spec=spec, rng=Rng(0), device=CPU)
    torch.testing.assert_close(metrics["td_loss"], plain.update(batch, rng=rng)["loss"])
    torch.testing.assert_close(metrics["loss"], (td + 0.6 * variance).detach())
    torch.testing.assert_close(metrics["grad_norm"], torch.cat([s.flatten() for s in slopes]).norm())


def test_sureness_is_of_available_actions():
    local = torch.tensor([[5.0, 1.0, 1.5], [5.0, 1.0, 1.5], [5.0, 1.0, 1.5]])
    avail = torch.tensor([[True, True, True], [False, True, True], [False, True, False]])
    assert sureness(local, avail).tolist() == [3.5, 0.5, math.inf]
    assert deviation(torch.tensor([1.0, 3.0])).item() == pytest.approx(math.sqrt(2))


def test_messages_go_from_who_replies_to_who_asks(make_spec, make_step):
    """Thresholds at the middle of what three agents of ten worlds are: some ask, some reply."""
    spec = make_spec()
    ts, carry = make_step(spec, B=10), build(spec).initial_carry(10)
    said, _ = build(spec)._speak(ts, carry)
    gap, spread = sureness(said.local_BNA, ts.avail_BNA).detach(), deviation(said.message_BNA).detach()
    limits = float(gap[gap.isfinite()].median()), float(spread.median())
    team, link = build(spec, request_gap=limits[0], reply_deviation=limits[1]), in_use()
    q_BNA, delivered_BNN, _ = team._protocol(said, carry, link)
    for b in range(10):
        for i in range(3):
            heard = torch.zeros(spec.n_actions)
            for j in range(3):
                talks = i != j and gap[b, i] < limits[0] and spread[b, j] >= limits[1]
                assert delivered_BNN[b, i, j] == talks
                heard = heard + talks * said.message_BNA[b, j]
            torch.testing.assert_close(q_BNA[b, i], said.local_BNA[b, i] + heard / 2)
    assert 0 < delivered_BNN.sum() < 30


def test_extreme_thresholds(make_spec, make_step):
    """Nobody ever asks; all who have a choice ask; nobody replies; a lost reply counts 0."""
    spec = make_spec()
    ts = make_step(spec, B=6)
    choice = (ts.avail_BNA.sum(-1) > 1).sum()
    args = {"rng": Rng(0).stream("a", 6), "explore": 0.0}
    for changes, channel, expected in (
        ({"request_gap": 0.0}, None, 0),
        ({"request_gap": 1e9}, None, 2 * int(choice)),
        ({"request_gap": 1e9, "reply_deviation": 1e9}, None, 0),
        ({"request_gap": 1e9}, Bernoulli(loss=1.0), 2 * int(choice)),
    ):
        team, link = build(spec, **changes), in_use(channel)
        link.begin(Rng(0).stream("l", 6))
        act = team.act(ts, team.initial_carry(6), link=link, **args)
        assert link.statistics()["messages"] == expected
        assert bool(act.extras["delivered"].any()) == (expected > 0 and channel is None)


def test_training_is_all_to_all_whatever_the_thresholds(make_spec, make_step):
    spec = make_spec()
    team, link = build(spec, request_gap=0.0), PerfectLink(CPU)
    act = team.act(make_step(spec), team.initial_carry(2), rng=Rng(0).stream("a", 2), explore=0.0, link=link)
    assert act.extras["delivered"].sum() == 2 * 6


@pytest.mark.parametrize("name", ["variance_weight", "request_gap", "reply_deviation"])
def test_bad_values_name_their_field(name):
    with pytest.raises(MarlError, match=name):
        Config(**{name: -1.0})
