"""Weight grouping finds groups that are there; random groups and logits that hardly move do not."""

from __future__ import annotations

import torch

from experiments.sparse import blocks
from marl.sparse import Grouped, RandomGroups

SMALL = {"features": 24, "steps": 700, "rate": 3e-3, "seed": 1}
EVEN = {"groups": 4, "smallest": 1, "balance": "capacity", "refresh": 5}


def test_the_target_is_block_diagonal_with_equal_groups() -> None:
    weight, mask = blocks.target(24, 4, torch.Generator().manual_seed(0))
    assert mask.sum() == 24 * 6
    assert mask.sum(0).tolist() == [6] * 24
    assert not weight[~mask].any()
    assert bool(weight[mask].all())


def test_learned_groups_find_the_blocks_and_random_ones_do_not() -> None:
    random = blocks.learn(RandomGroups(groups=4, smallest=1), **SMALL)
    still = blocks.learn(Grouped(**EVEN, initial_std=1000.0), **SMALL)
    learned = blocks.learn(Grouped(**EVEN), **SMALL)
    dense_first = blocks.learn(Grouped(**EVEN, warmup=200), **SMALL)
    assert random["rest"] > 0.5
    assert still["changed"] == 0
    assert still["rest"] > 0.5
    assert learned["rest"] < 0.8 * random["rest"]
    assert learned["found"] > random["found"] + 0.1
    assert dense_first["rest"] < 0.02
    assert dense_first["found"] == 1.0


def test_the_table_by_hand() -> None:
    about = {"rest": "0.5", "found": "0.25", "density": "0.125", "changed": "0.75", "moves": "3"}
    text = blocks.table([{"case": "a", "seed": str(seed), **about} for seed in range(5)])
    assert "| a | 50% [50%, 50%] | 25% | 12.5% | 75% | 3.0 |" in text
