"""A layer whose groups change: against the masked dense layer, and the same training in both forms."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marl.errors import MarlError
from marl.nets import (
    GRU,
    LSTM,
    MLP,
    FlatParameters,
    Linear,
    Optimiser,
    dense_weight,
    linear,
    load_tensors,
    tensors_of,
)
from marl.nets.recurrent import gru_sequence
from marl.nets.tower import Tower
from marl.rng import Rng
from marl.sparse import Grouped, GroupedLayer, Grouping, RandomGroups, follow, grouped_layers, sparsify
from marl.sparse.grouping import full_gradients
from marl.sparse.layer import GroupedCopies


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(I: int = 12, O: int = 9, G: int = 3, *, full: bool, seed: int = 0) -> GroupedLayer:  # noqa: E741
    dense = linear(I, O, generator=generator(seed))
    grouping = Grouping(I, O, G, Grouped(), generator(seed + 1))
    return GroupedLayer(dense.weight, dense.bias, grouping, G, full=full)


def masked(made: GroupedLayer, x: Tensor) -> Tensor:
    return F.linear(x, made.dense() * made.layout.mask_OI(), made.bias)


@pytest.mark.parametrize("full", [True, False])
def test_it_is_the_masked_dense_layer_of_the_weights_it_was_given(full: bool):
    made, dense = layer(full=full), linear(12, 9, generator=generator())
    assert torch.equal(made.dense(), dense.weight)
    x = torch.randn(5, 2, 12, generator=generator(7))
    torch.testing.assert_close(made(x), F.linear(x, dense.weight * made.layout.mask_OI(), dense.bias))
    torch.testing.assert_close(made(x, relu=True), made(x).relu())


@pytest.mark.parametrize("full", [True, False])
def test_gradients_of_two_products_add_up_and_are_autograds(full: bool):
    """A recurrent cell calls a layer at every entry; the mask's gradient is that of the sum."""
    made = layer(full=full)
    FlatParameters(made)
    xs = torch.randn(2, 5, 12, generator=generator(7))
    (made(xs[0]).square().sum() + made(xs[1]).tanh().sum()).backward()
    made.gradients()

    W = made.dense().requires_grad_()
    effective = (W * made.layout.mask_OI()).detach().requires_grad_()
    bias = made.bias.detach().requires_grad_()
    y = [F.linear(x, effective, bias) for x in xs]
    (y[0].square().sum() + y[1].tanh().sum()).backward()
    X_dY = effective.grad
    assert X_dY is not None
    nnz = made.layout.nnz
    torch.testing.assert_close(made.weight.grad[:nnz], made.layout.pack(X_dY))
    assert not made.weight.grad[nnz:].any()
    torch.testing.assert_close(made.bias.grad, bias.grad)
    dIS, dOS = full_gradients(X_dY, W.detach(), made.group_in_I, made.group_out_O, 3)
    if not full:
        dIS = dIS * F.one_hot(made.group_in_I, 3)
        dOS = dOS * F.one_hot(made.group_out_O, 3).t()
    torch.testing.assert_close(made.grouping.IG.grad, dIS)
    torch.testing.assert_close(made.grouping.OG.grad, dOS)


@pytest.mark.parametrize("full", [True, False])
def test_a_change_of_groups_keeps_every_weight(full: bool):
    made = layer(full=full)
    FlatParameters(made)
    before, tags = made.dense(), made.weight.data.clone()
    assert made.regroup(made.group_in_I.clone(), made.group_out_O.clone()) is None
    group_in, group_out = torch.arange(12) % 2, torch.arange(9) % 3
    order = made.regroup(group_in, group_out)
    assert order is not None
    assert torch.equal(made.weight.data, tags[order])
    assert torch.equal(made.dense(), before)
    x = torch.randn(5, 12, generator=generator(7))
    torch.testing.assert_close(made(x), masked(made, x))
    kept = (group_out[:, None] == group_in[None]).sum()
    assert made.layout.nnz == kept


@pytest.mark.parametrize("full", [True, False])
def test_loading_takes_the_groups_of_the_other(full: bool):
    one, two = layer(full=full, seed=0), layer(full=full, seed=5)
    FlatParameters(two)
    load_tensors(two, tensors_of(one), "networks")
    x = torch.randn(5, 12, generator=generator(7))
    torch.testing.assert_close(two(x), one(x))
    assert torch.equal(two.dense(), one.dense())
    two.weight.data.zero_()
    assert one.weight.abs().sum() > 0


