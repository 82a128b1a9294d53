"""Orders, reward and the end of an episode in the torch form, and its step; battle.cpp is the C++ form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from marl.envs.battle.config import Config
from marl.envs.battle.observe import Observer
from marl.envs.battle.spawn import Spawner
from marl.envs.battle.tables import TICKS, Tables
from marl.envs.battle.torch_form import Simulation, State
from marl.types import TimeStep

DEATH_VALUE, WIN_VALUE = 10.0, 200.0  # points of a kill and of a win (SMAC)
NEGATIVE_SCALE = 0.5  # weight of own losses in the signed reward (SMAC)
REWARD_SCALE = 20.0  # a perfect episode returns this (SMAC)
_MOVE = ((0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (-1.0, 0.0))  # north, south, east, west
_MOVE_AMOUNT = 2.0  # map units that a move order reaches (SMAC)


@dataclass(kw_only=True)
class Verdict:
    """Outcome of a step, (B,) each."""

    terminated: Tensor
    truncated: Tensor
    success: Tensor
    reward: Tensor
    dead_allies: Tensor
    dead_enemies: Tensor


class TorchForm:
    """The whole world in torch; the same three calls as `native.Native`, on a state dict.

    Args:
        config, tables: of the map.
        device: of all tensors.
    """

    def __init__(self, config: Config, tables: Tables, device: torch.device) -> None:
        self.config, self.tables, self.n = config, tables, tables.map.n_allies
        self.simulation = Simulation(tables, device)
        self.observer = Observer(config, tables, device)
        self.spawner = Spawner(tables, device)
        self.moves = torch.tensor(_MOVE, device=device)

    def reset(self, state: State) -> None:
        """Start the episodes whose numbers the state holds."""
        for name, value in self.spawner(state["key_B"], state["episode_B"]).items():
            state[name].copy_(value)

    def observe(self, state: State) -> TimeStep:
        """The TimeStep of the state as it stands."""
        obs, full, avail = self.observer(state, self.simulation.constants(state["type_BU"]))
        zero = torch.zeros_like(state["t_B"])
        alive = state["hp_BU"][:, : self.n] > 0
        return TimeStep(
            obs_BNO=obs, state_BS=full, avail_BNA=avail, terminated_B=zero > 0, truncated_B=zero > 0,
            present_BN=torch.ones_like(alive), alive_BN=alive, t_B=state["t_B"].clone(),
            reward_B=zero.float(),
            info={"success": zero > 0, "dead_allies": zero.clone(), "dead_enemies": zero.clone()},
        )  # fmt: skip

    def step(self, state: State, actions_BN: Tensor) -> TimeStep:
        """One step of every battle; changes the state's tensors in place."""
        k = self.simulation.constants(state["type_BU"])
        s = dict(state)
        before = s["hp_BU"] + s["shield_BU"]
        moving_BN, to_BN2 = self._orders(s, k, actions_BN)
        for _ in range(TICKS):
            s = self.simulation.tick(s, k, moving_BN, to_BN2)
        s["t_B"] = s["t_B"] + 1
        v = judge(self.config, self.tables, s, k, before)
        done = v.terminated | v.truncated
        final = self.observer(s, k)
        for name, value in s.items():
            state[name].copy_(value)
        now = final
        rows = done.nonzero()[:, 0]
        if rows.numel():
            state["episode_B"][rows] += 1
            fresh = self.spawner(state["key_B"][rows], state["episode_B"][rows])
            for name, value in fresh.items():
                state[name][rows] = value
            now = self.observer(state, self.simulation.constants(state["type_BU"]))
        alive = state["hp_BU"][:, : self.n] > 0
        return TimeStep(
            obs_BNO=now[0], state_BS=now[1], avail_BNA=now[2], terminated_B=v.terminated,
            truncated_B=v.truncated, present_BN=torch.ones_like(alive), alive_BN=alive,
            t_B=state["t_B"].clone(), reward_B=v.reward, final_obs_BNO=final[0], final_state_BS=final[1],
            final_avail_BNA=final[2],
            info={"success": v.success, "dead_allies": v.dead_allies, "dead_enemies": v.dead_enemies},
        )  # fmt: skip

    def _orders(self, s: State, k: State, actions_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Carry out the actions' orders in `s`; returns who moves and where to. Not available means stop.

        CHOICE: a look turns the view and stops the unit.
        """
        n, base = self.n, self.tables.attack_base
        _, _, avail_BNA = self.observer(s, k)
        last = self.tables.n_actions - 1
        legal = avail_BNA.gather(2, actions_BN.clamp(0, last)[..., None])[..., 0]
        legal &= (actions_BN >= 0) & (actions_BN <= last)
        moving = legal & (actions_BN >= 2) & (actions_BN < 6)
        to = s["pos_BU2"][:, :n] + _MOVE_AMOUNT * self.moves[(actions_BN - 2).clamp(0, 3)]
        looking = legal & (actions_BN >= 6) & (actions_BN < base)
        s["facing_BN"] = torch.where(looking, actions_BN - 6, s["facing_BN"])
        attacking = legal & (actions_BN >= base)
        heals_BN = k["heals"][:, :n]
        target = (actions_BN - base) + torch.where(heals_BN, 0, n)
        at = target.clamp(0, s["hp_BU"].shape[1] - 1)
        attacking &= heals_BN | ~k["air"].gather(1, at) | k["hits_air"][:, :n]
        target_BN = torch.where(attacking, target, -1)
        s["target_BU"] = torch.cat([target_BN, s["target_BU"][:, n:]], 1)
        s["last_actions_BN"] = actions_BN.clone()
        return moving, to


def judge(config: Config, tables: Tables, s: State, k: State, before_BU: Tensor) -> Verdict:
    """Reward and end of the step that led to the state `s`.

    DEVIATION: SMACv2 scales by the first episode's enemies for ever; here by those of each episode, so
    that a perfect kill returns 20 whatever teams are drawn.

    Args:
        config, tables: of the map.
        s: the state after the step: hp_BU, shield_BU (0 where dead) and t_B are read.
        k: constants of its units: hp, shield (full values) and heals are read.
        before_BU: hp + shield before the step.
    """
    n = tables.map.n_allies
    was, alive = before_BU > 0, s["hp_BU"] > 0
    lost_BU = torch.where(was, before_BU - (s["hp_BU"] + s["shield_BU"]), torch.zeros_like(before_BU))
    died = was & ~alive
    fights = alive & ~k["heals"]
    ours, theirs = fights[:, :n].any(1), fights[:, n:].any(1)
    success, over = ours & ~theirs, ~ours | ~theirs
    reward = _sum(lost_BU[:, n:]) + DEATH_VALUE * died[:, n:].sum(1)
    if tables.reward == "abs":
        reward = reward.abs()
    elif tables.reward == "clamp":
        reward = reward.clamp(min=0.0)
    elif tables.reward == "signed":
        reward = reward - NEGATIVE_SCALE * DEATH_VALUE * died[:, :n].sum(1)
        reward = reward - NEGATIVE_SCALE * _sum(lost_BU[:, :n])
    full = _sum((k["hp"] + k["shield"])[:, n:])
    best = DEATH_VALUE * tables.map.n_enemies + WIN_VALUE + full
    reward = (reward + WIN_VALUE * success) / (best / REWARD_SCALE)
    if tables.reward == "sparse":
        reward = success.float() - (~ours & theirs).float()
    limit = ~over & (s["t_B"] >= tables.map.limit)
    return Verdict(
        terminated=over | (limit & (not config.continuing_episode)),
        truncated=limit & config.continuing_episode,
        success=success,
        reward=reward,
        dead_allies=(~alive[:, :n]).sum(1),
        dead_enemies=(~alive[:, n:]).sum(1),
    )


def _sum(points_BU: Tensor) -> Tensor:
    """Sum over units in double: the same in any order, so that both forms agree."""
    return points_BU.double().sum(1).float()
