"""What a policy's outputs mean: a choice among available actions, or a Gaussian over a Box.

| symbol | name here | meaning |
|---|---|---|
| u | actions | discrete action, or point of the Gaussian before it is scaled and clipped |
| mu, sigma | outputs, exp(log_std) | mean and deviation of the Gaussian, in units of the Box |
| c, w | middle, half | middle and half width of the Box where both ends are finite, else 0 and 1 |

log pi(u) = -sum_d [(u_d - mu_d)^2 / (2 sigma_d^2) + log sigma_d + log(2 pi) / 2], summed over the dimensions
that the agent's own Box has. What the world gets is c + w u, clipped to the Box; what learning sees is u.

Reference: Yu et al., NeurIPS 2022, released code (`Categorical`, `DiagGaussian`).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from marl.errors import MarlError
from marl.masks import masked_mean
from marl.nets import kernels
from marl.policy import kernels as native
from marl.policy.losses import entropy, policy_loss
from marl.rng import Stream
from marl.robust.losses import categorical_kl, gaussian_kl
from marl.sparse import distil
from marl.types import Batch, Box, EnvSpec, FieldSpec, TimeStep

_NEVER = -1e10  # logit of an unavailable action; Yu et al.
RAW = "raw_action"  # the Gaussian's own action among the extras


class Head(Protocol):
    """Distribution of actions given a network's outputs (..., N, A)."""

    extras_spec: dict[str, FieldSpec]

    def act(
        self, outputs_BNA: Tensor, ts: TimeStep, rng: Stream, *, explore: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sample or take the likeliest: the world's actions, and what to store beside them."""
        ...

    def stored(self, batch: Batch) -> dict[str, Tensor]:
        """What `log_prob` and `loss` need of a rollout, each (B, T, ...)."""
        ...

    def log_prob(self, outputs: Tensor, x: dict[str, Tensor]) -> Tensor:
        """Of the stored actions, (..., N)."""
        ...

    def loss(
        self, outputs: Tensor, x: dict[str, Tensor], *, clip: float, weight: float
    ) -> tuple[Tensor, Tensor]:
        """Values (policy loss, entropy, mean of old - new log-probability), and the gradient of policy loss -
        weight * entropy; that of the head's own parameters is added to theirs.

        x holds `stored`, "log_prob" and "advantage" (..., N) and "live" (bool).
        """
        ...

    def distance(self, clean: Tensor, other: Tensor, x: dict[str, Tensor]) -> Tensor:
        """KL of two policies, given their outputs, (..., N)."""
        ...

    def decision(self, outputs: Tensor, x: dict[str, Tensor]) -> Tensor:
        """What the policy does, int64 (..., N): equal numbers are equal decisions."""
        ...

    def lesson(self, outputs: Tensor) -> dict[str, Tensor]:
        """The whole distribution, as a student's `divergence` reads it; (..., N, A) each."""
        ...

    def divergence(self, outputs: Tensor, x: dict[str, Tensor], *, temperature: float) -> Tensor:
        """KL(teacher || student), mean over live agents, times temperature^2; differentiable.

        Args:
            outputs: the student's.
            x: `stored`, the teacher's `lesson`, and "live".
            temperature: of both softmaxes; a Gaussian's deviations are taken as they are.
        """
        ...


def make_head(spec: EnvSpec, *, share: bool) -> CategoricalHead | GaussianHead:
    """The head for a world's actions.

    Raises:
        MarlError: some agents' actions are discrete and others' are not.
    """
    kinds = {type(space) for space in spec.action_spaces}
    if len(kinds) != 1:
        raise MarlError(f"env={spec.name} mixes discrete and continuous actions: this team needs one kind")
    return CategoricalHead() if spec.discrete else GaussianHead(spec, share=share)


class CategoricalHead(nn.Module):
    """A choice among the available actions; outputs are logits."""

    extras_spec: dict[str, FieldSpec] = {}  # noqa: RUF012 - nothing is stored beside actions

    def act(
        self, outputs_BNA: Tensor, ts: TimeStep, rng: Stream, *, explore: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if kernels.usable(outputs_BNA):
            return native.sample(outputs_BNA, ts.avail_BNA, rng.key_B if explore else None), {}
        logits_BNA = outputs_BNA.masked_fill(~ts.avail_BNA, _NEVER)
        return (sample(logits_BNA, rng) if explore else logits_BNA.argmax(-1)), {}

    def stored(self, batch: Batch) -> dict[str, Tensor]:
        return {"avail": batch.avail_BTNA, "actions": batch.actions_BTN}

    def log_probs(self, outputs: Tensor, x: dict[str, Tensor]) -> Tensor:
        """Of all actions."""
        return outputs.masked_fill(~x["avail"], _NEVER).log_softmax(-1)

    def log_prob(self, outputs: Tensor, x: dict[str, Tensor]) -> Tensor:
        return _taken(self.log_probs(outputs, x), x["actions"])

    def loss(
        self, outputs: Tensor, x: dict[str, Tensor], *, clip: float, weight: float
    ) -> tuple[Tensor, Tensor]:
        rest = x["log_prob"], x["advantage"], x["live"]
        if kernels.usable(outputs):
            return native.policy_loss(outputs, x["avail"], x["actions"], *rest, clip=clip, entropy=weight)
        with torch.enable_grad():
            outputs = outputs.detach().requires_grad_()
            log_probs = self.log_probs(outputs, x)
            taken = _taken(log_probs, x["actions"])
            return _gradient(outputs, taken, entropy(log_probs), rest, clip=clip, weight=weight)

    def distance(self, clean: Tensor, other: Tensor, x: dict[str, Tensor]) -> Tensor:
        return categorical_kl(clean, other, x["avail"])

    def decision(self, outputs: Tensor, x: dict[str, Tensor]) -> Tensor:
        return outputs.masked_fill(~x["avail"], _NEVER).argmax(-1)

    def lesson(self, outputs: Tensor) -> dict[str, Tensor]:
        return {"taught": outputs}

    def divergence(self, outputs: Tensor, x: dict[str, Tensor], *, temperature: float) -> Tensor:
        return distil.divergence(outputs, x["taught"], x["live"], x["avail"], temperature=temperature)


class GaussianHead(nn.Module):
    """Independent Gaussians over the dimensions of a Box; outputs are their means.

    The deviation does not depend on the state; log sigma starts at 0. Agents whose Box has fewer dimensions
    than the largest have 0 in the others, which count in no sum.
    DEVIATION: the Gaussian lives in units of the Box, where the released code has it in the world's: a Box
    much smaller or larger than 1 would start with hardly any or nothing but clipped actions.

    Args:
        spec: the world; Box actions.
        share: one deviation for all agents, or one each.
    """

    real_NA: Tensor
    low_NA: Tensor
    high_NA: Tensor
    middle_NA: Tensor
    half_NA: Tensor

    def __init__(self, spec: EnvSpec, *, share: bool) -> None:
        super().__init__()
        N, A = spec.n_agents, spec.n_actions
        self.extras_spec = {RAW: FieldSpec(shape=(N, A), dtype=torch.float32)}
        self.log_std = nn.Parameter(torch.zeros((A,) if share else (N, A)))
        low_NA, high_NA, real_NA = torch.zeros(N, A), torch.zeros(N, A), torch.zeros(N, A, dtype=torch.bool)
        for n, space in enumerate(spec.action_spaces):
            assert isinstance(space, Box)
            D = len(space.low)
            low_NA[n, :D], high_NA[n, :D] = torch.tensor(space.low), torch.tensor(space.high)
            real_NA[n, :D] = True
        finite_NA = low_NA.isfinite() & high_NA.isfinite() & real_NA
        middle_NA = torch.where(finite_NA, (low_NA + high_NA) / 2, 0.0)
        half_NA = torch.where(finite_NA, (high_NA - low_NA) / 2, 1.0)
        constants = {"low": low_NA, "high": high_NA, "middle": middle_NA, "half": half_NA, "real": real_NA}
        for name, value in constants.items():
            self.register_buffer(f"{name}_NA", value, persistent=False)

    def act(
        self, outputs_BNA: Tensor, ts: TimeStep, rng: Stream, *, explore: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        raw_BNA = outputs_BNA
        if explore:
            raw_BNA = raw_BNA + self.log_std.exp() * rng.normal(*outputs_BNA.shape[1:])
        raw_BNA = torch.where(self.real_NA, raw_BNA, 0.0)
        action_BNA = (self.middle_NA + self.half_NA * raw_BNA).clamp(self.low_NA, self.high_NA)
        return action_BNA, {RAW: raw_BNA}

    def stored(self, batch: Batch) -> dict[str, Tensor]:
        return {"actions": batch.extras[RAW]}

    def log_prob(self, outputs: Tensor, x: dict[str, Tensor]) -> Tensor:
        scaled = (x["actions"] - outputs) * (-self.log_std).exp()
        each = -0.5 * scaled.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        return torch.where(self.real_NA, each, 0.0).sum(-1)

    def entropy(self) -> Tensor:
        """sum_d [log sigma_d + (1 + log(2 pi)) / 2], in units of the Box, (N,)."""
        each = self.log_std + 0.5 * (1.0 + math.log(2 * math.pi))
        return torch.where(self.real_NA, each, 0.0).sum(-1)

    def loss(
        self, outputs: Tensor, x: dict[str, Tensor], *, clip: float, weight: float
    ) -> tuple[Tensor, Tensor]:
        rest = x["log_prob"], x["advantage"], x["live"]
        with torch.enable_grad():
            outputs = outputs.detach().requires_grad_()
            taken = self.log_prob(outputs, x)
            return _gradient(outputs, taken, self.entropy().expand_as(taken), rest, clip=clip, weight=weight)

    def distance(self, clean: Tensor, other: Tensor, x: dict[str, Tensor]) -> Tensor:
        """CHOICE: the deviation is a constant here: policies shall agree, not be vague."""
        return gaussian_kl(clean, other, self.log_std.detach(), self.real_NA)

    def decision(self, outputs: Tensor, x: dict[str, Tensor]) -> Tensor:
        """No two points are the same."""
        return torch.arange(outputs[..., 0].numel(), device=outputs.device).view(outputs.shape[:-1])

    def lesson(self, outputs: Tensor) -> dict[str, Tensor]:
        return {"taught": outputs, "taught_log_std": self.log_std.expand_as(outputs)}

    def divergence(self, outputs: Tensor, x: dict[str, Tensor], *, temperature: float) -> Tensor:
        """sum_d log(sigma_S / sigma_T) + (sigma_T^2 + (mu_T - mu_S)^2) / (2 sigma_S^2) - 1/2."""
        log_std, taught = self.log_std, x["taught_log_std"]
        spread = (2 * taught).exp() + (x["taught"] - outputs).square()
        each = log_std - taught + 0.5 * spread * (-2 * log_std).exp() - 0.5
        return masked_mean(torch.where(self.real_NA, each, 0.0).sum(-1), x["live"])


def _gradient(
    outputs: Tensor,
    taken: Tensor,
    entropies: Tensor,
    rest: tuple[Tensor, Tensor, Tensor],
    *,
    clip: float,
    weight: float,
) -> tuple[Tensor, Tensor]:
    """See `Head.loss`."""
    old, advantage, live = rest
    loss = policy_loss(taken, old, advantage, live, clip=clip)
    spread = masked_mean(entropies, live)
    (loss - weight * spread).backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    return torch.stack((loss, spread, masked_mean(old - taken, live))).detach(), outputs.grad


def sample(logits_BNA: Tensor, rng: Stream) -> Tensor:
    """Actions (B, N) drawn from softmax(logits): the largest of logits plus Gumbel noise.

    One random number of the row's stream per agent and action. (A running sum of probabilities would
    need one per agent, but its CUDA form is not deterministic.)
    """
    # A zero, one draw in 2^24, would put its action below the unavailable ones: half a step above it instead.
    u_BNA = rng.uniform(*logits_BNA.shape[1:]).clamp(min=2.0**-25)
    return (logits_BNA - (-u_BNA.log()).log()).argmax(-1)


def _taken(log_probs: Tensor, actions: Tensor) -> Tensor:
    return log_probs.gather(-1, actions[..., None]).squeeze(-1)
