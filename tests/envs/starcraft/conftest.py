"""A stand-in for the game: it answers the raw protocol on pysc2's own socket, with battle's physics inside.

`FakeGame` is the far end of the websocket of a real `RemoteController`: requests and responses are serialised
and parsed as with the game. It holds battle's state, takes the orders out of the raw commands by tags and
targets, and shows its units as raw observations. All of it is used only where pysc2 is installed.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from marl.envs.battle import tables as tables_
from marl.envs.battle.observe import Ground
from marl.envs.battle.rules import TorchForm
from marl.envs.battle.units import TYPE, UNITS
from marl.envs.starcraft import imports
from marl.envs.starcraft.raw_game import RawGame

CPU = torch.device("cpu")
GAME_TYPES = {
    "marine": 48, "marauder": 51, "medivac": 54, "stalker": 74, "zealot": 73, "colossus": 4, "zergling": 105,
    "baneling": 9, "hydralisk": 107, "spine_crawler": 98,
}  # fmt: skip
FIRST_RL_TYPE = 1970  # of the allies' own types; SMAC's files number them from about here


@pytest.fixture(scope="session")
def modules():
    missing = imports.missing_package()
    if missing:
        pytest.skip(missing)
    return imports.load()


@pytest.fixture(scope="session")
def encode(modules):
    """Raw units of one row of battle's state: living ones only, allies under types of their own."""

    def build(state, scenario, tags):
        ranks = {name: rank for rank, (name, _) in enumerate(scenario.allies)}
        units = []
        for u, tag in enumerate(tags):
            kind, hp = UNITS[int(state["type_BU"][0, u])], float(state["hp_BU"][0, u])
            if hp <= 0:
                continue
            ours = u < scenario.n_allies
            x, y = state["pos_BU2"][0, u].tolist()
            units.append(
                modules.raw.Unit(
                    tag=tag,
                    unit_type=FIRST_RL_TYPE + ranks[kind.name] if ours else GAME_TYPES[kind.name],
                    owner=1 if ours else 2,
                    alliance=modules.raw.Self if ours else modules.raw.Enemy,
                    display_type=modules.raw.Visible,
                    pos=modules.common.Point(x=x, y=y, z=12.0),
                    radius=kind.radius,
                    health=hp,
                    health_max=kind.hp,
                    shield=float(state["shield_BU"][0, u]),
                    shield_max=kind.shield,
                    energy=float(state["energy_BU"][0, u]),
                    weapon_cooldown=float(state["cooldown_BU"][0, u]),
                )
            )
        return units

    return build


@pytest.fixture(scope="session")
def start_raw(modules):
    """StartRaw of a map with battle's ground, in the one-bit form of today's versions."""

    def build(walk_XY, height_XY, extent=None):
        width, height = walk_XY.shape
        x, y = extent or (width, height)
        size, bits = modules.common.Size2DI(x=width, y=height), np.packbits((walk_XY & 1).T.reshape(-1))
        heights = np.flip(np.round(height_XY * 255).astype(np.uint8), 1).T
        image = modules.common.ImageData
        return modules.raw.StartRaw(
            map_size=size,
            pathing_grid=image(bits_per_pixel=1, size=size, data=bits.tobytes()),
            terrain_height=image(bits_per_pixel=8, size=size, data=heights.tobytes()),
            playable_area=modules.common.RectangleI(p0={"x": 0, "y": 0}, p1={"x": x, "y": y}),
        )

    return build


def sort_allies(state, n):
    """Battle's state with the allies in SMAC's order: type rank, x, y."""
    keys = [(int(state["type_BU"][0, u]), *state["pos_BU2"][0, u].tolist()) for u in range(n)]
    teams = list(dict.fromkeys(key[0] for key in keys))  # battle lists types in the order of their ranks
    order = sorted(range(n), key=lambda u: (teams.index(keys[u][0]), *keys[u][1:]))
    order += range(n, state["hp_BU"].shape[1])
    return {k: v[:, order] if k.split("_")[-1].startswith("BU") else v for k, v in state.items()}


