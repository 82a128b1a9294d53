"""Sizes of all maps, aliases, options, random teams and terrain."""

from pathlib import Path

import numpy as np
import pytest
import torch

from marl import conf
from marl.config import make
from marl.envs.battle import MAPS, UNITS, Config, terrain
from marl.envs.battle.maps import SMAC
from marl.envs.battle.rules import judge
from marl.envs.battle.scripted import make as scripted
from marl.envs.battle.tables import COLUMNS
from marl.errors import MarlError
from marl.rng import Rng

# n_agents, n_enemies, limit, n_actions, obs, state, enemy hp + shield, max reward: smac d6aab33
SIZES = {
    "3m": (3, 3, 60, 9, 30, 48, 135, 365),
    "8m": (8, 8, 120, 14, 80, 168, 360, 640),
    "25m": (25, 25, 150, 31, 250, 950, 1125, 1575),
    "5m_vs_6m": (5, 6, 70, 12, 55, 98, 270, 530),
    "8m_vs_9m": (8, 9, 120, 15, 85, 179, 405, 695),
    "10m_vs_11m": (10, 11, 150, 17, 105, 243, 495, 805),
    "27m_vs_30m": (27, 30, 180, 36, 285, 1170, 1350, 1850),
    "MMM": (10, 10, 150, 16, 160, 290, 715, 1015),
    "MMM2": (10, 12, 180, 18, 176, 322, 885, 1205),
    "2s3z": (5, 5, 120, 11, 80, 120, 770, 1020),
    "3s5z": (8, 8, 150, 14, 128, 216, 1230, 1510),
    "3s5z_vs_3s6z": (8, 9, 170, 15, 136, 230, 1380, 1670),
    "3s_vs_3z": (3, 3, 150, 9, 36, 54, 450, 680),
    "3s_vs_4z": (3, 4, 200, 10, 42, 61, 600, 840),
    "3s_vs_5z": (3, 5, 250, 11, 48, 68, 750, 1000),
    "1c3s5z": (9, 9, 180, 15, 162, 270, 1580, 1870),
    "2m_vs_1z": (2, 1, 150, 7, 16, 26, 150, 360),
    "corridor": (6, 24, 400, 30, 156, 282, 840, 1280),
    "6h_vs_8z": (6, 8, 150, 14, 78, 140, 1200, 1480),
    "2s_vs_1sc": (2, 1, 300, 7, 17, 27, 300, 510),
    "so_many_baneling": (7, 32, 100, 38, 202, 397, 960, 1480),
    "bane_vs_bane": (24, 24, 200, 30, 336, 984, 820, 1260),
    "2c_vs_64zg": (2, 64, 400, 70, 332, 342, 2240, 3080),
}
SCOUTED = "1o_2r_vs_4r"  # NDQ's teams
CPU = torch.device("cpu")


def build(name, num_envs=2, **options):
    return Config(map=name, **options).build(num_envs=num_envs, device=CPU, threads=1)


def test_every_map_of_smac_is_there():
    assert set(SMAC) == set(SIZES)
    assert {name for name in MAPS if not name.startswith("v2/")} == {*SMAC, SCOUTED}
    assert sum(name.startswith("v2/") for name in MAPS) == 15


@pytest.mark.parametrize("name", SIZES)
def test_dimensions(name):
    agents, enemies, limit, actions, obs, state, points, best = SIZES[name]
    env = build(name)
    spec, ts = env.spec, env.reset(Rng(0))
    assert (spec.n_agents, env.map.n_enemies, spec.episode_limit, spec.n_actions) == (
        agents,
        enemies,
        limit,
        actions,
    )
    assert (spec.obs_size, spec.state_size) == (obs, state)
    assert ts.obs_BNO.shape == (2, agents, obs)
    assert ts.state_BS.shape == (2, state)
    assert ts.avail_BNA.shape == (2, agents, actions)
    theirs = [UNITS[t] for t in env.state["type_BU"][0, agents:].tolist()]
    assert sum(u.hp + u.shield for u in theirs) == points
    assert 10 * enemies + 200 + points == best


