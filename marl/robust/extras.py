"""What learners must remember of an attack on the team's actions (marl/robust/rollout.py)."""

from __future__ import annotations

import torch

from marl.robust.config import Byzantine, Defence
from marl.types import EnvSpec, FieldSpec

INTENDED, FORCED = "intended", "byzantine"  # what the team chose; whose decision was not its own


def extra_fields(defence: Defence | None, spec: EnvSpec, *, values: bool) -> dict[str, FieldSpec]:
    """What learners must remember beside their own extras. Args: values: of a team of action values."""
    if not isinstance(defence, Byzantine):
        return {}
    kind = {INTENDED: torch.int64} if values else {FORCED: torch.bool}
    return {name: FieldSpec(shape=(spec.n_agents,), dtype=dtype) for name, dtype in kind.items()}
