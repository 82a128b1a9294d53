"""Messages that may be missing or lies: message dropout, and the ablated message ensemble.

| symbol | name here | meaning |
|---|---|---|
| p | probability | that a message is dropped |
| N - 1, C | - | messages that an agent can hear; of them, those that an attacker writes |
| k | kept | messages that one member of the ensemble hears |
| D | members | members: all subsets of k of the N - 1 senders, or as many drawn from them |

Message dropout: while a team learns, every message to every receiver is dropped with probability p, as a
block. In use all are heard and count 1 - p, as the paper's correction of the weights behind them.
CHOICE: what is dropped is dropped while acting; learners replay what was heard, as over a lossy link.
CHOICE: attention whose weights sum to 1 over whoever is heard is not corrected: it has no sum to be kept.

Ablated message ensemble: while a team learns, every receiver hears k random messages of the step. In use
every member of the ensemble decides from its own subset, and the action that most members take is done
(ties: the first of them). Where C of the N - 1 messages are lies, binom(N - 1 - C, k) members hear none of
them; where these are more than half of all, no lie can bring about an action that they do not support: for
k = 1 that is C < (N - 1) / 2 (`certified`).
CHOICE: a member hears the same senders in every step of an episode and has a recurrent state of its own, so
that a lie never reaches a member that does not hear its sender. An agent can say one thing only: the median
of what its members would say, feature by feature, which a minority cannot move beyond the others' range.
DEVIATION: the paper draws its D subsets anew at every step; where there are at most D, all are used here, and
else D that are drawn once from the run's seed (the certificate then holds for those drawn, not for all).

References: Kim, Cho, Sung, "Message-Dropout: An Efficient Training Method for Multi-Agent Deep Reinforcement
Learning", AAAI 2019, arXiv 1902.06527; Sun et al., "Certifiably Robust Policy Learning against Adversarial
Multi-Agent Communication" (AME), ICLR 2023, arXiv 2206.10158.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from marl.channel import PerfectLink
from marl.errors import MarlError, require
from marl.rng import Rng, Stream
from marl.robust.config import Ablation, Defence, MessageDropout
from marl.types import Act, Carry, EnvSpec, Link, TimeStep

Ask = Callable[[TimeStep, Carry, Link], Tensor]  # what networks make of one entry, heard over a link
_MEMBER = "member."  # prefix of the members' own carries, (B, D, ...)
NO_EXPORT = "a team with a defence of its messages cannot be exported: give the run of a team without one"


class MessageDefence(Protocol):
    """What stands between a team's `act` and its link."""

    def act(
        self, act: Callable[..., Act], ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link
    ) -> Act: ...

    def ask(self, ask: Ask, ts: TimeStep, carry: Carry, link: Link) -> Tensor:
        """What is made of an entry in use, whatever `link.testing` says; (B, members, ...)."""
        ...


def message_defence(
    defence: Defence | None, spec: EnvSpec, *, rng: Rng, device: torch.device, sums: bool = True
) -> MessageDefence | None:
    """The runtime of a defence of messages; None where it is none.

    Args:
        defence: of the team's config.
        spec: its world.
        rng: draws the subsets where there are too many.
        device: of the team.
        sums: what is heard is added up, so that dropout is corrected.
    """
    if isinstance(defence, MessageDropout):
        return Dropout(defence, sums=sums)
    if isinstance(defence, Ablation):
        return Ensemble(defence, spec.n_agents, rng=rng, device=device)
    return None


def heard_at_ends(defence: MessageDefence | None, wanted_BTNN: Tensor) -> Tensor:
    """What an entry without an action is valued by, where nothing was sent: of what would be, k messages.

    CHOICE: a team that learns to decide from k messages would be valued by what it never hears. What dropout
    would leave is not drawn: there values take every message, as without the defence.

    Args:
        defence: of the team.
        wanted_BTNN: bool (receiver, sender); every message that would be sent.
    """
    if not isinstance(defence, Ensemble):
        return wanted_BTNN
    T, D = wanted_BTNN.shape[1], len(defence.keep_DNN)
    return wanted_BTNN & defence.keep_DNN[torch.arange(T, device=wanted_BTNN.device) % D]


class Talker(Protocol):
    """A team that talks."""

    message_defence: MessageDefence | None
    device: torch.device


