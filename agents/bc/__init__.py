"""Behaviour cloning from a data set: plain, told a preference, or told a preference and the return to reach.

| symbol | name here | meaning |
|---|---|---|
| p | preference | share of every objective in what is wanted, sums to 1 |
| g_t | outcome | mean reward per step still to come, by objective, in [0, 1] |
| R_k | return_EK | an episode's return of objective k, scaled to [0, 1] over the data set |

`condition`: none is BC; preference is BC(P); outcome is RvS with the average outcome beside the preference,
MORvS(P). While learning, p is the share that each objective had in the episode's own return and g_t what the
episode still brought. While acting, p is `preference`, and g_t starts at the outcome of that episode of the
data whose return serves p best, less what has been earned since.
DEVIATION: PEDA takes p from the behaviour's recorded preference and predicts g_0 from p by a regression;
data sets of any origin record neither, so both are read off the returns.
Batches hold whole episodes (`loop.batch.length=0`), because g_t needs them.

Reference: Zhu, Dang, Grover (PEDA), ICLR 2023; Emmons et al., "RvS: What is Essential for Offline RL via
Supervised Learning?", ICLR 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from marl.config import QUIET
from marl.errors import require
from marl.nets import Optimiser
from marl.offline import OfflinePolicy, WishingTeam, check_preference, cosine, transitions
from marl.rng import Rng, Stream
from marl.types import Act, Batch, Carry, EnvSpec, Link, TimeStep


@dataclass(kw_only=True)
class Config:
    """Sizes and rates as FairDICE's, so that with equal settings the two differ in their losses alone."""

    condition: Literal["none", "preference", "outcome"] = "none"
    preference: tuple[float, ...] = ()  # wanted while acting, >= 0, any sum above 0; empty: all alike
    hidden: int = 256  # features of every hidden layer, >= 1
    layers: int = 2  # hidden layers, >= 0
    layer_norm: bool = True  # after every hidden layer but the last
    scale_inputs: bool = True  # observations to mean 0, deviation 1 over the data
    learning_rate: float = 3e-4  # Adam, > 0
    # Updates over which the rate falls to 0 as a cosine, as FairDICE's policy_decay; 0: never.
    policy_decay: int = field(default=0, metadata=QUIET)

    def __post_init__(self) -> None:
        kinds = ("none", "preference", "outcome")
        require(self.condition in kinds, "condition", self.condition, f"give one of {', '.join(kinds)}")
        check_preference(self.preference)
        told = not self.preference or self.condition != "none"
        require(told, "preference", self.preference, "leave it out, or give condition=preference or outcome")
        require(self.hidden >= 1, "hidden", self.hidden, "give an integer >= 1")
        for name in ("layers", "policy_decay"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "give an integer >= 0")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "give a number above 0")

    @property
    def label(self) -> str:
        return {"none": "bc", "preference": "bc_p", "outcome": "rvs_p"}[self.condition]

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> Cloner:
        return Cloner(spec, self, rng=rng, device=device)


class Cloner(WishingTeam):
    """See the module's text.

    Args:
        spec: the world.
        config: hyper-parameters.
        rng: source of the initial weights.
        device: where the network lives and batches arrive.

    Raises:
        FieldError: `preference` has not one number per objective.
    """

    def __init__(self, spec: EnvSpec, config: Config, *, rng: Rng, device: torch.device) -> None:
        super().__init__(spec, config.preference, scale_inputs=config.scale_inputs, device=device)
        self.config, K = config, len(self.names)
        extra = {"none": 0, "preference": K, "outcome": 2 * K}[config.condition]
        self.policy = OfflinePolicy(
            spec,
            hidden=config.hidden,
            layers=config.layers,
            layer_norm=config.layer_norm,
            extra=extra,
            generator=rng.torch("init"),
        ).to(device)
        self.parts = {"policy": self.policy, **self.parts}
        optimiser = Optimiser(
            self.policy, kind="adam", learning_rate=config.learning_rate, eps=1e-8, max_grad_norm=math.inf
        )
        self.optimisers = {"policy": optimiser}

    # Acting

    def initial_carry(self, rows: int) -> Carry:
        """What is still to be earned, by objective; kept where the policy is told."""
        if self.config.condition != "outcome":
            return {}
        return {"to_go_BK": self.goal(rows)}

    @torch.no_grad()
    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        """The likeliest action (a Gaussian's mean); a sample if explore > 0."""
        carry = self._less_earned(ts, carry)
        obs_BNO = self._told(self.scaler.obs(ts.obs_BNO), self._wishes(ts, carry))
        actions_BN = self.policy.act(obs_BNO, ts.avail_BNA, rng, explore=explore > 0)
        return Act(actions_BN=actions_BN, carry=carry)

    def scores(self, ts: TimeStep, carry: Carry) -> Tensor:
        """Logits, or the Gaussian's means in units of the Box."""
        told = self._told(self.scaler.obs(ts.obs_BNO), self._wishes(ts, self._less_earned(ts, carry)))
        return self.policy.outputs(told)[0]

    def _less_earned(self, ts: TimeStep, carry: Carry) -> Carry:
        return {name: self.still_to_earn(ts, to_go_BK) for name, to_go_BK in carry.items()}

    def _wishes(self, ts: TimeStep, carry: Carry) -> Tensor | None:
        """What the policy is told beside its observation (B, .)."""
        if self.config.condition == "none":
            return None
        wanted_BK = self.preference_K.expand(len(ts.t_B), -1)
        if self.config.condition == "preference":
            return wanted_BK
        left_B1 = (self.spec.episode_limit - ts.t_B).clamp(min=1)[:, None]
        return torch.cat([wanted_BK, carry["to_go_BK"].clamp(min=0) / left_B1], -1)

    @staticmethod
    def _told(obs: Tensor, wishes: Tensor | None) -> Tensor:
        """[observation | wishes] of every agent. Args: obs (X, N, O); wishes (X, .)."""
        if wishes is None:
            return obs
        return torch.cat([obs, wishes[:, None].expand(-1, obs.shape[1], -1)], -1)

    # Learning

    def update(self, batch: Batch, *, rng: Stream) -> dict[str, Tensor]:
        """One step on -log pi of the batch's actions.

        Raises:
            MarlError: the policy is told something and the batch does not start with an episode.
            NonFiniteError: loss or gradient is NaN or infinite; nothing was changed.
        """
        x = transitions(batch)
        told = self._told(self.scaler.obs(x.obs_XNO), self._hindsight(batch))
        loss = -self.policy.log_prob(told, x.avail_XNA, x.actions_XN).mean()
        if self.config.policy_decay:
            rate = cosine(self.config.learning_rate, self.updates, self.config.policy_decay)
            self.optimisers["policy"].set_learning_rate(rate)
        norm = self.optimisers["policy"].step(loss)
        self.updates += 1
        return {"loss": loss.detach(), "grad_norm": norm}

    def _hindsight(self, batch: Batch) -> Tensor | None:
        """What the policy would have been told, for every transition of whole episodes (X, .)."""
        if self.config.condition == "none":
            return None
        preference_BTK, to_go_BTK, left_BT = self.hindsight(batch)
        if self.config.condition == "preference":
            return preference_BTK[batch.filled_BT]
        return torch.cat([preference_BTK, to_go_BTK / left_BT[..., None]], -1)[batch.filled_BT]