@pytest.mark.parametrize("name", ["3m", "2s3z", "MMM", "2c_vs_64zg", "v2/protoss_5v5"])
def test_slices_tile_the_observation(name):
    options = {
        "obs_last_action": True,
        "obs_pathing": True,
        "obs_height": True,
        "obs_timestep": True,
        "cone": True,
    }
    for env in (build(name), build(name, **options)):
        ts = env.reset(Rng(0))
        for slices in env.spec.obs_slices.values():
            edges = [0, *(s.stop for s in slices)]
            assert [s.start for s in slices] == edges[:-1]
            assert edges[-1] == env.spec.obs_size
            for piece in slices:
                part = ts.obs_BNO[..., piece.start : piece.stop]
                assert part.min() >= piece.low
                assert part.max() <= piece.high


@pytest.mark.parametrize("form", ["torch", "native"])
def test_options_have_the_right_sizes(form):
    plain, every = build("3m", form=form), {
        "obs_last_action": 2 * 9, "obs_pathing": 8, "obs_height": 9, "obs_timestep": 1, "obs_own_position": 2
    }  # fmt: skip
    for option, extra in every.items():
        env = build("3m", form=form, **{option: True})
        assert env.spec.obs_size == plain.spec.obs_size + extra
        assert env.reset(Rng(0)).obs_BNO.shape[-1] == env.spec.obs_size
    # cone: 12 look actions, the facing in the observation and in the state
    cone = build("3m", form=form, cone=True)
    assert cone.spec.n_actions == 9 + 12
    assert cone.spec.obs_size == 30 + 2
    assert cone.spec.state_size == 48 + 3 * 2 + 3 * 12
    assert build("3m", form=form, state_timestep=True).spec.state_size == 49
    assert build("3m", form=form, state_last_action=False).spec.state_size == 48 - 27


def test_aliases_match_the_maps():
    """conf/env/battle holds one two-line file per map, and nothing else."""
    folder = Path(conf.__file__).parent / "env" / "battle"
    found = {str(p.relative_to(folder).with_suffix("")): p.read_text() for p in folder.rglob("*.yaml")}
    assert found == {name: f"_target_: marl.envs.battle.Config\nmap: {name}\n" for name in MAPS}


def test_config_is_made_from_yaml_and_refuses_nonsense():
    node = {"_target_": "marl.envs.battle.Config", "map": "2s3z", "time_base": 16}
    assert make(node).map == "2s3z"
    with pytest.raises(MarlError, match=r"3n.*did you mean 3m"):
        Config(map="3n")
    with pytest.raises(MarlError, match="time_base"):
        Config(time_base=30)
    with pytest.raises(MarlError, match="spawn_jitter"):
        Config(spawn_jitter=-1)
    with pytest.raises(MarlError, match="num_envs"):
        Config().build(num_envs=0, device=CPU)


def test_actions_of_a_wrong_shape_are_refused():
    env = build("3m")
    env.reset(Rng(0))
    with pytest.raises(MarlError, match=r"give int64 \(2, 3\)"):
        env.step(torch.ones(2, 4, dtype=torch.int64))
    with pytest.raises(MarlError, match="float32"):
        env.step(torch.ones(2, 3))


def test_without_a_compiler_auto_falls_back_with_one_line(monkeypatch, caplog):
    from marl.envs.battle import env as module
    from marl.native import NoCompiler

    def missing(*args):
        raise NoCompiler("no C++ compiler found")

    monkeypatch.setattr(module, "Native", missing)
    env = build("3m")
    assert [record.message for record in caplog.records] == ["no C++ compiler found"]
    assert env.reset(Rng(0)).obs_BNO.shape == (2, 3, 30)
    with pytest.raises(MarlError, match="form='native'"):
        build("3m", form="native")


