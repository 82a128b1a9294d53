"""A dense phase before groups begin: nothing sleeps, no logit learns, and groups keep large weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from marl.nets import MLP, Optimiser, load_tensors, tensors_of
from marl.rng import Rng
from marl.sparse import Grouped, Grouping, Layout, grouped_layers, sparsify


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(config: Grouped | None) -> tuple[MLP, Optimiser]:
    net = MLP((12, 16, 8), generator=generator())
    pruner = sparsify(net, config, Rng(0))
    # No clipping: the logits' gradients would be in the norm.
    return net, Optimiser(
        net, kind="adam", learning_rate=0.01, eps=1e-8, max_grad_norm=float("inf"), pruner=pruner
    )


def advance(net: nn.Module, optimiser: Optimiser, steps: int, seed: int = 1) -> None:
    g = generator(seed)
    for _ in range(steps):
        x, y = torch.randn(20, 12, generator=g), torch.randn(20, 8, generator=g)
        optimiser.step((net(x) - y).square().mean())


@pytest.mark.parametrize("ste", ["full", "selected"])
def test_the_dense_phase_is_the_dense_network(ste: str):
    net, optimiser = start(Grouped(groups=4, smallest=1, warmup=10, ste=ste))  # type: ignore[arg-type]
    dense, plain = start(None)
    logits = [one.grouping.IG.detach().clone() for _, one in grouped_layers(net)]
    for which in ((net, optimiser), (dense, plain)):
        advance(*which, steps=9)
    for (_, one), layer, before in zip(grouped_layers(net), dense.layers, logits, strict=True):
        torch.testing.assert_close(one.dense(), layer.weight.detach(), rtol=1e-4, atol=1e-5)
        assert torch.equal(one.grouping.IG, before)
        assert one.layout.density == 1.0
    advance(net, optimiser, 1)
    for _, one in grouped_layers(net):
        assert one.layout.density == pytest.approx(0.25, abs=0.02)
        assert not one.whole
    # What is kept has the size of everything before: rescaled where the groups begin.
    for (_, one), layer in zip(grouped_layers(net), dense.layers, strict=True):
        ratio = one.packed.square().sum() / layer.weight.detach().square().sum()
        assert 0.9 < float(ratio) < 1.1
    learned = [one.grouping.IG.detach().clone() for _, one in grouped_layers(net)]
    advance(net, optimiser, 1)
    assert not any(
        torch.equal(one.grouping.IG, before)
        for (_, one), before in zip(grouped_layers(net), learned, strict=True)
    )


def test_fit_finds_planted_blocks():
    """Large weights in shuffled blocks, small ones elsewhere."""
    g = generator(3)
    group_in, group_out = (torch.arange(n)[torch.randperm(n, generator=g)] % 4 for n in (16, 24))
    mask_OI = group_out[:, None] == group_in[None]
    weight_OI = torch.randn(24, 16, generator=g) * 0.05 + mask_OI
    grouping = Grouping(16, 24, 4, Grouped(initial_std=0.5), generator(0))
    grouping.fit(weight_OI)
    found = Layout.of(*grouping.indices(), 4).mask_OI()
    assert torch.equal(found, mask_OI)
    assert grouping.IG.std(1, correction=0).allclose(torch.tensor(0.5))


def test_fit_keeps_more_than_random_groups():
    weight_OI = torch.randn(64, 32, generator=generator(1))
    grouping = Grouping(32, 64, 8, Grouped(), generator(0))
    before = (weight_OI * Layout.of(*grouping.indices(), 8).mask_OI()).square().sum()
    grouping.fit(weight_OI)
    layout = Layout.of(*grouping.indices(), 8)
    assert layout.sizes_in == (4,) * 8
    assert (weight_OI * layout.mask_OI()).square().sum() > 1.5 * before


@pytest.mark.parametrize("steps", [2, 6])
def test_a_state_from_either_side_of_its_end_goes_on(steps: int):
    config = Grouped(groups=4, smallest=1, warmup=4)
    one, two = start(config), start(config)
    advance(*one, steps=steps)
    if steps < 4:
        advance(*two, steps=6, seed=7)
    load_tensors(two[0], tensors_of(one[0]), "networks")
    two[1].load_state_dict(one[1].state_dict())
    for which in (one, two):
        advance(*which, steps=4, seed=9)
    assert torch.equal(one[1].flat.vector, two[1].flat.vector)
    assert all(not layer.whole for net in (one[0], two[0]) for _, layer in grouped_layers(net))
