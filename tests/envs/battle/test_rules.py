"""Rules of the battle, one by one, against numbers worked out by hand; in both forms."""

import pytest
import torch

from marl.envs.battle import Config
from marl.errors import MarlError
from marl.native import NoCompiler
from marl.rng import Rng

TICK = 1 / 22.4  # seconds
NO_OP, STOP, NORTH, SOUTH, EAST, WEST, ATTACK = range(7)
CORNER = (31.0, 1.0)  # where units stand that play no part


@pytest.fixture(params=["torch", "native"])
def arena(request):
    """Build a battle with only the units that the test names; all others are dead."""

    def build(name, units, **options):
        try:
            config = Config(map=name, form=request.param, spawn_jitter=0, cooldown_jitter=0, **options)
            env = config.build(num_envs=1, device=torch.device("cpu"), threads=1)
        except MarlError as error:
            if isinstance(error.__cause__, NoCompiler):
                pytest.skip(str(error))
            raise
        env.reset(Rng(0))
        state = env.state_dict()
        dead = [u for u in range(state["hp_BU"].shape[1]) if u not in units]
        for key in ("hp_BU", "shield_BU", "energy_BU"):
            state[key][0, dead] = 0.0
        state["pos_BU2"][0, dead] = torch.tensor(CORNER)
        for u, values in units.items():
            for key, value in values.items():
                state[f"{key}_BU2" if key == "pos" else f"{key}_BU"][0, u] = torch.tensor(value)
        env.load_state_dict(state)
        return env

    return build


def act(env, **actions):
    """One step; a0=7 gives agent 0 action 7, the other living agents stop."""
    alive = env.state["hp_BU"][:, : env.map.n_allies] > 0
    chosen = alive.long()
    for name, action in actions.items():
        chosen[0, int(name[1:])] = action
    return env.step(chosen)


def of(env, key, unit):
    return env.state[key][0, unit].item()


def test_marines_shoot_at_once_and_reload(arena):
    env = arena("3m", {0: {"pos": (10.0, 16.0)}, 3: {"pos": (14.0, 16.0)}})
    act(env, a0=ATTACK)
    # both fire in the first tick: 6 points without armour; 0.61 s * 22.4 = 13.664 loops to reload, 7 passed
    assert of(env, "hp_BU", 0) == of(env, "hp_BU", 3) == 39
    assert of(env, "cooldown_BU", 0) == pytest.approx(13.664 - 7, abs=1e-4)
    act(env, a0=ATTACK)  # the second shot falls in tick 15, which is tick 7 of this step
    assert of(env, "hp_BU", 3) == 33
    assert of(env, "cooldown_BU", 3) == pytest.approx(13.664 - 1, abs=1e-4)


def test_allies_never_fire_unasked(arena):
    env = arena("3m", {0: {"pos": (10.0, 16.0)}, 3: {"pos": (14.0, 16.0)}})
    act(env, a0=STOP)
    assert of(env, "hp_BU", 3) == 45
    assert of(env, "hp_BU", 0) == 39


def test_a_shield_takes_damage_without_armour_and_the_rest_pays_it(arena):
    far = {"pos": (10.0, 16.0)}
    env = arena("3s_vs_3z", {0: far, 3: {"pos": (15.5, 16.0), "shield": 10.0}})
    ts = act(env, a0=ATTACK)
    # 13 points: 10 on the shield, 3 left - 1 armour = 2 on hp
    assert of(env, "shield_BU", 3) == 0
    assert of(env, "hp_BU", 3) == 98
    assert ts.reward_B.item() == pytest.approx(12 / (680 / 20))
    # a zealot hits twice with 8: 5 on the shield, then 3 - 1 and 8 - 1
    env = arena("3s_vs_3z", {0: {"pos": (10.0, 16.0), "shield": 5.0}, 3: {"pos": (11.1, 16.0)}})
    act(env, a0=STOP)
    assert of(env, "shield_BU", 0) == 0
    assert of(env, "hp_BU", 0) == 80 - 2 - 7


