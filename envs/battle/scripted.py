"""Scripted teams: yardsticks for learners, playing through available actions only.

A policy is made for one env and called as ``policy(ts) -> actions_BN``; it sees the whole battle (also what
lies beyond sight), never leaves the available actions, and has no loop over envs. Medivacs of every team but
`Random` heal the nearest damaged mate.

    policy = make("kiting", env, rng)
    ts = env.reset(rng)
    ts = env.step(policy(ts))

Reference for `Heuristic`: `heuristic_ai` of oxwhirl/smac d6aab33, with `heuristic_rest` (legal actions only).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from marl.envs.battle.maps import SIZE
from marl.envs.battle.units import LOOPS_PER_SECOND, TYPE, UNITS
from marl.errors import MarlError
from marl.rng import Rng
from marl.types import TimeStep

if TYPE_CHECKING:
    from marl.envs.battle.env import Battle

STOP, NORTH, SOUTH, EAST, WEST, MOVES_END = 1, 2, 3, 4, 5, 6  # SMAC's action ids
_FAR = 1e6  # stands for "not a target" where a smallest distance is sought
_TOUCH = 2.0  # map units between centres; SMACv2's floor of attack ranges
STEP_TICKS = 8  # ticks of the simulation in one step
_MELEE = 1.0  # map units; weapons of shorter range have to touch (zealot, zergling, baneling)


class Policy(ABC):
    """A scripted team for one env.

    Args:
        env: the batch of battles to play; its `state` is read, never written.
        rng: source of the random numbers (only `Random` draws any).
    """

    def __init__(self, env: Battle, rng: Rng) -> None:
        self.env, self.n = env, env.map.n_allies
        self.attack = env.tables.attack_base  # attack + k: attack enemy k, or heal mate k
        device = env.device
        self.heals = torch.tensor([u.heals for u in UNITS], device=device)
        self.melee = torch.tensor([u.range < _MELEE and not u.heals for u in UNITS], device=device)
        self.full_hp = torch.tensor([u.hp for u in UNITS], device=device)
        self.stream = rng.stream("scripted", env.num_envs, device)

    @abstractmethod
    def __call__(self, ts: TimeStep) -> Tensor:
        """Actions of all agents, int64 (B, N), every one available."""

    def sides(self, name: str) -> tuple[Tensor, Tensor]:
        """A part of the state, split into the agents' (B, N, ...) and the enemies' (B, E, ...)."""
        value = self.env.state[name]
        return value[:, : self.n], value[:, self.n :]

    def enemy_distances(self) -> Tensor:
        """Distance between centres (B, N, E); `_FAR` for dead enemies."""
        mine, theirs = self.sides("pos_BU2")
        alive_BE = self.sides("hp_BU")[1] > 0
        return torch.cdist(mine, theirs).masked_fill(~alive_BE[:, None], _FAR)

    def patients(self, *, damaged_only: bool) -> tuple[Tensor, Tensor]:
        """For every agent the nearest damaged living mate that is no medivac, else the nearest mate.

        Returns:
            index (B, N) and whether there is one (B, N) bool.
        """
        pos_BN2, hp_BN, type_BN = (self.sides(name)[0] for name in ("pos_BU2", "hp_BU", "type_BU"))
        able_BN = (hp_BN > 0) & ~self.heals[type_BN]
        hurt_BN = hp_BN < self.full_hp[type_BN]
        distance_BNN = torch.cdist(pos_BN2, pos_BN2)
        if damaged_only:
            able_BN = able_BN & hurt_BN
        else:
            distance_BNN = distance_BNN + (~hurt_BN[:, None]) * (_FAR / 100)  # healthy mates come last
        value, index = distance_BNN.masked_fill(~able_BN[:, None], _FAR).min(-1)
        return index, value < _FAR

    def approach(self, ts: TimeStep, goal_BN2: Tensor) -> Tensor:
        """The move along the larger of |dx| and |dy|, else along the other, else stop."""
        delta = goal_BN2 - self.sides("pos_BU2")[0]
        along_x = torch.where(delta[..., 0] > 0, EAST, WEST)
        along_y = torch.where(delta[..., 1] > 0, NORTH, SOUTH)
        x_first = delta[..., 0].abs() > delta[..., 1].abs()
        first, second = torch.where(x_first, along_x, along_y), torch.where(x_first, along_y, along_x)
        stop = torch.full_like(first, STOP)
        return first_available(ts.avail_BNA, first, second, stop)

    def engage(self, ts: TimeStep, target_BN: Tensor) -> Tensor:
        """Attack the enemy `target_BN`, or walk to it; medivacs heal or walk to their patient."""
        pos_BN2, pos_BE2 = self.sides("pos_BU2")
        healer_BN = self.heals[self.sides("type_BU")[0]]
        patient_BN, _ = self.patients(damaged_only=False)
        goal_BN2 = torch.where(healer_BN[..., None], at(pos_BN2, patient_BN), at(pos_BE2, target_BN))
        attack = self.attack + torch.where(healer_BN, patient_BN, target_BN)
        return first_available(ts.avail_BNA, attack, self.approach(ts, goal_BN2))


def at(values_BM2: Tensor, index_BN: Tensor) -> Tensor:
    """values[b, index[b, n]]: (B, N, 2)."""
    return values_BM2.gather(1, index_BN[..., None].expand(-1, -1, 2))


def first_available(avail_BNA: Tensor, *choices_BN: Tensor) -> Tensor:
    """The first of the choices that is available, else no-op (which only the dead are left with)."""
    actions = torch.zeros_like(choices_BN[0])
    for choice in reversed(choices_BN):
        known = choice < avail_BNA.shape[-1]  # a medivac may have more mates than there are enemies
        legal = avail_BNA.gather(-1, (choice * known)[..., None])[..., 0] & known
        actions = torch.where(legal, choice, actions)
    return actions


class Random(Policy):
    """Uniform over the available actions."""

    def __call__(self, ts: TimeStep) -> Tensor:
        state = self.env.state
        drawn = self.stream.fold(state["episode_B"], state["t_B"]).uniform(*ts.avail_BNA.shape[1:])
        return drawn.masked_fill(~ts.avail_BNA, -1.0).argmax(-1)


class Nearest(Policy):
    """Everyone attacks the enemy nearest to itself."""

    def __call__(self, ts: TimeStep) -> Tensor:
        return self.engage(ts, self.enemy_distances().argmin(-1))


class Focus(Policy):
    """All agents attack one enemy: of those that an agent can reach the weakest, ties to the nearest.

    A ranged agent reaches what it may attack, a melee agent what it nearly touches (it would leave its own
    fight and walk through the crowd for the rest). An agent that cannot reach the shared enemy attacks the
    nearest one. While nobody can reach anything the shared enemy is the one nearest to the whole team, and
    ranged agents walk to it.
    """

    def __call__(self, ts: TimeStep) -> Tensor:
        return self.engage(ts, self.targets(ts))

    def targets(self, ts: TimeStep) -> Tensor:
        """The enemy that each agent attacks or walks to, (B, N)."""
        type_BN, hp_BE = self.sides("type_BU")[0], self.sides("hp_BU")[1]
        distance_BNE = self.enemy_distances()
        melee_BN, fighter_BN = self.melee[type_BN], ts.alive_BN & ~self.heals[type_BN]
        reach_BNE = ts.avail_BNA[..., self.attack :] & fighter_BN[..., None]
        reach_BNE = reach_BNE & (~melee_BN[..., None] | (distance_BNE < _TOUCH))
        far_BE = distance_BNE.masked_fill(~ts.alive_BN[..., None], 0.0).sum(1)
        far_BE = far_BE / ts.alive_BN.sum(1, keepdim=True).clamp(min=1)  # mean over the living agents
        # CHOICE: a point of life weighs as much as a map unit of distance to the team
        life_BE = hp_BE + self.sides("shield_BU")[1]
        order_BE = torch.where(reach_BNE.any(1), life_BE + far_BE, _FAR / 2 + far_BE)
        shared_B = order_BE.masked_fill(hp_BE <= 0, _FAR).argmin(-1)
        shared_BN = shared_B[:, None].expand(-1, self.n)
        joins_BN = reach_BNE.gather(-1, shared_BN[..., None])[..., 0]
        alone_BN = ~joins_BN & (reach_BNE.any(-1) | melee_BN)
        return torch.where(alone_BN, distance_BNE.argmin(-1), shared_BN)


class Kiting(Focus):
    """Ranged agents shoot when the weapon will be ready within the step, else step away from melee enemies.

    An agent steps away only while a living melee enemy is within `danger`. Of its available moves it takes
    the one with the least pressure: the sum over melee enemies of exp(-distance), and the same for the map's
    edges, so that it does not run into a corner. Melee agents, and all against ranged enemies, play focus
    fire.
    """

    # CHOICE: both by wins on 3s_vs_5z (256 episodes each): danger 3, 4, 5, 6: 0.20, 0.62, 0.88, 0.89, but on
    # 2s3z 0.93, 0.92, 0.89, 0.83; hop 1, 1.5, 2.5: 0.88, 0.84, 0.67
    danger = 5.0  # map units between centres
    hop = 1.0  # map units looked ahead

    def __call__(self, ts: TimeStep) -> Tensor:
        state, fight = self.env.state, super().__call__(ts)
        loops = STEP_TICKS * LOOPS_PER_SECOND / self.env.config.time_base  # game loops in a step
        type_BN, type_BE = self.sides("type_BU")
        chaser_BE = self.melee[type_BE] & (self.sides("hp_BU")[1] > 0)
        runner_BN = ~self.melee[type_BN] & ~self.heals[type_BN]
        near_BN = self.enemy_distances().masked_fill(~chaser_BE[:, None], _FAR).amin(-1) < self.danger
        loading_BN = state["cooldown_BU"][:, : self.n] > loops
        blocked_BN4 = ~ts.avail_BNA[..., NORTH:MOVES_END]
        escape = NORTH + self.pressure(chaser_BE).masked_fill(blocked_BN4, _FAR).argmin(-1)
        run_BN = runner_BN & near_BN & loading_BN
        return torch.where(run_BN, first_available(ts.avail_BNA, escape, fight), fight)

    def pressure(self, chaser_BE: Tensor) -> Tensor:
        """How crowded it will be after a move north, south, east, west: (B, N, 4)."""
        pos_BN2, pos_BE2 = self.sides("pos_BU2")
        hops = torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]], device=self.env.device)
        there_BM2 = (pos_BN2[:, :, None] + self.hop * hops).flatten(1, 2)  # M = N * 4
        crowd_BM = (torch.exp(-torch.cdist(there_BM2, pos_BE2)) * chaser_BE[:, None]).sum(-1)
        edge_BM = torch.exp(-there_BM2).sum(-1) + torch.exp(there_BM2 - SIZE).sum(-1)
        return (crowd_BM + edge_BM).unflatten(1, (self.n, 4))


class Heuristic(Policy):
    """SMAC's `heuristic_ai`: stick to the nearest enemy until it dies, a medivac to the nearest damaged mate.

    Marauders skip medivacs. A target out of reach is walked to along the larger of |dx| and |dy|; a medivac
    without a patient stops.
    """

    def __init__(self, env: Battle, rng: Rng) -> None:
        super().__init__(env, rng)
        self.target_BN = torch.zeros(env.num_envs, self.n, dtype=torch.int64, device=env.device)

    def __call__(self, ts: TimeStep) -> Tensor:
        type_BN, type_BE = self.sides("type_BU")
        hp_BN, hp_BE = self.sides("hp_BU")
        healer_BN, hurt_BN = self.heals[type_BN], (hp_BN > 0) & (hp_BN < self.full_hp[type_BN])
        ground_only_BN = type_BN == TYPE["marauder"]
        skip_BNE = ground_only_BN[..., None] & (type_BE == TYPE["medivac"])[:, None]
        nearest_BN = self.enemy_distances().masked_fill(skip_BNE, _FAR).argmin(-1)
        patient_BN, any_BN = self.patients(damaged_only=True)
        old_BN = self.target_BN
        keep_enemy = (hp_BE > 0).gather(1, old_BN.clamp(max=hp_BE.shape[1] - 1))
        keep_mate = hurt_BN.gather(1, old_BN.clamp(max=self.n - 1))
        keep_BN = torch.where(healer_BN, keep_mate, keep_enemy) & (ts.t_B > 0)[:, None]
        self.target_BN = torch.where(keep_BN, old_BN, torch.where(healer_BN, patient_BN, nearest_BN))
        pos_BN2, pos_BE2 = self.sides("pos_BU2")
        mate_BN2 = at(pos_BN2, self.target_BN.clamp(max=self.n - 1))
        enemy_BN2 = at(pos_BE2, self.target_BN.clamp(max=hp_BE.shape[1] - 1))
        goal_BN2 = torch.where(healer_BN[..., None], mate_BN2, enemy_BN2)
        stop = torch.full_like(patient_BN, STOP)
        idle_BN = healer_BN & ~keep_BN & ~any_BN
        attack = self.attack + self.target_BN
        actions = first_available(ts.avail_BNA, attack, self.approach(ts, goal_BN2), stop)
        return torch.where(idle_BN & ts.alive_BN, stop, actions)


POLICIES: dict[str, type[Policy]] = {
    "random": Random, "nearest": Nearest, "focus": Focus, "kiting": Kiting, "heuristic": Heuristic,
}  # fmt: skip


def make(name: str, env: Battle, rng: Rng) -> Policy:
    """The scripted team of this name.

    Raises:
        MarlError: there is none.
    """
    if name not in POLICIES:
        raise MarlError(f"policy={name!r} is no scripted team: give one of {', '.join(POLICIES)}")
    return POLICIES[name](env, rng)
