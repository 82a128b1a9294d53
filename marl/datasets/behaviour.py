"""A team that plays worse than it can: how data sets of other quality than a team's own are made.

| symbol | name here | meaning |
|---|---|---|
| p_n | random_N | probability that agent n takes a uniform random action instead of its own |
| q | scaled | else: probability that a real action is multiplied by c |
| c | | uniform in [0.35, 1.65], one number per action |

D4MORL's amateurs have q = 0.65, and on the swimmer p = 0.35, q = 1. Unequal p_n make a team of unequal
members. Everything is drawn from the row's stream, beside what the team itself draws.

Reference: Zhu, Dang, Grover (PEDA, D4MORL), ICLR 2023, and its released collector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from marl.errors import FieldError
from marl.offline.policy import unit_box
from marl.policy.heads import sample
from marl.rng import Stream
from marl.types import Act, Agent, Carry, EnvSpec, Link, TimeStep

_SCALE = (0.35, 1.65)  # D4MORL's code


class Unsteady:
    """A team with spoiled actions.

    Args:
        agent: the team.
        spec: the world.
        random: p_n of every agent, or one number for all.
        scaled: q; for real actions.

    Raises:
        FieldError: `random` has another length than the team, or `scaled` is for real actions alone.
        MarlError: real actions are to be replaced and their Boxes are unbounded.
    """

    def __init__(self, agent: Agent, spec: EnvSpec, *, random: Sequence[float], scaled: float) -> None:
        N = spec.n_agents
        if len(random) not in (1, N):
            raise FieldError("random", list(random), f"give one probability, or {N} of them")
        if scaled and spec.discrete:
            raise FieldError("scaled", scaled, "its actions are numbered, not real: give 0")
        self.agent, self.spec, self.scaled = agent, spec, scaled
        self.extras_spec = agent.extras_spec
        self.random_N = torch.tensor([*random] * (N if len(random) == 1 else 1))
        self._box = None if spec.discrete else unit_box(spec)

    def initial_carry(self, rows: int) -> Carry:
        return self.agent.initial_carry(rows)

    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        act = self.agent.act(ts, carry, rng=rng, explore=explore, link=link)
        own = act.actions_BN
        if self._box is not None:
            own = own * self._factor(rng)
            middle_NA, half_NA = self._box
            own = torch.minimum(torch.maximum(own, middle_NA - half_NA), middle_NA + half_NA)
        replaced_BN = rng.fold("replace").uniform(self.spec.n_agents) < self.random_N
        any_action = self._any(ts, rng.fold("random"))
        where = replaced_BN.view(*replaced_BN.shape, *[1] * (own.dim() - 2))
        return Act(actions_BN=torch.where(where, any_action, own), carry=act.carry, extras=act.extras)

    def _factor(self, rng: Stream) -> Tensor:
        """c, or 1 (B, N, 1)."""
        N, (low, high) = self.spec.n_agents, _SCALE
        c_BN = low + (high - low) * rng.fold("scale").uniform(N)
        return torch.where(rng.fold("scaled").uniform(N) < self.scaled, c_BN, 1.0)[..., None]

    def _any(self, ts: TimeStep, rng: Stream) -> Tensor:
        """A uniform action, of those available."""
        if self._box is None:
            return sample(torch.zeros(ts.avail_BNA.shape).masked_fill(~ts.avail_BNA, -1e10), rng)
        middle_NA, half_NA = self._box
        return middle_NA + half_NA * (2 * rng.uniform(*half_NA.shape) - 1)
