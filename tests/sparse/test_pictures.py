"""Pictures of a sparse run: what is recorded, and that everything can be drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from marl.nets import MLP
from marl.rng import Rng
from marl.sparse import Grouped, RandomGroups, grouped_layers, sparsify
from marl.sparse.pictures import HISTORY, WEIGHTS, pictures, record, weights
from marl.sparse.pruning import Magnitude, Pruner


def made(config: Grouped | Magnitude | RandomGroups) -> tuple[MLP, Pruner]:
    net = MLP((10, 16, 6), generator=torch.Generator().manual_seed(0))
    pruner = sparsify(net, config, Rng(0))
    assert pruner is not None
    return net, pruner


def test_a_record_is_what_the_layers_are():
    _, pruner = made(RandomGroups(groups=2, smallest=1))
    assert record({"actor": pruner}) == {
        "actor.layers.0": {"kept": 80, "count": 160, "in": [5, 5], "out": [8, 8]},
        "actor.layers.1": {"kept": 48, "count": 96, "in": [8, 8], "out": [3, 3]},
    }
    _, masked = made(Magnitude(smallest=1))
    assert record({"": masked}) == {
        "layers.0": {"kept": 160, "count": 160},
        "layers.1": {"kept": 96, "count": 96},
    }


def test_sorted_by_group_every_kept_weight_lies_in_a_block():
    net, _ = made(Grouped(groups=3, smallest=1))
    layers = dict(grouped_layers(net))
    axes = [ax for ax in weights(layers).axes if ax.get_visible()]
    assert len(axes) == 4
    for ax, layer in zip(axes[1::2], layers.values(), strict=True):
        shown = ~np.ma.getmaskarray(ax.images[0].get_array())
        blocks = torch.zeros(layer.layout.outputs, layer.layout.inputs, dtype=torch.bool)
        for patch in ax.patches:
            x, y = round(patch.get_x() + 0.5), round(patch.get_y() + 0.5)
            blocks[y : y + int(patch.get_height()), x : x + int(patch.get_width())] = True
        assert np.array_equal(shown, blocks.numpy())


def test_pictures_are_written_for_grouped_and_for_masked_layers(tmp_path: Path):
    for name, config, expected in (
        ("grouped", Grouped(groups=16, smallest=1), {HISTORY, WEIGHTS}),  # more groups than outputs
        ("masked", Magnitude(smallest=1), {HISTORY}),
    ):
        _, pruner = made(config)
        rows = [{"step": step, "layers": record({"": pruner})} for step in (0, 100)]
        paths = pictures(tmp_path / name, {"": pruner}, rows)
        assert {path.name for path in paths} == expected
        for path in paths:
            with Image.open(path) as picture:
                assert min(picture.size) > 100