def _train(
    config: Grouped | RandomGroups, kind: str, steps: int, seed: int = 3, limit: float = 1.0
) -> tuple[nn.Module, Optimiser]:
    net = MLP((10, 16, 6), generator=generator(seed))
    pruner = sparsify(net, config, Rng(seed))
    optimiser = Optimiser(
        net,
        kind=kind,
        learning_rate=0.05,
        eps=1e-6,
        max_grad_norm=limit,
        pruner=pruner,  # type: ignore[arg-type]
    )
    g = generator(seed)
    for _ in range(steps):
        x, y = torch.randn(20, 10, generator=g), torch.randn(20, 6, generator=g)
        optimiser.step((net(x) - y).square().mean())
    return net, optimiser


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_sleeping_weights_rest_and_the_others_step_as_in_torch(kind: str):
    """Fixed groups: a torch optimiser on the masked dense network gives the same kept weights."""
    config = RandomGroups(groups=3, smallest=1, rescale=False)
    net, optimiser = _train(config, kind, steps=8)
    start, _ = _train(config, kind, steps=0)
    masks = [one.layout.mask_OI() for _, one in grouped_layers(start)]
    dense = [one.dense().clone().requires_grad_() for _, one in grouped_layers(start)]
    biases = [one.bias.detach().clone().requires_grad_() for _, one in grouped_layers(start)]
    settings = {"lr": 0.05, "eps": 1e-6}
    made = [*dense, *biases]
    oracle = torch.optim.Adam(made, **settings) if kind == "adam" else torch.optim.RMSprop(made, **settings)
    g = generator(3)
    for _ in range(8):
        x, y = torch.randn(20, 10, generator=g), torch.randn(20, 6, generator=g)
        oracle.zero_grad()
        hidden = F.linear(x, dense[0] * masks[0], biases[0]).relu()
        (F.linear(hidden, dense[1] * masks[1], biases[1]) - y).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(made, 1.0)
        oracle.step()
    for (_, one), weight, mask, bias in zip(grouped_layers(net), dense, masks, biases, strict=True):
        torch.testing.assert_close(one.dense()[mask], weight.detach()[mask])
        torch.testing.assert_close(one.bias.detach(), bias.detach())
    for (_, one), (_, first) in zip(grouped_layers(net), grouped_layers(start), strict=True):
        asleep = ~one.layout.mask_OI()
        assert torch.equal(one.dense()[asleep], first.dense()[asleep])
    for name, value in optimiser.state_dict().items():
        if name == "step":
            continue
        for _, one in grouped_layers(net):
            at = optimiser.flat.start[one.weight]
            assert not value[at + one.layout.nnz : at + one.weight.numel()].any()


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_statistics_go_where_their_weights_go(kind: str):
    net, optimiser = _train(RandomGroups(groups=3, smallest=1), kind, steps=3)
    (_, one), _ = grouped_layers(net)
    at = slice(optimiser.flat.start[one.weight], optimiser.flat.start[one.weight] + one.weight.numel())
    # Every statistic of a weight is set to the weight itself: they must stay equal.
    state = optimiser._statistics()
    for name in state.keys() - {"step"}:
        state[name][at] = one.weight.data
    order = one.regroup(torch.arange(10) % 3, torch.arange(16) % 3)
    assert order is not None

    class Once:
        def after_step(self, steps: int) -> list[tuple[nn.Parameter, Tensor]]:
            return [(one.weight, order)]

    optimiser._move(Once())  # type: ignore[arg-type]
    for name in state.keys() - {"step"}:
        assert torch.equal(state[name][at], one.weight.data)


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_both_forms_are_one_training_as_long_as_groups_stay(kind: str):
    """They differ in the logits' gradient alone, which no weight feels while none is clipped by its norm."""
    pair = [
        _train(Grouped(groups=4, smallest=1, ste=ste, refresh=100), kind, steps=12, limit=float("inf"))[0]
        for ste in ("full", "selected")
    ]
    (_, a), (_, b) = (next(iter(grouped_layers(net))) for net in pair)
    torch.testing.assert_close(a.dense(), b.dense(), rtol=1e-4, atol=1e-4)
    assert not torch.equal(a.grouping.IG, b.grouping.IG)


def test_groups_are_learned_and_density_follows():
    config = Grouped(groups=4, smallest=1, initial_std=0.01)
    net, optimiser = _train(config, "adam", steps=40)
    start, _ = _train(config, "adam", steps=0)
    for (_, one), (_, first) in zip(grouped_layers(net), grouped_layers(start), strict=True):
        assert not torch.equal(one.group_in_I, first.group_in_I)
        assert all(
            torch.equal(a, b)
            for a, b in zip(one.grouping.indices(), (one.group_in_I, one.group_out_O), strict=True)
        )
    assert optimiser.pruner is not None
    metrics = optimiser.pruner.metrics()
    pairs = [one.layout for _, one in grouped_layers(net)]
    total = sum(p.inputs * p.outputs for p in pairs)
    assert metrics["density"].item() == pytest.approx(sum(p.nnz for p in pairs) / total)
    names = [name for name, _ in grouped_layers(net)]
    assert metrics[f"density/{names[0]}"].item() == pytest.approx(pairs[0].density)


