"""Observations, state and availability in torch; observe.hpp is the C++ form, layout.py the names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from marl.envs.battle.config import Config
from marl.envs.battle.layout import own_position
from marl.envs.battle.maps import SIZE
from marl.envs.battle.tables import Tables
from marl.envs.battle.torch_form import State, root

# SMAC's nine sample points, its move amount being 2: axes at 4, diagonals at 2, itself last.
_SAMPLES = ((0, 4), (0, -4), (4, 0), (-4, 0), (2, 2), (-2, -2), (2, -2), (-2, 2), (0, 0))
_AHEAD = ((0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (-1.0, 0.0))  # north, south, east, west


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What observations show of a map's ground.

    Args:
        walk_XY: uint8 (X, Y), the bits of `marl.envs.battle.terrain`; X, Y is the map's size in map units.
        height_XY: float32 (X, Y), terrain height in [0, 1].
        extent: playable width and height, map units; the state's places are fractions of it.
    """

    walk_XY: np.ndarray
    height_XY: np.ndarray
    extent: tuple[float, float]


class Observer:
    """Pictures of a batch of battles as SMAC lays them out.

    Args:
        config: options.
        tables: of the map.
        device: of all tensors.
        ground: of another map than the tables' own (StarCraft II's, say).
    """

    def __init__(
        self, config: Config, tables: Tables, device: torch.device, ground: Ground | None = None
    ) -> None:
        self.config, self.tables, self.map = config, tables, tables.map
        self.n, self.e = tables.map.n_allies, tables.map.n_enemies
        self.own_position = own_position(config, tables)
        ally_bit, enemy_bit = torch.from_numpy(tables.ally_bit), torch.from_numpy(tables.enemy_bit)
        self.bit = torch.stack([ally_bit, enemy_bit]).to(device, torch.int64)
        self.directions = torch.from_numpy(tables.directions).to(device)
        own = tables.terrain
        ground = ground or Ground(walk_XY=own.walk_XY, height_XY=own.height_XY, extent=(SIZE, SIZE))
        self.size_2 = torch.tensor(ground.walk_XY.shape, device=device)
        self.extent_2 = torch.tensor(ground.extent, dtype=torch.float32, device=device)
        self.walk_C = torch.from_numpy(ground.walk_XY.reshape(-1)).to(device, torch.int64)
        self.height_C = torch.from_numpy(ground.height_XY.reshape(-1)).to(device)
        points = torch.tensor(_SAMPLES, dtype=torch.float32, device=device)
        self.samples, self.ahead = points, torch.tensor(_AHEAD, device=device)
        others = [[u for u in range(self.n) if u != i] for i in range(self.n)]
        self.others_NM = torch.tensor(others, dtype=torch.int64, device=device).reshape(self.n, self.n - 1)

    def __call__(self, s: State, k: State) -> tuple[Tensor, Tensor, Tensor]:
        """obs_BNO, state_BS, avail_BNA of a state with the constants of its units."""
        unit_BUF, type_BUF = self._unit_features(s, k)
        delta = s["pos_BU2"][:, None] - s["pos_BU2"][:, : self.n, None]
        d2 = delta[..., 0] * delta[..., 0] + delta[..., 1] * delta[..., 1]
        cone = self._in_cone(s, delta, d2)
        avail_BNA = self._avail(s, k, d2, cone)
        obs_BNO = self._obs(s, k, avail_BNA, unit_BUF, delta, d2, cone)
        return obs_BNO, self._state(s, k, unit_BUF, type_BUF), avail_BNA

    def _unit_features(self, s: State, k: State) -> tuple[Tensor, Tensor]:
        """(hp, shield, type bits) as seen on a living unit, and the type bits alone."""
        hp = s["hp_BU"] / k["hp"]
        shield = torch.where(k["shield"] > 0, s["shield_BU"] / k["shield"], torch.zeros_like(hp))
        side = torch.zeros_like(s["type_BU"])
        side[:, self.n :] = 1
        bits = torch.arange(self.map.type_bits, device=hp.device)
        types = (self.bit[side, s["type_BU"]][..., None] == bits).to(hp.dtype)
        return torch.cat([hp[..., None], shield[..., None], types], -1), types

    def _columns(self, shields: int) -> list[int]:
        """Columns of `_unit_features` that a side shows: shields only if it is Protoss."""
        return [0, *([1] if shields else []), *range(2, 2 + self.map.type_bits)]

    def _in_cone(self, s: State, delta: Tensor, d2: Tensor) -> Tensor:
        """Within 15 degrees of the facing.

        DEVIATION: SMACv2 compares arctangents, patched where x changes sign; here it is the angle itself.
        """
        if not self.tables.cone:
            return torch.ones_like(d2, dtype=torch.bool)
        facing = self.directions[s["facing_BN"]][:, :, None]
        ahead = delta[..., 0] * facing[..., 0] + delta[..., 1] * facing[..., 1]
        return ahead >= root(d2) * self.tables.scalars["cone_cosine"]

    def open_ahead(self, s: State, k: State) -> Tensor:
        """bool (B, N, 4): the cell one unit ahead is in the map and the unit may stand on it.

        DEVIATION: SMAC asks the pathing grid of ground units for all; here a colossus may step onto the ridge
        and a flyer anywhere, so that 2c_vs_64zg can be played as it is meant.
        """
        inside, cell = self._cells(s["pos_BU2"][:, : self.n, None] + self.ahead)
        layer = k["layer"][:, : self.n, None].long()
        walk = self.walk_C[cell]
        return inside & ((layer == 0) | ((walk & layer) > 0))

    def _cells(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Whether points (..., 2) are in the map, and their cells x * Y + y, clamped into it."""
        inside = ((at >= 0) & (at < self.size_2)).all(-1)
        cell = torch.minimum(at.long().clamp(min=0), self.size_2 - 1)
        return inside, cell[..., 0] * self.size_2[1] + cell[..., 1]

    def _avail(self, s: State, k: State, d2: Tensor, cone: Tensor) -> Tensor:
        n, e, alive = self.n, self.e, s["hp_BU"] > 0
        shoot2 = k["shoot"][:, :n, None] * k["shoot"][:, :n, None]
        near = (d2 <= shoot2) & cone & alive[:, None]
        attack_BNE = near[:, :, n:]
        if self.tables.has_healers:
            patients = near[:, :, :n] & ~k["heals"][:, None, :n]
            patients &= ~torch.eye(n, dtype=torch.bool, device=d2.device)
            heal_BNE = torch.zeros_like(attack_BNE)
            heal_BNE[:, :, : min(n, e)] = patients[:, :, : min(n, e)]
            attack_BNE = torch.where(k["heals"][:, :n, None], heal_BNE, attack_BNE)
        stop = torch.ones_like(alive[:, :n, None])
        looks = stop.expand(-1, -1, self.tables.attack_base - 6)
        able = torch.cat([stop, self.open_ahead(s, k), looks, attack_BNE], -1) & alive[:, :n, None]
        return torch.cat([~alive[:, :n, None], able], -1)

    def _obs(
        self, s: State, k: State, avail: Tensor, unit_BUF: Tensor, delta: Tensor, d2: Tensor, cone: Tensor
    ) -> Tensor:
        n, alive_BN1 = self.n, (s["hp_BU"] > 0)[:, : self.n, None]
        sight = k["sight"][:, :n, None]
        seen = alive_BN1 & (s["hp_BU"] > 0)[:, None] & (d2 < sight * sight) & cone
        relative = torch.stack([root(d2) / sight, delta[..., 0] / sight, delta[..., 1] / sight], -1)
        other = torch.cat([relative, unit_BUF[:, None].expand(-1, n, -1, -1)], -1)
        enemy_columns = [0, 1, 2, *(3 + c for c in self._columns(self.map.enemy_shields))]
        ally_columns = [0, 1, 2, *(3 + c for c in self._columns(self.map.ally_shields))]
        first = avail[..., self.tables.attack_base :, None].to(other.dtype)
        enemies = torch.cat([first, other[:, :, n:, enemy_columns]], -1) * seen[:, :, n:, None]
        allies = torch.cat([torch.ones_like(other[:, :, :n, :1]), other[:, :, :n, ally_columns]], -1)
        if self.config.obs_last_action:
            last = self._last_actions(s)[:, None].expand(-1, n, -1, -1)
            allies = torch.cat([allies, last], -1)
        allies = allies * seen[:, :, :n, None]
        pick = self.others_NM[None, :, :, None].expand(allies.shape[0], -1, -1, allies.shape[-1])
        allies = allies.gather(2, pick)
        moves, ground = avail[..., 2:6].to(other.dtype), self._ground(s) * alive_BN1
        own = self._own(s, unit_BUF) * alive_BN1
        parts = [moves, ground, enemies.flatten(2), allies.flatten(2), own]
        if self.config.obs_timestep:
            parts.append((s["t_B"].to(other.dtype) / self.map.limit)[:, None, None].expand(-1, n, 1))
        return torch.cat(parts, -1)

    def _own(self, s: State, unit_BUF: Tensor) -> Tensor:
        n = self.n
        health = unit_BUF[:, :n, : 2 if self.map.ally_shields else 1]
        parts = [health]
        if self.own_position:
            parts.append(s["pos_BU2"][:, :n] / self.size_2)
        if self.tables.cone:
            parts.append(self.directions[s["facing_BN"]])
        return torch.cat([*parts, unit_BUF[:, :n, 2:]], -1)

    def _ground(self, s: State) -> Tensor:
        """Optional pathing and height samples around each agent, (B, N, 0..17); 1 outside the map."""
        inside, cell = self._cells(s["pos_BU2"][:, : self.n, None].floor() + self.samples)
        path = torch.where(inside, (self.walk_C[cell] & 1).float(), 1.0)[..., :8]
        height = torch.where(inside, self.height_C[cell], 1.0)
        parts = ([path] if self.config.obs_pathing else []) + ([height] if self.config.obs_height else [])
        return torch.cat(parts, -1) if parts else path[..., :0]

    def _last_actions(self, s: State) -> Tensor:
        actions = torch.arange(self.tables.n_actions, device=s["t_B"].device)
        return (s["last_actions_BN"][..., None] == actions).float()

    def _state(self, s: State, k: State, unit_BUF: Tensor, type_BUF: Tensor) -> Tensor:
        n, alive = self.n, (s["hp_BU"] > 0)[..., None]
        place = (s["pos_BU2"] - self.size_2 / 2) / self.extent_2
        charge = torch.where(k["heals"], s["energy_BU"], s["cooldown_BU"]) / k["max_cooldown"]
        ally = [unit_BUF[:, :n, :1], charge[:, :n, None], place[:, :n]]
        enemy = [unit_BUF[:, n:, :1], place[:, n:]]
        if self.map.ally_shields:
            ally.append(unit_BUF[:, :n, 1:2])
        if self.map.enemy_shields:
            enemy.append(unit_BUF[:, n:, 1:2])
        if self.tables.cone:
            ally.append(self.directions[s["facing_BN"]])
        ally_BNF = torch.cat([*ally, type_BUF[:, :n]], -1) * alive[:, :n]
        enemy_BEF = torch.cat([*enemy, type_BUF[:, n:]], -1) * alive[:, n:]
        parts = [ally_BNF.flatten(1), enemy_BEF.flatten(1)]
        if self.config.state_last_action:
            parts.append(self._last_actions(s).flatten(1))
        if self.config.state_timestep:
            parts.append((s["t_B"].float() / self.map.limit)[:, None])
        return torch.cat(parts, -1)