def test_simultaneous_hits_share_the_shield(arena):
    units = {i: {"pos": (10.0, 15.0 + i)} for i in range(3)} | {3: {"pos": (15.0, 16.0), "shield": 20.0}}
    env = arena("3s_vs_3z", units)
    act(env, a0=ATTACK, a1=ATTACK, a2=ATTACK)
    # 13 | 7 of 13, 6 - 1 = 5 | 13 - 1 = 12
    assert of(env, "shield_BU", 3) == 0
    assert of(env, "hp_BU", 3) == 100 - 5 - 12


@pytest.mark.parametrize(
    ("name", "attacker", "victim", "loss"),
    [
        ("MMM", 0, 10, 10 + 10 - 1),  # marauder on marauder: bonus against armoured, armour 1
        ("MMM", 0, 12, 10),  # marauder on marine
        ("MMM", 2, 10, 6 - 1),  # marine on marauder
        ("MMM", 2, 19, 6 - 1),  # marines hit air
        ("MMM", 0, 19, 0),  # marauders do not
        ("2s_vs_1sc", 0, 2, 13 - 2),  # a spine crawler is a structure of armour 2
        ("6h_vs_8z", 0, 6, 12 - 1),
    ],
)
def test_damage_table(arena, name, attacker, victim, loss):
    units = {attacker: {"pos": (10.0, 16.0)}, victim: {"pos": (13.5, 16.0), "shield": 0.0, "hp": 40.0}}
    if name == "MMM":
        units[13] = {"pos": CORNER}  # so that a lone medivac does not end the battle
    env = arena(name, units)
    first_enemy = env.map.n_allies
    act(env, **{f"a{attacker}": ATTACK + victim - first_enemy})
    grown = 8 * 0.38 * TICK if name == "2s_vs_1sc" else 0.0  # Zerg
    assert of(env, "hp_BU", victim) == pytest.approx(40 - loss + grown, abs=1e-4)


def test_colossus_hits_a_line_across_its_aim(arena):
    units = {
        0: {"pos": (5.0, 16.0)},
        2: {"pos": (11.0, 16.0)},  # the target
        3: {"pos": (11.0, 17.3)},  # 1.3 aside: within 1.4 + 0.375
        4: {"pos": (11.0, 18.4)},  # 2.4 aside
        5: {"pos": (12.5, 16.0)},  # 1.5 behind: beyond 0.15 + 0.375
    }
    env = arena("2c_vs_64zg", units)
    act(env, a0=ATTACK)
    grown = 8 * 0.38 * TICK  # Zerg; the full ones do not grow
    for victim, hp in ((2, 35 - 2 * 15 + grown), (3, 35 - 2 * 15 + grown), (4, 35), (5, 35)):
        assert of(env, "hp_BU", victim) == pytest.approx(hp, abs=1e-4)


def test_a_baneling_blows_itself_up(arena):
    units = {
        0: {"pos": (10.0, 16.0)},
        4: {"pos": (10.0, 15.0)},  # an own zergling close by
        28: {"pos": (10.9, 16.0)},  # enemy zerglings: 35 hp, 20 + 15 against light
        29: {"pos": (12.3, 16.0)},  # 2.3 away: within 2.2 + 0.375
        30: {"pos": (13.6, 16.0)},  # outside
    }
    env = arena("bane_vs_bane", units)
    hp = env.state["hp_BU"][0, 28:31].tolist()
    assert hp == [35, 35, 35]
    ts = act(env, a0=ATTACK + 4)
    assert of(env, "hp_BU", 0) == of(env, "hp_BU", 28) == of(env, "hp_BU", 29) == 0
    assert of(env, "hp_BU", 30) == 35
    assert ts.alive_BN[0, 4]  # no friendly fire
    assert ts.reward_B.item() == pytest.approx((2 * 35 + 2 * 10) / (1260 / 20))


