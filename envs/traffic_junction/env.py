"""Cars arrive at a crossing, each drives its own route, and nobody may be where another is.

| symbol | name here | meaning |
|---|---|---|
| N | slots | agents; a slot holds a car from its arrival until it leaves the grid |
| tau_i | wait_BN | steps since car i arrived; 1 after its first action |
| x_i | way_BN | cells of its route that car i has covered |
| p | rate | chance of an arrival per point and step; grows over training (`Config.rate`) |
| r_i | agent_reward_BN | alive_i * (-0.01 tau_i - 10 [car i shares its cell]) |

A step: cars move (gas 0 advances one cell, brake 1 stays; gas on the last cell leaves the grid and pays
nothing), then cars arrive, then rewards and observations follow. An arrival takes a random free slot and a
random route of its point; there are none once all slots are taken. An occupied entry is no obstacle to it,
and cars survive crashes. An episode always lasts `limit` steps; it is a success when no step saw a crash.

What a learner must know:
* A slot without a car is not alive, observes zeros and can only take gas, which does nothing. All slots are
  present throughout. At an episode's start there is no car at all.
* The step on which a car leaves belongs to it: it is alive at its start and not after it. A new car may
  arrive in the same slot in the same step; `info["left"]` (B, N) tells. Recurrent states are of slots.
* The reward of a car that arrives onto another one falls into the step before its first action.
* CHOICE: the limit truncates, since no car sees the clock. IC3Net's returns end there.

`info`: success (bool, of the episode so far; valid where done), crashes (cars on shared cells, summed over
the episode's steps), throughput (cars that got through), arrival_rate (p), left (above).

Reference: Sukhbaatar, Szlam, Fergus, "Learning Multiagent Communication with Backpropagation", NeurIPS 2016;
the step, its order and its rewards follow the released code of IC3Net (see geometry.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from marl import tree
from marl.envs.traffic_junction.config import Config
from marl.envs.traffic_junction.geometry import LEVELS, roads
from marl.envs.traffic_junction.observe import PER_CAR, Tables
from marl.envs.traffic_junction.render import draw
from marl.rng import Rng, Stream
from marl.types import Discrete, EnvSpec, TimeStep

_WAIT = 0.01  # reward lost per step and step waited; released code of IC3Net
_CRASH = {"ic3net": 10.0, "commnet": 5.0}  # reward lost per step on a shared cell; released codes
_TAKEN = torch.iinfo(torch.int64).max  # sorts behind every random key
_OF_CAR = ("route", "way", "wait", "last")
_OF_ENV = ("key", "episode", "steps", "t", "crashes", "throughput")
_STATE = (*(f"{name}_B" for name in _OF_ENV), "alive_BN", *(f"{name}_BN" for name in _OF_CAR))


def _unit(bits: Tensor) -> Tensor:
    """Random bits as float64 numbers, uniform on [0, 1): their highest 53 bits."""
    return ((bits >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53


class _View(NamedTuple):
    """What can be seen of a batch."""

    crashed_BN: Tensor  # bool; shares its cell
    obs_BNO: Tensor
    state_BS: Tensor
    avail_BNA: Tensor


class TrafficJunction:
    """B junctions.

    Args:
        config: which.
        num_envs: B.
        device: of all tensors.
    """

    def __init__(self, config: Config, *, num_envs: int, device: torch.device) -> None:
        self.config, self.num_envs, self.device = config, num_envs, device
        self.level, self.roads = LEVELS[config.level], roads(config.level)
        self.tables = Tables(self.roads, config.vision, device)
        self._end_R = self.tables.length_R - int(config.rules == "commnet")  # a car with x_i = end has left
        N = self.level.cars
        self.spec = EnvSpec(
            name=config.label,
            agents=tuple(f"car_{i}" for i in range(N)),
            agent_types=("car",) * N,
            obs_size=self.tables.obs_CO.shape[1],
            state_size=N * PER_CAR + len(self.roads.cells),
            action_spaces=(Discrete(n=2),) * N,
            action_names=("gas", "brake"),
            obs_slices={"car": self.tables.slices(N)},
            reward="agent",
            episode_limit=config.steps,
        )
        zeros_B = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self.key_B, self.episode_B, self.t_B = zeros_B, zeros_B, zeros_B
        self.steps_B = zeros_B  # since `reset`, over all episodes; times B these are team steps
        self.crashes_B, self.throughput_B = zeros_B, zeros_B  # of this episode
        self._stream = Stream(zeros_B)  # of the present episodes
        zeros_BN = torch.zeros(num_envs, N, dtype=torch.int64, device=device)
        self.alive_BN = zeros_BN.bool()
        # Of the car in a slot, zero without one: route, x_i, tau_i, last action.
        self.route_BN, self.way_BN, self.wait_BN, self.last_BN = zeros_BN, zeros_BN, zeros_BN, zeros_BN

    def reset(self, rng: Rng) -> TimeStep:
        """Start episode 0 everywhere, and the curriculum with it."""
        self.key_B = rng.stream("traffic", self.num_envs, self.device).key_B
        self.episode_B, self.steps_B = torch.zeros_like(self.key_B), torch.zeros_like(self.key_B)
        self._stream = Stream(self.key_B).fold(self.episode_B)
        everywhere_B = torch.ones_like(self.key_B, dtype=torch.bool)
        self._begin(everywhere_B)
        nothing_BN = torch.zeros_like(self.alive_BN, dtype=torch.float32)
        return self._timestep(self._look(), ~everywhere_B, nothing_BN)

    def _begin(self, where_B: Tensor) -> None:
        """An episode's start: no car anywhere."""
        for name in ("t", "crashes", "throughput"):
            setattr(self, f"{name}_B", getattr(self, f"{name}_B").masked_fill(where_B, 0))
        for name in ("alive", *_OF_CAR):
            setattr(self, f"{name}_BN", getattr(self, f"{name}_BN").masked_fill(where_B[:, None], 0))

    def step(self, actions_BN: Tensor) -> TimeStep:
        rate_B = self.config.rate(self.steps_B * self.num_envs)
        left_BN = self._move(actions_BN)
        self._arrive(rate_B)
        self.t_B, self.steps_B = self.t_B + 1, self.steps_B + 1
        final = self._look()
        crashed_BN = final.crashed_BN
        self.crashes_B = self.crashes_B + crashed_BN.sum(1)
        self.throughput_B = self.throughput_B + left_BN.sum(1)
        info = {
            "success": self.crashes_B == 0,
            "crashes": self.crashes_B,
            "throughput": self.throughput_B,
            "arrival_rate": rate_B,
            "left": left_BN,
        }
        reward_BN = -_WAIT * self.wait_BN - _CRASH[self.config.rules] * crashed_BN
        done_B = self.t_B >= self.config.steps
        now = final
        if done_B.any():
            self.episode_B = self.episode_B + done_B
            self._stream = Stream(self.key_B).fold(self.episode_B)
            self._begin(done_B)
            now = self._look()
        ts = self._timestep(now, done_B, reward_BN)
        ts.final_obs_BNO, ts.final_state_BS = final.obs_BNO, final.state_BS
        ts.final_avail_BNA = final.avail_BNA
        ts.info = info
        return ts

    def _move(self, actions_BN: Tensor) -> Tensor:
        """Every car gasses or brakes; returns who left, bool (B, N)."""
        way_BN = self.way_BN + (actions_BN == 0)
        left_BN = self.alive_BN & (way_BN >= self._end_R[self.route_BN])
        self._keep(self.alive_BN & ~left_BN, self.route_BN, way_BN, self.wait_BN + 1, actions_BN)
        return left_BN

    def _keep(self, alive_BN: Tensor, *of_car: Tensor) -> None:
        """Set all slots; what is not alive becomes zero."""
        self.alive_BN = alive_BN
        for name, value_BN in zip(_OF_CAR, of_car, strict=True):
            setattr(self, f"{name}_BN", value_BN * alive_BN)

    def _arrive(self, rate_B: Tensor) -> None:
        """New cars: the k-th of a step takes the k-th free slot of a random order, while there is one."""
        P, N, K = len(self.level.points), self.level.cars, self.roads.per_point
        bits_BX = self._stream.fold(self.t_B).bits(P + 2 * N)
        come_BP, order_BN, choice_BN = bits_BX.split((P, N, N), 1)
        nth_BP = (_unit(come_BP) < rate_B[:, None]).cumsum(1)  # arrivals up to each point
        rank_BN = order_BN.masked_fill(self.alive_BN, _TAKEN).argsort(1).argsort(1)  # 0: the first free slot
        new_BN = ~self.alive_BN & (rank_BN < nth_BP[:, -1:])
        point_BN = (nth_BP[:, None] <= rank_BN[..., None]).sum(-1)  # whose arrival has this rank
        route_BN = point_BN * K + (_unit(choice_BN) * K).long()
        self.route_BN = torch.where(new_BN, route_BN, self.route_BN)
        # Way, wait and last action of a free slot are zero already. DEVIATION: in IC3Net's code a car begins
        # with the last action of the slot's car before, and that one's last gas, by which it left, is not
        # noted: a newcomer may seem to have braked.
        self.alive_BN = self.alive_BN | new_BN

    def _look(self) -> _View:
        """Everything that can be seen of the present state."""
        tables, steps = self.tables, self.config.steps
        place_BN = tables.place(self.route_BN, self.way_BN, self.alive_BN)
        cell_BN = tables.cell_E[place_BN]
        count_BC = tables.count(cell_BN)
        gas_BN, brake_BN = torch.ones_like(self.alive_BN), self.alive_BN
        return _View(
            crashed_BN=count_BC.gather(1, cell_BN) > 1,
            obs_BNO=tables.observe(cell_BN, count_BC, self.route_BN, self.last_BN),
            state_BS=tables.state(place_BN, count_BC, self.wait_BN / steps, self.last_BN),
            avail_BNA=torch.stack([gas_BN, brake_BN], -1),
        )

    def _timestep(self, view: _View, truncated_B: Tensor, reward_BN: Tensor) -> TimeStep:
        return TimeStep(
            obs_BNO=view.obs_BNO,
            state_BS=view.state_BS,
            avail_BNA=view.avail_BNA,
            terminated_B=torch.zeros_like(truncated_B),
            truncated_B=truncated_B,
            present_BN=torch.ones_like(self.alive_BN),
            alive_BN=self.alive_BN,
            t_B=self.t_B,
            agent_reward_BN=reward_BN,
        )

    def state_dict(self) -> dict[str, Tensor]:
        return tree.copy_of(self, _STATE)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        tree.put_back(self, _STATE, state, self.device)
        self._stream = Stream(self.key_B).fold(self.episode_B)

    def render(self, index: int = 0) -> np.ndarray:
        """The roads from above; see render.py."""
        return draw(self, index)
