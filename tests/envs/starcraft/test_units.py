"""Raw observations built with the protocol's classes give the tensors that battle gives for these units."""

import numpy as np
import pytest
import torch

from marl.envs.battle import tables as tables_
from marl.envs.battle.maps import find
from marl.envs.battle.observe import Observer
from marl.envs.battle.rules import TorchForm
from marl.envs.battle.terrain import GROUND
from marl.envs.battle.units import TYPE
from marl.envs.starcraft import Config, ground
from marl.envs.starcraft.raw_game import RawGame
from marl.envs.starcraft.roster import Roster, complete
from marl.errors import MarlError
from marl.native import NoCompiler
from marl.rng import Rng

CPU = torch.device("cpu")
OPTIONS = {"obs_last_action": True, "obs_pathing": True, "obs_timestep": True, "state_timestep": True}
# map, steps of play, options. The agents of these maps differ in type bits, shields, healing and numbers.
CASES = [
    ("3m", 60, {}),
    ("2s3z", 60, OPTIONS),
    ("MMM", 60, {}),
    ("1c3s5z", 40, {}),
    ("corridor", 40, OPTIONS),
    ("bane_vs_bane", 25, {}),
    ("2s_vs_1sc", 40, {}),
    ("2c_vs_64zg", 40, {}),
    ("6h_vs_8z", 25, {}),
]


def sorted_start(env, state):
    """Battle's first state with the allies in SMAC's order, so that both sides number agents alike."""
    n = env.map.n_allies
    key = [(list(dict.fromkeys(env.spec.agent_types)).index(t), *state["pos_BU2"][0, u].tolist())
           for u, t in enumerate(env.spec.agent_types)]  # fmt: skip
    order = [*sorted(range(n), key=key.__getitem__), *range(n, state["hp_BU"].shape[1])]
    return {k: v[:, order] if "_BU" in k else v for k, v in state.items()}


def player(config, modules, start_raw, tables):
    """A RawGame that has been shown a map but has no process."""
    game = RawGame(config, modules, name="env 0", map_file=None, start=None)
    grid = start_raw(tables.terrain.walk_XY, tables.terrain.height_XY)
    game._observer = Observer(config.battle, tables, CPU, ground.read(grid))
    return game


@pytest.mark.parametrize(("name", "steps", "options"), CASES, ids=[case[0] for case in CASES])
def test_same_units_same_tensors(modules, encode, start_raw, name, steps, options):
    """Battle's C++ form is the oracle; it shares no line with the code that reads raw observations."""
    config = Config(map=name, **options)
    settings = config.battle
    try:
        settings.form = "native"
        env = settings.build(num_envs=1, device=CPU)
    except MarlError as error:
        if isinstance(error.__cause__, NoCompiler):
            pytest.skip(str(error))
        raise
    env.reset(Rng(3))
    env.load_state_dict(sorted_start(env, env.state_dict()))
    tags = [2**32 + 7 * u for u in range(env.map.n_allies + env.map.n_enemies)]
    game = player(config, modules, start_raw, env.tables)
    units = encode(env.state_dict(), env.map, tags)
    assert complete(env.map, units)
    game.roster = Roster(env.map, units)
    assert game.roster.tags == tuple(tags)
    assert torch.equal(game.roster.type_U, env.state["type_BU"][0])
    generator, ts = torch.Generator().manual_seed(0), env.observe()
    dead = hurt = False
    game._first()
    for _ in range(steps):
        state = env.state_dict()
        game._t, game._last_actions = state["t_B"], state["last_actions_BN"]
        shuffled = encode(state, env.map, tags)
        order = torch.randperm(len(shuffled), generator=generator).tolist()
        game._state = game._read([shuffled[i] for i in order])  # the game keeps no order either
        seen = game._look()
        first = 4 if name == "2c_vs_64zg" else 0  # where colossi may go: see the test below
        torch.testing.assert_close(seen.state_S, ts.state_BS[0], rtol=0, atol=1e-6)
        where = [a for a in range(env.spec.n_actions) if not (first and 2 <= a < 6)]
        assert torch.equal(seen.avail_NA[:, where], ts.avail_BNA[0][:, where])
        torch.testing.assert_close(seen.obs_NO[:, first:], ts.obs_BNO[0][:, first:], rtol=0, atol=1e-6)
        dead |= bool((state["hp_BU"] <= 0).any())
        hurt |= bool(((state["hp_BU"] > 0) & (state["hp_BU"] < game.roster.full_hp_U)).any())
        weight = torch.rand(ts.avail_BNA.shape, generator=generator) + 0.01
        weight[..., 6:] += torch.linspace(1.7, 0.7, env.map.n_enemies)  # together, or nobody would fall
        weight[..., 1 if first else 4] += 0.5
        actions = (weight * ts.avail_BNA).argmax(-1)
        ts = env.step(actions)
        if ts.done_B:
            break
    assert dead
    assert hurt


