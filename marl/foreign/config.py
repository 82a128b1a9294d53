"""What the doors' Configs share: target, copies in workers, limits."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from marl.errors import FieldError, require
from marl.foreign.env import ForeignEnv, Reward
from marl.foreign.group import Job
from marl.foreign.load import Kind, check_target
from marl.foreign.plan import Plan
from marl.foreign.pool import Here, Pool

_UNLIMITED = 1000  # steps of an episode where nobody says; CHOICE: that of most of Gymnasium's tasks
_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ForeignConfig:
    """An environment of somebody else; docs/foreign_environments.md."""

    kind: ClassVar[Kind]
    exact_resume: ClassVar[bool] = False  # read by marl.resume and by attacks, which then say so
    slow_start: ClassVar[bool] = True  # read by marl.evaluate, which then keeps the world it measures in

    target: str = field(metadata={"code": True})  # see the subclass; marl.config asks whether it is trusted
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # given to the factory; plain data
    workers: int | None = None  # processes, >= 0; null: one per core, at most num_envs; 0: none
    limit: int = (
        0  # steps after which we cut an episode off, >= 0; 0: as long as the environment says, or 1000
    )
    timeout_s: float = 60.0  # seconds a worker may take to open its environments or for a step, > 0; CHOICE

    def __post_init__(self) -> None:
        check_target(self.kind, self.target)
        require(self.workers is None or self.workers >= 0, "workers", self.workers, "give null, 0 or more")
        require(self.limit >= 0, "limit", self.limit, "give 0 or an integer >= 1")
        require(self.timeout_s > 0, "timeout_s", self.timeout_s, "give a number above 0")
        try:
            json.dumps(self.kwargs)
        except TypeError as error:
            raise FieldError("kwargs", self.kwargs, f"give plain data ({error})") from error

    @property
    def label(self) -> str:
        """Short name for run ids: the target without its module's packages."""
        return self.target.split(".")[-1] if ":" in self.target else self.target

    def open(self, *, num_envs: int, device: torch.device, reward: Reward) -> ForeignEnv:
        """A batch of copies.

        Raises:
            MarlError: the target cannot be used; see `marl.foreign.load` and `marl.foreign.plan`.
        """
        hands = self._hands(num_envs)
        limit = self._limit_of(hands.plan)
        return ForeignEnv(hands, name=self.label, reward=reward, limit=limit, device=torch.device(device))

    def _hands(self, num_envs: int) -> Pool | Here:
        workers = min(num_envs, _cores() if self.workers is None else self.workers)
        edges = [num_envs * w // max(workers, 1) for w in range(max(workers, 1) + 1)]
        jobs = [
            Job(
                kind=self.kind,
                target=self.target,
                kwargs=dict(self.kwargs),
                copies=num_envs,
                workers=max(workers, 1),
                worker=w,
                first=first,
                last=last,
            )
            for w, (first, last) in enumerate(itertools.pairwise(edges))
        ]
        return Pool(jobs, self._limit_of, self.timeout_s) if workers else Here(jobs[0], self._limit_of)

    def _limit_of(self, plan: Plan) -> int:
        if not (self.limit or plan.limit):
            _say_unlimited(self.target)
        return self.limit or plan.limit or _UNLIMITED


@functools.cache  # once per process, not once per evaluation
def _say_unlimited(target: str) -> None:
    _log.warning(
        "%s does not say how long an episode may last: it is cut off after %d steps; give env.limit",
        *(target, _UNLIMITED),
    )


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