class FakeGame:
    """The game's process and the far end of its socket; see the module's text.

    Args:
        modules, encode, start_raw: the fixtures.
        config: a starcraft Config.
        log: list that collects ("start" | name of a request, what matters of it).
    """

    def __init__(self, modules, encode, start_raw, config, log):
        self.m, self.encode, self.start_raw, self.log = modules, encode, start_raw, log
        self.tables = tables_.build(config.battle)
        self.map, self.form = self.tables.map, TorchForm(config.battle, self.tables, CPU)
        self.episode, self.loop, self.hidden, self.next_tag = -1, 0, 0, 4_000_000_001
        self.die_at = None  # request name at which the game dies
        self.closed, self.refuse = False, False
        self.state, self.inbox, self.status = None, [], modules.api.launched
        self.sock = SimpleNamespace(getpeername=lambda: ("127.0.0.1", 1))
        self.controller = self._connect()

    def _connect(self):
        """A real RemoteController on this socket."""
        from pysc2.lib.remote_controller import RemoteController

        fake = self

        class Controller(RemoteController):
            def _connect(self, *args):
                return fake

        return Controller("127.0.0.1", 1)

    # The socket

    def send(self, data):
        self.inbox.append(self.m.api.Request.FromString(data))

    def recv(self):
        import websocket

        request = self.inbox.pop()
        name = request.WhichOneof("request")
        if self.die_at == name:
            raise websocket.WebSocketConnectionClosedException("gone")
        response = self.m.api.Response(id=request.id)
        getattr(self, f"_{name}")(getattr(request, name), response)
        response.status = self.status
        return response.SerializeToString()

    def close(self):
        self.closed = True

    # Requests

    def _ping(self, request, response):
        response.ping.game_version = "4.10"

    def _create_game(self, request, response):
        self.log.append(("create_game", request))
        if self.refuse:
            response.create_game.error = self.m.api.ResponseCreateGame.InvalidMapData
        response.create_game.SetInParent()
        self.seed, self.status = request.random_seed, self.m.api.init_game

    def _join_game(self, request, response):
        self.log.append(("join_game", request))
        response.join_game.player_id = 1
        self.status = self.m.api.in_game
        self._spawn()

    def _game_info(self, request, response):
        terrain = self.tables.terrain
        response.game_info.start_raw.CopyFrom(self.start_raw(terrain.walk_XY, terrain.height_XY))

    def _observation(self, request, response):
        observation = response.observation.observation
        observation.game_loop = self.loop
        units = self.encode(self.state, self.map, self.tags)
        if self.hidden:  # the game makes units one by one after a start
            units = units[:-1]
        observation.raw_data.units.extend(units)
        observation.raw_data.units.add(tag=1, unit_type=665, owner=16, health=500)  # a mineral field

    def _action(self, request, response):
        self.log.append(("action", request))
        response.action.result.append(self.m.common.__dict__.get("Success", 1))
        self.actions = [1] * self.map.n_allies
        for action in request.actions:
            command = action.action_raw.unit_command
            (tag,) = command.unit_tags
            self.actions[self.tags.index(tag)] = self._meaning(command, self.tags.index(tag))

    def _meaning(self, command, u):
        """The agent's action that an order stands for."""
        if command.ability_id == 4:
            assert command.WhichOneof("target") is None
            return 1
        if command.ability_id == 16:
            here, there = self.state["pos_BU2"][0, u].tolist(), command.target_world_space_pos
            moved = round(there.x - here[0], 4), round(there.y - here[1], 4)
            return {(0, 2): 2, (0, -2): 3, (2, 0): 4, (-2, 0): 5}[moved]
        target = self.tags.index(command.target_unit_tag)
        heals = int(self.state["type_BU"][0, u]) == TYPE["medivac"]
        assert command.ability_id == (386 if heals else 23)
        assert (target < self.map.n_allies) == heals
        return 6 + target - (0 if heals else self.map.n_allies)

    def _step(self, request, response):
        response.step.SetInParent()
        self.loop += request.count
        if not (self.state["hp_BU"] > 0).any():  # SMAC's trigger
            self._spawn()
        elif self.hidden:
            self.hidden -= 1
        elif request.count == 8:
            k = self.form.simulation.constants(self.state["type_BU"])
            moving, to = self.form._orders(self.state, k, torch.tensor([self.actions]))
            for _ in range(8):
                self.state = self.form.simulation.tick(self.state, k, moving, to)

    def _debug(self, request, response):
        self.log.append(("debug", request))
        response.debug.SetInParent()
        dead = {tag for command in request.debug for tag in command.kill_unit.tag}
        assert dead == {t for t, hp in zip(self.tags, self.state["hp_BU"][0].tolist(), strict=True) if hp > 0}
        self.state["hp_BU"] = torch.zeros_like(self.state["hp_BU"])

    def _spawn(self):
        self.episode += 1
        self.hidden = 2
        state = self.form.spawner(torch.tensor([self.seed]), torch.tensor([self.episode]))
        self.state = sort_allies(state, self.map.n_allies)
        count = self.map.n_allies + self.map.n_enemies
        self.tags = list(range(self.next_tag, self.next_tag + count))
        self.next_tag += count


@pytest.fixture
def games(modules, encode, start_raw, tmp_path):
    """Make RawGames whose processes are FakeGames: returns (game, list of its fakes, log)."""

    def build(config, prepare=lambda fake: None):
        file = tmp_path / f"{config.map}.SC2Map"
        file.write_bytes(b"map of " + config.map.encode())
        fakes, log = [], []

        def start(modules, config):
            log.append(("start", None))
            fakes.append(FakeGame(modules, encode, start_raw, config, log))
            prepare(fakes[-1])
            return fakes[-1]

        game = RawGame(config, modules, name="env 0", map_file=file, start=start)
        return SimpleNamespace(game=game, fakes=fakes, log=log)

    return build


@pytest.fixture
def whole_ground():
    """Battle's own ground of a map, for an Observer."""

    def build(tables):
        t = tables.terrain
        return Ground(walk_XY=t.walk_XY, height_XY=t.height_XY, extent=(32.0, 32.0))

    return build
