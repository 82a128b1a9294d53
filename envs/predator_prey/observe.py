"""What predators and critics see, gathered from tables that are made once.

| symbol | name here | meaning |
|---|---|---|
| D, C | size, cells | cells per side, and in all |
| v, W | vision, near_CW | W = (2v+1)^2 cells of a window, row by row; cell C of a table is "outside" |
| V | features | D^2 + 4 features of one window cell |

One window cell: one-hot of its number 0 .. D^2 - 1 (index D^2 is never set; D^2 + 1 means outside), then the
number of preys on it (D^2 + 2) and of predators (D^2 + 3, the observer included), all as in IC3Net's code.

State: row and column of every predator, whether it is on the prey, row and column of the prey; coordinates
divided by D - 1. CHOICE: IC3Net has no central critic. There is no clock, because the limit truncates: a
critic must give a value to the state at the limit, which it would never have been trained on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marl.envs.predator_prey.config import Level
from marl.types import Slice

MOVES = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1), "stay": (0, 0)}  # IC3Net's order
OUTSIDE, PREY, PREDATORS, EXTRA = 1, 2, 3, 4  # feature D^2 + this; EXTRA is how many there are
PER_PREDATOR = 3  # features of a predator in the state


class Tables:
    """Everything that depends on the level alone.

    Args:
        level: its size, vision and number of predators.
        device: of all tensors.
    """

    def __init__(self, level: Level, device: torch.device) -> None:
        D, self.level = level.size, level
        self.cells, self.features = D * D, D * D + EXTRA
        row_C, column_C = (torch.arange(D * D) // D, torch.arange(D * D) % D)
        moves_A2 = torch.tensor(list(MOVES.values()))
        to_row_CA = (row_C[:, None] + moves_A2[:, 0]).clamp(0, D - 1)
        to_column_CA = (column_C[:, None] + moves_A2[:, 1]).clamp(0, D - 1)
        self.move_CA = (to_row_CA * D + to_column_CA).to(device)  # where an action leads from a cell
        self.place_C2 = (torch.stack([row_C, column_C], -1) / (D - 1)).to(device)
        near_CW = self._windows(row_C, column_C)
        self.near_CW = near_CW.to(device)
        # The part of an observation that only depends on where the observer stands.
        code_CW = torch.where(near_CW == self.cells, self.cells + OUTSIDE, near_CW)
        code_CWV = torch.zeros(*near_CW.shape, self.features).scatter_(-1, code_CW[..., None], 1.0)
        self.obs_CO = code_CWV.flatten(1).to(device)

    def offsets(self) -> list[tuple[int, int]]:
        """(down, right) of the window's cells from the predator."""
        reach = range(-self.level.vision, self.level.vision + 1)
        return [(down, right) for down in reach for right in reach]

    def _windows(self, row_C: Tensor, column_C: Tensor) -> Tensor:
        """Which cells the window around each cell shows, int64 (C, W); C where it ends."""
        D = self.level.size
        offset_W2 = torch.tensor(self.offsets())
        row_CW, column_CW = row_C[:, None] + offset_W2[:, 0], column_C[:, None] + offset_W2[:, 1]
        inside_CW = (row_CW >= 0) & (row_CW < D) & (column_CW >= 0) & (column_CW < D)
        return torch.where(inside_CW, row_CW * D + column_CW, D * D)

    def slices(self) -> tuple[Slice, ...]:
        """The observation's parts by name; of a window cell its place, the prey and the predators on it."""
        out = []
        for w, (down, right) in enumerate(self.offsets()):
            start, where = w * self.features, f"{down:+d},{right:+d}"
            prey, predators = start + self.cells + PREY, start + self.cells + PREDATORS
            most = self.level.n_agents
            out += [
                Slice(name=f"place {where}", start=start, stop=prey, low=0, high=1, kind="onehot"),
                Slice(name=f"prey {where}", start=prey, stop=predators, low=0, high=1, kind="binary"),
                Slice(
                    name=f"predators {where}",
                    start=predators,
                    stop=predators + 1,
                    low=0,
                    high=most,
                    kind="real",
                ),
            ]
        return tuple(out)

    def observe(self, cell_BN: Tensor, prey_B: Tensor) -> Tensor:
        """Observations, float32 (B, N, O), of predators and prey in these cells."""
        B, N = cell_BN.shape
        count_BC = torch.zeros(B, self.cells + 1, device=cell_BN.device)
        count_BC.scatter_add_(1, cell_BN, torch.ones_like(cell_BN, dtype=torch.float32))
        own_K = cell_BN.reshape(-1)  # index_select: much faster than obs_CO[cell_BN] on the CPU
        near_BX = self.near_CW.index_select(0, own_K).view(B, -1)  # X = N W
        obs_BXV = self.obs_CO.index_select(0, own_K).view(B, -1, self.features)
        obs_BXV[..., self.cells + PREY] = near_BX == prey_B[:, None]
        obs_BXV[..., self.cells + PREDATORS] = count_BC.gather(1, near_BX)
        return obs_BXV.view(B, N, -1)

    def state(self, cell_BN: Tensor, prey_B: Tensor, on_BN: Tensor) -> Tensor:
        """States, float32 (B, 3 N + 2)."""
        predators_BN3 = torch.cat([self.place_C2[cell_BN], on_BN[..., None]], -1)
        return torch.cat([predators_BN3.flatten(1), self.place_C2[prey_B]], -1)