def test_healing_shields_and_charges_are_read(modules, encode, start_raw):
    """Every number of the state of a small scene, by hand."""
    config = Config(map="MMM")
    tables = tables_.build(config.battle)
    game = player(config, modules, start_raw, tables)
    form = TorchForm(config.battle, tables, CPU)
    state = form.spawner(torch.tensor([0]), torch.tensor([0]))
    tags = list(range(100, 120))
    units = encode(state, tables.map, tags)
    game.roster = Roster(tables.map, units)
    game._first()
    medivac = next(unit for unit in units if unit.unit_type == max(u.unit_type for u in units))
    medivac.energy, medivac.health = 125.0, 75.0
    medivac.pos.x, medivac.pos.y = 20.0, 8.0
    marauder = next(unit for unit in units if unit.tag == game.roster.tags[0])
    marauder.weapon_cooldown, marauder.health = 5.0, 25.0
    game._state = game._read(units)
    rows = game._look().state_S[:70].reshape(10, 7)
    torch.testing.assert_close(rows[9], torch.tensor([0.5, 125 / 200, 4 / 32, -8 / 32, 0, 0, 1]))
    torch.testing.assert_close(rows[0][:2], torch.tensor([0.2, 5 / 25]))


def test_availability_asks_the_pathing_grid_for_every_unit(modules, encode, start_raw):
    """SMAC's rule: a colossus beside the ridge may not be sent onto it; battle lets it step over."""
    config = Config(map="2c_vs_64zg")
    env = config.battle.build(num_envs=1, device=CPU)
    env.reset(Rng(0))
    state = sorted_start(env, env.state_dict())
    state["pos_BU2"][0, 0] = torch.tensor([14.5, 16.5])  # the ridge begins at x = 15
    env.load_state_dict(state)
    game = player(config, modules, start_raw, env.tables)
    tags = list(range(1, 67))
    game.roster = Roster(env.map, encode(state, env.map, tags))
    game._first()
    mine = game.roster.tags.index(1)
    assert env.observe().avail_BNA[0, 0, 2:6].tolist() == [True] * 4
    assert game._shown.avail_NA[mine, 2:6].tolist() == [True, True, False, True]


