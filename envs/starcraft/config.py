"""Config of StarCraft II on SMAC's maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from marl.envs import battle
from marl.envs.battle import layout, tables
from marl.envs.battle.maps import find
from marl.errors import require
from marl.types import EnvSpec

if TYPE_CHECKING:
    from marl.envs.starcraft.env import StarCraft

DIFFICULTIES = "123456789A"  # SMAC's letters, VeryEasy .. CheatInsane


@dataclass(kw_only=True)
class Config:
    """A map of SMAC in StarCraft II; the defaults are SMAC's."""

    exact_resume: ClassVar[bool] = False  # a game cannot be saved: marl.resume and attacks say so

    map: str = "3m"  # one of SMAC's 23: marl.envs.battle.maps.SMAC
    engine: Literal["auto", "pysc2", "smac"] = (
        "auto"  # auto: smac.env.StarCraft2Env where installed, else pysc2
    )
    reward: Literal["abs", "clamp", "signed", "sparse"] = "abs"  # abs (SMAC); clamp: max(., 0) as SMACv2
    difficulty: str = "7"  # of the built-in AI, 1 .. 9 or A (SMAC: 7, VeryHard)
    step_mul: int = 8  # game loops (1/22.4 s) in a step, >= 1 (SMAC: 8)
    max_envs: int = 8  # games at a time in an evaluation, >= 1, about 1 GiB of memory each. CHOICE
    game_version: str = ""  # "4.10.0", say; "": the newest that is installed (pysc2)
    continuing_episode: bool = False  # the step limit truncates instead of terminating (SMAC: False)
    obs_last_action: bool = False  # mates' last actions in the observation (SMAC: False)
    obs_pathing: bool = False  # 8 pathing values around the agent (SMAC: False)
    obs_height: bool = False  # 9 terrain heights around the agent (SMAC: False)
    obs_timestep: bool = False  # t / limit at the end of the observation (SMAC: False)
    state_last_action: bool = True  # last actions in the state (SMAC: True)
    state_timestep: bool = False  # t / limit at the end of the state (SMAC: False)

    def __post_init__(self) -> None:
        fixed = not find(self.map).random_teams
        require(fixed, "map", self.map, "SMACv2's maps are not driven; give one of SMAC's 23, such as 3m")
        known = len(str(self.difficulty)) == 1 and str(self.difficulty) in DIFFICULTIES
        require(known, "difficulty", self.difficulty, "give 1 to 9 or A")
        require(self.step_mul >= 1, "step_mul", self.step_mul, "give an integer >= 1")
        require(self.max_envs >= 1, "max_envs", self.max_envs, "give an integer >= 1")

    @property
    def battle(self) -> battle.Config:
        """The battle world with the same layout and reward."""
        return battle.Config(
            map=self.map,
            reward=self.reward,
            continuing_episode=self.continuing_episode,
            obs_last_action=self.obs_last_action,
            obs_pathing=self.obs_pathing,
            obs_height=self.obs_height,
            obs_timestep=self.obs_timestep,
            state_last_action=self.state_last_action,
            state_timestep=self.state_timestep,
        )

    @property
    def spec(self) -> EnvSpec:
        """What the world promises, known without the game: battle's, under its own name."""
        config = self.battle
        return replace(layout.spec(config, tables.build(config)), name=f"starcraft/{self.map}")

    def build(self, *, num_envs: int, device: torch.device, threads: int = 1) -> StarCraft:
        """A batch of games, one process of StarCraft II each; they start at `reset`.

        Args:
            num_envs: B, at least 1; a game takes about 1 GiB of memory.
            device: where the tensors live.
            threads: unused: the games run in processes of their own.

        Raises:
            MarlError: pysc2, the game or the map is missing.
        """
        from marl.envs.starcraft.env import StarCraft, players

        require(num_envs >= 1, "num_envs", num_envs, "give at least 1")
        return StarCraft(self, players=players(self, num_envs), device=torch.device(device))