def test_medivac_heals_for_energy(arena):
    patient = {"pos": (10.0, 16.0), "hp": 20.0}
    enemy = {12: {"pos": (30.0, 30.0)}}
    env = arena("MMM", {9: {"pos": (11.0, 16.0)}, 2: patient, **enemy})
    ts = env.observe()
    assert ts.avail_BNA[0, 9, ATTACK + 2]
    assert ts.avail_BNA[0, 9, ATTACK:].sum() == 1  # only the living mate, no enemy
    act(env, a9=ATTACK + 2)
    assert of(env, "hp_BU", 2) == pytest.approx(20 + 8 * 9 * TICK, abs=1e-4)  # 9 hp/s
    assert of(env, "energy_BU", 9) == pytest.approx(50 + 8 * (0.5625 - 3) * TICK, abs=1e-4)  # 3 hp per point
    # below 5 energy it does not begin, but goes on if it has begun
    for begun, gain in ((False, 0.0), (True, 8 * 9 * TICK)):
        units = {9: {"pos": (11.0, 16.0), "energy": 4.0, "healing": begun}, 2: patient, **enemy}
        env = arena("MMM", units)
        act(env, a9=ATTACK + 2)
        assert of(env, "hp_BU", 2) == pytest.approx(20 + gain, abs=1e-4)
    # never above full
    env = arena("MMM", {9: {"pos": (11.0, 16.0)}, 2: {"pos": (10.0, 16.0), "hp": 44.0}, **enemy})
    act(env, a9=ATTACK + 2)
    assert of(env, "hp_BU", 2) == 45
    assert of(env, "energy_BU", 9) == pytest.approx(50 - 1 / 3 + 8 * 0.5625 * TICK, abs=1e-4)


def test_enemy_medivac_heals_the_weakest_and_walks_no_faster_than_it(arena):
    units = {
        0: {"pos": (30.0, 30.0)},
        12: {"pos": (20.0, 16.0), "hp": 30.0},
        13: {"pos": (20.0, 20.0), "hp": 10.0},
        19: {"pos": (28.0, 20.0)},
    }
    env = arena("MMM", units)
    act(env, a0=STOP)
    assert of(env, "target_BU", 19) == 13
    # it walks 3.15, the marines' pace, not its own 3.5
    assert 28 - env.state["pos_BU2"][0, 19, 0].item() == pytest.approx(8 * 3.15 * TICK, abs=0.01)


def test_shields_return_after_ten_seconds(arena):
    units = {0: {"pos": (2.0, 30.0), "shield": 20.0, "since_hit": 220.0}, 3: {"pos": (30.0, 2.0)}}
    env = arena("3s_vs_3z", units)
    act(env)
    # loops 221, 222, 223: not yet; 224 to 228: 2 points a second each
    assert of(env, "shield_BU", 0) == pytest.approx(20 + 5 * 2 * TICK, abs=1e-4)
    act(env)
    assert of(env, "shield_BU", 0) == pytest.approx(20 + 13 * 2 * TICK, abs=1e-4)


def test_an_enemy_shield_that_returns_pays_under_abs_only(arena):
    units = {0: {"pos": (2.0, 30.0)}, 3: {"pos": (30.0, 2.0), "shield": 20.0}}
    gain = 8 * 2 * TICK / (680 / 20)
    for mode, reward in (("abs", gain), ("clamp", 0.0), ("signed", -gain)):
        ts = act(arena("3s_vs_3z", units, reward=mode))
        assert ts.reward_B.item() == pytest.approx(reward, abs=1e-6)


def test_signed_and_sparse_rewards(arena):
    units = {0: {"pos": (10.0, 16.0), "hp": 6.0}, 1: {"pos": (30.0, 30.0)}, 3: {"pos": (14.0, 16.0)}}
    ts = act(arena("3m", units, reward="signed"), a0=ATTACK)
    assert ts.reward_B.item() == pytest.approx((6 - 0.5 * 6 - 0.5 * 10) / (365 / 20))
    lone = {k: v for k, v in units.items() if k != 1}
    assert act(arena("3m", units, reward="sparse"), a0=ATTACK).reward_B.item() == 0
    assert act(arena("3m", lone, reward="sparse")).reward_B.item() == -1
    lone[3] = {"pos": (14.0, 16.0), "hp": 6.0, "cooldown": 5.0}
    assert act(arena("3m", lone, reward="sparse"), a0=ATTACK).reward_B.item() == 1


