"""A team that acts with the policy of a Stable-Baselines3 model, the same one for all agents."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from torch import Tensor

from marl.agents.sb3.config import Config, import_sb3
from marl.agents.sb3.rows import ActionMap, Rows, row_inputs, row_spaces
from marl.errors import FieldError, MarlError
from marl.nets import load_tensors, tensors_of
from marl.rng import Rng, Stream
from marl.types import Act, Batch, Carry, EnvSpec, FieldSpec, Link, TimeStep

_TARGET = "q_net_target."  # DQN's target network within its policy
_COUNTERS = ("num_timesteps", "_n_updates", "_n_calls", "exploration_rate")  # of a model, where it has them
# CHOICE: SB3's defaults of 2,048 steps and minibatches of 64 are for one env: with 48 rows they would be
# 98,304 transitions an update. Ours: 128 steps of every row, in 32 minibatches as with SB3's defaults.
_PPO_STEPS, _PPO_PARTS = 128, 2048 // 64


class Sb3Team:
    """Acts with an SB3 policy; learning is the model's own, driven by agents/sb3/loop.py.

    Args:
        spec: the world.
        config: settings of the bridge.
        rng: source of SB3's seed.
        device: where the policy lives.

    Raises:
        MarlError: the world's actions or reward are not for this algorithm.
    """

    extras_spec: dict[str, FieldSpec] = {}  # noqa: RUF012 - nothing is stored beside actions

    def __init__(self, spec: EnvSpec, config: Config, *, rng: Rng, device: torch.device) -> None:
        if config.algorithm == "DQN" and not spec.discrete:
            fix = f"env={spec.name} has continuous actions; give PPO or A2C"
            raise FieldError("agent.algorithm", "DQN", fix)
        self.spec, self.config, self.device = spec, config, device
        self._spaces = row_spaces(spec, config.agent_ids)
        self._map = ActionMap(spec, device)
        self._seed = int(rng.stream("sb3", 1).integers(2**31 - 1, 1))
        self.model = self._build(None)

    def _build(self, rows: Rows | None) -> Any:
        """A model; without rows one that only acts, whose buffers are as small as they get."""
        kwargs = self._adapted(rows.num_envs) if rows is not None else self._smallest()
        try:
            model = getattr(import_sb3(), self.config.algorithm)(
                "MlpPolicy",
                rows,
                policy_kwargs={"net_arch": list(self.config.hidden)},
                seed=self._seed,
                device=self.device,
                _init_setup_model=False,
                **kwargs,
            )
            if rows is None:  # as SB3's own `load` does
                model.observation_space, model.action_space = self._spaces
                model.n_envs = 1
            model._setup_model()
        except (AssertionError, ValueError) as error:
            why = f"stable-baselines3 says: {str(error).strip().splitlines()[0]}"
            raise FieldError("agent.kwargs", dict(self.config.kwargs), why) from error
        model.set_logger(Logger(folder=None, output_formats=[]))
        return model

    def _adapted(self, rows: int) -> dict[str, Any]:
        """SB3's hyper-parameters, with defaults that were meant for one env adapted to this many rows."""
        kwargs = dict(self.config.kwargs)
        if self.config.algorithm == "PPO":
            size = kwargs.setdefault("n_steps", _PPO_STEPS) * rows
            kwargs.setdefault("batch_size", max(2, size // math.gcd(size, _PPO_PARTS)))  # without a remainder
        if self.config.algorithm == "DQN":
            # CHOICE: SB3's ratio of one env: its default of 1 would learn `rows` times less from as much.
            kwargs.setdefault("gradient_steps", rows)
        return kwargs

    def _smallest(self) -> dict[str, Any]:
        """The same for a model that only acts: its buffers are as small as they get."""
        sizes = {"buffer_size": 1} if self.config.algorithm == "DQN" else {"n_steps": 1}
        return dict(self.config.kwargs) | sizes

    def attach(self, rows: Rows) -> BaseAlgorithm:
        """The model that learns on these rows; the team acts with its policy from now on."""
        self.model = self._build(rows)
        return self.model  # type: ignore[no-any-return]

    def row_scores(self, rows_RI: Tensor) -> Tensor:
        """Q-values, logits, or means of Box actions, (R, A)."""
        if self.config.algorithm == "DQN":
            return self.model.q_net(rows_RI)  # type: ignore[no-any-return]
        distribution = self.model.policy.get_distribution(rows_RI).distribution
        return distribution.logits if self.spec.discrete else distribution.mean  # type: ignore[no-any-return]

    # Acting

    def initial_carry(self, rows: int) -> Carry:
        return {}

    def scores(self, ts: TimeStep, carry: Carry) -> Tensor:
        """Q-values or logits of all actions, available or not; means in [-1, 1] for Box actions."""
        B, N, _ = ts.obs_BNO.shape
        return self.row_scores(row_inputs(ts.obs_BNO, self.config.agent_ids)).view(B, N, -1)

    @torch.no_grad()
    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        """Greedy at explore=0; above it PPO and A2C sample, DQN takes random available actions."""
        scores_BNA = self.scores(ts, carry)
        if not self.spec.discrete:
            if explore > 0:
                deviation_A = self.model.policy.log_std.exp()
                scores_BNA = scores_BNA + deviation_A * rng.normal(*scores_BNA.shape[1:])
            return Act(actions_BN=self._map.scaled(scores_BNA), carry=carry)
        actions_BN = scores_BNA.argmax(-1)
        if explore > 0 and self.config.algorithm == "DQN":
            draw_BNA = rng.uniform(*scores_BNA.shape[1:]).masked_fill(~ts.avail_BNA, -1.0)
            random_BN = rng.fold("explore").uniform(scores_BNA.shape[1]) < explore
            actions_BN = torch.where(random_BN, draw_BNA.argmax(-1), actions_BN)
        elif explore > 0:  # the largest of logits plus Gumbel noise is a sample of the policy
            noise_BNA = rng.uniform(*scores_BNA.shape[1:]).clamp(min=2.0**-25)
            actions_BN = (scores_BNA - (-noise_BNA.log()).log()).argmax(-1)
        return Act(actions_BN=self._map.available(actions_BN, ts.avail_BNA, lambda: scores_BNA), carry=carry)

    def update(self, batch: Batch, *, rng: Stream) -> dict[str, Tensor]:
        raise MarlError("agent=sb3 learns from its own rollouts: leave loop out, it brings loop=sb3")

    # Persistence

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, optimiser and counters; buffers are left out."""
        tensors = tensors_of(self.model.policy)
        return {
            "networks": {n: v for n, v in tensors.items() if not n.startswith(_TARGET)},
            "targets": {n: v for n, v in tensors.items() if n.startswith(_TARGET)},
            "optimisers": {"policy": copy.deepcopy(self.model.policy.optimizer.state_dict())},
            "counters": {n: getattr(self.model, n) for n in _COUNTERS if hasattr(self.model, n)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore.

        Raises:
            MarlError: a tensor is missing, unknown or of another shape.
        """
        load_tensors(self.model.policy, {**state["networks"], **state["targets"]}, self.config.label)
        optimiser = copy.deepcopy(state["optimisers"]["policy"])  # torch would keep the given tensors
        self.model.policy.optimizer.load_state_dict(optimiser)
        for name, value in state["counters"].items():
            setattr(self.model, name, value)
