"""The rivals of learned groups: masks and ties by brute force, and that training keeps them."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from marl.errors import FieldError, MarlError
from marl.nets import MLP, Optimiser, load_tensors, tensors_of
from marl.rng import Rng
from marl.sparse import Layers, RandomGroups, grouped_layers, sparsify
from marl.sparse.pruning import BlockCirculant, GroupSparse, Magnitude
from marl.sparse.pruning.circulant import first_of_class
from marl.sparse.pruning.masked import largest


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(config: Layers, steps: int, rewards: list[float] | None = None) -> tuple[nn.Module, Optimiser]:
    net = MLP((10, 16, 6), generator=generator())
    pruner = sparsify(net, config, Rng(0))
    optimiser = Optimiser(net, kind="adam", learning_rate=0.01, eps=1e-8, max_grad_norm=1.0, pruner=pruner)
    advance(net, optimiser, steps, rewards)
    return net, optimiser


def advance(net: nn.Module, optimiser: Optimiser, steps: int, rewards: list[float] | None = None) -> None:
    g = generator(1)
    for step in range(steps):
        if rewards is not None:
            assert optimiser.pruner is not None
            optimiser.pruner.observe(torch.tensor(rewards[step]))
        x, y = torch.randn(20, 10, generator=g), torch.randn(20, 6, generator=g)
        optimiser.step((net(x) - y).square().mean())


@pytest.mark.parametrize(
    ("outputs", "inputs", "block"), [(4, 6, 2), (5, 7, 2), (6, 6, 3), (7, 5, 4), (3, 2, 8)]
)
def test_classes_are_the_diagonals_of_the_blocks(outputs: int, inputs: int, block: int):
    first = first_of_class((outputs, inputs), block).tolist()
    seen: dict[tuple[int, int, int], int] = {}
    for o, i in itertools.product(range(outputs), range(inputs)):
        key = o // block, i // block, (o % block - i % block) % block
        seen.setdefault(key, o * inputs + i)
        assert first[o * inputs + i] == seen[key]
    copies = first_of_class((2, outputs, inputs), block).tolist()
    assert copies == [*first, *(f + outputs * inputs for f in first)]


def test_circulant_by_hand():
    net, optimiser = trained(BlockCirculant(block=2, smallest=1), steps=20)
    for layer in net.layers:
        O, I = layer.weight.shape  # noqa: E741
        for a, b in itertools.product(range(O // 2), range(I // 2)):
            (w00, w01), (w10, w11) = layer.weight[2 * a : 2 * a + 2, 2 * b : 2 * b + 2].tolist()
            assert w00 == w11
            assert w01 == w10
    assert optimiser.pruner.metrics()["density"] == 0.5


def test_a_circulant_step_follows_the_shared_values_gradient():
    """Against autograd through the expansion of the stored values."""
    net, _ = trained(BlockCirculant(block=2, smallest=1), steps=0)
    layer = net.layers[0]
    first = first_of_class(layer.weight.shape, 2)
    stored = layer.weight.detach().reshape(-1).clone().requires_grad_()
    x = torch.randn(7, 10, generator=generator(4))
    (x @ stored[first].view(layer.weight.shape).t() + layer.bias.detach()).square().sum().backward()
    layer(x).square().sum().backward()
    net.layers[1].weight.grad = torch.zeros_like(net.layers[1].weight)
    net.pruner.before_step()
    torch.testing.assert_close(layer.weight.grad.reshape(-1)[first.unique()], stored.grad[first.unique()])


def test_magnitude_schedule_by_hand():
    config = Magnitude(amount=0.5, start=10, end=20)
    # 0.5 (1 - (1 - 0.5)^3) = 0.4375 half-way
    assert [config.at(t) for t in (0, 10, 15, 20, 99)] == [0.0, 0.0, 0.4375, 0.5, 0.5]


def test_magnitude_takes_the_smallest_and_they_stay_away():
    config = Magnitude(amount=0.5, end=20, every=5, smallest=1)
    net, optimiser = trained(config, steps=4)
    before = [layer.weight.detach().clone() for layer in net.layers]
    assert all(bool(w.all()) for w in before)
    dead: list[torch.Tensor] = [torch.zeros_like(w, dtype=torch.bool) for w in before]
    for step in range(5, 31):
        advance(net, optimiser, 1)
        for index, layer in enumerate(net.layers):
            zero = layer.weight.detach() == 0
            assert bool((zero | ~dead[index]).all()), "a pruned weight came back"
            dead[index] = zero
            if step % 5 == 0:
                assert int(zero.sum()) == zero.numel() - round((1 - config.at(step)) * zero.numel())
                kept = layer.weight.detach()[~zero].abs()
                assert kept.min() > 0
    assert optimiser.pruner.metrics()["density"].item() == pytest.approx(0.5)
    load_tensors(net, tensors_of(net), "networks")


def test_largest_keeps_the_first_of_equals():
    assert largest(torch.tensor([[1.0, 3.0], [3.0, 3.0]]), 2).tolist() == [[False, True], [True, False]]
    assert not largest(torch.ones(3), 0).any()


def test_group_sparse_waits_for_the_reward():
    """The share of zeros rises where the reward holds, rests where it falls, and the ties end at the goal."""
    config = GroupSparse(amount=0.5, rise=0.25, every=1, tolerance=0.1, memory=0.0, smallest=1)
    net, optimiser = trained(config, steps=1, rewards=[1.0])
    pruner = optimiser.pruner
    assert float(pruner.share) == 0.25
    first = [first_of_class(layer.weight.shape, 2) for layer in net.layers]
    for layer, where in zip(net.layers, first, strict=True):
        flat = layer.weight.detach().reshape(-1)
        assert torch.equal(flat, flat[where])
    advance(net, optimiser, 3, rewards=[0.8, 0.85, 0.89])
    assert float(pruner.share) == 0.25
    assert pruner.tied
    advance(net, optimiser, 1, rewards=[0.91])
    assert float(pruner.share) == 0.5
    assert not pruner.tied
    zeros = [layer.weight.detach() == 0 for layer in net.layers]
    assert pruner.metrics()["density"].item() == pytest.approx(0.5)
    advance(net, optimiser, 5, rewards=[1.0] * 5)
    for layer, zero, where in zip(net.layers, zeros, first, strict=True):
        flat = layer.weight.detach().reshape(-1)
        assert torch.equal(layer.weight == 0, zero)
        assert not torch.equal(flat, flat[where])


def test_group_sparse_prunes_whole_classes_smallest_first():
    config = GroupSparse(amount=0.5, rise=0.25, every=1, memory=0.0, smallest=1)
    net, _ = trained(config, steps=1, rewards=[1.0])
    for layer in net.layers:
        where = first_of_class(layer.weight.shape, 2)
        zero = (layer.weight.detach() == 0).reshape(-1)
        assert torch.equal(zero, zero[where])
        assert int(zero[where.unique()].sum()) == where.unique().numel() - round(
            0.75 * where.unique().numel()
        )


def test_random_groups_are_balanced_and_stay():
    net, optimiser = trained(RandomGroups(groups=2, smallest=1), steps=5)
    start, _ = trained(RandomGroups(groups=2, smallest=1), steps=0)
    for (_, a), (_, b) in zip(grouped_layers(net), grouped_layers(start), strict=True):
        assert torch.equal(a.group_in_I, b.group_in_I)
        assert a.layout.density == 0.5
        assert not torch.equal(a.dense(), b.dense())
    assert optimiser.pruner.metrics()["density"] == 0.5
    other = MLP((10, 16, 6), generator=generator())
    sparsify(other, RandomGroups(groups=2, smallest=1), Rng(1))
    pairs = zip(grouped_layers(other), grouped_layers(start), strict=True)
    assert any(not torch.equal(a.group_in_I, b.group_in_I) for (_, a), (_, b) in pairs)


def test_random_groups_may_be_of_any_size():
    net, _ = trained(RandomGroups(groups=4, smallest=1, balance="none"), steps=0)
    sizes = [size for _, one in grouped_layers(net) for size in (*one.layout.sizes_in, *one.layout.sizes_out)]
    assert len(set(sizes)) > 3


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (Magnitude, {"amount": 1.0}, "amount=1.0"),
        (Magnitude, {"end": 0}, "end=0.*above start=0"),
        (Magnitude, {"every": 0}, "every=0"),
        (RandomGroups, {"balance": "yes"}, "balance='yes'"),
        (BlockCirculant, {"block": 0}, "block=0"),
        (GroupSparse, {"rise": 0.0}, "rise=0.0"),
        (GroupSparse, {"memory": 1.0}, "memory=1.0"),
        (GroupSparse, {"tolerance": -1.0}, "tolerance=-1.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make: type, settings: dict[str, float], message: str):
    with pytest.raises(FieldError, match=message):
        make(**settings)


def test_settings_without_a_kind_are_refused():
    with pytest.raises(MarlError, match="add sparsity=grouped"):
        sparsify(MLP((4, 4), generator=generator()), Layers(smallest=1), Rng(0))