def test_the_features_that_changed_their_group_are_counted():
    net, optimiser = _train(Grouped(groups=4, smallest=1, initial_std=0.01), "adam", steps=1)
    start, _ = _train(Grouped(groups=4, smallest=1, initial_std=0.01), "adam", steps=0)
    pairs = zip(grouped_layers(net), grouped_layers(start), strict=True)
    changed = sum(
        int((a.group_in_I != b.group_in_I).sum() + (a.group_out_O != b.group_out_O).sum())
        for (_, a), (_, b) in pairs
    )
    assert optimiser.pruner is not None
    assert changed > 0
    assert optimiser.pruner.metrics()["regrouped"] == changed
    assert optimiser.pruner.metrics()["regrouped"] == 0  # since the last call


def test_groups_change_only_at_a_refresh():
    for steps, changed in ((4, False), (5, True)):
        net, _ = _train(Grouped(groups=4, smallest=1, initial_std=0.01, refresh=5), "adam", steps=steps)
        start, _ = _train(Grouped(groups=4, smallest=1, initial_std=0.01, refresh=5), "adam", steps=0)
        (_, one), (_, first) = (next(iter(grouped_layers(n))) for n in (net, start))
        assert torch.equal(one.group_in_I, first.group_in_I) != changed


def test_one_group_is_the_dense_network():
    net, optimiser = _train(Grouped(groups=1, smallest=1), "adam", steps=5)
    dense = MLP((10, 16, 6), generator=generator(3))
    plain = Optimiser(dense, kind="adam", learning_rate=0.05, eps=1e-6, max_grad_norm=1.0)
    g = generator(3)
    for _ in range(5):
        x, y = torch.randn(20, 10, generator=g), torch.randn(20, 6, generator=g)
        plain.step((dense(x) - y).square().mean())
    assert torch.equal(plain.flat.vector, optimiser.flat.vector)
    assert all(type(one) is Linear for one in net.layers)
    assert optimiser.pruner.metrics()["density"] == 1.0


def test_a_twin_follows_groups_and_weights():
    net, _ = _train(Grouped(groups=4, smallest=1, initial_std=0.01), "adam", steps=30)
    twin = MLP((10, 16, 6), generator=generator(9))
    sparsify(twin, Grouped(groups=4, smallest=1), Rng(9))
    flat = FlatParameters(twin.requires_grad_(False))
    follow(twin, net)
    for (_, a), (_, b) in zip(grouped_layers(net), grouped_layers(twin), strict=True):
        assert torch.equal(a.group_in_I, b.group_in_I)
    flat.vector.data.copy_(torch.cat([p.detach().reshape(-1) for p in net.parameters()]))
    for _, b in grouped_layers(twin):
        b.bind()
    x = torch.randn(3, 10, generator=generator(1))
    assert torch.equal(net(x), twin(x))
    assert not twin(x).requires_grad


def test_layers_of_copies_and_recurrent_cells_become_grouped():
    copies = linear(8, 8, generator=generator(), copies=3)
    holder = nn.ModuleDict({"a": copies})
    sparsify(holder, RandomGroups(groups=2, smallest=1, rescale=False), Rng(0))
    assert isinstance(holder["a"], GroupedCopies)
    x = torch.randn(4, 3, 8, generator=generator(1))
    y = holder["a"](x)
    for c, one in enumerate(holder["a"].copies):
        torch.testing.assert_close(one.dense(), copies.weight[c].detach())
        expected = F.linear(x[:, c], copies.weight[c] * one.layout.mask_OI(), copies.bias[c])
        torch.testing.assert_close(y[:, c], expected)

    for make in (GRU, LSTM):
        cell = make(8, 8, generator=generator())
        dense = copy.deepcopy(cell)
        sparsify(cell, RandomGroups(groups=2, smallest=1, rescale=False), Rng(0))
        for name in ("input", "recurrent"):
            one = getattr(cell, name)
            getattr(dense, name).weight.data.mul_(one.layout.mask_OI())
        h = torch.randn(4, 2, 8, generator=generator(2))
        state = (h,) if make is GRU else (h, h)
        torch.testing.assert_close(cell.step(h, *state), dense.step(h, *state))
    start = torch.zeros(4, 3, dtype=torch.bool)
    gru = GRU(8, 8, generator=generator())
    dense = copy.deepcopy(gru)
    sparsify(gru, RandomGroups(groups=2, smallest=1, rescale=False), Rng(0))
    for name in ("input", "recurrent"):
        getattr(dense, name).weight.data.mul_(getattr(gru, name).layout.mask_OI())
    x = torch.randn(4, 3, 2, 8, generator=generator(3))
    torch.testing.assert_close(gru(x, start), dense(x, start))


