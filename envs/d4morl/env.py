"""B simulated robots, one agent each, with a vector of rewards.

| symbol | name here | meaning |
|---|---|---|
| qpos, qvel | qpos_BQ, qvel_BV | state of the simulator |
| a | actions_BN | action within its bounds |
| r_i | reward_BK | robots.py |

Observation and state are the positions but the root's hidden ones, then the velocities. An episode is cut off
after 500 steps and ends where a robot has fallen. Start: the model's own pose, every entry moved by a uniform
number of at most 1e-3.
CHOICE: MuJoCo's models of gymnasium v5, with D4MORL's rewards; the original worlds need a simulator that
can no longer be installed, so that returns are not comparable to the digit.

The simulator steps one robot after the other, in this process: the rules against loops over envs are for
worlds whose dynamics are ours. Its whole state is qpos, qvel and what warm-starts its solver, so that runs
resume exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from torch import Tensor

from marl import tree
from marl.canvas import Canvas
from marl.envs.d4morl.robots import ROBOTS, Motion
from marl.errors import MarlError, require
from marl.objectives import check_weights, reward_fields, reward_spec, weighted_label
from marl.rng import Rng, Stream
from marl.types import Box, EnvSpec, Slice, TimeStep

_NOISE = 1e-3  # of the start; D4MORL's code
_STATE = ("key_B", "episode_B", "t_B", "qpos_BQ", "qvel_BV", "warm_BV")


@dataclass(kw_only=True)
class Config:
    """Which robot."""

    robot: Literal["ant", "halfcheetah", "hopper", "hopper_3obj", "swimmer", "walker2d"] = "hopper"
    limit: int = 500  # steps after which an episode is cut off, >= 1; D4MORL
    # Of the objectives, for learners that want one reward: weights . r is then the team's. Empty: the vector.
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require(self.robot in ROBOTS, "robot", self.robot, f"give one of {', '.join(ROBOTS)}")
        require(self.limit >= 1, "limit", self.limit, "give an integer >= 1")
        check_weights(self.weights, ROBOTS[self.robot].objectives)

    @property
    def label(self) -> str:
        return weighted_label(f"d4morl_{self.robot}", self.weights)

    def build(self, *, num_envs: int, device: torch.device, threads: int = 1) -> Robots:
        """A batch of robots. Args: threads: unused, the simulator steps one robot after the other.

        Raises:
            MarlError: MuJoCo is not installed.
        """
        return Robots(self, num_envs=num_envs, device=torch.device(device))


def import_mujoco() -> Any:
    """mujoco, or one sentence on how to get it."""
    try:
        import mujoco
    except ImportError as error:
        raise MarlError(
            f"env=d4morl needs MuJoCo, which cannot be imported ({error}): "
            "install it with pip install 'marl-suite[morl]'"
        ) from error
    return mujoco


class Robots:
    """See the module's text.

    Args:
        config: which robot.
        num_envs: B.
        device: where tensors are returned; the simulator runs on the CPU.
    """

    def __init__(self, config: Config, *, num_envs: int, device: torch.device) -> None:
        self.config, self.num_envs, self.device = config, num_envs, device
        self.robot, self._mj = ROBOTS[config.robot], import_mujoco()
        assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
        self.model = self._mj.MjModel.from_xml_path(str(assets / self.robot.model))
        if self.robot.bounds:
            bounds = np.array(self.robot.bounds)
            self.model.actuator_ctrlrange[:] = np.stack([-bounds, bounds], -1)
        self._data = self._mj.MjData(self.model)
        self._weights = config.weights
        self._start_Q = self.model.qpos0.copy()
        self._step_s = self.robot.frame_skip * self.model.opt.timestep
        Q, V, A = self.model.nq, self.model.nv, self.model.nu
        low, high = self.model.actuator_ctrlrange.T
        O = Q - self.robot.hidden + V  # noqa: E741
        seen = Slice(name="body", start=0, stop=O, low=-np.inf, high=np.inf, kind="real")
        self.spec = EnvSpec(
            name=config.label,
            agents=("robot",),
            agent_types=("robot",),
            obs_size=O,
            state_size=O,
            action_spaces=(Box(low=tuple(low.tolist()), high=tuple(high.tolist())),),
            obs_slices={"robot": (seen,)},
            episode_limit=config.limit,
            **reward_spec(config.weights, self.robot.objectives),
        )
        zeros_B = torch.zeros(num_envs, dtype=torch.int64)
        self.key_B, self.episode_B, self.t_B = zeros_B, zeros_B, zeros_B
        self.qpos_BQ = torch.zeros(num_envs, Q, dtype=torch.float64)
        self.qvel_BV, self.warm_BV = (torch.zeros(num_envs, V, dtype=torch.float64) for _ in range(2))
        self._yes_BN = torch.ones(num_envs, 1, dtype=torch.bool, device=device)
        self._yes_BNA = self._yes_BN[..., None].expand(-1, -1, A)

    def reset(self, rng: Rng) -> TimeStep:
        """Start episode 0 everywhere."""
        self.key_B = rng.stream("robots", self.num_envs).key_B
        self.episode_B, self.t_B = torch.zeros_like(self.key_B), torch.zeros_like(self.key_B)
        self._begin(torch.ones_like(self.key_B, dtype=torch.bool))
        no_B = torch.zeros(self.num_envs, dtype=torch.bool)
        return self._timestep(no_B, no_B, torch.zeros(self.num_envs, len(self.robot.objectives)))

    def _begin(self, where_B: Tensor) -> None:
        """Put robots at the start of their episodes."""
        Q, V = self.qpos_BQ.shape[1], self.qvel_BV.shape[1]
        noise = _NOISE * (2 * Stream(self.key_B).fold(self.episode_B).uniform(Q + V).double() - 1)
        start_BQ = torch.from_numpy(self._start_Q) + noise[:, :Q]
        where = where_B[:, None]
        self.qpos_BQ = torch.where(where, start_BQ, self.qpos_BQ)
        self.qvel_BV = torch.where(where, noise[:, Q:], self.qvel_BV)
        self.warm_BV = self.warm_BV.masked_fill(where, 0.0)

    def step(self, actions_BN: Tensor) -> TimeStep:
        """One step of every robot. Args: actions_BN: float32 (B, 1, A), clipped to the bounds."""
        box = self.spec.action_spaces[0]
        assert isinstance(box, Box)
        action_BA = np.clip(actions_BN[:, 0].double().cpu().numpy(), box.low, box.high)
        before_B2 = self.qpos_BQ[:, :2].numpy().copy()
        self.qpos_BQ, self.qvel_BV, self.warm_BV = self._simulate(action_BA)
        motion = Motion(
            speed_B2=(self.qpos_BQ[:, :2].numpy() - before_B2) / self._step_s,
            effort_B=np.square(action_BA).sum(-1),
            qpos_BQ=self.qpos_BQ.numpy(),
            qvel_BV=self.qvel_BV.numpy(),
        )
        finite_B = torch.cat([self.qpos_BQ, self.qvel_BV], -1).isfinite().all(-1)
        reward_BK = torch.from_numpy(self.robot.reward(motion)).float()
        terminated_B = torch.from_numpy(self.robot.fallen(motion)) | ~finite_B
        self.t_B = self.t_B + 1
        truncated_B = (self.t_B >= self.config.limit) & ~terminated_B
        final_BS = self._look()
        done_B = terminated_B | truncated_B
        if done_B.any():
            self.episode_B, self.t_B = self.episode_B + done_B, self.t_B.masked_fill(done_B, 0)
            self._begin(done_B)
        ts = self._timestep(terminated_B, truncated_B, torch.where(finite_B[:, None], reward_BK, 0.0))
        ts.final_obs_BNO, ts.final_state_BS = final_BS[:, None], final_BS
        ts.final_avail_BNA = self._yes_BNA
        return ts

    def _simulate(self, action_BA: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """qpos, qvel and warm start of every robot after its frames."""
        qpos, qvel, warm = (x.clone() for x in (self.qpos_BQ, self.qvel_BV, self.warm_BV))
        data = self._data
        for b in range(self.num_envs):
            self._mj.mj_resetData(self.model, data)
            data.qpos[:], data.qvel[:] = qpos[b].numpy(), qvel[b].numpy()
            data.qacc_warmstart[:], data.ctrl[:] = warm[b].numpy(), action_BA[b]
            self._mj.mj_step(self.model, data, nstep=self.robot.frame_skip)
            qpos[b], qvel[b] = torch.from_numpy(data.qpos), torch.from_numpy(data.qvel)
            warm[b] = torch.from_numpy(data.qacc_warmstart)
        return qpos, qvel, warm

    def _look(self) -> Tensor:
        """Observations (B, O) on the device; zeros for a state that is not finite."""
        seen = [self.qpos_BQ[:, self.robot.hidden :], self.qvel_BV.clamp(-self.robot.clip, self.robot.clip)]
        return torch.cat(seen, -1).nan_to_num(0.0, 0.0, 0.0).float().to(self.device)

    def _timestep(self, terminated_B: Tensor, truncated_B: Tensor, reward_BK: Tensor) -> TimeStep:
        state_BS = self._look()
        return TimeStep(
            obs_BNO=state_BS[:, None],
            state_BS=state_BS,
            avail_BNA=self._yes_BNA,
            terminated_B=terminated_B.to(self.device),
            truncated_B=truncated_B.to(self.device),
            present_BN=self._yes_BN,
            alive_BN=self._yes_BN,
            t_B=self.t_B.to(self.device),
            **reward_fields(reward_BK, self._weights, self.device),
        )

    def state_dict(self) -> dict[str, Tensor]:
        return tree.copy_of(self, _STATE)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        tree.put_back(self, _STATE, state, torch.device("cpu"))

    def render(self, index: int = 0) -> np.ndarray:
        """The robot's limbs around its root, from the side or from above; drawn without MuJoCo's renderer."""
        mj, data = self._mj, self._data
        mj.mj_resetData(self.model, data)
        data.qpos[:] = self.qpos_BQ[index].numpy()
        mj.mj_kinematics(self.model, data)
        side, scale = 360, 100.0  # pixels, and pixels per metre; CHOICE
        up = 1 if self.robot.top else 2
        canvas = Canvas(side, side, (245, 243, 238))
        root = data.qpos[0]
        base = side / 2 if self.robot.top else side - 60
        height = data.qpos[1] if self.robot.top else 0.0
        if not self.robot.top:
            canvas.box(0, base, side, base + 3, (150, 146, 134))
        for g in range(self.model.ngeom):
            if self.model.geom_bodyid[g] == 0:
                continue  # the floor
            radius, half = self.model.geom_size[g][0], self.model.geom_size[g][1]
            axis = data.geom_xmat[g].reshape(3, 3)[:, 2] * half
            ends = [data.geom_xpos[g] + s * axis for s in (-1.0, 1.0)]
            xy = [(side / 2 + scale * (p[0] - root), base - scale * (p[up] - height)) for p in ends]
            canvas.line(*xy[0], *xy[1], max(2 * scale * radius, 2.0), (62, 96, 168))
        text = f"STEP {int(self.t_B[index])}/{self.config.limit}   X {float(root):.1f}"
        canvas.text(10, 10, text, (40, 40, 48), scale=2)
        return canvas.image()
