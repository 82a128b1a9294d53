"""What a mixer looks at."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(kw_only=True)
class Joint:
    """What a mixer may look at. A mixer is a module that maps it to Q_tot (B, T, 1), or to (B, T, N)."""

    q_BTN: Tensor  # Q_i of the chosen actions
    actions_BTN: Tensor  # int64, the chosen actions
    q_BTNA: Tensor  # Q_i of all actions
    avail_BTNA: Tensor  # bool
    state_BTS: Tensor
