"""Policies learned from data: a choice among available actions, or a Gaussian inside a Box.

| symbol | name here | meaning |
|---|---|---|
| pi(a|o) | | product of the agents' own policies, one network for all |
| log pi | log_prob | sum over agents (and over the dimensions of a Box), one number per row |
| mu, sigma | mean, log_std | tanh(.), and a deviation of each observation; in units of the Box, [-1, 1] |

Reference: Kim et al., "FairDICE", NeurIPS 2025, released code (continuous policy).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from marl.errors import MarlError
from marl.nets import agent_inputs
from marl.offline.network import Trunk
from marl.policy.heads import sample
from marl.rng import Stream
from marl.types import Box, EnvSpec

_NEVER = -1e10  # logit of an unavailable action
_LOG_STD = (-5.0, 2.0)  # released code


def one_kind(spec: EnvSpec) -> None:
    """Raise MarlError where a world's actions are of several kinds, or its Boxes of several sizes."""
    kinds = {(type(s), len(s.low) if isinstance(s, Box) else 0) for s in spec.action_spaces}
    if len(kinds) != 1:
        raise MarlError(f"env={spec.name} mixes kinds of actions: learning from data needs one kind")


def unit_box(spec: EnvSpec) -> tuple[Tensor, Tensor]:
    """Middle and half width (N, A) of every agent's Box, which lead from [-1, 1] to its actions.

    Raises:
        MarlError: a Box is unbounded, or they differ in size.
    """
    one_kind(spec)
    boxes = [space for space in spec.action_spaces if isinstance(space, Box)]
    low_NA, high_NA = torch.tensor([b.low for b in boxes]), torch.tensor([b.high for b in boxes])
    if not bool((low_NA.isfinite() & high_NA.isfinite()).all()):
        raise MarlError(f"env={spec.name} has unbounded actions: learning from data needs finite Boxes")
    return (low_NA + high_NA) / 2, (high_NA - low_NA) / 2


class OfflinePolicy(nn.Module):
    """One policy network for all agents of a world.

    Args:
        spec: the world; all actions discrete, or all in finite Boxes of one size.
        hidden, layers: of the trunk.
        layer_norm: after every hidden layer but the last.
        extra: features appended to every agent's observation (a preference, say).
        generator: source of the initial weights.

    Raises:
        MarlError: the world's actions are of several kinds, or a Box is unbounded.
    """

    def __init__(
        self,
        spec: EnvSpec,
        *,
        hidden: int,
        layers: int,
        layer_norm: bool,
        extra: int = 0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        one_kind(spec)
        self.spec, N, A = spec, spec.n_agents, spec.n_actions
        self.ids = N > 1
        heads = [(A, 1.0)] if spec.discrete else [(A, math.sqrt(2)), (A, 1e-3)]  # of the Gaussian: code
        self.trunk = Trunk(
            spec.obs_size + extra + N * self.ids,
            hidden=hidden,
            layers=layers,
            heads=heads,
            layer_norm=layer_norm,
            last_norm=False,
            generator=generator,
        )
        if not spec.discrete:
            for name, value in zip(("middle_NA", "half_NA"), unit_box(spec), strict=True):
                self.register_buffer(name, value, persistent=False)

    def outputs(self, obs_BNO: Tensor) -> list[Tensor]:
        """Logits (B, N, A), or the Gaussian's mean and log deviation in units of the Box."""
        x = agent_inputs(obs_BNO, None, actions=self.spec.n_actions, ids=self.ids)
        out = self.trunk(x)
        if self.spec.discrete:
            return out
        return [out[0].tanh(), out[1].clamp(*_LOG_STD)]

    def log_prob(self, obs_XNO: Tensor, avail_XNA: Tensor, actions_XN: Tensor) -> Tensor:
        """log pi of the joint actions (X,)."""
        out = self.outputs(obs_XNO)
        if self.spec.discrete:
            log_XNA = out[0].masked_fill(~avail_XNA, _NEVER).log_softmax(-1)
            return log_XNA.gather(-1, actions_XN[..., None]).squeeze(-1).sum(-1)
        mean, log_std = out
        unit = (actions_XN - self.get_buffer("middle_NA")) / self.get_buffer("half_NA")
        each = -0.5 * ((unit - mean) * (-log_std).exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
        return each.sum((-2, -1))

    def act(self, obs_BNO: Tensor, avail_BNA: Tensor, rng: Stream, *, explore: bool) -> Tensor:
        """The likeliest actions, or a sample."""
        out = self.outputs(obs_BNO)
        if self.spec.discrete:
            logits = out[0].masked_fill(~avail_BNA, _NEVER)
            return sample(logits, rng) if explore else logits.argmax(-1)
        unit = out[0] + (out[1].exp() * rng.normal(*out[0].shape[1:]) if explore else 0.0)
        return self.get_buffer("middle_NA") + self.get_buffer("half_NA") * unit.clamp(-1, 1)
