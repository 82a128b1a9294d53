"""Defences of messages: how many are dropped, what is corrected, and whom a majority believes."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from marl.agents import ac, commnet, ic3net, schednet, tarmac, tmc
from marl.channel import GilbertElliott, PerfectLink
from marl.envs.relay_game import Config as Relay
from marl.errors import FieldError, MarlError
from marl.loops import OnPolicyConfig
from marl.loops.base import Means
from marl.rng import Rng
from marl.robust.config import Ablation, MessageDropout
from marl.robust.messages import (
    Dropout,
    Ensemble,
    certified,
    majority,
    median,
    of_majority,
    random_subset,
    subsets,
    values_in_use,
)
from marl.rollout import Rollout
from marl.types import Act

CPU = torch.device("cpu")
TALKERS = {"ac": ac, "tmc": tmc, "schednet": schednet, "commnet": commnet, "ic3net": ic3net, "tarmac": tarmac}


def _team(name, spec, defence=None, seed=1):
    return TALKERS[name].Config(hidden=8, defence=defence).build(spec=spec, rng=Rng(seed), device=CPU)


class Ear:
    """A team that tells what it heard: its action is 1 if the sum of all messages is above 0."""

    def __init__(self, message_N):
        self.message_N, self.heard, self.delivered = torch.tensor(message_N), [], []

    def act(self, ts, carry, *, rng, explore, link):
        B, N = ts.alive_BN.shape
        wanted = torch.ones(B, N, N, dtype=torch.bool)
        said = self.message_N.expand(B, N)[..., None]
        received, delivered, carry = link.send(said, wanted, carry)
        self.heard.append(received[..., 0])
        self.delivered.append(delivered)
        return Act(actions_BN=(received.sum((2, 3)) > 0).long(), carry={"h_BN": received.sum((2, 3))})


def _link(testing):
    link = PerfectLink(CPU)
    link.testing = testing
    return link


def _ask(defence, ear, ts, *, testing, carry=None):
    rest = {"rng": Rng(0).stream("act", len(ts.alive_BN)), "explore": 0.0, "link": _link(testing)}
    return defence.act(
        ear.act, ts, carry or {"h_BN": torch.zeros_like(ts.alive_BN, dtype=torch.float)}, **rest
    )


def test_messages_are_dropped_with_the_probability_asked_for(make_spec, make_step):
    ts, ear = make_step(make_spec(), B=3000), Ear([1.0, 2.0, 4.0])
    _ask(Dropout(MessageDropout(probability=0.3), sums=True), ear, ts, testing=False)
    (delivered,), (heard,) = ear.delivered, ear.heard
    off = ~torch.eye(3, dtype=torch.bool)
    assert abs(delivered[:, off].float().mean().item() - 0.7) < 3 * (0.21 / 18000) ** 0.5
    expected = torch.where(delivered, torch.tensor([1.0, 2.0, 4.0]), 0.0)
    assert torch.equal(heard, expected)  # a block, whole or not at all
    joint = (delivered[:, 0, 1] & delivered[:, 0, 2]).float().mean().item()
    assert abs(joint - 0.49) < 0.03  # independent of each other


def test_in_use_messages_are_all_heard_at_the_corrected_strength(make_spec, make_step):
    ts = make_step(make_spec())
    for correction, sums, scale in ((True, True, 0.75), (False, True, 1.0), (True, False, 1.0)):
        ear = Ear([1.0, 2.0, 4.0])
        defence = Dropout(MessageDropout(probability=0.25, correction=correction), sums=sums)
        _ask(defence, ear, ts, testing=True)
        assert ear.heard[0][0, 0].tolist() == [0.0, 2.0 * scale, 4.0 * scale]
        assert ear.delivered[0].sum() == 2 * 6


def test_attention_is_not_corrected_and_sums_are(make_spec):
    spec = make_spec()
    assert _team("tarmac", spec, MessageDropout()).message_defence.scale == 1.0
    for name in ("ac", "schednet", "commnet", "ic3net"):
        assert _team(name, spec, MessageDropout(probability=0.5)).message_defence.scale == 0.5


@pytest.mark.parametrize("name", ["commnet", "tarmac"])
@pytest.mark.parametrize("defence", [MessageDropout(probability=0.5), Ablation(kept=1)])
def test_learning_replays_what_was_heard(name, defence):
    """Masks reach the learner: it computes the log-probabilities that acting had."""
    env = Relay(runners=4).build(num_envs=4, device=CPU)
    team = _team(name, env.spec, defence)
    loop = OnPolicyConfig(rollout_steps=6).build(env=env, agent=team, rng=Rng(0))
    logits, outputs = [], team.network.outputs

    def spy(h):
        out = outputs(h)
        logits.append(out.logits.detach())
        return out

    team.network.outputs = spy
    batch = loop.collect(Means())
    acted = torch.stack(logits[:6], 1).flatten(0, 1)
    x = team._chunks(batch)
    out, _ = team._look(x["obs"], x)
    torch.testing.assert_close(out.logits[x["filled"]], acted)
    heard = batch.extras["delivered"][batch.filled_BT].sum(-1)
    if isinstance(defence, Ablation):
        assert heard.max() == 1
        assert x["delivered"][~x["filled"]].sum(-1).max() == 1  # nor are ends valued by more
    assert 0 < heard.sum() < heard.numel() * 3


def test_random_subsets_are_all_alike():
    keep = random_subset(Rng(0).stream("x", 6000), 4, 2)
    assert not keep.diagonal(dim1=1, dim2=2).any()
    assert (keep.sum(-1) == 2).all()
    pairs = {
        pair: (keep[:, 0, pair[0]] & keep[:, 0, pair[1]]).float().mean() for pair in ((1, 2), (1, 3), (2, 3))
    }
    assert all(abs(p - 1 / 3) < 0.025 for p in pairs.values())


def test_members_are_all_subsets_or_as_many_as_asked_for():
    keep = subsets(4, 2, 32, Rng(0))
    assert len(keep) == 3
    for n in range(4):
        others = [m for m in range(4) if m != n]
        heard = {tuple(row.nonzero().flatten().tolist()) for row in keep[:, n]}
        assert heard == set(itertools.combinations(others, 2))
    drawn = subsets(9, 4, 10, Rng(0))
    assert drawn.shape == (10, 9, 9)
    assert len({tuple(row.tolist()) for row in drawn[:, 0]}) == 10
    assert torch.equal(drawn, subsets(9, 4, 10, Rng(0)))
    assert not torch.equal(drawn, subsets(9, 4, 10, Rng(1)))


def test_the_certificate_by_counting():
    """For every (N, k): the largest C for which more than half of all subsets hold no liar."""
    for agents in range(2, 8):
        for kept in range(1, agents):
            all_ = list(itertools.combinations(range(agents - 1), kept))

            def clean(liars, all_=all_):
                return sum(min(s) >= liars for s in all_)

            best = max(c for c in range(agents) if c == 0 or 2 * clean(c) > len(all_))
            assert certified(agents, kept) == best
        assert certified(agents, 1) == math.ceil((agents - 1) / 2) - 1  # C < (N - 1) / 2


def test_the_page_says_what_is_certified():
    page = (Path(__file__).parents[2] / "docs" / "defences.md").read_text()
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")
    ]
    (agents,) = (row[1:] for row in rows if row[0] == "agents N")
    for kept in (1, 2):
        (said,) = (row[1:] for row in rows if row[0] == f"lies survived, k = {kept}")
        assert [int(c) for c in said] == [certified(int(n), kept) for n in agents]


@pytest.mark.parametrize("liars", [0, 1, 2])
def test_a_majority_survives_fewer_than_half_liars(make_spec, make_step, liars):
    """Six agents, five senders each: honest ones say 1 (action 1), liars -1000. Two liars are certified."""
    spec = make_spec(N=6)
    assert certified(6, 1) == 2
    says = [-1000.0] * liars + [1.0] * (6 - liars)
    act = _ask(
        Ensemble(Ablation(kept=1), 6, rng=Rng(0), device=CPU), Ear(says), make_step(spec), testing=True
    )
    honest = act.actions_BN[:, liars:]
    assert (honest == 1).all()
    if liars:
        plain = Ear(says).act(make_step(spec), {}, rng=None, explore=0.0, link=_link(True))
        assert (plain.actions_BN[:, liars:] == 0).all()  # one lie was enough without the ensemble


def test_more_liars_than_certified_win(make_spec, make_step):
    ensemble = Ensemble(Ablation(kept=1), 6, rng=Rng(0), device=CPU)
    act = _ask(ensemble, Ear([-1000.0] * 3 + [1.0] * 3), make_step(make_spec(N=6)), testing=True)
    assert (act.actions_BN[:, 3:] == 0).all()


def test_votes_and_medians():
    assert majority(torch.tensor([[[2, 0], [2, 1], [0, 1], [0, 3]]]), 4).tolist() == [[0, 1]]
    assert median(torch.tensor([[[5.0], [1.0], [9.0]]])).tolist() == [[5.0]]
    assert median(torch.tensor([[[5.0], [1.0], [9.0], [7.0]]])).tolist() == [[5.0]]


@pytest.mark.parametrize("lossy", [False, True])
@pytest.mark.parametrize("name", TALKERS)
def test_hearing_everybody_is_acting_as_without_the_ensemble(name, lossy):
    """k = N - 1: one member, who hears all; the same episodes as without the defence, over any link."""
    env = Relay(runners=3).build(num_envs=3, device=CPU)
    rollouts = []
    for defence in (None, Ablation(kept=2)):
        world = Relay(runners=3).build(num_envs=3, device=CPU)
        link = GilbertElliott(loss=0.4, burst=2, delay=1).build(device=CPU) if lossy else _link(True)
        link.testing = True
        rollouts.append(Rollout(world, _team(name, env.spec, defence), Rng(5), link=link))
    for _ in range(15):
        one, two = (r.step(0.0)[0] for r in rollouts)
        assert torch.equal(one.actions_BN, two.actions_BN)
        for key, value in one.carry.items():
            assert torch.equal(two.carry[key], value), key
    assert rollouts[0].link.statistics() == rollouts[1].link.statistics()


@pytest.mark.parametrize("name", ["commnet", "schednet", "tmc"])
def test_members_keep_states_of_their_own_and_begin_episodes_alike(name):
    world = Relay(runners=4).build(num_envs=3, device=CPU)
    rollout = Rollout(world, _team(name, world.spec, Ablation(kept=1)), Rng(5), link=_link(True))
    apart = False
    key = "h_BNH" if name == "commnet" else "hidden_BNH"
    for _ in range(30):
        ts, carry = rollout.ts, rollout.carry
        members = rollout.agent.message_defence._members(ts, carry)
        for value in members.values():
            fresh = value[ts.t_B == 0]
            assert torch.equal(fresh, fresh[:, :1].expand_as(fresh))
        apart |= bool((members[key][:, 0] != members[key][:, 1]).any())
        rollout.step(0.0)
    assert apart == (name != "tmc")  # what a TMC agent remembers does not depend on what it heard
    assert set(rollout.agent.initial_carry(2)) <= set(rollout.carry)


@pytest.mark.parametrize("defence", [None, MessageDropout(probability=0.8), Ablation(kept=1)])
@pytest.mark.parametrize("name", TALKERS)
def test_scores_are_those_of_a_team_in_use(name, defence):
    """Attackers aim at what the team does: the greedy action of its scores, at every step of its episodes."""
    world = Relay(runners=4).build(num_envs=3, device=CPU)
    rollout = Rollout(world, _team(name, world.spec, defence), Rng(5), link=_link(True))
    plain = _team(name, world.spec)  # the same weights
    apart = False
    for _ in range(12):
        ts, carry = rollout.ts, {k: v.clone() for k, v in rollout.carry.items()}
        scores = rollout.agent.scores(ts, carry)
        greedy = scores.masked_fill(~ts.avail_BNA, -torch.inf).argmax(-1)
        own = {k: v for k, v in carry.items() if not k.startswith("member.")}
        apart |= not torch.equal(scores, plain.scores(ts, own))
        act, _ = rollout.step(0.0)
        if name != "tmc":  # whose agents in use send what has changed, and their scores take all messages
            assert torch.equal(act.actions_BN, greedy)
    if name in ("ac", "commnet", "schednet"):  # others may be silent, or have nothing to correct
        assert apart == (defence is not None)


@pytest.mark.parametrize("defence", [MessageDropout(probability=0.5), Ablation(kept=1)])
def test_scores_follow_from_observations(defence):
    """Gradients reach what is seen, by the agent itself and by those that it hears."""
    world = Relay(runners=4).build(num_envs=2, device=CPU)
    team, ts = _team("ac", world.spec, defence), world.reset(Rng(0))
    obs = torch.rand_like(ts.obs_BNO).requires_grad_()
    team.scores(replace(ts, obs_BNO=obs), team.initial_carry(2))[:, 0].sum().backward()
    assert obs.grad[:, 0].abs().sum() > 0
    assert obs.grad[:, 1:].abs().sum() > 0


def test_values_of_an_ensemble_are_the_members_mean(make_spec, make_step):
    """Three agents, k = 1: a member hears one of two messages, of 1, 2 and 4."""
    ts, ear = make_step(make_spec()), Ear([1.0, 2.0, 4.0])
    carry = {"h_BN": torch.zeros_like(ts.alive_BN, dtype=torch.float)}

    def ask(ts, carry, link):
        return ear.act(ts, carry, rng=None, explore=0.0, link=link).carry["h_BN"]

    for defence, wanted in (
        (Ablation(kept=1), [3.0, 2.5, 1.5]),
        (MessageDropout(probability=0.5), [3.0, 2.5, 1.5]),
    ):
        both = (
            Ensemble(defence, 3, rng=Rng(0), device=CPU)
            if isinstance(defence, Ablation)
            else Dropout(defence, sums=True)
        )
        assert values_in_use(both, ask, ts, carry, _link(False))[0].tolist() == wanted
    assert values_in_use(None, ask, ts, carry, _link(False))[0].tolist() == [6.0, 5.0, 3.0]


def test_the_majoritys_scores_by_hand():
    scores = torch.tensor([[[[3.0, 2.0, 9.0]], [[5.0, 1.0, 9.0]], [[0.0, 9.0, 9.0]]]])
    avail = torch.tensor([[[True, True, False]]])
    assert of_majority(scores, avail).tolist() == [[[4.0, 1.5, 9.0]]]  # the mean of all would take action 1


def test_a_member_is_untouched_by_who_it_does_not_hear():
    """Agent 3 lies: members that do not hear it keep exactly the states that they have without the lie."""

    class Lie(PerfectLink):
        testing = True

        def send(self, message, wanted, carry):
            message = message.clone()
            message[:, 3] = 100.0
            return super().send(message, wanted, carry)

    states = []
    for link in (_link(True), Lie(CPU)):
        world = Relay(runners=4, limit=4).build(num_envs=3, device=CPU)
        rollout = Rollout(world, _team("commnet", world.spec, Ablation(kept=1)), Rng(5), link=link)
        rollout.step(0.0)
        states.append(rollout.carry["member.h_BNH"])
    deaf_DN = ~rollout.agent.message_defence.keep_DNN[:, :, 3]
    assert torch.equal(states[0][:, deaf_DN], states[1][:, deaf_DN])
    assert not torch.equal(states[0], states[1])


def test_too_many_kept_messages_and_export_are_refused(make_spec):
    spec = make_spec()
    with pytest.raises(FieldError, match="an agent hears 2 others"):
        _team("ac", spec, Ablation(kept=3))
    for name in ("ic3net", "ac"):
        with pytest.raises(MarlError, match="cannot be exported"):
            _team(name, spec, Ablation()).export()


def test_acting_without_a_link_is_training(make_spec, make_step):
    spec = make_spec()
    team, ts = _team("ac", spec, Ablation(kept=1)), make_step(spec)
    act = team.act(ts, team.initial_carry(2), rng=Rng(0).stream("x", 2), explore=0.0)
    assert (act.extras["delivered"].sum(-1) == 1).all()
    assert replace(ts).alive_BN is ts.alive_BN