def test_win_loss_and_draw(arena):
    ours, theirs = {"pos": (10.0, 16.0)}, {"pos": (14.0, 16.0)}
    weak, slow = {"hp": 6.0}, {"cooldown": 13.0}
    ts = act(arena("3m", {0: ours, 3: theirs | weak}), a0=ATTACK)
    assert (ts.terminated_B.item(), ts.info["success"].item()) == (True, True)
    assert ts.reward_B.item() == pytest.approx((6 + 10 + 200) / (365 / 20))
    assert (ts.info["dead_allies"].item(), ts.info["dead_enemies"].item()) == (2, 3)
    ts = act(arena("3m", {0: ours | weak, 3: theirs}), a0=STOP)
    assert (ts.terminated_B.item(), ts.info["success"].item(), ts.reward_B.item()) == (True, False, 0.0)
    ts = act(arena("3m", {0: ours | weak, 3: theirs | weak}), a0=ATTACK)  # both at once
    assert (ts.terminated_B.item(), ts.info["success"].item()) == (True, False)
    assert ts.reward_B.item() == pytest.approx(16 / (365 / 20))
    ts = act(arena("3m", {0: ours | weak | slow, 3: theirs | weak | slow}), a0=ATTACK)
    assert not ts.done_B.item()


@pytest.mark.parametrize(("left", "success"), [((9, 12), False), ((2, 19), True)])
def test_a_lone_medivac_has_lost(arena, left, success):
    ts = act(arena("MMM", {u: {"pos": (5.0 + u, 16.0)} for u in left}))
    assert ts.terminated_B.item()
    assert ts.info["success"].item() is success


@pytest.mark.parametrize("continuing", [False, True])
def test_the_step_limit(arena, continuing):
    env = arena("3m", {0: {"pos": (2.0, 30.0)}, 3: {"pos": (30.0, 2.0)}}, continuing_episode=continuing)
    env.state["t_B"].fill_(58)
    assert not act(env).done_B.item()
    ts = act(env)
    assert (ts.terminated_B.item(), ts.truncated_B.item()) == (not continuing, continuing)
    assert not ts.info["success"].item()
    assert ts.t_B.item() == 0  # the next episode has begun
    assert env.state["episode_B"].item() == 1


@pytest.mark.parametrize(("base", "distance"), [(22.4, 1.125), (16.0, 1.575)])
def test_a_move_covers_speed_times_time(arena, base, distance):
    env = arena("3m", {0: {"pos": (10.0, 16.0)}, 3: {"pos": (30.0, 2.0)}}, time_base=base)
    for action, (dx, dy) in ((NORTH, (0, 1)), (EAST, (1, 0)), (SOUTH, (0, -1)), (WEST, (-1, 0))):
        before = env.state["pos_BU2"][0, 0].clone()
        act(env, a0=action)
        moved = env.state["pos_BU2"][0, 0] - before
        assert moved.tolist() == pytest.approx([dx * distance, dy * distance], abs=1e-4)


def test_moves_end_at_the_edge_of_the_map(arena):
    env = arena("3m", {0: {"pos": (1.5, 16.0)}, 3: {"pos": (30.0, 2.0)}})
    assert env.observe().avail_BNA[0, 0, WEST]
    act(env, a0=WEST)
    assert env.state["pos_BU2"][0, 0, 0].item() == pytest.approx(0.375)  # its radius
    assert not env.observe().avail_BNA[0, 0, WEST]
    act(env, a0=WEST)  # not available: it stops
    assert env.state["pos_BU2"][0, 0, 0].item() == pytest.approx(0.375)


def test_units_walk_into_reach(arena):
    """Attack is available at 6, a marine shoots at 5 + both radii = 5.75."""
    env = arena("3m", {0: {"pos": (10.0, 16.0)}, 3: {"pos": (15.99, 16.0), "cooldown": 99.0}})
    assert env.observe().avail_BNA[0, 0, ATTACK]
    env.state["goal_B2"][0] = env.state["pos_BU2"][0, 3]  # the enemy does not come to it
    act(env, a0=ATTACK)
    assert of(env, "hp_BU", 3) == 39
    assert env.state["pos_BU2"][0, 0, 0].item() > 10
    far = arena("3m", {0: {"pos": (10.0, 16.0)}, 3: {"pos": (16.01, 16.0)}})
    assert not far.observe().avail_BNA[0, 0, ATTACK]


