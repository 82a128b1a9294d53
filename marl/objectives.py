"""One reward made of several, in worlds whose `weights` pay learners that want one.

    r = weights . (r_1, ..., r_K)

Without weights a world pays the vector itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from marl.errors import require


def check_weights(weights: Sequence[float], names: Sequence[str]) -> None:
    """Raise FieldError unless there is none, or one >= 0 per objective."""
    fits = len(weights) in (0, len(names)) and all(w >= 0 for w in weights)
    require(fits, "weights", weights, f"give one number >= 0 for each of {', '.join(names)}, or none")


def weighted_label(label: str, weights: Sequence[float]) -> str:
    """A world's label with its weights behind it."""
    return "_".join([label, *(f"{w:g}" for w in weights)])


def reward_spec(weights: Sequence[float], names: Sequence[str]) -> dict[str, Any]:
    """`reward` and `objectives` of the world's EnvSpec."""
    return (
        {"reward": "team", "objectives": ()} if weights else {"reward": "vector", "objectives": tuple(names)}
    )


def reward_fields(reward_BK: Tensor, weights: Sequence[float], device: torch.device) -> dict[str, Any]:
    """The reward of a TimeStep on the device: `reward_B`, or `reward_BK` where there are no weights."""
    if not weights:
        return {"reward_BK": reward_BK.to(device)}
    weights_K = torch.tensor(weights, device=reward_BK.device)
    return {"reward_B": (reward_BK * weights_K).sum(-1).to(device)}