def test_agents_are_sorted_by_type_and_place(modules):
    def unit(tag, kind, x, y, owner=1):
        place = modules.common.Point(x=x, y=y)
        return modules.raw.Unit(tag=tag, unit_type=kind, owner=owner, pos=place, health=1, health_max=1)

    allies = [unit(1, 2001, 5, 5), unit(2, 2000, 9, 1), unit(3, 2001, 4, 9)]
    allies += [unit(4, 2000, 3, 3), unit(5, 2001, 4, 2)]
    enemies = [unit(10, 73, 1, 1, 2), unit(11, 74, 0, 0, 2), unit(12, 73, 5, 5, 2), unit(13, 73, 2, 2, 2)]
    enemies.append(unit(14, 74, 2, 1, 2))
    roster = Roster(find("2s3z"), [enemies[0], *allies, *enemies[1:], unit(99, 665, 1, 1, 16)])
    assert roster.tags == (4, 2, 5, 3, 1, 10, 11, 12, 13, 14)
    stalker, zealot = TYPE["stalker"], TYPE["zealot"]
    allied = [stalker] * 2 + [zealot] * 3
    assert roster.type_U.tolist() == [*allied, zealot, stalker, zealot, zealot, stalker]
    with pytest.raises(MarlError, match=r"holds \[2, 2\] allies of types \[2000, 2001\]"):
        Roster(find("2s3z"), [*allies[1:], *enemies])
    roster.read([*allies[1:], *enemies])  # tag 1 has died: it lies where it was
    assert roster.units[4].pos.x == 5
    assert roster.read(enemies)["hp_BU"].tolist() == [[0.0] * 5 + [1.0] * 5]


def test_ground_is_read_as_smac_does(modules):
    """An oblong map by hand: 8 wide, 4 high; a wall at x = 1, a hill in the north-west corner cell."""
    rows = ["10111111", "10111111", "10111111", "11111111"]  # from the south
    size = modules.common.Size2DI(x=8, y=4)
    heights = np.zeros((4, 8), np.uint8)
    heights[0, 0] = 255  # from the north
    raw = modules.raw.StartRaw(
        map_size=size,
        pathing_grid=modules.common.ImageData(
            bits_per_pixel=1, size=size, data=bytes(int(row, 2) for row in rows)
        ),
        terrain_height=modules.common.ImageData(bits_per_pixel=8, size=size, data=heights.tobytes()),
        playable_area=modules.common.RectangleI(p0={"x": 1, "y": 1}, p1={"x": 7, "y": 4}),
    )
    seen = ground.read(raw)
    assert seen.walk_XY.shape == (8, 4)
    assert seen.walk_XY[1].tolist() == [0, 0, 0, GROUND]
    assert (np.delete(seen.walk_XY, 1, 0) == GROUND).all()
    assert seen.height_XY[0].tolist() == [0, 0, 0, 1]
    assert seen.height_XY.sum() == 1
    assert seen.extent == (6, 3)

    # The eight-bit form of old versions: from the north, 0 can be walked.
    old = np.array([[0 if c == "1" else 255 for c in row] for row in reversed(rows)], np.uint8)
    raw.pathing_grid.bits_per_pixel, raw.pathing_grid.data = 8, old.tobytes()
    assert np.array_equal(ground.read(raw).walk_XY, seen.walk_XY)


def test_an_oblong_map_scales_the_state_by_its_playable_area(modules, encode, start_raw):
    config = Config(map="3m")
    tables = tables_.build(config.battle)
    game = RawGame(config, modules, name="env 0", map_file=None, start=None)
    raw = start_raw(np.ones((64, 40), np.uint8), np.zeros((64, 40), np.float32), extent=(50, 20))
    game._observer = Observer(config.battle, tables, CPU, ground.read(raw))
    state = TorchForm(config.battle, tables, CPU).spawner(torch.tensor([0]), torch.tensor([0]))
    state["pos_BU2"][0, :3] = torch.tensor([[63.5, 39.5], [40.0, 10.0], [32.0, 20.0]])
    game.roster = Roster(tables.map, encode(state, tables.map, list(range(6))))
    frame = game._first()
    order = [game.roster.tags.index(tag) for tag in (0, 1, 2)]
    place = frame.state_S[:12].reshape(3, 4)[order, 2:]
    torch.testing.assert_close(place, torch.tensor([[31.5 / 50, 19.5 / 20], [8 / 50, -10 / 20], [0.0, 0.0]]))
    moves = frame.avail_NA[order, 2:6]
    assert moves[0].tolist() == [False, True, False, True]  # at the map's north-east corner
    assert moves[1].tolist() == [True] * 4
