"""`StarCraft`: B games side by side as one env. A game is a process of its own; each is stepped by a thread.

A step waits for the slowest game. This is the one world whose `step` goes through envs one by one: there is
nothing to batch in foreign processes.

DEVIATION: StarCraft II cannot save a fight. `state_dict` holds the random keys, episode numbers and what was
shown last; after `load_state_dict` the next `step` cuts the running episodes off (truncated, reward 0) and
starts new ones. So a run goes on after a break, but not bit for bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from marl.envs.starcraft.config import Config
from marl.envs.starcraft.frame import Frame, Player
from marl.envs.starcraft.imports import find_smac, load
from marl.envs.starcraft.install import find_game, map_path
from marl.envs.starcraft.raw_game import RawGame
from marl.envs.starcraft.smac_game import SmacGame
from marl.errors import MarlError
from marl.rng import Rng, Stream
from marl.types import TimeStep


def players(config: Config, num_envs: int) -> list[Player]:
    """The games, not yet started: SMAC's own environment where it is installed, else pysc2.

    Raises:
        MarlError: what is needed is missing.
    """
    modules = load()
    smac = None if config.engine == "pysc2" else find_smac()
    if config.engine == "smac" and smac is None:
        raise MarlError(
            "engine='smac' cannot be used: smac.env.StarCraft2Env is missing (the index's package smac is "
            "another one): pip install --no-deps git+https://github.com/oxwhirl/smac"
        )
    map_file = map_path(Path(find_game(modules, config.game_version).data_dir), config.map)
    names = [f"env {b}" for b in range(num_envs)]
    if smac is not None:
        return [SmacGame(config, smac, name=name) for name in names]
    return [RawGame(config, modules, name=name, map_file=map_file) for name in names]


class StarCraft:
    """B games of one map.

    Args:
        config: map and options.
        players: the games.
        device: of all tensors.
    """

    def __init__(self, config: Config, *, players: Sequence[Player], device: torch.device) -> None:
        self.config, self.num_envs, self.device = config, len(players), device
        self.spec = config.spec
        self.players = tuple(players)
        self._threads = ThreadPoolExecutor(self.num_envs, "starcraft")
        self._close = weakref.finalize(self, _close, self.players, self._threads)
        self._key_B = torch.zeros(self.num_envs, dtype=torch.int64)
        self._episode_B, self._t_B = torch.zeros_like(self._key_B), torch.zeros_like(self._key_B)
        self._frames: list[Frame] = []
        self._cut = False  # whether the next step cuts the running episodes off

    def reset(self, rng: Rng) -> TimeStep:
        """Start new games; the one of env b is seeded by ``rng.stream("env", num_envs)`` row b."""
        self._key_B = rng.stream("env", self.num_envs).key_B
        self._episode_B, self._t_B = torch.zeros_like(self._key_B), torch.zeros_like(self._key_B)
        self._cut = False
        self._frames = self._begin()
        nothing = [False] * self.num_envs
        return self._timestep(self._frames, torch.tensor(nothing), torch.tensor(nothing))

    def _begin(self) -> list[Frame]:
        seed_B = Stream(self._key_B).fold(self._episode_B).integers(2**31 - 1)
        return list(self._threads.map(lambda player, seed: player.begin(seed), self.players, seed_B.tolist()))

    def step(self, actions_BN: Tensor) -> TimeStep:
        """`step_mul` game loops of every game; an unavailable action is carried out as stop.

        Args:
            actions_BN: int64 (B, N).
        """
        shape = (self.num_envs, self.spec.n_agents)
        if actions_BN.shape != shape or actions_BN.dtype != torch.int64:
            raise MarlError(
                f"actions of shape {tuple(actions_BN.shape)} and {actions_BN.dtype}: give int64 {shape}"
            )
        if self._cut:
            self._cut = False
            self._episode_B = self._episode_B + 1
            last, self._frames = self._frames, self._begin()
        else:
            turns = list(self._threads.map(_turn, self.players, actions_BN.tolist()))
            last, self._frames = [old for old, _ in turns], [new for _, new in turns]
            self._episode_B = self._episode_B + torch.tensor([frame.done for frame in last])
        terminated_B = torch.tensor([frame.terminated for frame in last])
        truncated_B = torch.tensor([frame.truncated for frame in last])
        self._t_B = torch.where(terminated_B | truncated_B, 0, self._t_B + 1)
        ts = self._timestep(last, terminated_B, truncated_B)
        ts.final_obs_BNO = torch.stack([frame.obs_NO for frame in last]).to(self.device)
        ts.final_state_BS = torch.stack([frame.state_S for frame in last]).to(self.device)
        ts.final_avail_BNA = torch.stack([frame.avail_NA for frame in last]).to(self.device)
        return ts

    def _timestep(self, last: Sequence[Frame], terminated_B: Tensor, truncated_B: Tensor) -> TimeStep:
        """Reward and info of the step's frames, all else of the frames now shown."""
        device = self.device
        avail_BNA = torch.stack([frame.avail_NA for frame in self._frames]).to(device)
        return TimeStep(
            obs_BNO=torch.stack([frame.obs_NO for frame in self._frames]).to(device),
            state_BS=torch.stack([frame.state_S for frame in self._frames]).to(device),
            avail_BNA=avail_BNA,
            terminated_B=terminated_B.to(device),
            truncated_B=truncated_B.to(device),
            present_BN=torch.ones_like(avail_BNA[..., 0]),
            alive_BN=~avail_BNA[..., 0],  # the dead alone may do nothing
            t_B=self._t_B.to(device),
            reward_B=torch.tensor([frame.reward for frame in last], device=device),
            info={
                "success": torch.tensor([frame.success for frame in last], device=device),
                "dead_allies": torch.tensor([frame.dead_allies for frame in last], device=device),
                "dead_enemies": torch.tensor([frame.dead_enemies for frame in last], device=device),
            },
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Keys, episode numbers and what was shown last; not the fights, which the game cannot save."""
        out = {"key_B": self._key_B.clone(), "episode_B": self._episode_B.clone()}
        for name in ("obs_NO", "state_S", "avail_NA"):
            if self._frames:
                out[f"shown.{name}"] = torch.stack([getattr(frame, name) for frame in self._frames])
        return out

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the run; the running episodes are cut off at the next step."""
        if state["key_B"].shape != (self.num_envs,) or "shown.obs_NO" not in state:
            raise MarlError(f"starcraft state: it is not of {self.num_envs} started games; give its num_envs")
        self._key_B, self._episode_B = state["key_B"].cpu().clone(), state["episode_B"].cpu().clone()
        self._frames = [
            Frame(
                obs_NO=state["shown.obs_NO"][b].cpu().clone(),
                state_S=state["shown.state_S"][b].cpu().clone(),
                avail_NA=state["shown.avail_NA"][b].cpu().clone(),
                truncated=True,
            )
            for b in range(self.num_envs)
        ]
        self._cut = True

    def render(self, index: int = 0) -> np.ndarray:
        """RGB picture (H, W, 3), uint8: the living units seen from above."""
        from marl.envs.starcraft.draw import draw

        player = self.players[index]
        return draw(f"{self.config.map}  STEP {int(self._t_B[index])}", player.size, player.dots())

    def close(self) -> None:
        """End the games' processes; also happens when the env is forgotten and at the program's end."""
        self._close()


def _turn(player: Player, actions: list[int]) -> tuple[Frame, Frame]:
    """A step and what is shown after it: the next episode's start where it ended."""
    frame = player.step(actions)
    return frame, player.again() if frame.done else frame


def _close(players: Sequence[Player], threads: ThreadPoolExecutor) -> None:
    for player in players:
        player.close()
    threads.shutdown(wait=False, cancel_futures=True)
