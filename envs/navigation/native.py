"""The C++ form: navigation.cpp through ctypes. Structs mirror the ones there field by field."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marl.envs.navigation.config import Config
from marl.native import STRICT, load

# Neither flag changes a number: sqrt may not set errno, comparisons may not trap, so that both vectorise.
FLAGS = (*STRICT, "-fno-math-errno", "-fno-trapping-math")
_STATE = ("pos_BN2", "vel_BN2", "landmark_BN2", "collisions_B", "t_B", "episode_B", "key_B")
_OUT = 9  # pointers in struct Out


class _World(ctypes.Structure):
    _fields_ = (
        *((name, c_int32) for name in ("agents", "limit", "continuous", "terminate")),
        *((name, c_float) for name in ("team", "own")),
    )


class Native:
    """The compiled step of a batch.

    Args:
        config: of the world.
        state: its tensors on the CPU; they are changed in place from now on.

    Raises:
        marl.native.NoCompiler: the library cannot be built here.
    """

    def __init__(self, config: Config, state: dict[str, Tensor]) -> None:
        self._step = load(Path(__file__).with_name("navigation.cpp"), FLAGS).navigation_step
        self._step.restype = c_int64
        self._step.argtypes = (c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_int32)
        self._keep = state
        self._struct = _World(
            agents=config.n_agents,
            limit=config.limit,
            continuous=config.actions == "continuous",
            terminate=config.terminate_on_success,
            team=1.0 - config.local_ratio,
            own=config.local_ratio,
        )
        self._world = ctypes.addressof(self._struct)
        self._state = (c_void_p * len(_STATE))(*(state[name].data_ptr() for name in _STATE))
        self._out = (c_void_p * _OUT)()
        self._sizes = *state["pos_BN2"].shape[:2], 6 * config.n_agents
        self._final_BNO = torch.empty(self._sizes)

    def step(self, actions: Tensor, threads: int) -> tuple[Tensor | None, tuple[Any, ...]]:
        """One step of all worlds.

        Args:
            actions: int64 (B, N), or float32 (B, N, 5), contiguous, on the CPU.
            threads: at most so many, at least 1.

        Returns:
            The final observations, None where no episode ended, and the arguments of a TimeStep:
            observations, terminated, truncated, t, agents' rewards, info.
        """
        B, N, _ = self._sizes
        empty, final = torch.empty, self._final_BNO
        obs, reward = empty(self._sizes), empty(B, N)
        terminated, truncated, success = (empty(B, dtype=torch.bool) for _ in range(3))
        t, covered, collisions = (empty(B, dtype=torch.int64) for _ in range(3))
        out = (obs, reward, final, terminated, truncated, success, t, covered, collisions)
        self._out[:] = [tensor.data_ptr() for tensor in out]
        ended = self._step(self._world, self._state, self._out, actions.data_ptr(), B, threads)
        if ended:
            self._final_BNO = torch.empty_like(final)  # the old one is handed out
        info = {"success": success, "covered": covered, "collisions": collisions}
        return final if ended else None, (obs, terminated, truncated, t, reward, info)