def test_overlapping_units_part_and_flyers_do_not_mind(arena):
    env = arena(
        "MMM",
        {2: {"pos": (10.0, 16.0)}, 3: {"pos": (10.1, 16.0)}, 9: {"pos": (10.0, 16.0)}, 12: {"pos": CORNER}},
    )
    act(env)
    pos = env.state["pos_BU2"][0]
    assert (pos[2] - pos[3]).norm().item() >= 0.75 - 1e-3
    assert pos[[2, 3]].mean(0).tolist() == pytest.approx([10.05, 16.0], abs=1e-4)
    assert pos[9].tolist() == pytest.approx([10.0, 16.0])
    env = arena("3m", {0: {"pos": (10.0, 16.0)}, 1: {"pos": (10.0, 16.0)}, 3: {"pos": CORNER}})
    act(env)  # the same place: apart along x
    assert (env.state["pos_BU2"][0, 1] - env.state["pos_BU2"][0, 0]).tolist() == pytest.approx(
        [0.75, 0], abs=2e-3
    )


def test_rock_stops_walkers(arena):
    env = arena("corridor", {0: {"pos": (12.0, 10.0)}, 6: {"pos": CORNER}})
    assert not env.observe().avail_BNA[0, 0, EAST]  # (13, 10) is rock
    assert env.observe().avail_BNA[0, 0, WEST]
    env.state["pos_BU2"][0, 0] = torch.tensor((11.9, 10.0))
    act(env, a0=EAST)
    assert 12.8 < env.state["pos_BU2"][0, 0, 0].item() < 13  # up to the wall


