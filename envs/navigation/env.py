"""`Navigation`: the batched env around one of the two forms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from marl import tree
from marl.envs.navigation import torch_form
from marl.envs.navigation.config import Config
from marl.envs.navigation.native import Native
from marl.errors import MarlError, require
from marl.native import native_form
from marl.rng import Rng
from marl.types import Box, Discrete, EnvSpec, Slice, TimeStep

ACTIONS = ("stay", "left", "right", "down", "up")
_INF = float("inf")
_WORK_PER_THREAD = 10_000  # pairs of agents of a step below which a second thread costs more than it saves


class Navigation:
    """B worlds on one device; see the package docstring for `state` and `info`.

    `state_BS` of a TimeStep is a view of its `obs_BNO`: all agents' observations, one after the other.

    Args:
        config: size and options.
        num_envs: B.
        device: of all tensors.
        threads: upper limit for the C++ form.
    """

    def __init__(self, config: Config, *, num_envs: int, device: torch.device, threads: int) -> None:
        require(num_envs >= 1, "num_envs", num_envs, "give at least 1")
        require(threads >= 1, "threads", threads, "give at least 1")
        self.config, self.num_envs, self.device = config, num_envs, device
        self.spec = _spec(config)
        self.threads = max(1, min(threads, num_envs * config.n_agents**2 // _WORK_PER_THREAD))
        B, N, discrete = num_envs, config.n_agents, config.actions == "discrete"
        real, whole = torch.float32, torch.int64
        shapes = {"pos_BN2": (B, N, 2), "vel_BN2": (B, N, 2), "landmark_BN2": (B, N, 2)}
        self.state = {name: torch.zeros(shape, dtype=real, device=device) for name, shape in shapes.items()}
        for name in ("collisions_B", "t_B", "episode_B", "key_B"):
            self.state[name] = torch.zeros(B, dtype=whole, device=device)
        self._actions = ((B, N), whole) if discrete else ((B, N, len(ACTIONS)), real)
        # The same in every step, so made once: all agents live, all actions can be taken.
        self._yes_BN = torch.ones(B, N, dtype=torch.bool, device=device)
        self._yes_BNA = torch.ones(B, N, len(ACTIONS), dtype=torch.bool, device=device)
        self._native = native_form(config.form, device, lambda: Native(config, self.state))

    def reset(self, rng: Rng) -> TimeStep:
        """Start episode 0 everywhere; row b is keyed by ``rng.stream("env", num_envs)`` row b."""
        s = self.state
        s["key_B"].copy_(rng.stream("env", self.num_envs, self.device).key_B)
        for name in ("episode_B", "t_B", "collisions_B", "vel_BN2"):
            s[name].zero_()
        pos_BN2, landmark_BN2 = torch_form.draw(self.config, s["key_B"], s["episode_B"])
        s["pos_BN2"].copy_(pos_BN2)
        s["landmark_BN2"].copy_(landmark_BN2)
        return self.observe()

    def observe(self) -> TimeStep:
        """The TimeStep of the state as it stands, as after a reset."""
        s = self.state
        no_B = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        seen = torch_form.judge(self.config, s["pos_BN2"], s["landmark_BN2"])
        info = {
            "success": seen.covered_B == self.config.n_agents,
            "covered": seen.covered_B,
            "collisions": s["collisions_B"].clone(),
        }
        obs_BNO = torch_form.look(s["pos_BN2"], s["vel_BN2"], s["landmark_BN2"])
        reward_BN = torch.zeros_like(self._yes_BN, dtype=torch.float32)
        return self._timestep(obs_BNO, no_B, no_B.clone(), s["t_B"].clone(), reward_BN, info)

    def step(self, actions: Tensor) -> TimeStep:
        """One step of every world.

        Args:
            actions: int64 (B, N), or float32 (B, N, 5) for `actions="continuous"`.
        """
        shape, dtype = self._actions
        if actions.shape != shape or actions.dtype != dtype:
            raise MarlError(
                f"actions of shape {tuple(actions.shape)} and {actions.dtype}: give {dtype} {shape}"
            )
        if self._native is None:
            return self._torch_step(actions)
        final, rest = self._native.step(actions.contiguous(), self.threads)
        return self._finish(self._timestep(*rest), final)

    def _torch_step(self, actions: Tensor) -> TimeStep:
        c, s = self.config, self.state
        push_BN2 = torch_form.pushes(c, actions)
        pos_BN2, vel_BN2 = torch_form.move(s["pos_BN2"], s["vel_BN2"], push_BN2)
        seen = torch_form.judge(c, pos_BN2, s["landmark_BN2"])
        t_B, collisions_B = s["t_B"] + 1, s["collisions_B"] + seen.touching_B
        success_B = seen.covered_B == c.n_agents
        truncated_B = t_B >= c.limit  # MPE2 asks for the limit first
        terminated_B = success_B & ~truncated_B & c.terminate_on_success
        final_BNO = torch_form.look(pos_BN2, vel_BN2, s["landmark_BN2"])

        done_B = terminated_B | truncated_B
        s["episode_B"].add_(done_B)
        s["t_B"].copy_(t_B.masked_fill(done_B, 0))
        s["collisions_B"].copy_(collisions_B.masked_fill(done_B, 0))
        done_B11 = done_B[:, None, None]
        first_BN2, landmark_BN2 = torch_form.draw(c, s["key_B"], s["episode_B"])
        s["pos_BN2"].copy_(torch.where(done_B11, first_BN2, pos_BN2))
        s["vel_BN2"].copy_(vel_BN2.masked_fill(done_B11, 0.0))
        s["landmark_BN2"].copy_(torch.where(done_B11, landmark_BN2, s["landmark_BN2"]))
        obs_BNO = torch_form.look(s["pos_BN2"], s["vel_BN2"], s["landmark_BN2"])
        info = {"success": success_B, "covered": seen.covered_B, "collisions": collisions_B}
        reward_BN = seen.agent_reward_BN
        ts = self._timestep(obs_BNO, terminated_B, truncated_B, s["t_B"].clone(), reward_BN, info)
        return self._finish(ts, final_BNO)

    def _timestep(
        self,
        obs_BNO: Tensor,
        terminated_B: Tensor,
        truncated_B: Tensor,
        t_B: Tensor,
        reward_BN: Tensor,
        info: dict[str, Tensor],
    ) -> TimeStep:
        return TimeStep(
            obs_BNO=obs_BNO,
            state_BS=obs_BNO.view(self.num_envs, -1),
            avail_BNA=self._yes_BNA,
            terminated_B=terminated_B,
            truncated_B=truncated_B,
            present_BN=self._yes_BN,
            alive_BN=self._yes_BN,
            t_B=t_B,
            agent_reward_BN=reward_BN,
            info=info,
        )

    def _finish(self, ts: TimeStep, final_BNO: Tensor | None) -> TimeStep:
        """Fill final_*; None: no episode ended, and the newest observation stands in."""
        if final_BNO is None:
            ts.final_obs_BNO, ts.final_state_BS = ts.obs_BNO, ts.state_BS
        else:
            ts.final_obs_BNO, ts.final_state_BS = final_BNO, final_BNO.view(self.num_envs, -1)
        ts.final_avail_BNA = ts.avail_BNA
        if self.config.reward == "own":
            after_BNO = torch.where(ts.done_B[:, None, None], ts.final_obs_BNO, ts.obs_BNO)
            ts.agent_reward_BN = torch_form.own_reward(after_BNO)
        return ts

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the whole state."""
        return {name: value.clone() for name, value in self.state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a copied state, bit for bit."""
        tree.copy_into(self.state, state, "navigation")

    def render(self, index: int = 0) -> np.ndarray:
        """RGB picture (H, W, 3), uint8."""
        from marl.envs.navigation.render import draw

        return draw(self, index)


def _spec(config: Config) -> EnvSpec:
    N = config.n_agents
    names = ["velocity", "position"]
    names += [f"landmark {j}" for j in range(N)] + [f"other {k}" for k in range(N - 1)]
    limits = dict.fromkeys(names, (-_INF, _INF))
    stops = [2 * i + 2 for i in range(len(names))]
    if N > 1:  # MPE2's agents are silent: what they would say is always 0
        limits["communication"] = (0.0, 0.0)
        stops.append(6 * N)
    parts = [
        Slice(name=name, start=start, stop=stop, low=low, high=high, kind="real")
        for (name, (low, high)), start, stop in zip(limits.items(), [0, *stops], stops, strict=False)
    ]
    space: Discrete | Box = Discrete(n=5)
    if config.actions == "continuous":
        space = Box(low=(0.0,) * 5, high=(1.0,) * 5)
    return EnvSpec(
        name="navigation",
        agents=tuple(f"agent_{i}" for i in range(N)),
        agent_types=("walker",) * N,
        obs_size=6 * N,
        state_size=6 * N * N,
        action_spaces=(space,) * N,
        action_names=ACTIONS,
        obs_slices={"walker": tuple(parts)},
        reward="agent",
        episode_limit=config.limit,
    )
