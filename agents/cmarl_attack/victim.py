"""A frozen team as its attacker sees it: scores that can be differentiated in the victims' observations.

| symbol | name here | meaning |
|---|---|---|
| K, v | victims_K | agents under attack |
| o^v | x_BNO | observations of all agents; only the victims' may change |
| Q^v | scores (B, K, A) | action values of the victims, or logits of an actor |
| X | row_X | rows of a batch: any worlds in any order, a world as often as wanted |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from marl.errors import FieldError, MarlError
from marl.robust.perturbation import Scores
from marl.types import Carry, EnvSpec, TimeStep


class Victim:
    """Which agents of which team, and what can be asked of them.

    Args:
        agent: the trained team; its networks are frozen.
        spec: of its world.
        agents: the victims, by index.

    Raises:
        MarlError: the world's actions are not discrete, or an index is of no agent.
    """

    def __init__(self, agent: Any, spec: EnvSpec, agents: Sequence[int]) -> None:
        if not spec.discrete:
            raise MarlError(
                f"env={spec.name} has continuous actions: this attack forces one of several discrete ones"
            )
        fix = f"give numbers from 0 to {spec.n_agents - 1}, each once"
        known = all(0 <= n < spec.n_agents for n in agents) and len(set(agents)) == len(agents)
        if not agents or not known:
            raise FieldError("attack.agents", tuple(agents), fix)
        self.agent, self.spec = agent, spec
        self.device = torch.device(getattr(agent, "device", "cpu"))
        self.victims_K = torch.tensor(agents, device=self.device)
        for part in vars(agent).values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)

    def scores(self, ts: TimeStep, carry: Carry) -> Tensor:
        """All agents' scores (B, N, A), constants."""
        with torch.no_grad():
            out: Tensor = self.agent.scores(ts, carry)
        return out

    def of_victims(self, value: Tensor) -> Tensor:
        """(B, N, ...) to (B, K, ...)."""
        return value.index_select(1, self.victims_K)

    def put(self, value: Tensor, of_victims: Tensor) -> Tensor:
        """`value` (B, N, ...) with the victims' rows replaced by (B, K, ...)."""
        return value.index_copy(1, self.victims_K, of_victims.to(value.dtype))

    def look(self, ts: TimeStep, carry: Carry) -> Scores:
        """The victims' scores (B, K, A) as a function of the observations (B, N, O)."""

        def scores(x_BNO: Tensor) -> Tensor:
            entry = replace(ts, obs_BNO=x_BNO)
            if hasattr(self.agent, "scores_of"):
                out: Tensor = self.agent.scores_of(entry, carry, self.victims_K)
            else:
                out = self.of_victims(self.agent.scores(entry, carry))
            if torch.is_grad_enabled() and not out.requires_grad:
                raise MarlError(
                    "this team's actions do not follow from its observations through a network: "
                    "give attack.force=control, which needs no gradient"
                )
            return out

        return scores


def rows_of(ts: TimeStep, carry: Carry, row_X: Tensor) -> tuple[TimeStep, Carry]:
    """Entry and carry of these rows alone, without what scores never look at."""
    ts = replace(ts, info={}, final_obs_BNO=None, final_state_BS=None, final_avail_BNA=None)
    return ts.map(lambda v: v.index_select(0, row_X)), {k: v.index_select(0, row_X) for k, v in carry.items()}
