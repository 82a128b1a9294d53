"""The loop in which a Stable-Baselines3 model collects and learns as its own `learn` would.

SB3 counts rows (agents of envs), this loop counts team steps: num_timesteps = N * steps. Nothing of SB3 is
pickled: a checkpoint holds tensors and counters. A resumed run begins fresh episodes, and with DQN an empty
replay memory that is filled up to `learning_starts` before learning goes on. So it is another run than one
that was never interrupted, though resuming one checkpoint twice gives the same run twice.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from marl.agents.sb3.config import LoopConfig
from marl.agents.sb3.rows import Rows
from marl.agents.sb3.team import Sb3Team
from marl.errors import NonFiniteError
from marl.loops.base import ReadSegment, Segments
from marl.rng import Rng
from marl.types import Env

_RESUMED = (
    "agent=sb3 resumes with its networks, optimiser and counters, fresh episodes and an empty replay memory: "
    "not bit for bit the run that was interrupted"
)


class Sb3Loop:
    """One rollout of SB3's and the learning that follows it per iterate.

    Args:
        config: the settings.
        env: reset here.
        agent: its model is built here, on the rows of the env.
        rng: of the loop.
    """

    def __init__(self, config: LoopConfig, *, env: Env, agent: Sb3Team, rng: Rng) -> None:
        self.config, self.env, self.agent, self.rng = config, env, agent, rng
        self.rows = Rows(
            env,
            agent_ids=agent.config.agent_ids,
            scores=torch.no_grad()(agent.row_scores),
            rng=rng.child("env"),
        )
        self.model: Any = agent.attach(self.rows)
        self._rows_to_learn = config.total_steps * env.spec.n_agents
        self._callback: BaseCallback = self.model._setup_learn(self._rows_to_learn)[1]
        self._empty_since = 0  # num_timesteps when the replay memory was empty
        self.updates = 0

    @property
    def steps(self) -> int:
        return self.rows.team_steps

    @property
    def episodes(self) -> int:
        return self.rows.episodes

    def iterate(self) -> dict[str, float]:
        """As one round of SB3's `learn`.

        Raises:
            NonFiniteError: a weight or a loss is NaN or infinite; everything is as before the update.
        """
        if isinstance(self.model, OffPolicyAlgorithm):
            learn = self._collect_off_policy()
        else:
            learn = self._collect_on_policy()
        if learn is not None:
            self._learn(learn)
        logged = self.model.logger.name_to_value
        metrics = {f"train/{name.split('/')[-1]}": float(value) for name, value in logged.items()}
        metrics.pop("train/n_updates", None)  # of SB3's own counting; ours is logged beside it
        self.model.logger.dump()  # forgets them
        return {**self.rows.means.take(), **metrics}

    def _collect_on_policy(self) -> dict[str, int]:
        m = self.model
        m.collect_rollouts(self.rows, self._callback, m.rollout_buffer, n_rollout_steps=m.n_steps)
        m._update_current_progress_remaining(m.num_timesteps, self._rows_to_learn)
        return {}

    def _collect_off_policy(self) -> dict[str, int] | None:
        """Returns: arguments of `train`, or None while the memory is being filled."""
        m = self.model
        rollout = m.collect_rollouts(
            self.rows,
            self._callback,
            train_freq=m.train_freq,
            replay_buffer=m.replay_buffer,
            learning_starts=m.learning_starts,
            log_interval=None,
        )
        count = m.gradient_steps if m.gradient_steps >= 0 else rollout.episode_timesteps
        if m.num_timesteps - self._empty_since <= m.learning_starts or count == 0:
            return None
        return {"gradient_steps": count, "batch_size": m.batch_size}

    def _learn(self, arguments: Mapping[str, int]) -> None:
        before = self.agent.state_dict()
        try:
            self.model.train(**arguments)
        except ValueError:  # torch's distributions refuse logits that are NaN
            if self._finite():
                raise
        if not self._finite():
            self.agent.load_state_dict(before)
            raise NonFiniteError("a loss or weight of stable-baselines3")
        self.updates += 1

    def _finite(self) -> bool:
        losses = (v for name, v in self.model.logger.name_to_value.items() if name.endswith("loss"))
        weights = self.model.policy.parameters()
        return all(map(math.isfinite, losses)) and all(bool(w.isfinite().all()) for w in weights)

    # Persistence

    def segments(self) -> Segments:
        """None: the replay memory is not kept."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "agent": self.agent.state_dict(),
            "rng": self.rng.state_dict(),
            "counters": {"steps": self.steps, "episodes": self.episodes, "updates": self.updates},
        }

    def load_state_dict(self, state: Mapping[str, Any], read_segment: ReadSegment) -> None:
        self.rng.load_state_dict(state["rng"])
        self.agent.load_state_dict(state["agent"])
        counters = state["counters"]
        self.rows.team_steps, self.rows.episodes = int(counters["steps"]), int(counters["episodes"])
        self.updates = int(counters["updates"])
        self._empty_since = self.model.num_timesteps
        if self.steps:  # other episodes than those that the run began with
            self.rows.rng = self.rng.child(f"env from step {self.steps}")
            self.model._last_obs = self.rows.reset()
            logging.getLogger(__name__).warning(_RESUMED)