def defended(act: Callable[..., Act]) -> Callable[..., Act]:
    """Decorator of a talking team's `act`: as its defence says."""

    @functools.wraps(act)
    def guarded(
        self: Talker, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        defence = self.message_defence
        if defence is None:
            return act(self, ts, carry, rng=rng, explore=explore, link=link)
        link = PerfectLink(self.device) if link is None else link
        own = functools.partial(act, self)
        return defence.act(own, ts, carry, rng=rng, explore=explore, link=link)

    return guarded


def scores_in_use(defence: MessageDefence | None, ask: Ask, ts: TimeStep, carry: Carry, link: Link) -> Tensor:
    """Scores (B, N, A) by which a team acts in use: the greedy available action is what it does.

    CHOICE: of an ensemble the mean over the members that take the action of the majority; whoever wants the
    team to do something else has to turn these.

    Args:
        defence: of the team.
        ask: its scores, differentiable.
        ts, carry: one entry.
        link: delivers every message.
    """
    if defence is None:
        return ask(ts, carry, link)
    return of_majority(defence.ask(ask, ts, carry, link), ts.avail_BNA)


def values_in_use(defence: MessageDefence | None, ask: Ask, ts: TimeStep, carry: Carry, link: Link) -> Tensor:
    """Values (B, N) of what is heard in use, of an ensemble the members' mean. Args: as `scores_in_use`."""
    return ask(ts, carry, link) if defence is None else defence.ask(ask, ts, carry, link).mean(1)


class _Filter:
    """A link of which only some messages are heard, at some strength.

    Args:
        link: what carries them.
        keep: called once per exchange: bool (B, receiver, sender), or None for all.
        scale: what is heard is multiplied by.
    """

    def __init__(self, link: Link, keep: Callable[[], Tensor | None], scale: float = 1.0) -> None:
        self.link, self._keep, self._scale, self.testing = link, keep, scale, link.testing

    def send(self, message_BNM: Tensor, wanted_BNN: Tensor, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        received_BNNM, delivered_BNN, carry = self.link.send(message_BNM, wanted_BNN, carry)
        keep_BNN = self._keep()
        if keep_BNN is not None:
            received_BNNM = torch.where(keep_BNN[..., None], received_BNNM, 0.0)
            delivered_BNN = delivered_BNN & keep_BNN
        return received_BNNM * self._scale, delivered_BNN, carry


class Dropout:
    """See the module's text. Args: sums: what is heard is added up."""

    def __init__(self, config: MessageDropout, *, sums: bool) -> None:
        self.config = config
        self.scale = 1.0 - config.probability if config.correction and sums else 1.0

    def act(
        self, act: Callable[..., Act], ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link
    ) -> Act:
        if link.testing:
            filtered = self._in_use(link)
        else:
            N, rounds, stream = ts.alive_BN.shape[1], itertools.count(), rng.fold("message_dropout")
            p = self.config.probability
            filtered = _Filter(link, lambda: stream.fold(next(rounds)).uniform(N, N) >= p)
        return act(ts, carry, rng=rng, explore=explore, link=filtered)

    def ask(self, ask: Ask, ts: TimeStep, carry: Carry, link: Link) -> Tensor:
        return ask(ts, carry, self._in_use(link))[:, None]

    def _in_use(self, link: Link) -> _Filter:
        return _Filter(link, lambda: None, self.scale)


class Ensemble:
    """See the module's text.

    Args:
        config: k and D.
        agents: N.
        rng: draws the subsets where there are too many.
        device: of the team.
    """

    def __init__(self, config: Ablation, agents: int, *, rng: Rng, device: torch.device) -> None:
        fix = f"give at most {agents - 1}: an agent hears {agents - 1} others"
        require(config.kept < agents, "agent.defence.kept", config.kept, fix)
        self.kept = config.kept
        self.keep_DNN = subsets(agents, config.kept, config.members, rng).to(device)

    def act(
        self, act: Callable[..., Act], ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link
    ) -> Act:
        if link.testing:
            return self._vote(act, ts, carry, rng=rng, explore=explore, link=link)
        keep_BNN = random_subset(rng.fold("ablation"), ts.alive_BN.shape[1], self.kept)
        filtered = _Filter(link, lambda: keep_BNN)
        return act(ts, carry, rng=rng, explore=explore, link=filtered)

    def ask(self, ask: Ask, ts: TimeStep, carry: Carry, link: Link) -> Tensor:
        ear = _Ensemble(link, self.keep_DNN, carry)
        return ask(*self._as_rows(ts, carry), ear).unflatten(0, (-1, len(self.keep_DNN)))

    def _vote(
        self, act: Callable[..., Act], ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link
    ) -> Act:
        """Let all members decide side by side, as so many rows, and do what most of them would."""
        D, B = len(self.keep_DNN), len(ts.alive_BN)
        ts_R, members = self._as_rows(ts, carry)
        rng_R = Stream(rng.key_B.repeat_interleave(D))
        ear = _Ensemble(link, self.keep_DNN, carry)
        all_R = act(ts_R, members, rng=rng_R, explore=explore, link=ear)
        actions_BN = majority(all_R.actions_BN.unflatten(0, (B, D)), ts.avail_BNA.shape[-1])
        of_link = {name: value for name, value in ear.carry.items() if value is not carry.get(name)}
        own_R = {name: value for name, value in all_R.carry.items() if name not in of_link}
        after = {name: value.unflatten(0, (B, D)) for name, value in own_R.items()}
        if "last_action_BN" in after:  # what was done, not what a member would have done
            after["last_action_BN"] = actions_BN[:, None].expand(-1, D, -1).contiguous()
        own = {name: value[:, 0] for name, value in after.items()}  # a first member stands for the team
        kept = {f"{_MEMBER}{name}": value for name, value in after.items()}
        extras = {name: value.unflatten(0, (B, D))[:, 0] for name, value in all_R.extras.items()}
        return Act(actions_BN=actions_BN, carry=own | kept | of_link, extras=extras)

    def _as_rows(self, ts: TimeStep, carry: Carry) -> tuple[TimeStep, Carry]:
        """Entry and carries of all members side by side, (B D, ...)."""
        members = {name: value.flatten(0, 1) for name, value in self._members(ts, carry).items()}
        return ts.map(lambda x: x.repeat_interleave(len(self.keep_DNN), 0)), members

    def _members(self, ts: TimeStep, carry: Carry) -> dict[str, Tensor]:
        """The members' carries (B, D, ...): at an episode's start all alike."""
        D, first_B = len(self.keep_DNN), ts.t_B == 0
        out = {}
        for name, value in carry.items():
            if name.startswith(_MEMBER):
                continue
            alike = value[:, None].expand(-1, D, *value.shape[1:])
            own = carry.get(_MEMBER + name)
            first = first_B.view(-1, *[1] * value.dim())
            out[name] = alike if own is None else torch.where(first, alike, own)
        return out


class _Ensemble:
    """The link as D members of every world see it, rows (B D): one message per agent, D ears.

    Args:
        link: what carries the messages of B worlds.
        keep_DNN: who hears whom in every member.
        carry: of the team; state of the link is in it.
    """

    def __init__(self, link: Link, keep_DNN: Tensor, carry: Carry) -> None:
        self.link, self.carry, self.testing = link, dict(carry), link.testing
        self._keep_DNN = keep_DNN

    def send(self, message: Tensor, wanted: Tensor, carry: Carry) -> tuple[Tensor, Tensor, Carry]:
        D = len(self._keep_DNN)
        message_BNM = median(message.unflatten(0, (-1, D)))
        wanted_BNN = wanted.unflatten(0, (-1, D)).sum(1) * 2 > D
        received_BNNM, delivered_BNN, self.carry = self.link.send(message_BNM, wanted_BNN, self.carry)
        received = torch.where(self._keep_DNN[..., None], received_BNNM[:, None], 0.0)
        delivered = self._keep_DNN & delivered_BNN[:, None]
        return received.flatten(0, 1), delivered.flatten(0, 1), carry


def majority(votes_BDN: Tensor, actions: int) -> Tensor:
    """The action that most of D members take, int64 (B, N); of several, the first."""
    return F.one_hot(votes_BDN, actions).sum(1).argmax(-1)


def of_majority(scores_BDNA: Tensor, avail_BNA: Tensor) -> Tensor:
    """Mean scores (B, N, A) of the members that take the action of the majority: theirs is greedy in it."""
    votes_BDN = scores_BDNA.masked_fill(~avail_BNA[:, None], -torch.inf).argmax(-1)
    agree_BDN = votes_BDN == majority(votes_BDN, scores_BDNA.shape[-1])[:, None]
    return torch.where(agree_BDN[..., None], scores_BDNA, 0.0).sum(1) / agree_BDN.sum(1)[..., None]


def median(x_BD: Tensor) -> Tensor:
    """Over dimension 1, the lower of the two middle values where D is even."""
    return x_BD.sort(1).values[:, (x_BD.shape[1] - 1) // 2]


def random_subset(rng: Stream, agents: int, kept: int) -> Tensor:
    """k of every receiver's N - 1 senders, all subsets alike; bool (B, receiver, sender)."""
    lot_BNN = rng.uniform(agents, agents)
    itself_NN = torch.eye(agents, dtype=torch.bool, device=lot_BNN.device)
    rank_BNN = lot_BNN.masked_fill(itself_NN, 2.0).argsort(dim=-1, stable=True).argsort(dim=-1)
    return rank_BNN < kept


def subsets(agents: int, kept: int, most: int, rng: Rng) -> Tensor:
    """Who hears whom in every member, bool (D, receiver, sender): all subsets, or `most` of them, drawn."""
    total = math.comb(agents - 1, kept)
    if total <= most:
        picks = list(itertools.combinations(range(agents - 1), kept))
    else:
        draw = rng.python("ablation")
        drawn: dict[tuple[int, ...], None] = {}
        while len(drawn) < most:
            drawn[tuple(sorted(draw.sample(range(agents - 1), kept)))] = None
        picks = list(drawn)
    keep_DNN = torch.zeros(len(picks), agents, agents, dtype=torch.bool)
    for n in range(agents):
        others = [m for m in range(agents) if m != n]
        for d, pick in enumerate(picks):
            keep_DNN[d, n, [others[j] for j in pick]] = True
    return keep_DNN


def certified(agents: int, kept: int) -> int:
    """C: the most messages that may be lies while more than half of all subsets hold none."""
    heard, total = agents - 1, math.comb(agents - 1, kept)
    return max((c for c in range(agents) if 2 * math.comb(heard - c, kept) > total), default=0)


def refuse_export(defence: Any) -> None:
    """Raises MarlError: an exported policy has nobody who drops messages or votes."""
    if defence is not None:
        raise MarlError(NO_EXPORT)
