"""Does weight grouping find groups that are there? One layer whose target is block-diagonal.

    python -m experiments.sparse.blocks            runs it (two minutes of a core), raw file and table
    python -m experiments.sparse.blocks --redraw   the table from the raw file

y = x W^T with W of 64 x 64 in 8 equal groups, features shuffled; a grouped layer of 8 equal groups learns it
from 64 rows a step, 2,000 steps of Adam at 1e-3, as many and as long as those of the accuracy study. `rest`
is the mean square of what it misses over that of y: with random groups about 1 - 1/8, with the true ones 0.
Nothing is timed: a machine of the same kind gives the same file.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments import tables
from experiments.benchmarks.interleave import Row, read_rows, write_rows
from experiments.claims import ROOT, commit
from marl.files import write_atomic
from marl.nets import MLP, Optimiser
from marl.rng import Rng
from marl.sparse import Grouped, RandomGroups, grouped_layers, sparsify

RAW = "experiments/sparse/raw/blocks.csv"
PAGE = "experiments/sparse/README.md"
FEATURES, GROUPS, ROWS, STEPS, RATE = 64, 8, 64, 2000, 1e-3
SEEDS = 5
_BASE: dict[str, Any] = {"groups": GROUPS, "smallest": 1}
_EVEN: dict[str, Any] = {**_BASE, "balance": "capacity", "refresh": 10}
CASES: dict[str, Grouped | RandomGroups] = {
    "random groups": RandomGroups(**_BASE),
    "learned, initial_std 1": Grouped(**_EVEN, initial_std=1.0),
    "learned, initial_std 0.1": Grouped(**_EVEN, initial_std=0.1),
    "learned, initial_std 0.01": Grouped(**_EVEN, initial_std=0.01),
    "learned, 0.1, softmax": Grouped(**_EVEN, initial_std=0.1, relaxation="softmax"),
    "learned, 0.1, own entries alone": Grouped(**_EVEN, initial_std=0.1, ste="selected"),
    "as they come, at every step, 1": Grouped(**_BASE, initial_std=1.0),
    "as they come, at every step, 0.1": Grouped(**_BASE, initial_std=0.1),
    "learned, 400 dense steps first": Grouped(**_EVEN, initial_std=0.1, warmup=400),
}
_BLOCK = re.compile(r"(<!-- blocks -->\n).*?(<!-- /blocks -->)", re.DOTALL)


def target(features: int, groups: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A weight (O, I) of equal groups, zero outside them, that keeps the size of its input; and its mask."""
    group_in, group_out = (torch.randperm(features, generator=generator) % groups for _ in range(2))
    mask_OI = group_out[:, None] == group_in[None]
    weight_OI = torch.randn(features, features, generator=generator) * (groups / features) ** 0.5
    return weight_OI * mask_OI, mask_OI


def learn(
    config: Grouped | RandomGroups,
    *,
    features: int = FEATURES,
    steps: int = STEPS,
    rate: float = RATE,
    seed: int,
) -> dict[str, float]:
    """Train one layer.

    Returns:
        rest: as above, on 4,000 new rows. found: share of the true weights that are kept. changed: share of
        the features that ended in another group than they began in. moves: changes of group per feature.
    """
    generator = torch.Generator().manual_seed(seed)
    weight_OI, mask_OI = target(features, config.groups, generator)
    layer = MLP((features, features), generator=generator)
    pruner = sparsify(layer, config, Rng(seed))
    optimiser = Optimiser(layer, kind="adam", learning_rate=rate, eps=1e-5, max_grad_norm=10.0, pruner=pruner)
    assert pruner is not None
    ((_, grouped),) = grouped_layers(layer)
    first, moves = None, 0.0
    for step in range(steps):
        if first is None and not grouped.whole:
            first = torch.cat((grouped.group_in_I, grouped.group_out_O))
        optimiser.set_learning_rate(rate * (1.0 - step / steps))
        x = torch.randn(ROWS, features, generator=generator)
        optimiser.step((layer(x) - x @ weight_OI.t()).square().mean())
        moves += float(pruner.metrics()["regrouped"])
    assert first is not None
    x = torch.randn(4000, features, generator=generator)
    y = x @ weight_OI.t()
    with torch.no_grad():
        missed = layer(x) - y
    last = torch.cat((grouped.group_in_I, grouped.group_out_O))
    return {
        "rest": float(missed.square().mean() / y.square().mean()),
        "found": float((grouped.layout.mask_OI() & mask_OI).sum() / mask_OI.sum()),
        "density": grouped.layout.density,
        "changed": float((first != last).float().mean()),
        "moves": moves / len(last),
    }


def rows() -> list[Row]:
    """One row per case and seed."""
    out: list[Row] = []
    for case, config in CASES.items():
        for seed in range(SEEDS):
            out.append({"case": case, "seed": seed, **learn(config, seed=seed), "commit": commit()})
        print(f"{case}: rest {[round(r['rest'], 3) for r in out[-SEEDS:]]}", flush=True)
    return out


def table(found: Sequence[dict[str, str]]) -> str:
    """Markdown: IQM and interval of what is missed, means of the others."""
    lines = [
        "| groups | missed | true weights kept | density | features in another group | moves a feature |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    for case in dict.fromkeys(row["case"] for row in found):
        own = [row for row in found if row["case"] == case]
        value, low, high = tables.estimate([float(row["rest"]) for row in own]).numbers()
        interval = "" if low is None else f" [{low:.0%}, {high:.0%}]"
        kept, density, changed, moves = (
            sum(float(row[name]) for row in own) / len(own)
            for name in ("found", "density", "changed", "moves")
        )
        cells = (
            case,
            f"{value:.0%}{interval}",
            f"{kept:.0%}",
            f"{density:.1%}",
            f"{changed:.0%}",
            f"{moves:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m experiments.sparse.blocks", description=__doc__)
    parser.add_argument("--redraw", action="store_true", help="run nothing")
    if not parser.parse_args().redraw:
        torch.set_num_threads(1)
        write_rows(ROOT / RAW, rows())
    text = table(read_rows(ROOT / RAW))
    page = ROOT / PAGE
    write_atomic(page, _BLOCK.sub(lambda m: f"{m[1]}\n{text}\n{m[2]}", page.read_text()).encode())
    print(text)


if __name__ == "__main__":
    main()
