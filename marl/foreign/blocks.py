"""The numbers of all copies in one piece of memory, which worker processes share with the run.

Legend: B copies, N agents, A actions, O features, S state features, K objectives, W workers.

CHOICE: the memory has no name. Linux gives an anonymous file (memfd), other systems an unlinked temporary
one; workers inherit its descriptor. A name, as in multiprocessing.shared_memory, would outlive a killed run.
"""

from __future__ import annotations

import math
import os
import tempfile

import numpy as np

from marl.foreign.plan import Plan

_ALIGN = 64  # bytes; a cache line, so that two workers do not write into the same one


class Blocks:
    """Arrays over a buffer.

    Args:
        plan: of the environment.
        copies: B.
        workers: W.
        buffer: at least `bytes_needed` long; None makes one for this process alone.
    """

    def __init__(self, plan: Plan, copies: int, workers: int, buffer: object = None) -> None:
        layout, total = _layout(plan, copies, workers)
        memory = np.zeros(total, np.uint8) if buffer is None else np.frombuffer(buffer, np.uint8, total)  # type: ignore[call-overload]
        self._arrays = {
            name: memory[at : at + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for name, (at, shape, dtype) in layout.items()
        }
        self.actions_BN = self._arrays["actions"]  # int64 (B, N), or float32 (B, N, A)
        self.obs_BNO, self.final_obs_BNO = self._arrays["obs"], self._arrays["final_obs"]
        self.state_BS, self.final_state_BS = self._arrays["state"], self._arrays["final_state"]
        self.avail_BNA, self.final_avail_BNA = self._arrays["avail"], self._arrays["final_avail"]
        self.reward_BN = self._arrays["reward"]
        self.objective_BK = self._arrays["objective"]  # the reward where it is a vector
        self.acted_BN = self._arrays["acted"]  # alive before the last step
        self.present_BN, self.alive_BN = self._arrays["present"], self._arrays["alive"]
        self.terminated_B, self.truncated_B = self._arrays["terminated"], self._arrays["truncated"]
        self.t_B, self.episode_B = self._arrays["t"], self._arrays["episode"]
        self.seed_B = self._arrays["seed"]  # of the next episode, written by the run
        self.at_W = self._arrays["at"]  # the copy that each worker is busy with


def bytes_needed(plan: Plan, copies: int, workers: int) -> int:
    return _layout(plan, copies, workers)[1]


def anonymous_file() -> int:
    """Descriptor of an empty file in memory that nobody else can open."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("marl-foreign")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _layout(
    plan: Plan, B: int, W: int
) -> tuple[dict[str, tuple[int, tuple[int, ...], np.dtype[np.generic]]], int]:
    N, A, O, S = len(plan.agents), plan.n_actions, plan.obs_size, plan.state_size  # noqa: E741
    real, yes, whole = np.dtype(np.float32), np.dtype(np.bool_), np.dtype(np.int64)
    action: tuple[int, ...] = (B, N) if plan.discrete else (B, N, A)
    shapes: dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]] = {
        "actions": (action, whole if plan.discrete else real),
        **dict.fromkeys(("obs", "final_obs"), ((B, N, O), real)),
        **dict.fromkeys(("state", "final_state"), ((B, S), real)),
        **dict.fromkeys(("avail", "final_avail"), ((B, N, A), yes)),
        "reward": ((B, N), real),
        "objective": ((B, plan.objectives), real),
        **dict.fromkeys(("acted", "present", "alive"), ((B, N), yes)),
        **dict.fromkeys(("terminated", "truncated"), ((B,), yes)),
        **dict.fromkeys(("t", "episode", "seed"), ((B,), whole)),
        "at": ((W,), whole),
    }
    out, at = {}, 0
    for name, (shape, dtype) in shapes.items():
        out[name] = (at, shape, dtype)
        at += -(-math.prod(shape) * dtype.itemsize // _ALIGN) * _ALIGN
    return out, at
