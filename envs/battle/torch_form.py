"""The simulation in torch: oracle of the C++ form, and the form for GPUs.

One tick, as in tick.hpp, operation by operation: targets, movement, collisions, weapons, healing,
regeneration. Shapes: B envs, U units (N allies, then E enemies), A attackers, V victims, H hits.
Rules of damage and of the enemy: SMAClite (uoe-agents/smaclite 0d6abbe), restated, no code copied.
CHOICE: after firing a unit may move at once (no wind-down); a healer works before regeneration.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marl.envs.battle.maps import SIZE
from marl.envs.battle.tables import COLUMNS, Tables
from marl.envs.battle.units import TYPE

State = dict[str, Tensor]
_FAR = 1e9  # larger than any squared distance or hp
_ROUNDER = 48.0  # x + this - this rounds to multiples of 2**-18: their sums are exact in any order
_TINY = 1e-6  # map units below which a direction is undefined


def root(x: Tensor) -> Tensor:
    """Square root rounded as IEEE 754 asks; torch's own float32 root on the CPU is one bit off at times."""
    return x.double().sqrt().float()


class Simulation:
    """Ticks a batch of battles.

    Args:
        tables: of the map.
        device: of all tensors.
    """

    def __init__(self, tables: Tables, device: torch.device) -> None:
        self.n, self.e = tables.map.n_allies, tables.map.n_enemies
        self.tables, self.scalars = tables, tables.scalars
        self.units = torch.from_numpy(tables.units).to(device)
        self.damage = torch.from_numpy(tables.damage).to(device)
        self.walk_C = torch.from_numpy(tables.terrain.walk_XY.reshape(-1)).to(device, torch.int64)
        way = tables.terrain.way
        self.way_CC = None if way is None else torch.from_numpy(way).to(device, torch.int64)
        index_U = torch.arange(self.n + self.e, device=device)
        self.index_U = index_U
        self.ally_U = index_U < self.n
        present = tables.units[[TYPE[name] for name in (*tables.map.ally_units, *tables.map.enemy_units)]]
        self.has_area = bool((present[:, [COLUMNS.index("across"), COLUMNS.index("blast")]] > 0).any())

    def constants(self, type_BU: Tensor) -> State:
        """Columns of the unit table for every unit, (B, U) each."""
        rows = self.units[type_BU]
        k = {name: rows[..., i] for i, name in enumerate(COLUMNS)}
        for name in ("air", "hits_air", "heals"):
            k[name] = k[name] > 0
        k["walk_step"] = k["step"]
        return k

    def tick(self, s: State, k: State, moving_BN: Tensor, to_BN2: Tensor) -> State:
        """One tick.

        Args:
            s: the state (pos, hp, shield, energy, cooldown, since_hit, target, healing, goal).
            k: constants of the units.
            moving_BN: bool, allies with a move order.
            to_BN2: where they move to.
        """
        s, k = dict(s), dict(k)
        s["cooldown_BU"] = (s["cooldown_BU"] - self.scalars["loops"]).clamp(min=0.0)
        self._choose_targets(s, k)
        if self.tables.has_healers:
            self._choose_patients(s, k)
        new_BU2 = self._walk(s, k, moving_BN, to_BN2)
        self._settle(s, k, new_BU2, self._push_apart(s, k, new_BU2))
        self._fire(s, k)
        if self.tables.has_healers:
            self._heal(s, k)
        self._regenerate(s, k)
        return s

    def _choose_targets(self, s: State, k: State) -> None:
        n = self.n
        delta = s["pos_BU2"][:, None, :n] - s["pos_BU2"][:, n:, None]
        d2_BEN = delta[..., 0] * delta[..., 0] + delta[..., 1] * delta[..., 1]
        valid = (s["hp_BU"] > 0)[:, None, :n] & (~k["air"][:, None, :n] | k["hits_air"][:, n:, None])
        aims = s["target_BU"][:, None, :n] == self.index_U[n:, None]
        reach = (k["range"] + k["radius"])[:, n:, None] + k["radius"][:, None, :n]
        current_BE = s["target_BU"][:, n:]
        is_current = current_BE[..., None] == self.index_U[:n]
        keep_BE = (is_current & valid & ((d2_BEN <= reach * reach) | aims)).any(2)
        candidate = valid & ((d2_BEN <= k["scan2"][:, n:, None]) | aims)
        healers = candidate & k["heals"][:, None, :n]
        has_healer = healers.any(2)
        keep_BE &= ~(has_healer & ~(is_current & k["heals"][:, None, :n]).any(2))
        pool = torch.where(has_healer[..., None], healers, candidate)
        best_BE = torch.where(pool, d2_BEN, d2_BEN.new_tensor(_FAR)).argmin(2)
        best_BE = torch.where(pool.any(2), best_BE, -1)
        fighter = (s["hp_BU"] > 0)[:, n:] & ~k["heals"][:, n:]
        chosen_BE = torch.where(fighter & ~keep_BE, best_BE, current_BE)
        s["target_BU"] = torch.cat([s["target_BU"][:, :n], chosen_BE], 1)

    def _choose_patients(self, s: State, k: State) -> None:
        n, hp_BE, step_BE = self.n, s["hp_BU"][:, self.n :], k["step"][:, self.n :]
        wounded = (hp_BE < k["hp"][:, n:]) | (s["target_BU"][:, n:] >= 0)
        candidate = (hp_BE > 0) & ~k["heals"][:, n:] & wounded
        patient_B = torch.where(candidate, hp_BE, hp_BE.new_tensor(_FAR)).argmin(1) + n
        patient_B = torch.where(candidate.any(1), patient_B, -1)
        pace_B = torch.where(candidate, step_BE, step_BE.new_tensor(_FAR)).amin(1)
        healer = (hp_BE > 0) & k["heals"][:, n:]
        target_BE = torch.where(healer, patient_B[:, None], s["target_BU"][:, n:])
        s["target_BU"] = torch.cat([s["target_BU"][:, :n], target_BE], 1)
        slow_BE = torch.where(healer, torch.minimum(step_BE, pace_B[:, None]), step_BE)
        k["walk_step"] = torch.cat([k["step"][:, :n], slow_BE], 1)

    def _towards_target(self, s: State, k: State) -> tuple[Tensor, Tensor, Tensor]:
        """Whether each unit has a target, whether that is in reach, and where it stands."""
        has = s["target_BU"] >= 0
        at_BU = s["target_BU"].clamp(min=0)
        there_BU2 = s["pos_BU2"].gather(1, at_BU[..., None].expand(-1, -1, 2))
        delta = there_BU2 - s["pos_BU2"]
        d2 = delta[..., 0] * delta[..., 0] + delta[..., 1] * delta[..., 1]
        reach = (k["range"] + k["radius"]) + k["radius"].gather(1, at_BU)
        return has, d2 <= reach * reach, there_BU2

    def _walk(self, s: State, k: State, moving_BN: Tensor, to_BN2: Tensor) -> Tensor:
        """New places before collisions."""
        has, near, there_BU2 = self._towards_target(s, k)
        to_BU2 = torch.cat([to_BN2, s["goal_B2"][:, None].expand(-1, self.e, -1)], 1)
        to_BU2 = torch.where(has[..., None], there_BU2, to_BU2)
        want = torch.cat([moving_BN, torch.ones_like(has[:, self.n :])], 1)
        want = torch.where(has, ~near, want) & (s["hp_BU"] > 0)
        to_BU2 = self._round_obstacles(s, k, to_BU2)
        delta = to_BU2 - s["pos_BU2"]
        distance = root(delta[..., 0] * delta[..., 0] + delta[..., 1] * delta[..., 1])
        step = torch.minimum(k["walk_step"], distance)
        fraction = torch.where(want & (distance > 0), step / distance, torch.zeros_like(step))
        return s["pos_BU2"] + delta * fraction[..., None]

    def _cell(self, x: Tensor, y: Tensor) -> Tensor:
        return x.long().clamp(max=SIZE - 1) * SIZE + y.long().clamp(max=SIZE - 1)

    def _round_obstacles(self, s: State, k: State, to_BU2: Tensor) -> Tensor:
        """Ground units that cannot walk straight head for the cell that the way table names."""
        if self.way_CC is None:
            return to_BU2
        inside = to_BU2.clamp(min=0.0)
        goal = self._cell(inside[..., 0], inside[..., 1])
        following = self.way_CC[self._cell(s["pos_BU2"][..., 0], s["pos_BU2"][..., 1]), goal]
        centre = torch.stack([following // SIZE, following % SIZE], -1).to(to_BU2.dtype) + 0.5
        detour = (following != goal) & (k["layer"] == 1)
        return torch.where(detour[..., None], centre, to_BU2)

    def _push_apart(self, s: State, k: State, new_BU2: Tensor) -> Tensor:
        """Overlapping pairs on the same layer move apart by half the overlap each."""
        alive = s["hp_BU"] > 0
        delta = new_BU2[:, :, None] - new_BU2[:, None]  # (B, self, other): away from the other
        d2 = delta[..., 0] * delta[..., 0] + delta[..., 1] * delta[..., 1]
        both = k["radius"][:, :, None] + k["radius"][:, None]
        overlap = (d2 < both * both) & alive[:, :, None] & alive[:, None]
        overlap &= (k["air"][:, :, None] == k["air"][:, None]) & (self.index_U[:, None] != self.index_U)
        d = root(d2)
        apart = d > _TINY
        amount = (both - d) * 0.5
        sign = torch.where(self.index_U[:, None] < self.index_U, -1.0, 1.0).expand_as(d)
        ux = torch.where(apart, delta[..., 0] / d, sign) * amount
        uy = torch.where(apart, delta[..., 1] / d, torch.zeros_like(d)) * amount
        push = (torch.stack([ux, uy], -1) + _ROUNDER) - _ROUNDER
        return torch.where(overlap[..., None], push, torch.zeros_like(push)).sum(2)

    def _settle(self, s: State, k: State, new_BU2: Tensor, push_BU2: Tensor) -> None:
        """Into the map and off cells that the unit cannot walk: slide along y, else along x, else stay."""
        cap = self.scalars["push_cap"]
        length2 = push_BU2[..., 0] * push_BU2[..., 0] + push_BU2[..., 1] * push_BU2[..., 1]
        scale = torch.where(length2 > cap * cap, cap / root(length2), torch.ones_like(length2))
        rooted = (k["step"] <= 0)[..., None]
        push_BU2 = torch.where(rooted, torch.zeros_like(push_BU2), push_BU2 * scale[..., None])
        low = k["radius"][..., None]
        place = torch.minimum(torch.maximum(new_BU2 + push_BU2, low), SIZE - low)
        if self.way_CC is not None:
            place = self._slide(s["pos_BU2"], place, k["layer"].long())
        s["pos_BU2"] = torch.where((s["hp_BU"] > 0)[..., None], place, s["pos_BU2"])

    def _slide(self, old: Tensor, new: Tensor, layer: Tensor) -> Tensor:
        def free(x: Tensor, y: Tensor) -> Tensor:
            return (layer == 0) | ((self.walk_C[self._cell(x, y)] & layer) > 0)

        x0, y0, x1, y1 = old[..., 0], old[..., 1], new[..., 0], new[..., 1]
        straight, along_y, along_x = free(x1, y1), free(x0, y1), free(x1, y0)
        x = torch.where(straight | (~along_y & along_x), x1, x0)
        y = torch.where(straight | along_y, y1, y0)
        return torch.stack([x, y], -1)

    def _victims(self, s: State, k: State, fires_BA: Tensor) -> Tensor:
        """bool (B, attacker, victim): who is hit by whom in this tick."""
        at_BA = s["target_BU"].clamp(min=0)
        hits = at_BA[..., None] == self.index_U
        if self.has_area:
            foe = self.ally_U[:, None] != self.ally_U
            reached = (s["hp_BU"] > 0)[:, None] & (~k["air"][:, None] | k["hits_air"][..., None]) & foe
            hits = hits | (reached & (self._splash(s, k, at_BA) | self._blast(s, k)))
        return hits & fires_BA[..., None]

    def _splash(self, s: State, k: State, at_BA: Tensor) -> Tensor:
        """A rectangle across the line of aim at the target; CHOICE: widened by the victim's radius."""
        there = s["pos_BU2"].gather(1, at_BA[..., None].expand(-1, -1, 2))
        aim = there - s["pos_BU2"]
        length = root(aim[..., 0] * aim[..., 0] + aim[..., 1] * aim[..., 1])
        cx = torch.where(length > _TINY, aim[..., 0] / length, torch.ones_like(length))[..., None]
        cy = torch.where(length > _TINY, aim[..., 1] / length, torch.zeros_like(length))[..., None]
        v = s["pos_BU2"][:, None] - there[:, :, None]
        along = (v[..., 0] * cx + v[..., 1] * cy).abs()
        aside = (v[..., 1] * cx - v[..., 0] * cy).abs()
        radius = k["radius"][:, None]
        inside = (along <= k["ahead"][..., None] + radius) & (aside <= k["across"][..., None] + radius)
        return inside & (k["across"] > 0)[..., None]

    def _blast(self, s: State, k: State) -> Tensor:
        """A circle around the attacker; CHOICE: widened by the victim's radius."""
        delta = s["pos_BU2"][:, None] - s["pos_BU2"][:, :, None]
        d2 = delta[..., 0] * delta[..., 0] + delta[..., 1] * delta[..., 1]
        reach = k["blast"][..., None] + k["radius"][:, None]
        return (d2 <= reach * reach) & (k["blast"] > 0)[..., None]

    def _fire(self, s: State, k: State) -> None:
        """Every ready weapon in reach fires at once; unit order only decides whose hits the shield takes.

        The shield absorbs first, without armour; of each hit max(0, left - armour) costs hp.
        """
        has, near, _ = self._towards_target(s, k)
        fires = has & near & (s["hp_BU"] > 0) & (s["cooldown_BU"] <= 0) & ~k["heals"]
        points_BAV = self.damage[s["type_BU"][:, :, None], s["type_BU"][:, None]]
        points_BAV = points_BAV * self._victims(s, k, fires)
        second_BAV = points_BAV * (k["hits"] > 1)[..., None]
        hits_BHV = torch.stack([points_BAV, second_BAV], 2).flatten(1, 2)
        after_BHV = hits_BHV.cumsum(1)
        shield_left = (s["shield_BU"][:, None] - (after_BHV - hits_BHV)).clamp(min=0.0)
        through = hits_BHV - torch.minimum(hits_BHV, shield_left) - k["armour"][:, None]
        loss_BV, taken_BV = through.clamp(min=0.0).sum(1), after_BHV[:, -1]
        s["cooldown_BU"] = torch.where(fires, k["cooldown"], s["cooldown_BU"])
        s["shield_BU"] = (s["shield_BU"] - taken_BV).clamp(min=0.0)
        hp_BU = (s["hp_BU"] - loss_BV).clamp(min=0.0)
        s["since_hit_BU"] = torch.where(taken_BV > 0, torch.zeros_like(hp_BU), s["since_hit_BU"])
        s["hp_BU"] = torch.where(fires & (k["blast"] > 0), torch.zeros_like(hp_BU), hp_BU)
        self._bury(s)

    def _bury(self, s: State) -> None:
        """The dead own nothing and are nobody's target."""
        alive = s["hp_BU"] > 0
        for name in ("shield_BU", "energy_BU", "cooldown_BU"):
            s[name] = torch.where(alive, s[name], torch.zeros_like(s[name]))
        s["healing_BU"] = s["healing_BU"] & alive
        valid = (s["target_BU"] >= 0) & alive & alive.gather(1, s["target_BU"].clamp(min=0))
        s["target_BU"] = torch.where(valid, s["target_BU"], -1)

    def _heal(self, s: State, k: State) -> None:
        """Healers in reach of a damaged patient restore hp for energy, judged before anyone is healed."""
        has, near, _ = self._towards_target(s, k)
        at_BU = s["target_BU"].clamp(min=0)
        missing = (k["hp"] - s["hp_BU"]).gather(1, at_BU)
        energy, price = s["energy_BU"], self.scalars["heal_per_energy"]
        ready = (energy > 0) & (s["healing_BU"] | (energy >= self.scalars["heal_start"]))
        works = has & near & (s["hp_BU"] > 0) & k["heals"] & (missing > 0) & ready
        amount = torch.minimum((energy * price).clamp(max=self.scalars["heal_step"]), missing)
        amount = torch.where(works, amount, torch.zeros_like(amount))
        s["hp_BU"] = torch.minimum(s["hp_BU"].scatter_add(1, at_BU, amount), k["hp"])
        s["energy_BU"] = (energy - amount / price).clamp(min=0.0)
        s["healing_BU"] = works

    def _regenerate(self, s: State, k: State) -> None:
        alive, c = s["hp_BU"] > 0, self.scalars
        s["hp_BU"] = torch.where(alive, torch.minimum(s["hp_BU"] + k["regeneration"], k["hp"]), s["hp_BU"])
        s["since_hit_BU"] = (s["since_hit_BU"] + c["loops"]).clamp(max=c["shield_delay"])
        if self.tables.has_shields:
            grown = torch.minimum(s["shield_BU"] + c["shield_step"], k["shield"])
            grows = alive & (s["since_hit_BU"] >= c["shield_delay"])
            s["shield_BU"] = torch.where(grows, grown, s["shield_BU"])
        if self.tables.has_healers:
            grown = (s["energy_BU"] + c["energy_step"]).clamp(max=c["energy_max"])
            s["energy_BU"] = torch.where(alive & k["heals"], grown, s["energy_BU"])
