"""Config of the battle worlds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from marl.envs.battle.maps import find
from marl.errors import require

if TYPE_CHECKING:
    from marl.envs.battle.env import Battle


@dataclass(kw_only=True)
class Config:
    """A battle map with its options; the defaults are SMAC's (SMACv2's on the v2 maps)."""

    map: str = "3m"  # name in marl.envs.battle.maps.MAPS
    form: Literal["auto", "torch", "native"] = "auto"  # auto: C++ on the CPU, torch elsewhere
    time_base: float = 22.4  # ticks per second, 8 a step: 22.4 as StarCraft II, or 16 as SMAClite and SMAX
    reward: Literal["auto", "abs", "clamp", "signed", "sparse"] = "auto"  # auto: abs (SMAC), clamp on v2 maps
    spawn_jitter: float = 0.1  # map units; every unit starts within +- this of its place. CHOICE: small
    cooldown_jitter: float = 1.0  # fraction of its cooldown that a unit's first attack may wait. CHOICE
    cone: bool = False  # SMACv2's cone view: 12 look actions, sees and attacks within 30 degrees only
    continuing_episode: bool = False  # the step limit truncates instead of terminating (SMAC: False)
    obs_last_action: bool = False  # mates' last actions in the observation (SMAC: False)
    obs_pathing: bool = False  # 8 pathing values around the agent (SMAC: False)
    obs_height: bool = False  # 9 terrain heights around the agent (SMAC: False)
    obs_timestep: bool = False  # t / limit at the end of the observation (SMAC: False)
    obs_own_position: bool | None = None  # own x and y, as fractions of the map; None: on v2 and scouted maps
    state_last_action: bool = True  # last actions in the state (SMAC: True)
    state_timestep: bool = False  # t / limit at the end of the state (SMAC: False)

    def __post_init__(self) -> None:
        find(self.map)
        require(self.time_base in (22.4, 16), "time_base", self.time_base, "give 22.4 or 16")
        require(0 <= self.spawn_jitter <= 2, "spawn_jitter", self.spawn_jitter, "give a number in [0, 2]")
        require(
            0 <= self.cooldown_jitter <= 1, "cooldown_jitter", self.cooldown_jitter, "give a number in [0, 1]"
        )

    def build(self, *, num_envs: int, device: torch.device, threads: int = 1) -> Battle:
        """A batch of worlds.

        Args:
            num_envs: B, at least 1.
            device: where all tensors live; the C++ form needs the CPU.
            threads: upper limit of threads of the C++ form, at least 1.
        """
        from marl.envs.battle.env import Battle

        return Battle(self, num_envs=num_envs, device=torch.device(device), threads=threads)
