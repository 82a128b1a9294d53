"""What a data set must have before a welfare can be learned from it, said with the objective and the remedy;
and whether what was learned carries their flow.

Reference: the failures that the replication (Adema et al., TMLR 2026) and trials of this project met.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from marl.agents.fairdice.welfare import Welfare
from marl.errors import MarlError
from marl.offline import Summary

_PATCHED = "welfare=patched_log with a unit (agent.unit=0.1)"
_REMEDY = f"use {_PATCHED}, give fixed weights (0 drops it), or add data that reward it"
UNBOUNDED = f"raise beta, measure returns in a unit (agent.unit=1), use {_PATCHED}, or add data"
_WINDOW, _FAR = 1000, 2.0  # updates that are averaged, and the factor that is said; CHOICE

_log = logging.getLogger(__name__)


def refuse_unrewarded(welfare: Welfare, most_K: Tensor, names: Sequence[str]) -> None:
    """Raise MarlError where an objective's largest reward is not above 0 and the utility cannot bear that.

    Args:
        welfare: u.
        most_K: the largest reward of each objective in the data, as the learner sees it.
        names: of the objectives.
    """
    if not welfare.needs_reward:
        return
    for k, most in enumerate(most_K.tolist()):
        if most <= 0:
            raise MarlError(
                f"objective {k} ({names[k]}) is never rewarded in the data: its largest reward is "
                f"{most:g}, so its weight would grow without bound; {_REMEDY}"
            )


def refuse_data(
    welfare: Welfare,
    summary: Summary,
    names: Sequence[str],
    *,
    scaled: bool,
    fixed: bool,
    official: bool,
) -> None:
    """Raise MarlError where no welfare can be learned from the data.

    Args:
        welfare: u.
        summary: of the data.
        names: of the objectives.
        scaled: rewards are scaled to [0, 1] for the learner.
        fixed: the weights are given: any rewards will do.
        official: transitions that end an episode do not count.
    """
    if fixed or not welfare.needs_reward:
        return
    low_K, high_K = summary.low_K, summary.high_K
    if official:
        inside_K = summary.high_inside_K - (low_K if scaled else 0.0)
        for k, most in enumerate(inside_K.tolist()):
            if most <= 0 < float(high_K[k] - (low_K[k] if scaled else 0.0)):
                raise MarlError(
                    f"objective {k} ({names[k]}) is rewarded only where an episode ends, and ends=official "
                    "leaves those transitions out; set ends=proper"
                )
    if scaled:
        refuse_unrewarded(welfare, high_K - low_K, names)  # a constant reward is scaled to 0
        return
    refuse_unrewarded(welfare, high_K, names)
    for k, (low, high) in enumerate(zip(low_K.tolist(), high_K.tolist(), strict=True)):
        mean = float(summary.return_EK[:, k].mean())
        if mean <= 0:
            raise MarlError(
                f"objective {k} ({names[k]}) has a mean return of {mean:g} in the data, which this welfare "
                f"cannot take; set scale_rewards=true, or {_REMEDY}"
            )
        if low < 0 or high > 1:
            raise MarlError(
                f"objective {k} ({names[k]}) has rewards from {low:g} to {high:g}: objectives are weighed "
                "fairly in [0, 1] alone; set scale_rewards=true, or " + _PATCHED
            )


class FlowWatch:
    """Says once where the ratios d / dD stay far from a flow that the data could have.

    Looks at means over windows of updates, from the second window on: a shorter run is not judged. What it
    has added up is no part of a checkpoint: only the warning depends on it.
    """

    def __init__(self) -> None:
        self._said, self._count, self._sum = False, 0, torch.zeros(())

    def add(self, flow: Tensor, updates: int) -> None:
        """Args: flow: of this update (`losses.flow`). updates: made so far, with this one."""
        self._sum, self._count = self._sum.to(flow.device) + flow.detach(), self._count + 1
        if updates % _WINDOW:
            return
        mean, count = float(self._sum) / self._count, self._count
        self._count, self._sum = 0, torch.zeros(())
        if self._said or updates < 2 * _WINDOW or 1 / _FAR <= mean <= _FAR:
            return
        self._said = True
        _log.warning(
            "the importance ratios d / dD are far from their optimum: they carry %.3g times the flow of the "
            "data over the last %d of %d updates (1 at the optimum, metric flow); learn longer, raise "
            "agent.beta or agent.learning_rate, or use agent.divergence=soft_chi2",
            mean,
            count,
            updates,
        )
