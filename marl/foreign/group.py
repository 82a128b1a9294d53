"""Several copies in one process: the worker's half of the work, or all of it where there are no workers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from marl.errors import EnvError, FieldError
from marl.foreign import plan as plans
from marl.foreign.blocks import Blocks
from marl.foreign.copy import Copy
from marl.foreign.load import Kind, open_env
from marl.foreign.plan import Plan
from marl.foreign.whose import whose

# What foreign code may raise. SystemExit too (sys.exit, argparse): it would end the run without a word.
_CRASHES = (Exception, SystemExit)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker does: plain data, sent to it as JSON."""

    kind: Kind
    target: str
    kwargs: Mapping[str, Any]
    copies: int  # of the whole batch
    workers: int  # of the whole batch; 1 where there are none
    worker: int  # number of this one
    first: int  # its first copy
    last: int  # the one after its last


class Group:
    """Copies first .. last - 1.

    Args:
        job: which ones.

    Raises:
        FieldError: the target cannot be used.
        EnvError: the factory or an environment failed.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.copies: list[Copy] = []
        self.envs: list[Any] = []
        try:
            for _ in range(job.first, job.last):
                self.envs.append(open_env(job.kind, job.target, job.kwargs))
            self.plan = plans.read_plan(self.envs[0])
            for env in self.envs[1:]:
                if plans.agents_of(env) != self.plan.agents:
                    raise EnvError("two copies have different agents or spaces")
        except FieldError:
            raise
        except EnvError as error:
            raise EnvError(f"env.target={job.target!r} cannot be used: {error}") from error
        except _CRASHES as error:
            agents = getattr(self.envs[-1], "possible_agents", None) if self.envs else None
            what = describe(error) + whose(error, agents or ())
            raise EnvError(f"env.target={job.target!r} could not be opened: {what}") from error

    def attach(self, plan: Plan, blocks: Blocks, limit: int) -> None:
        """Begin to write into the blocks.

        Raises:
            EnvError: another worker's environment is not the same.
        """
        if self.plan != plan:
            raise EnvError(f"env.target={self.job.target!r} cannot be used: two copies have different spaces")
        self.blocks = blocks
        rows = range(self.job.first, self.job.last)
        self.copies = [Copy(env, plan, blocks, b, limit) for env, b in zip(self.envs, rows, strict=True)]

    def reset(self) -> None:
        self._each(Copy.reset)

    def step(self) -> None:
        self._each(Copy.step)

    def _each(self, do: Callable[[Copy], None]) -> None:
        for copy in self.copies:
            self.blocks.at_W[self.job.worker] = copy.index
            try:
                do(copy)
            except EnvError as error:
                raise EnvError(f"{place(self.job.target, self.blocks, copy.index)}: {error}") from error
            except _CRASHES as error:
                where = place(self.job.target, self.blocks, copy.index)
                what = describe(error) + whose(error, copy.ids)
                raise EnvError(f"{where}: it crashed with {what}") from error

    def render(self, index: int) -> np.ndarray:
        """RGB picture of a copy."""
        picture = self.envs[index - self.job.first].render()
        return np.ascontiguousarray(picture, np.uint8)

    def close(self) -> None:
        for env in self.envs:
            with contextlib.suppress(Exception):  # nobody is left to whom a failing close() matters
                env.close()


def place(target: str, blocks: Blocks, index: int) -> str:
    """Which copy, and where it stands."""
    episode, step = int(blocks.episode_B[index]), int(blocks.t_B[index])
    return f"env {index} of {target}, step {step} of its episode {episode}"


def describe(error: BaseException) -> str:
    """The last line of a traceback."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
