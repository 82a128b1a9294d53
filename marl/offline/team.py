"""What agents that learn from a data set share: their state, and of those that are told a wish, the wish.

| symbol | name here | meaning |
|---|---|---|
| p | preference_K | share of every objective in what is wanted while acting, sums to 1 |
| R_k | | return of objective k, every reward scaled to [0, 1] over the data set |
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from marl.errors import FieldError, MarlError, require
from marl.nets import Optimiser, load_tensors, tensors_of
from marl.offline.outcomes import Outcomes
from marl.offline.summary import Scaler, Summary, summarise
from marl.offline.transitions import earned, objectives_of
from marl.types import Batch, EnvSpec, FieldSpec, TimeStep


class OfflineTeam:
    """An agent's state: networks by part, optimisers, and the number of updates.

    Args:
        spec: the world.
        device: where networks live and batches arrive.
    """

    extras_spec: dict[str, FieldSpec] = {}  # noqa: RUF012 - nothing is stored beside actions

    def __init__(self, spec: EnvSpec, device: torch.device) -> None:
        self.spec, self.device, self.updates = spec, device, 0
        self.names = objectives_of(spec)
        self.parts: dict[str, nn.Module] = {}  # filled by the agent; stored under these names
        self.optimisers: dict[str, Optimiser] = {}

    def state_dict(self) -> dict[str, Any]:
        """Networks, scaling, optimisers and counters; what follows from the data comes from the data."""
        return {
            "networks": {
                f"{p}.{n}": v for p, module in self.parts.items() for n, v in tensors_of(module).items()
            },
            "targets": {},
            "optimisers": {name: o.state_dict() for name, o in self.optimisers.items()},
            "counters": {"updates": self.updates},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore, after which acting and learning go on bit for bit.

        Raises:
            MarlError: a tensor is missing, unknown or of another shape.
        """
        for part, module in self.parts.items():
            prefix = f"{part}."
            own = {n.removeprefix(prefix): v for n, v in state["networks"].items() if n.startswith(prefix)}
            load_tensors(module, own, part)
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.updates = int(state["counters"]["updates"])


def cosine(rate: float, updates: int, over: int) -> float:
    """A learning rate that falls to 0 as half a cosine over so many updates, and stays there."""
    return rate * 0.5 * (1 + math.cos(math.pi * min(updates / over, 1.0)))


def check_preference(preference: Sequence[float]) -> None:
    """Raise FieldError unless a config's preference is empty, or of numbers >= 0 with a sum above 0."""
    fits = not preference or (min(preference) >= 0 and sum(preference) > 0)
    require(fits, "preference", preference, "give numbers >= 0 with a sum above 0")


class WishingTeam(OfflineTeam):
    """An agent that is told what is wanted: in hindsight while it learns, a wish while it acts.

    Args:
        spec: the world.
        preference: wanted while acting, one number per objective, any sum above 0; empty: all alike.
        scale_inputs: observations to mean 0 and deviation 1 over the data set.
        device: where networks live and batches arrive.

    Raises:
        FieldError: `preference` has not one number per objective.
    """

    def __init__(
        self, spec: EnvSpec, preference: Sequence[float], *, scale_inputs: bool, device: torch.device
    ) -> None:
        super().__init__(spec, device)
        K = len(self.names)
        if preference and len(preference) != K:
            fix = f"give {K} numbers, one for each of {', '.join(self.names)}, or none"
            raise FieldError("agent.preference", tuple(preference), fix)
        wanted_K = torch.tensor(tuple(preference) or (1.0,) * K, device=device)
        self.preference_K = wanted_K / wanted_K.sum()
        self.scaler = Scaler(spec, K, inputs=scale_inputs, rewards=True).to(device)
        self.outcomes = Outcomes(K).to(device)
        self.parts |= {"scaler": self.scaler, "outcomes": self.outcomes}

    def examine(self, data: Iterable[Batch]) -> Summary:
        """Read the data set: scaling, and the returns that it reached."""
        summary = summarise(data)
        self.scaler.fit(summary)
        self.outcomes.fit(summary, self.scaler)
        return summary

    def goal(self, rows: int) -> Tensor:
        """What shall be earned in an episode (B, K): the return of the data that serves p best."""
        return self.outcomes.best(self.preference_K).expand(rows, -1).clone()

    def still_to_earn(self, ts: TimeStep, to_go_BK: Tensor) -> Tensor:
        """The rest of the goal after the reward that brought this step."""
        earned_BK = self.scaler.reward(earned(ts))
        return to_go_BK - torch.where((ts.t_B > 0)[:, None], earned_BK, 0.0)

    def hindsight(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """`Outcomes.hindsight` of a batch.

        Raises:
            MarlError: it does not hold whole episodes.
        """
        starts_B = batch.start_BT[:, 0] & (batch.start_BT.sum(1) == 1)
        ends_B = ((batch.terminated_BT | batch.truncated_BT) & batch.filled_BT).any(1)
        if not bool((starts_B & ends_B).all()):
            raise MarlError(
                "an agent that is told a wish learns from whole episodes: give loop.batch.length=0 "
                "and loop.full=false"
            )
        return self.outcomes.hindsight(batch, self.scaler, self.spec.episode_limit)