@pytest.mark.parametrize("race", ["terran", "protoss", "zerg"])
def test_random_teams(race):
    env = build(f"v2/{race}_10v11", num_envs=4096)
    env.reset(Rng(0))
    ours, theirs = env.state["type_BU"][:, :10], env.state["type_BU"][:, 10:]
    index = {name: env.unit_names.index(name) for name, _ in env.map.weights}
    exception = index[env.map.weights[-1][0]]
    assert not (ours == exception).all(1).any()  # rejected
    assert not (theirs[:, 10:] == exception).any()  # one extra enemy is a team of its own
    for name, weight in env.map.weights:
        share = (ours == index[name]).float().mean().item()
        assert share == pytest.approx(weight, abs=0.015)  # 40960 draws: 0.0025 standard deviation
    assert torch.equal(ours.sort(1).values, theirs[:, :10].sort(1).values)  # the enemy copies the allies
    bit = torch.from_numpy(env.tables.ally_bit).long()[ours]
    assert (bit.diff(dim=1) >= 0).all()  # agents in order of type
    torch.testing.assert_close(env.state["goal_B2"], env.state["pos_BU2"][:, :10].mean(1))


def test_random_starts():
    env = build("v2/terran_5v5", num_envs=4096, spawn_jitter=0)
    env.reset(Rng(0))
    pos = env.state["pos_BU2"]
    middle = (pos[:, :5] - 16).norm(dim=-1).amax(1) < 3
    assert middle.float().mean().item() == pytest.approx(0.5, abs=0.03)
    reflected = pos[~middle]
    assert (reflected[:, :5, 0] <= 15).all()
    ours = reflected[:, :5].clone()
    ours[..., 0] = 32 - ours[..., 0]
    for axis in (0, 1):  # every ally has its mirror image, in whatever order
        assert torch.allclose(
            ours[..., axis].sort(1).values, reflected[:, 5:, axis].sort(1).values, atol=1e-5
        )
    surrounded = pos[middle][:, 5:] - 16
    # groups stand on a diagonal, spread over a cluster of neighbours: within 3 of |dx| = |dy|
    assert ((surrounded[..., 0].abs() - surrounded[..., 1].abs()).abs() < 3).all()
    corners = (surrounded[..., 0] > 0).long() * 2 + (surrounded[..., 1] > 0).long()
    groups = torch.tensor([len(set(row.tolist())) for row in corners])
    assert set(groups.tolist()) == {1, 2, 3, 4}


def test_true_ranges_on_random_maps():
    env = build("v2/zerg_5v5")
    rows = {u.name: env.tables.units[i] for i, u in enumerate(UNITS)}
    values = {n: [float(r[COLUMNS.index(c)]) for c in ("sight", "shoot")] for n, r in rows.items()}
    assert values["zergling"] == [8, 2]  # 0.1, floored at 2
    assert values["hydralisk"] == [9, 5]
    assert values["colossus"] == [10, 7]
    assert values["medivac"] == [11, 4]


@pytest.mark.parametrize("form", ["torch", "native"])
def test_scout_and_enemies_start_at_a_drawn_site(form):
    env = build(SCOUTED, num_envs=2400, form=form)
    ts = env.reset(Rng(0))
    assert env.spec.agent_types == ("overseer", "roach", "roach")
    # moves 4 | 4 reapers of 5 and 2 type bits | 2 mates, the same | own health, x, y, 2 type bits
    assert (env.spec.obs_size, env.spec.n_actions) == (4 + 4 * 7 + 2 * 7 + 5, 10)
    offset = env.state["goal_B2"] - 16
    torch.testing.assert_close(offset.norm(dim=-1), torch.full((2400,), 14.0))
    which = torch.atan2(offset[:, 1], offset[:, 0]).div(torch.pi / 6).round().long() % 12
    assert which.bincount(minlength=12).sub(200).abs().max() < 5 * 14  # standard deviation 13.5
    pos = env.state["pos_BU2"]
    away = (pos - env.state["goal_B2"][:, None]).norm(dim=-1)
    assert (away[:, [0, 3, 4, 5, 6]] < 1.3).all()  # the scout is over the enemies
    assert ((pos[:, 1:3] - 16).norm(dim=-1) < 1.3).all()
    seen = [ts.obs_BNO[..., 4 + 7 * k + 1] > 0 for k in range(4)]  # enemy_k.distance
    assert all(s[:, 0].all() and not s[:, 1:].any() for s in seen)  # by the scout alone
    torch.testing.assert_close(ts.obs_BNO[:, 0, -4:-2], pos[:, 0] / 32)  # who knows where it is


