"""The difference between two teams: its bounds are above zero exactly where their intervals are apart."""

import json
from pathlib import Path

import pytest

from experiments.worlds.table import over_mute


def write(folder: Path, seed: int, mute: bool, wins: float) -> Path:
    """A raw file whose final episodes were won at this rate."""
    label = "env=grid agent=ic3net" + " agent.messages=false" * mute
    raw = {
        "part": "messages",
        "seed": seed,
        "steps": 1,
        "label": label,
        "overrides": label.split(),
        "columns": ["success"],
        "episodes": [[wins]],
        "curve_columns": ["step", "wall_s", "success"],
        "curve": [],
        "config_hash": label,
    }
    path = folder / f"{mute}-{seed}.json"
    path.write_text(json.dumps(raw))
    return path


@pytest.mark.parametrize(("mute_wins", "apart"), [(0.5, True), (0.85, False)])
def test_the_low_end_says_whether_the_intervals_overlap(
    tmp_path: Path, mute_wins: float, apart: bool
) -> None:
    paths = [write(tmp_path, seed, False, 0.9 + 0.02 * (seed - 2)) for seed in range(5)]
    paths += [write(tmp_path, seed, True, mute_wins + 0.05 * (seed - 2)) for seed in range(5)]
    value, low, high, n = over_mute(*paths)
    assert value == pytest.approx(0.9 - mute_wins)
    assert n == 5
    assert low is not None
    assert high is not None
    assert low < value < high
    assert (low > 0) == apart