def test_zerglings_find_the_choke(arena):
    units = {u: {"pos": (22.0 + u % 6, 4.0 + u // 6)} for u in range(6, 30)} | {0: {"pos": (2.0, 30.0)}}
    env = arena("corridor", units)
    walk = torch.from_numpy(env.terrain.walk_XY)
    for _ in range(30):
        act(env)
        cell = env.state["pos_BU2"][0, 6:].long()
        assert (walk[cell[:, 0], cell[:, 1]] & 1).all()
    assert (env.state["pos_BU2"][0, 6:, 0] < 13).sum() >= 20


def test_only_colossi_cross_the_ridge(arena):
    env = arena("2c_vs_64zg", {0: {"pos": (13.0, 16.0)}, 2: {"pos": (30.0, 28.0)}})
    assert env.observe().avail_BNA[0, 0, EAST]
    for _ in range(6):
        act(env, a0=EAST)
    assert env.state["pos_BU2"][0, 0, 0].item() > 17
    env = arena("2c_vs_64zg", {0: {"pos": (4.0, 16.0)}, 2: {"pos": (20.0, 16.0)}})
    path = []
    for _ in range(30):
        act(env)
        path.append(tuple(env.state["pos_BU2"][0, 2].tolist()))
        assert not (15 <= path[-1][0] < 17 and 4 <= path[-1][1] < 28)
    assert path[-1][0] < 15  # round the end


def test_the_dead_are_masked(arena):
    env = arena("3m", {0: {"pos": (10.0, 16.0)}, 1: {"pos": (10.0, 15.0)}, 3: {"pos": (14.0, 16.0)}})
    ts = env.observe()
    assert ts.avail_BNA[0, 2].tolist() == [True] + [False] * 8
    assert not ts.avail_BNA[0, 0, NO_OP]
    assert not ts.avail_BNA[0, 0, ATTACK + 1 :].any()
    assert ts.alive_BN[0].tolist() == [True, True, False]
    assert ts.present_BN.all()
    assert not ts.obs_BNO[0, 2].any()
    assert not ts.state_BS[0, 8:12].any()  # the third ally's four features


def test_nothing_is_seen_from_nine_on(arena):
    units = {
        0: {"pos": (10.0, 16.0)},
        1: {"pos": (10.0, 7.0)},
        3: {"pos": (18.99, 16.0)},
        4: {"pos": (19.0, 16.0)},
    }
    obs = arena("3m", units).observe().obs_BNO[0, 0]
    assert obs[4:9].tolist() == pytest.approx([0, 8.99 / 9, 8.99 / 9, 0, 1])
    assert not obs[9:29].any()  # an enemy at 9.0, a dead one, a mate at 9.0 and a dead one


def test_enemies_march_and_acquire_in_scan_range(arena):
    env = arena("3m", {0: {"pos": (9.0, 28.0)}, 3: {"pos": (23.0, 16.0)}})
    act(env)
    assert env.state["pos_BU2"][0, 3].tolist() == pytest.approx(
        [23 - 1.125, 16.0], abs=1e-4
    )  # towards (9, 16)
    assert of(env, "target_BU", 3) == -1
    # scan range 5 + radius 0.375, centre to centre
    for gap, target in ((5.37, 0), (5.5, -1)):
        units = {0: {"pos": (10.0, 16.0)}, 3: {"pos": (10.0, 16.0 - gap), "cooldown": 99.0}}
        env = arena("3m", units)
        env.state["goal_B2"][0] = env.state["pos_BU2"][0, 3]
        act(env)
        assert of(env, "target_BU", 3) == target


def test_enemies_answer_an_attack_from_any_distance_and_keep_their_target(arena):
    units = {0: {"pos": (10.0, 16.0)}, 1: {"pos": (10.0, 12.0)}, 3: {"pos": (15.5, 16.0)}}
    env = arena("3m", units)
    env.state["goal_B2"][0] = env.state["pos_BU2"][0, 3]
    act(env, a0=ATTACK)
    assert of(env, "target_BU", 3) == 0  # 5.5 away, beyond its scan range, but aiming at it
    env.state["pos_BU2"][0, 1] = torch.tensor((14.0, 15.0))
    act(env, a0=ATTACK)
    assert of(env, "target_BU", 3) == 0  # a nearer one does not distract it
    env.state["pos_BU2"][0, 0] = torch.tensor((2.0, 16.0))
    act(env)
    assert of(env, "target_BU", 3) == 1  # out of reach and not aiming at it any more


def test_enemies_prefer_healers(arena):
    units = {2: {"pos": (10.0, 16.0)}, 9: {"pos": (9.0, 16.0)}, 12: {"pos": (13.0, 16.0), "target": 2}}
    env = arena("MMM", units)
    act(env)
    assert of(env, "target_BU", 12) == 9


def test_actions_that_are_not_available_stop_the_unit(arena):
    units = {0: {"pos": (10.0, 16.0)}, 1: {"pos": (4.0, 4.0)}, 3: {"pos": (20.0, 16.0), "cooldown": 99.0}}
    env = arena("3m", units)
    for action in (ATTACK, ATTACK + 2, NO_OP, 77, -3):
        before = env.state["pos_BU2"][0, 0].clone()
        act(env, a0=action)
        assert torch.equal(env.state["pos_BU2"][0, 0], before)
        assert of(env, "target_BU", 0) == -1
    act(env, a2=NORTH)  # the dead stay where they are
    assert of(env, "hp_BU", 2) == 0


def test_the_view_cone_limits_sight_and_attack(arena):
    units = {
        0: {"pos": (10.0, 16.0)},
        3: {"pos": (14.0, 16.0), "cooldown": 99.0},
        4: {"pos": (10.0, 20.0), "cooldown": 99.0},
    }
    env = arena("3m", units, cone=True)
    ts = env.observe()
    assert ts.avail_BNA[0, 0, 6:18].all()  # twelve looks
    assert ts.avail_BNA[0, 0, 18:].tolist() == [True, False, False]  # it starts facing east
    assert ts.obs_BNO[0, 0, 4] == 1
    assert not ts.obs_BNO[0, 0, 9:14].any()
    ts = act(env, a0=6 + 3)  # look north
    assert ts.avail_BNA[0, 0, 18:].tolist() == [False, True, False]
    assert ts.obs_BNO[0, 0, -2:].tolist() == pytest.approx([0, 1], abs=1e-6)  # own facing
    act(env, a0=18)  # the east one is out of view
    assert of(env, "hp_BU", 3) == 45
    act(env, a0=19)
    assert of(env, "hp_BU", 4) == 39
