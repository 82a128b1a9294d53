"""What cars and critics see, gathered from tables that are made once.

| symbol | name here | meaning |
|---|---|---|
| v, W | vision, near_CW | W = (2v+1)^2 cells of a car's window, row by row |
| V | roads.codes + 3 | features of one window cell: its one-hot, and the number of cars on it |
| C | count_BC | road cells; entry C of a table with C + 1 rows is "nowhere": the place of who is not there |

Observation, zeros for a slot without a car: last action (1 braked), route / (R - 1), W x V window.
State: for every slot alive, row, column, route, way covered, wait, last action, each in [0, 1] and zero
without a car; then the cars on every road cell. CHOICE: the papers have no central critic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marl.envs.traffic_junction.geometry import Roads
from marl.types import Slice

STATIC = 5  # alive, row, column, route, way covered: a function of route and way
PER_CAR = STATIC + 2  # and wait, last action


class Tables:
    """Everything that depends on the level and the vision alone.

    Args:
        roads: the level's.
        vision: v.
        device: of all tensors.
    """

    def __init__(self, roads: Roads, vision: int, device: torch.device) -> None:
        self.roads, self.vision = roads, vision
        self.longest = max(map(len, roads.routes))
        index = {cell: i for i, cell in enumerate(roads.cells)}
        C, R = len(roads.cells), len(roads.routes)
        self.C, self.features = C, roads.codes + 3
        self.nowhere = R * self.longest  # the place of a slot without a car
        cell_E = torch.full((self.nowhere + 1,), C)
        static_E5 = torch.zeros(self.nowhere + 1, STATIC)
        for r, path in enumerate(roads.routes):
            for i, (row, column) in enumerate(path):
                place, far = r * self.longest + i, roads.size - 1
                cell_E[place] = index[row, column]
                static_E5[place] = torch.tensor([1, row / far, column / far, r / (R - 1), i / len(path)])
        self.cell_E, self.static_E5 = cell_E.to(device), static_E5.to(device)
        self.length_R = torch.tensor([len(path) for path in roads.routes], device=device)
        self.near_CW, window_CWV = self._windows(index)
        self.near_CW = self.near_CW.to(device)
        blank_C2 = torch.zeros(C + 1, 2)
        self.obs_CO = torch.cat([blank_C2, window_CWV.flatten(1)], 1).to(device)

    def _windows(self, index: dict[tuple[int, int], int]) -> tuple[Tensor, Tensor]:
        """Of every road cell: which road cells its window shows (C: none), and their one-hots."""
        v, roads = self.vision, self.roads
        C, W = len(roads.cells), (2 * v + 1) ** 2
        near_CW = torch.full((C + 1, W), C)
        window_CWV = torch.zeros(C + 1, W, self.features)
        for (row, column), c in index.items():
            for w, (down, right) in enumerate(self.offsets()):
                seen = index.get((row + down, column + right), C)
                near_CW[c, w] = seen
                window_CWV[c, w, roads.outside if seen == C else roads.numbers[seen]] = 1
        return near_CW, window_CWV

    def offsets(self) -> list[tuple[int, int]]:
        """(down, right) of the window's cells from the car."""
        reach = range(-self.vision, self.vision + 1)
        return [(down, right) for down in reach for right in reach]

    def slices(self, cars: int) -> tuple[Slice, ...]:
        """The observation's parts by name; of a window cell its place and the cars on it."""
        out = [
            Slice(name="last action", start=0, stop=1, low=0, high=1, kind="binary"),
            Slice(name="route", start=1, stop=2, low=0, high=1, kind="real"),
        ]
        for w, (down, right) in enumerate(self.offsets()):
            start, stop = 2 + w * self.features, 2 + (w + 1) * self.features
            at = f"({down:+d}, {right:+d})" if down or right else "(own)"
            out.append(Slice(name=f"place {at}", start=start, stop=stop - 1, low=0, high=1, kind="onehot"))
            out.append(Slice(name=f"cars {at}", start=stop - 1, stop=stop, low=0, high=cars, kind="real"))
        return tuple(out)

    def place(self, route_BN: Tensor, way_BN: Tensor, alive_BN: Tensor) -> Tensor:
        """Row of the tables for each slot, int64 (B, N)."""
        return torch.where(alive_BN, route_BN * self.longest + way_BN, self.nowhere)

    def count(self, cell_BN: Tensor) -> Tensor:
        """Cars on every road cell, float32 (B, C + 1); nowhere there are none."""
        B, N = cell_BN.shape
        count_BC = torch.zeros(B, self.C + 1, device=cell_BN.device)
        count_BC.scatter_add_(1, cell_BN, torch.ones(B, N, device=cell_BN.device))
        count_BC[:, self.C] = 0
        return count_BC

    def observe(self, cell_BN: Tensor, count_BC: Tensor, route_BN: Tensor, last_BN: Tensor) -> Tensor:
        """Observations, float32 (B, N, O). Args: route, last: zero where there is no car."""
        B, N = cell_BN.shape
        obs_BNO = self.obs_CO.index_select(0, cell_BN.view(-1)).view(B, N, -1)
        obs_BNO[..., 0] = last_BN
        obs_BNO[..., 1] = route_BN / (len(self.roads.routes) - 1)
        near_BX = self.near_CW.index_select(0, cell_BN.view(-1)).view(B, -1)
        obs_BNO[..., 1 + self.features :: self.features] = count_BC.gather(1, near_BX).view(B, N, -1)
        return obs_BNO

    def state(self, place_BN: Tensor, count_BC: Tensor, wait_BN: Tensor, last_BN: Tensor) -> Tensor:
        """States, float32 (B, S). Args: wait: as a part of the episode; both zero where there is no car."""
        B, N = place_BN.shape
        static_BN5 = self.static_E5.index_select(0, place_BN.view(-1)).view(B, N, STATIC)
        car_BN7 = torch.cat([static_BN5, torch.stack([wait_BN, last_BN.to(wait_BN.dtype)], -1)], -1)
        return torch.cat([car_BN7.flatten(1), count_BC[:, : self.C]], -1)
