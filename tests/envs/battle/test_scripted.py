"""Scripted teams: hand-placed decisions, available actions only, and the strength they must have."""

import pytest
import torch

from marl.envs.battle import Config, scripted
from marl.errors import MarlError
from marl.rng import Rng

FAR = ("marine", 30, 30, {"hp": 1})  # weak and out of reach: nobody may be drawn to it


def build(map_name, num_envs=32, **options):
    return Config(map=map_name, **options).build(num_envs=num_envs, device=torch.device("cpu"), threads=1)


def play(map_name, policy_name, episodes=128, num_envs=64, seed=0):
    """Win rate and mean return; the first episodes of every env, so that short ones are not favoured."""
    env = build(map_name, num_envs)
    policy = scripted.make(policy_name, env, Rng(seed))
    ts = env.reset(Rng(seed))
    left_B = torch.full((num_envs,), episodes // num_envs)
    return_B, wins, total = torch.zeros(num_envs), 0, 0.0
    while (left_B > 0).any():
        ts = env.step(policy(ts))
        return_B += ts.reward_B
        done_B = ts.done_B & (left_B > 0)
        wins += int((ts.info["success"] & done_B).sum())
        total += float(return_B[done_B].sum())
        left_B -= done_B.long()
        return_B[ts.done_B] = 0.0
    return wins / episodes, total / episodes


def decide(name, env, ts):
    return scripted.make(name, env, Rng(0))(ts)[1].tolist()


def test_nearest_and_focus_choose_by_hand(place):
    units = [
        ("marine", 10, 16, {"hp": 45}),
        ("marine", 10, 18, {"hp": 45}),
        ("marine", 10, 20, {"hp": 0}),
        ("marine", 14, 16, {"hp": 45}),
        ("marine", 14, 18, {"hp": 20}),
        FAR,
    ]
    env, ts = place("3m", "auto", units, [-1] * 3)
    assert decide("nearest", env, ts) == [6, 7, 0]
    assert decide("focus", env, ts) == [7, 7, 0]
    assert decide("kiting", env, ts) == [7, 7, 0]  # nobody to run from


@pytest.mark.parametrize("name", ["nearest", "focus", "kiting", "heuristic"])
def test_they_walk_along_the_longer_side(name, place):
    units = [
        ("marine", 10, 16, {"hp": 45}),  # the enemy at (+9, +2): east
        ("marine", 18, 31.5, {"hp": 45}),  # at (+1, -13.5): south
        ("marine", 28, 10, {"hp": 45}),  # at (-9, +8): west
        ("marine", 19, 18, {"hp": 45}),
        ("marine", 19, 17, {"hp": 0}),
        ("marine", 19, 16, {"hp": 0}),
    ]
    env, ts = place("3m", "auto", units, [-1] * 3)
    assert decide(name, env, ts) == [scripted.EAST, scripted.SOUTH, scripted.WEST]


def test_a_blocked_walk_takes_the_other_side(place):
    """corridor: rock east of x = 13; the way to an enemy at (+17, -5) leads south first."""
    units = [
        ("zealot", 12.5, 10.5, {"hp": 100}),
        *[("zealot", 2, 2, {"hp": 0})] * 5,
        ("zergling", 29.5, 5.5, {"hp": 35}),
        *[("zergling", 29.5, 5.5, {"hp": 0})] * 23,
    ]
    env, ts = place("corridor", "auto", units, [-1] * 6)
    assert decide("nearest", env, ts)[0] == scripted.SOUTH


def test_kiting_runs_while_loading_and_shoots_when_ready(place):
    def units(cooldown):
        return [
            ("stalker", 10, 16, {"hp": 80, "cooldown": cooldown}),  # chased from the east
            ("stalker", 10, 26, {"hp": 80, "cooldown": cooldown}),  # 5.5 from the third: safe
            ("stalker", 12, 31.5, {"hp": 0}),
            ("zealot", 13, 16, {"hp": 100}),
            ("zealot", 13, 14, {"hp": 100}),
            ("zealot", 15.5, 26, {"hp": 100}),
        ]

    env, ts = place("3s_vs_3z", "auto", units(20), [-1] * 3)
    assert decide("kiting", env, ts) == [scripted.WEST, 8, 0]
    env, ts = place("3s_vs_3z", "auto", units(5), [-1] * 3)  # ready within the step of 8 loops
    assert decide("kiting", env, ts) == [6, 8, 0]


def test_heuristic_sticks_to_its_target(place):
    def units(hp):
        return [
            ("marine", 10, 16, {"hp": 45}),
            ("marine", 11, 16, {"hp": 0}),
            ("marine", 12, 16, {"hp": 0}),
            ("marine", 14, 16, {"hp": hp}),
            ("marine", 15, 16, {"hp": 45}),
            FAR,
        ]

    env, ts = place("3m", "auto", units(45), [-1] * 3)
    policy = scripted.make("heuristic", env, Rng(0))
    assert policy(ts)[1, 0] == 6
    env.state["pos_BU2"][1, 4] = torch.tensor([12.0, 16.0])  # another comes nearer
    env.state["t_B"][1] = 1
    assert policy(env.observe())[1, 0] == 6
    env.state["hp_BU"][1, 3] = 0  # the target dies
    assert policy(env.observe())[1, 0] == 7
    env.state["hp_BU"][1, 3] = 45
    env.state["t_B"][1] = 0  # a new episode forgets
    env.state["pos_BU2"][1, 4] = torch.tensor([16.0, 16.0])
    assert policy(env.observe())[1, 0] == 6


@pytest.mark.parametrize("name", ["nearest", "focus", "heuristic"])
def test_medivac_heals_the_nearest_damaged_mate(name, place):
    nobody = [("marine", 8, 8, {"hp": 0})] * 4
    enemies = [("marauder", 28, 28, {"hp": 125}), ("marauder", 28, 30, {"hp": 0})]
    enemies += [("marine", 30, 30, {"hp": 0})] * 7

    def medivac(first, second):
        allies = [
            ("marauder", 13, 16, {"hp": first}),
            ("marauder", 18, 16, {"hp": 0}),
            ("marine", 16, 20, {"hp": second}),
            ("marine", 16, 17, {"hp": 45}),  # nearest, but healthy
            ("marine", 16, 28, {"hp": 10}),  # weakest, but far
            *nobody,
            ("medivac", 16, 16, {"hp": 150, "energy": 50}),
        ]
        env, ts = place("MMM", "auto", [*allies, *enemies, ("medivac", 30, 30, {"hp": 0})], [-1] * 10)
        return decide(name, env, ts)[9]

    assert medivac(100, 20) == 6  # the marauder at 3
    assert medivac(125, 20) == 8  # the marine at 4
    assert medivac(125, 45) == scripted.NORTH  # to the marine at 12


def test_heuristic_marauders_skip_medivacs_and_idle_medivacs_stop(place):
    units = [
        ("marauder", 10, 16, {"hp": 125}),
        ("marauder", 10, 17, {"hp": 0}),
        ("marine", 10, 15, {"hp": 45}),
        *[("marine", 9, 9, {"hp": 0})] * 6,
        ("medivac", 8, 16, {"hp": 150, "energy": 50}),
        ("marauder", 14, 12, {"hp": 125}),  # at (+4, -4) from the marauder
        ("marauder", 14, 14, {"hp": 0}),
        *[("marine", 20, 20, {"hp": 0})] * 7,
        ("medivac", 13, 16, {"hp": 150}),  # at (+3, 0), nearer
    ]
    env, ts = place("MMM", "auto", units, [-1] * 10)
    assert decide("nearest", env, ts)[0] == 6 + 9
    actions = decide("heuristic", env, ts)
    assert (actions[0], actions[2], actions[9]) == (6, 6 + 9, scripted.STOP)


@pytest.mark.parametrize("name", scripted.POLICIES)
@pytest.mark.parametrize("map_name", ["MMM", "corridor", "v2/terran_10v11", "v2/zerg_5v5"])
def test_every_action_is_available(name, map_name):
    env = build(map_name, num_envs=16)
    policy = scripted.make(name, env, Rng(0))
    ts = env.reset(Rng(0))
    for _ in range(60):
        actions_BN = policy(ts)
        assert actions_BN.dtype == torch.int64
        assert ts.avail_BNA.gather(-1, actions_BN[..., None]).all()
        ts = env.step(actions_BN)


def test_attacks_start_after_the_look_actions_of_the_cone():
    env = build("v2/terran_5v5", num_envs=16, cone=True)
    policy = scripted.make("nearest", env, Rng(0))
    ts = env.reset(Rng(0))
    attacked = False
    for _ in range(60):
        actions_BN = policy(ts)
        assert ts.avail_BNA.gather(-1, actions_BN[..., None]).all()
        assert not ((actions_BN >= 6) & (actions_BN < env.tables.attack_base)).any()
        attacked |= bool((actions_BN >= env.tables.attack_base).any())
        ts = env.step(actions_BN)
    assert attacked


def test_random_is_uniform_and_its_rows_do_not_depend_on_the_batch():
    small, large = build("3m", num_envs=4), build("3m", num_envs=2000)
    rng = Rng(3)
    few, many = (scripted.make("random", env, rng)(env.reset(rng)) for env in (small, large))
    assert torch.equal(few, many[:4])
    shares = torch.bincount(many.flatten(), minlength=9) / many.numel()
    assert shares[0] == shares[6:].sum() == 0  # at the start: stop and four moves
    assert (shares[1:6] - 0.2).abs().max() < 0.03  # 5 standard deviations


def test_strengths():
    """Random loses 3m; focus fire beats nearest; running away wins what standing loses."""
    random, _ = play("3m", "random")
    nearest, nearest_return = play("8m", "nearest")
    focus, focus_return = play("8m", "focus")
    assert random < 0.05
    assert focus > nearest
    assert focus_return > nearest_return
    stand, _ = play("3s_vs_3z", "focus", episodes=64)
    kite, kite_return = play("3s_vs_3z", "kiting", episodes=64)
    assert stand < 0.2
    assert kite > 0.9
    assert kite_return > 19.0


def test_unknown_name_is_one_sentence():
    with pytest.raises(MarlError, match="policy='best' is no scripted team: give one of random"):
        scripted.make("best", build("3m", num_envs=1), Rng(0))
