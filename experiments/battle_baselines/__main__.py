"""Play the scripted teams on ten maps and publish their win rates.

python -m experiments.battle_baselines              3 minutes of one core; writes raw/, README.md, claims
python -m experiments.battle_baselines --smoke      one map, 32 episodes, keeps nothing
python -m experiments.battle_baselines --table      table, plot and claims from the raw files as they are
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from experiments.battle_baselines import open_loop, table
from experiments.benchmarks.interleave import write_rows
from experiments.claims import ROOT, made_before, made_now, write_claim
from marl import plots
from marl.envs.battle import Config, scripted
from marl.files import write_atomic
from marl.rng import Rng

FOLDER = ROOT / "experiments" / "battle_baselines"
RAW = "experiments/battle_baselines/raw"
COMMAND = "python -m experiments.battle_baselines"
SEEDS, EPISODES = 5, 320


def play(map_name: str, policy_name: str, seed: int, episodes: int = EPISODES) -> list[dict[str, Any]]:
    """One row per episode; every env plays exactly its first, so that short episodes are not favoured."""
    env = Config(map=map_name).build(num_envs=episodes, device=torch.device("cpu"), threads=1)
    rng = Rng(seed)
    policy = scripted.make(policy_name, env, rng)
    ts = env.reset(rng)
    rows: dict[int, dict[str, Any]] = {}
    return_B = torch.zeros(episodes, dtype=torch.float64)
    steps = 0
    while len(rows) < episodes:
        ts = env.step(policy(ts))
        steps += 1
        assert ts.reward_B is not None  # battle rewards the team
        return_B += ts.reward_B
        for b in ts.done_B.nonzero().flatten().tolist():
            if b not in rows:
                rows[b] = {
                    "policy": policy_name,
                    "seed": seed,
                    "episode": b,
                    "won": int(ts.info["success"][b]),
                    "return": round(float(return_B[b]), 3),
                    "steps": steps,
                    "dead_allies": int(ts.info["dead_allies"][b]),
                    "dead_enemies": int(ts.info["dead_enemies"][b]),
                }
    return [rows[b] for b in range(episodes)]


def measure(maps: tuple[str, ...], seeds: int, episodes: int, folder: Path | None) -> None:
    """Play and, with a folder, write one raw file per map."""
    for name in maps:
        start, rows = time.perf_counter(), []
        for policy in table.POLICIES:
            mine = [row for seed in range(seeds) for row in play(name, policy, seed, episodes)]
            rows += mine
            share = table.Share(sum(row["won"] for row in mine), len(mine), seeds)
            print(f"{name}, {policy}: {share.text()} % won", flush=True)
        if folder is not None:
            write_rows(folder / f"{name}.csv", rows)
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)


def publish(fresh: bool = True) -> None:
    """README with table and plot, and the claims, from the raw files; `fresh`: just measured."""
    made = made_now() if fresh else made_before("battle_baselines.random_3m")
    assert made is not None, "the raw files have no claims yet: run without --table"
    plots.save(table.figure(FOLDER / "raw"), FOLDER / "plots" / "wins.png")
    text = (
        "# Scripted teams on the battle maps\n\n"
        f"Episodes won in per cent (95 % Wilson interval), {SEEDS} seeds x {EPISODES} episodes each. The "
        "maps are those of the simulator `envs/battle`, not of StarCraft II. What the teams do is written in "
        "`envs/battle/scripted.py`; they see the whole battle.\n\n"
        f"{table.markdown(FOLDER / 'raw')}\n"
        "![wins](plots/wins.png)\n\n"
        f"Can a battle be won by heart? The actions of {open_loop.REPLAYS} episodes that "
        f"`{open_loop.POLICY}` won (one per seed), replayed blindly in {EPISODES} other episodes each (mean, "
        "95 % bootstrap interval over the replayed episodes; raw: `raw/open_loop.csv`):\n\n"
        f"{open_loop.markdown(FOLDER / 'raw' / 'open_loop.csv')}\n"
        f"Command: `{COMMAND}` (default `Config` of every map; seeds 0 to {SEEDS - 1}). "
        f"Commit: {made['commit']}. Raw: `raw/<map>.csv`, one row per episode; "
        f"`{COMMAND} --table` draws table and plot from them again.\n"
    )
    write_atomic(FOLDER / "README.md", text.encode())
    claims = (
        ("random_3m", "3m", "random_wins", "high < 0.05", "uniformly drawn legal actions"),
        ("focus_over_nearest_8m", "8m", "focus_over_nearest", "low > 0", "focus fire against nearest enemy"),
        ("kiting_3s_vs_5z", "3s_vs_5z", "kiting_wins", "low > 0.5", "the team that shoots and steps away"),
    )
    for name, map_name, function, test, what in claims:
        row = write_claim(
            id=f"battle_baselines.{name}",
            unit="share of episodes",
            test=test,
            derive_with=f"experiments.battle_baselines.table:{function}",
            raw=[f"{RAW}/{map_name}.csv"],
            made=made,
            command=COMMAND,
            note=f"wins on {map_name}: {what}; episodes of five seeds pooled, scripted teams do not learn",
        )
        print(f"{row['id']}: {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})")
    write_claim(
        id="battle_baselines.open_loop_3m",
        unit="share of episodes",
        test="high < 0.5",
        derive_with="experiments.battle_baselines.open_loop:wins_3m",
        raw=[f"{RAW}/open_loop.csv"],
        made=made,
        command=COMMAND,
        note="one won episode's actions replayed blindly in other episodes of 3m; interval over won episodes",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one map, 32 episodes, keeps nothing")
    parser.add_argument("--table", action="store_true", help="from the raw files as they are")
    options = parser.parse_args()
    if options.smoke:
        measure(("3m",), 1, 32, None)
        open_loop.measure(32, ("3m",), 2)
        return
    if not options.table:
        measure(table.MAPS, SEEDS, EPISODES, FOLDER / "raw")
        write_rows(FOLDER / "raw" / "open_loop.csv", open_loop.measure(EPISODES))
    publish(fresh=not options.table)


if __name__ == "__main__":
    main()
