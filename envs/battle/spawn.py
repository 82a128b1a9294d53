"""Start of an episode in the torch form: teams, places, cooldowns. spawn.hpp is the C++ form.

Every number comes from the stream fold(key, episode, purpose), so that an episode of an env is the same
whatever runs beside it. Reference of random teams and starts: oxwhirl/smacv2 577ab5a, distributions.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marl.envs.battle.maps import SIZE
from marl.envs.battle.tables import COLUMNS, DRAWS, Tables
from marl.rng import Stream

# Words that key the streams of an episode; the enum of spawn.hpp.
JITTER, COOLDOWN, TEAM, EXTRA, START, REFLECT, GROUPS, ORDER, DISTANCE, MEMBER, SITE = range(1, 12)
_CORNER_EAST, _CORNER_NORTH = (0.0, 0.0, 1.0, 1.0), (0.0, 1.0, 1.0, 0.0)  # SMACv2's numbering of diagonals


class Spawner:
    """Draws first states of episodes.

    Args:
        tables: of the map.
        device: of all tensors.
    """

    def __init__(self, tables: Tables, device: torch.device) -> None:
        self.tables, self.map = tables, tables.map
        self.n, self.e = tables.map.n_allies, tables.map.n_enemies
        self.units = torch.from_numpy(tables.units).to(device)
        self.places_U2 = torch.from_numpy(tables.places).to(device)
        self.teams_U = torch.from_numpy(tables.teams).to(device, torch.int64)
        self.sites = torch.from_numpy(tables.sites).to(device)
        index_U = torch.arange(self.n + self.e, device=device)
        self.at_site_U = (index_U < self.map.scouts) | (index_U >= self.n)
        self.cumulative = torch.from_numpy(tables.cumulative).to(device)
        self.ally_bit = torch.from_numpy(tables.ally_bit).to(device, torch.int64)

    def __call__(self, key_B: Tensor, episode_B: Tensor) -> dict[str, Tensor]:
        """First state of the given episodes; every tensor of the state but key and episode.

        Args:
            key_B: int64, keys of the envs.
            episode_B: int64, numbers of the episodes.
        """
        stream = Stream(key_B).fold(episode_B)
        rows, units = key_B.shape[0], self.n + self.e
        goal_B2 = None
        if self.map.random_teams:
            type_BU, pos_BU2 = self._types(stream), self._starts(stream)
        else:
            type_BU, pos_BU2 = self.teams_U.repeat(rows, 1), self.places_U2.repeat(rows, 1, 1)
        if self.map.scouts:
            goal_B2 = self.sites[stream.fold(SITE).integers(len(self.sites), 1)[:, 0]]
            pos_BU2 = torch.where(self.at_site_U[:, None], goal_B2[:, None] + pos_BU2, pos_BU2)
        jitter = self.tables.scalars["spawn_jitter"]
        pos_BU2 = pos_BU2 + jitter * (2.0 * stream.fold(JITTER).uniform(units, 2) - 1.0)
        radius_BU1 = self._column("radius", type_BU)[..., None]
        pos_BU2 = torch.minimum(torch.maximum(pos_BU2, radius_BU1), SIZE - radius_BU1)
        type_BU, pos_BU2 = self._sort_allies(type_BU, pos_BU2)
        return self._state(stream, type_BU, pos_BU2, goal_B2)

    def _column(self, name: str, type_BU: Tensor) -> Tensor:
        return self.units[:, COLUMNS.index(name)][type_BU]

    def _sort_allies(self, type_BU: Tensor, pos_BU2: Tensor) -> tuple[Tensor, Tensor]:
        """Agents stand in order of (unit type, x, y), as SMAC sorts them.

        DEVIATION: types in the order of the one-hot; SMACv2's unit ids put marauders before marines, colossi
        before stalkers and banelings before hydralisks before zerglings.
        """
        order_BN = torch.arange(self.n, device=type_BU.device).repeat(type_BU.shape[0], 1)
        bit_BN = self.ally_bit[type_BU[:, : self.n]]
        for value_BN in (pos_BU2[:, : self.n, 1], pos_BU2[:, : self.n, 0], bit_BN):
            again_BN = value_BN.gather(1, order_BN).argsort(dim=1, stable=True)
            order_BN = order_BN.gather(1, again_BN)
        enemies = torch.arange(self.n, self.n + self.e, device=type_BU.device).repeat(type_BU.shape[0], 1)
        order_BU = torch.cat([order_BN, enemies], 1)
        return type_BU.gather(1, order_BU), pos_BU2.gather(1, order_BU[..., None].expand(-1, -1, 2))

    def _state(
        self, stream: Stream, type_BU: Tensor, pos_BU2: Tensor, goal_B2: Tensor | None
    ) -> dict[str, Tensor]:
        rows, units = type_BU.shape
        hp_BU = self._column("hp", type_BU)
        wait_BU = self._column("cooldown", type_BU) * self.tables.scalars["cooldown_jitter"]
        wait_BU = wait_BU * stream.fold(COOLDOWN).uniform(units)
        wait_BU = torch.where(self._column("heals", type_BU) > 0, torch.zeros_like(wait_BU), wait_BU)
        if self.map.random_teams:
            # CHOICE: SMACv2's maps do not say where their attack-move leads; here to the allies' middle
            total_B2 = pos_BU2[:, : self.n].double().sum(1)  # in double: the same in any order
            goal_B2 = total_B2.float() / self.n
        elif goal_B2 is None:
            goal_B2 = pos_BU2.new_tensor(self.map.ally_spawn).repeat(rows, 1)
        return {
            "pos_BU2": pos_BU2,
            "hp_BU": hp_BU,
            "shield_BU": self._column("shield", type_BU),
            "energy_BU": self._column("energy", type_BU),
            "cooldown_BU": wait_BU,
            "since_hit_BU": torch.full_like(hp_BU, self.tables.scalars["shield_delay"]),
            "target_BU": torch.full_like(type_BU, -1),
            "healing_BU": torch.zeros_like(type_BU, dtype=torch.bool),
            "type_BU": type_BU,
            "facing_BN": torch.zeros_like(type_BU[:, : self.n]),
            "last_actions_BN": torch.full_like(type_BU[:, : self.n], -1),
            "t_B": torch.zeros_like(type_BU[:, 0]),
            "goal_B2": goal_B2,
        }

    def _types(self, stream: Stream) -> Tensor:
        """SMACv2's weighted teams: the enemy copies the allies, extras are drawn apart."""
        team_BN = self._draw_team(stream.fold(TEAM), self.n)
        teams = [team_BN, team_BN[:, : self.e]]
        if self.e > self.n:
            teams.append(self._draw_team(stream.fold(EXTRA), self.e - self.n))
        return torch.cat(teams, 1)

    def _draw_team(self, stream: Stream, count: int) -> Tensor:
        """Of DRAWS draws the first that is not made of the exception type alone."""
        u_BKC = stream.uniform(DRAWS, count)
        which_BKC = (u_BKC >= self.cumulative[0]).long() + (u_BKC >= self.cumulative[1]).long()
        fine_BK = (which_BKC != 2).any(2)
        first_B = fine_BK.long().argmax(1)
        rows = torch.arange(u_BKC.shape[0], device=u_BKC.device)
        which_BC = torch.where(fine_BK.any(1)[:, None], which_BKC[rows, first_B], which_BKC[:, -1])
        which_BC[:, 0] = torch.where(fine_BK.any(1), which_BC[:, 0], torch.zeros_like(first_B))
        return self.teams_U[which_BC]

    def _starts(self, stream: Stream) -> Tensor:
        """SMACv2's start places: reflected or surrounded, with probability one half each."""
        surrounded_B = stream.fold(START).uniform(1)[:, 0] > 0.5
        return torch.where(surrounded_B[:, None, None], self._surrounded(stream), self._reflected(stream))

    def _reflected(self, stream: Stream) -> Tensor:
        n, half = self.n, SIZE / 2
        u_BU2 = stream.fold(REFLECT).uniform(n + self.e, 2)
        x_BU, y_BU = u_BU2[..., 0] * (half - 1.0), u_BU2[..., 1] * SIZE
        mirrored = min(n, self.e)
        extra_x = half + u_BU2[:, 2 * n :, 0] * half
        x_BU = torch.cat([x_BU[:, :n], SIZE - x_BU[:, :mirrored], extra_x], 1)
        y_BU = torch.cat([y_BU[:, :n], y_BU[:, :mirrored], y_BU[:, 2 * n :]], 1)
        return torch.stack([x_BU, y_BU], -1)

    def _surrounded(self, stream: Stream) -> Tensor:
        middle, rows = SIZE / 2, stream.key_B.shape[0]
        allies_BN2 = (middle + self.places_U2[: self.n]).repeat(rows, 1, 1)
        groups_B = 1 + stream.fold(GROUPS).integers(4, 1)[:, 0]
        corner_B4 = stream.fold(ORDER).uniform(4).argsort(dim=1, stable=True)
        share_B4 = stream.fold(DISTANCE).uniform(4)
        word_BE = (stream.fold(MEMBER).bits(self.e) >> 33) & ((1 << 31) - 1)
        group_BE = (word_BE * groups_B[:, None]) >> 31
        same_BEE = group_BE[:, :, None] == group_BE[:, None, :]
        rank_BE = same_BEE.tril(-1).sum(2)
        corner_BE, share_BE = corner_B4.gather(1, group_BE), share_B4.gather(1, group_BE)
        east_BE = share_BE.new_tensor(_CORNER_EAST)[corner_BE]
        north_BE = share_BE.new_tensor(_CORNER_NORTH)[corner_BE]
        from_x, from_y = middle + 2.0 * (2.0 * east_BE - 1.0), middle + 2.0 * (2.0 * north_BE - 1.0)
        x_BE = from_x * share_BE + SIZE * east_BE * (1.0 - share_BE) + self.places_U2[:, 0][rank_BE]
        y_BE = from_y * share_BE + SIZE * north_BE * (1.0 - share_BE) + self.places_U2[:, 1][rank_BE]
        return torch.cat([allies_BN2, torch.stack([x_BE, y_BE], -1)], 1)
