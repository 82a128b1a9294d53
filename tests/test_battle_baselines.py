"""The numbers of the scripted teams' table."""

import pytest
import torch

from experiments.battle_baselines import open_loop, table
from experiments.battle_baselines.__main__ import FOLDER, play
from experiments.benchmarks.interleave import read_rows, write_rows
from marl.envs.battle import scripted
from marl.rng import Rng


def test_wilson_interval_against_published_values():
    # Newcombe, Statistics in Medicine 17, 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    expected = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605)}
    expected |= {(0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (won, n), interval in expected.items():
        assert table.Share(won, n, 5).interval() == pytest.approx(interval, abs=5e-5)


def test_difference_interval_against_published_values(tmp_path):
    # Newcombe, Statistics in Medicine 17, 1998, table II: 56/70 - 48/80, method 10: 0.0524 to 0.3339
    rows = [{"policy": "focus", "seed": 0, "won": int(i < 56)} for i in range(70)]
    rows += [{"policy": "nearest", "seed": 0, "won": int(i < 48)} for i in range(80)]
    write_rows(tmp_path / "a.csv", rows)
    value, low, high, seeds = table.focus_over_nearest(tmp_path / "a.csv")
    assert (value, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert seeds == 1


def test_every_episode_is_played_once_and_again_the_same():
    rows = play("3m", "focus", seed=1, episodes=24)
    assert [row["episode"] for row in rows] == list(range(24))
    assert rows == play("3m", "focus", seed=1, episodes=24)
    assert rows[:8] == play("3m", "focus", seed=1, episodes=8)  # an episode does not depend on its neighbours
    for row in rows:
        both_dead = row["dead_enemies"] == row["dead_allies"] == 3  # a draw is no win
        assert (row["dead_enemies"] == 3) == (row["won"] == 1 or both_dead)
        assert row["won"] == 0 or row["return"] == pytest.approx(20.0, abs=1e-3)
        assert row["steps"] <= 60


@pytest.mark.parametrize("map_name", ["3m", "MMM", "3s_vs_5z", "corridor", "2c_vs_64zg"])
def test_the_published_rows_are_what_the_world_still_plays(map_name):
    """Random play draws counter-based numbers alone: other dynamics than the published ones would show."""
    published = [row for row in read_rows(FOLDER / "raw" / f"{map_name}.csv") if row["policy"] == "random"]
    played = play(map_name, "random", seed=0, episodes=6)
    assert [{k: str(v) for k, v in row.items()} for row in played] == published[:6]


def test_the_docs_warning_about_the_reward_holds():
    """docs/battle.md: random play on 2c_vs_64zg returned up to 29.0 without a win."""
    lost = [row for row in read_rows(FOLDER / "raw" / "2c_vs_64zg.csv") if row["won"] == "0"]
    assert f"{max(float(row['return']) for row in lost if row['policy'] == 'random'):.1f}" == "29.0"


def test_a_replay_wins_its_own_episode_but_not_most_others():
    actions_TN = open_loop.won_episode("3m", seed=0, tries=64)
    rng = Rng(0, "original")
    env, ts = open_loop._world("3m", 64, rng)
    won_B, length_B, _ = open_loop._first_episodes(env, ts, scripted.make("kiting", env, rng))
    source = int(won_B.nonzero()[0])
    assert len(actions_TN) == length_B[source]
    again_B = open_loop._first_episodes(env, env.reset(rng), actions_by_step(actions_TN, 64))[0]
    assert again_B[source]
    others_B = open_loop.replay("3m", actions_TN, seed=1, episodes=256)
    assert others_B.float().mean() < 0.5


def actions_by_step(actions_TN, num_envs):
    steps = iter([*actions_TN, *[torch.ones_like(actions_TN[0])] * 60])
    return lambda ts: next(steps).expand(num_envs, -1).contiguous()