@pytest.mark.parametrize("form", ["torch", "native"])
def test_the_scout_is_unarmed_and_out_of_reach_and_the_enemies_guard(form):
    env = build(SCOUTED, num_envs=24, form=form)
    ts = env.reset(Rng(1))
    goal, stop = env.state["goal_B2"].clone(), torch.ones(24, 3, dtype=torch.int64)
    for _ in range(59):
        assert not ts.avail_BNA[:, 0, 6:].any()
        ts = env.step(stop)
    assert not (ts.terminated_B | ts.truncated_B).any()  # nobody found anybody
    assert (env.state["hp_BU"][:, 0] == 200).all()
    assert ((env.state["pos_BU2"][:, 3:] - goal[:, None]).norm(dim=-1) < 1.5).all()
    ts = env.step(stop)
    assert ts.terminated_B.all()
    assert not ts.info["success"].any()


def test_who_knows_the_site_wins_on_the_scouted_map():
    env = build(SCOUTED, num_envs=120)
    ts = env.reset(Rng(2))
    team, won, ended = scripted("focus", env, Rng(2)), 0, 0
    for _ in range(60):
        ts = env.step(team(ts))
        won += int(ts.info["success"].sum())
        ended += int((ts.terminated_B | ts.truncated_B).sum())
    assert ended >= 120
    assert won >= 0.95 * ended


def walk(way, start, goal):
    """Cells visited when following the way table."""
    cell, end, path = start[0] * 32 + start[1], goal[0] * 32 + goal[1], []
    while cell != end:
        cell = int(way[cell, end])
        path.append(divmod(cell, 32))
        assert len(path) < 10, "the way goes round in circles"
    return path


def test_ways_lead_through_the_choke_and_round_the_cliff():
    corridor = terrain.build("corridor")
    path = walk(corridor.way, (23, 5), (9, 20))
    assert any(13 <= x < 20 and y in (15, 16) for x, y in path)
    cliff = terrain.build("cliff")
    path = walk(cliff.way, (23, 16), (9, 16))
    assert any(y < 4 or y >= 28 for _, y in path)
    for ground in (corridor, cliff):
        free = np.flatnonzero(ground.walk_XY.reshape(-1) & terrain.GROUND)
        for a, b in zip(
            np.random.default_rng(0).choice(free, 300),
            np.random.default_rng(1).choice(free, 300),
            strict=True,
        ):
            for x, y in walk(ground.way, divmod(int(a), 32), divmod(int(b), 32)):
                assert ground.walk_XY[x, y] & terrain.GROUND


def test_no_operation_leaves_the_device():
    """The meta device refuses to mix with the CPU, as a GPU would."""
    meta = torch.device("meta")
    env = Config(
        map="v2/terran_10v11", cone=True, obs_pathing=True, obs_height=True, obs_last_action=True
    ).build(num_envs=4, device=meta, threads=1)
    form = env._torch
    state = env.state | form.spawner(env.state["key_B"], env.state["episode_B"])
    k = form.simulation.constants(state["type_BU"])
    orders = form._orders(state, k, torch.ones(4, 10, dtype=torch.int64, device=meta))
    after = form.simulation.tick(state, k, *orders)
    verdict = judge(form.config, form.tables, after, k, state["hp_BU"])
    outputs = [*after.values(), *form.observer(after, k), *vars(verdict).values()]
    assert {tensor.device.type for tensor in outputs} == {"meta"}
    with pytest.raises(MarlError, match="form='native' cannot run on meta"):
        Config(form="native").build(num_envs=4, device=meta, threads=1)
