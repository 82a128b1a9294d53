"""Measurements of TMC's study that are made up: entries and runs by hand."""

from experiments.tmc import sweep

ENV = "battle/3s5z"


def entry(won, sent, words=(), channel="perfect", episodes=2000):
    """All episodes of eight agents have 10 steps; so many are won, and so many messages go per step.

    Three in four pairs are of the living, who send half of what TMC's and rivals' teams send.
    """
    wins = round(won * 100)
    return {
        "words": list(words),
        "channel": channel,
        "episodes": episodes,
        "pairs": 56,
        "living": [42_000 if sent == 56 else 500 * sent, 42_000],
        "success": "1" * wins + "0" * (100 - wins),
        "length": [10] * 100,
        "link.messages": [round(10 * sent)] * 100,
        "link.delivered": [round(10 * sent)] * 100,
    }


def run(agent, seed, entries, part="battle", env=ENV):
    return {
        "run_id": f"{agent}-{seed}",
        "part": part,
        "env": env,
        "agent": agent,
        "seed": seed,
        "git": {"commit": "abc", "dirty": False},
        "hardware": {"cpu": "x"},
        "date": "2026-01-01T00:00:00",
        "entries": entries,
    }


def on_both(agent, entries, part="battle_tune", env=ENV):
    """The same measurements on both tuning seeds."""
    return [run(agent, seed, entries, part, env) for seed in sweep.TUNE_SEEDS]