def test_a_tower_of_grouped_layers_learns_as_its_masked_twin():
    def make() -> Tower:
        return Tower(
            [8, 16, 4],
            activations=["relu", None],
            gains=[1.0, 1.0],
            norm=True,
            copies=None,
            generator=generator(),
        )

    tower, dense = make(), make()
    sparsify(tower, RandomGroups(groups=2, smallest=1, rescale=False), Rng(0))
    for one, other in zip(tower.layers, dense.layers, strict=True):
        other.weight.data.mul_(one.layout.mask_OI())
    x = torch.randn(5, 8, generator=generator(1))
    assert not tower.native(x)
    torch.testing.assert_close(tower(x), dense.torch_form(x))


def test_names_and_sizes_that_fit_no_layer_are_refused():
    net = MLP((10, 16, 6), generator=generator())
    with pytest.raises(MarlError, match=r"no layer lstm: its parts are layers, layers\.0"):
        sparsify(net, Grouped(layer_groups={"lstm": 2}), Rng(0))
    with pytest.raises(MarlError, match="no layer has 32 inputs and outputs"):
        sparsify(net, Grouped(), Rng(0))


@pytest.mark.parametrize("full", [True, False])
def test_rescaling_gives_kept_weights_the_size_of_all(full: bool):
    made = layer(full=full)
    before = made.dense().clone()
    made.rescale()
    torch.testing.assert_close(made.packed.square().sum(), before.square().sum())
    ratio = made.dense() / before
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))
    x = torch.randn(5, 12, generator=generator(7))
    torch.testing.assert_close(made(x), masked(made, x))


def test_outputs_of_a_grouped_layer_are_as_large_as_those_of_its_dense_twin():
    for rescale, least, most in ((True, 0.8, 1.25), (False, 0.25, 0.45)):
        dense = MLP((128, 128), generator=generator())
        net = copy.deepcopy(dense)
        sparsify(net, RandomGroups(groups=8, rescale=rescale), Rng(0))
        x = torch.randn(200, 128, generator=generator(1))
        ratio = net(x).std() / dense(x).std()
        assert least < ratio < most


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_steps_of_kept_weights_are_longer_the_fewer_they_are(kind: str):
    """The first step of either optimiser has one size for all weights: rate, or rate / sqrt(1 - alpha)."""
    moved = {}
    for rescale in (True, False):
        config = RandomGroups(groups=2, smallest=1, rescale=rescale)
        (net, _), (start, _) = (_train(config, kind, steps=n) for n in (1, 0))
        (_, one), _ = grouped_layers(net)
        (_, first), _ = grouped_layers(start)
        moved[rescale] = (one.packed - first.packed).abs().median(), (one.bias - first.bias).abs().median()
    torch.testing.assert_close(moved[True][0], 2 * moved[False][0], rtol=0.02, atol=0.0)
    torch.testing.assert_close(moved[True][1], moved[False][1], rtol=0.02, atol=0.0)


@pytest.mark.parametrize("ste", ["full", "selected"])
@pytest.mark.parametrize("kind", ["gru", "mlp"])
def test_full_layers_take_the_native_forms_of_dense_ones(kind: str, ste: str):
    """A GRU's sequence and a perceptron: output and gradients as layer by layer."""
    module = GRU(8, 8, generator=generator()) if kind == "gru" else MLP((8, 16, 4), generator=generator())
    sparsify(module, Grouped(groups=2, smallest=1, ste=ste), Rng(0))  # type: ignore[arg-type]
    FlatParameters(module)
    assert all((dense_weight(one) is not None) == (ste == "full") for _, one in grouped_layers(module))
    x = torch.randn(4, 3, 2, 8, generator=generator(3))
    start = torch.rand(4, 3, generator=generator(4)) < 0.3

    def by_layers() -> Tensor:
        if isinstance(module, GRU):
            return gru_sequence(module.input(x), module.recurrent, start, None)
        return module.by_layers(x)

    found = []
    for run in (lambda: module(x, start) if kind == "gru" else module(x), by_layers):
        y = run()
        y.square().sum().backward()
        found.append([y, *(one.leaf.grad.clone() for _, one in grouped_layers(module))])
        for _, one in grouped_layers(module):
            one.leaf.grad.zero_()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
