"""One process of StarCraft II driven through pysc2's raw interface, with SMAC's rules around it.

A step sends the orders, runs `step_mul` game loops, observes, and computes observation, state,
availability, reward and end by the code of `marl.envs.battle` (layout and rules are SMAC's there). The next
episode begins by killing all units, upon which a trigger in SMAC's maps makes new ones.

CHOICE: availability asks the map's pathing grid for every unit, as SMAC does; battle lets flyers and colossi
pass their own ground.
CHOICE: when the process dies a new one is started, as SMAC does, and the running episode is truncated (SMAC
terminates it): the learner bootstraps, since nothing was lost in the game. The third death in a row ends the
run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from marl.envs.battle import tables as tables_
from marl.envs.battle.observe import Observer
from marl.envs.battle.rules import judge
from marl.envs.battle.terrain import GROUND
from marl.envs.battle.torch_form import Simulation, State
from marl.envs.battle.units import UNITS
from marl.envs.starcraft import ground
from marl.envs.starcraft.config import DIFFICULTIES, Config
from marl.envs.starcraft.frame import Dot, Frame
from marl.envs.starcraft.imports import Modules
from marl.envs.starcraft.install import FOLDER, find_game
from marl.envs.starcraft.orders import legal, request
from marl.envs.starcraft.roster import RACES, Roster, complete
from marl.errors import MarlError
from marl.rng import fold_int

_CPU = torch.device("cpu")
_DEATHS = 3  # of the process in a row before the run ends. CHOICE
_PATIENCE = 200  # game loops to wait for a map's units. CHOICE: SMAC waits for ever
_log = logging.getLogger(__name__)


def start_process(modules: Modules, config: Config) -> Any:
    """A new process of the game (pysc2's StarcraftProcess: `controller`, `close`)."""
    try:
        return find_game(modules, config.game_version).start(want_rgb=False)
    except modules.refusals as error:
        raise MarlError(f"StarCraft II does not start: {error}") from error


class RawGame:
    """One game; a `frame.Player`.

    Args:
        config: map and options.
        modules: pysc2.
        name: for messages ("env 3").
        map_file: the map.
        start: makes a process with `controller` and `close`; by default StarCraft II.
    """

    def __init__(
        self,
        config: Config,
        modules: Modules,
        *,
        name: str,
        map_file: Path,
        start: Callable[[Modules, Config], Any] = start_process,
    ) -> None:
        self.config, self.modules, self.name, self.map_file = config, modules, name, map_file
        self._start = start
        # RuntimeError: pysc2's, for an observation without content
        self._lost: tuple[type[Exception], ...] = (*modules.crashes, RuntimeError)
        self._battle = config.battle
        self.tables = tables_.build(self._battle)
        self._constants = Simulation(self.tables, _CPU).constants
        self._process: Any = None
        self._seed, self._starts, self._deaths = 0, 0, 0
        self.size = (0.0, 0.0)

    @property
    def _controller(self) -> Any:
        return self._process.controller

    # Starting

    def begin(self, seed: int) -> Frame:
        self._seed, self._starts = seed, 0
        return self._survive(self._new_game)

    def again(self) -> Frame:
        return self._survive(self._next_episode)

    def _survive(self, start: Callable[[], None]) -> Frame:
        """Start an episode; if the process dies of it, try again with a new one."""
        while True:
            try:
                start()
                self._await_units()
                return self._first()
            except self.modules.crashes as error:
                self._bury(error)
                start = self._new_game

    def _new_game(self) -> None:
        """Create and join a game; also starts the process if there is none."""
        api = self.modules.api
        if self._process is None:
            self._process = self._start(self.modules, self.config)
        scenario, difficulty = self.tables.map, DIFFICULTIES.index(str(self.config.difficulty)) + 1
        ours, theirs = (RACES[units[0]] for units in (scenario.ally_units, scenario.enemy_units))
        create = api.RequestCreateGame(
            local_map=api.LocalMap(
                map_path=f"{FOLDER}/{self.map_file.name}", map_data=self.map_file.read_bytes()
            ),
            realtime=False,
            random_seed=fold_int(self._seed, self._starts) >> 33,  # another one after each death
        )
        create.player_setup.add(type=api.Participant)
        create.player_setup.add(type=api.Computer, race=_race(self.modules, theirs), difficulty=difficulty)
        options = api.InterfaceOptions(raw=True, score=False)
        self._starts += 1
        try:
            self._controller.create_game(create)
            join = api.RequestJoinGame(race=_race(self.modules, ours), options=options)
            self._controller.join_game(join)
        except self.modules.refusals as error:
            raise MarlError(f"StarCraft II refuses the map {self.map_file}: {error}") from error
        start_raw = self._controller.game_info().start_raw
        self._observer = Observer(self._battle, self.tables, _CPU, ground.read(start_raw))
        self.size = (start_raw.map_size.x, start_raw.map_size.y)

    def _next_episode(self) -> None:
        """Kill whoever lives; the map's trigger then makes both teams anew."""
        if self._process is None:
            self._new_game()
            return
        hp_U = self._state["hp_BU"][0].tolist()
        command = self.modules.debug.DebugCommand()
        command.kill_unit.tag.extend(tag for tag, hp in zip(self.roster.tags, hp_U, strict=True) if hp > 0)
        self._controller.debug([command])
        self._controller.step(2)

    def _await_units(self) -> None:
        for _ in range(_PATIENCE):
            units = self._units()
            if complete(self.tables.map, units):
                self.roster = Roster(self.tables.map, units)
                return
            self._controller.step(1)
        raise MarlError(
            f"{self.map_file} made no {self.tables.map.n_allies} allies and {self.tables.map.n_enemies} "
            f"enemies within {_PATIENCE} game loops: put SMAC's own map file there"
        )

    def _units(self) -> list[Any]:
        return list(self._controller.observe().observation.raw_data.units)

    def _first(self) -> Frame:
        n = self.tables.map.n_allies
        self._t = torch.zeros(1, dtype=torch.int64)
        self._last_actions = torch.full((1, n), -1)
        self._k = self._constants(self.roster.type_U[None])
        self._k["hp"], self._k["shield"] = self.roster.full_hp_U[None], self.roster.full_shield_U[None]
        self._k["layer"] = torch.full_like(self._k["hp"], GROUND)
        self._state = self._read(self.roster.units)
        self._shown = self._look()
        return self._shown

    # Playing

    def step(self, actions: list[int]) -> Frame:
        avail_NA = self._shown.avail_NA.tolist()
        orders = request(self.modules, self.roster, legal(actions, avail_NA))
        try:
            self._controller.actions(orders)
            self._controller.step(self.config.step_mul)
            units = self._units()
        except self._lost as error:
            self._bury(error)
            return replace(self._shown, truncated=True)
        self._deaths = 0
        before_BU = self._state["hp_BU"] + self._state["shield_BU"]
        self._t, self._last_actions = self._t + 1, torch.tensor([actions])
        self._state = self._read(units)
        self._shown = self._look()
        verdict = judge(self._battle, self.tables, self._state, self._k, before_BU)
        return replace(
            self._shown,
            reward=float(verdict.reward),
            terminated=bool(verdict.terminated),
            truncated=bool(verdict.truncated),
            success=bool(verdict.success),
            dead_allies=int(verdict.dead_allies),
            dead_enemies=int(verdict.dead_enemies),
        )

    def _read(self, units: list[Any]) -> State:
        last = {"t_B": self._t, "last_actions_BN": self._last_actions}
        return self.roster.read(units) | last

    def _look(self) -> Frame:
        obs_BNO, state_BS, avail_BNA = self._observer(self._state, self._k)
        return Frame(obs_NO=obs_BNO[0], state_S=state_BS[0], avail_NA=avail_BNA[0])

    def dots(self) -> list[Dot]:
        hp_U = (self._state["hp_BU"] / self._k["hp"])[0].tolist()
        places, types = self._state["pos_BU2"][0].tolist(), self.roster.type_U.tolist()
        return [
            Dot(x, y, UNITS[kind].radius, int(u >= self.tables.map.n_allies), hp)
            for u, ((x, y), kind, hp) in enumerate(zip(places, types, hp_U, strict=True))
            if hp > 0
        ]

    # Ending

    def _bury(self, error: Exception) -> None:
        """The process has died: forget it, or give up."""
        self.close()
        self._deaths += 1
        cause = f"{type(error).__name__}: {error}"
        if self._deaths >= _DEATHS:
            raise MarlError(
                f"{self.name}: StarCraft II ended {_DEATHS} times in a row ({cause}): start its SC2_x64 by "
                "hand to see why, or give fewer num_envs if memory ran out"
            ) from error
        _log.warning(
            "%s: StarCraft II ended (%s); the episode is cut off, a new game starts", self.name, cause
        )

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.close()
        except self.modules.crashes:
            _log.debug("%s: the game had already gone", self.name)


def _race(modules: Modules, name: str) -> int:
    return int(modules.common.Race.Value(name))
