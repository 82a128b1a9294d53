"""Layers, perceptrons, the GRU and flat parameters against torch's own modules."""

import pytest
import torch
from torch import nn

from marl.nets import GRU, MLP, FlatParameters, Optimiser, linear


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_linear_equals_torch():
    layer = linear(5, 3, generator=_generator())
    x = torch.randn(2, 4, 5, generator=_generator(1))
    torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)


def test_linear_with_copies_applies_each_to_its_own_rows():
    layer = linear(5, 3, generator=_generator(), copies=4)
    x = torch.randn(2, 6, 4, 5, generator=_generator(1))
    y = layer(x)
    assert y.shape == (2, 6, 4, 3)
    for c in range(4):
        torch.testing.assert_close(y[:, :, c], x[:, :, c] @ layer.weight[c].T + layer.bias[c])


def test_linear_default_weights_are_uniform_within_the_bound_of_torch():
    layer = linear(16, 500, generator=_generator())
    assert 0.24 < layer.weight.abs().max() <= 0.25
    assert 0.24 < layer.bias.abs().max() <= 0.25
    assert layer.weight.std().item() == pytest.approx(0.25 / 3**0.5, rel=0.02)


def test_linear_with_gain_is_orthogonal_with_zero_bias():
    layer = linear(8, 4, generator=_generator(), gain=2.0, copies=2)
    for weight in layer.weight:
        torch.testing.assert_close(weight @ weight.T, 4.0 * torch.eye(4), rtol=1e-5, atol=1e-5)
    assert not torch.equal(*layer.weight)
    assert (layer.bias == 0).all()


def test_mlp_has_relu_between_layers_only():
    mlp = MLP((3, 4, 2), generator=_generator())
    x = torch.randn(7, 3, generator=_generator(1))
    first, last = mlp.layers
    torch.testing.assert_close(mlp(x), last(first(x).clamp(min=0)))
    assert (mlp(x) < 0).any()


@pytest.mark.parametrize("copies", [None, 3])
def test_gru_equals_torch_cell_with_resets(copies):
    gru = GRU(5, 8, generator=_generator(), copies=copies)
    x = torch.randn(2, 6, 3, 5, generator=_generator(1))
    start = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 1, 1]], dtype=torch.bool)
    h = gru(x, start)
    cells = [nn.GRUCell(5, 8) for _ in range(3)]
    for n, cell in enumerate(cells):
        for ours, theirs in ((gru.input, "ih"), (gru.recurrent, "hh")):
            pick = (lambda v: v) if copies is None else (lambda v, n=n: v[n])
            cell.get_parameter(f"weight_{theirs}").data.copy_(pick(ours.weight))
            cell.get_parameter(f"bias_{theirs}").data.copy_(pick(ours.bias))
        for b in range(2):
            state = torch.zeros(8)
            for t in range(6):
                state = cell(x[b, t, n], torch.zeros(8) if start[b, t] else state)
                torch.testing.assert_close(h[b, t, n], state, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gru.step(x[:, 1], h[:, 0])[0], h[0, 1], rtol=1e-5, atol=1e-6)


def test_flat_parameters_are_the_modules_own():
    module = MLP((3, 4, 2), generator=_generator())
    values = {name: p.detach().clone() for name, p in module.named_parameters()}
    flat = FlatParameters(module)
    assert flat.vector.numel() == 3 * 4 + 4 + 4 * 2 + 2
    for name, p in module.named_parameters():
        assert torch.equal(p, values[name])
    module(torch.ones(1, 3)).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters()])
    assert expected.abs().sum() > 0
    assert torch.equal(flat.grad, expected)
    with torch.no_grad():
        flat.vector.zero_()
    assert all((p == 0).all() for p in module.parameters())


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_an_optimisers_statistics_go_to_the_parameters_device(kind):
    """A checkpoint's tensors are on the CPU; "meta" stands for a GPU here."""
    settings = {"kind": kind, "learning_rate": 0.1, "eps": 1e-8, "max_grad_norm": 1.0}
    ours = Optimiser(torch.nn.Linear(3, 2), **settings)
    ours.step(ours.flat.vector.square().sum())
    elsewhere = Optimiser(torch.nn.Linear(3, 2, device="meta"), **settings)
    elsewhere.load_state_dict(ours.state_dict())
    places = {name: value.device.type for name, value in elsewhere.state_dict().items()}
    assert places.pop("step") == "cpu"
    assert set(places.values()) == {"meta"}


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_an_optimiser_equals_torchs_bit_for_bit(kind):
    """Also after its statistics were stored and restored in another order."""
    theirs_kind = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}[kind]
    settings = {"kind": kind, "learning_rate": 0.1, "eps": 1e-5, "max_grad_norm": 1e9}
    ours = Optimiser(torch.nn.Linear(3, 2), **settings)
    vector = ours.flat.vector.detach().clone().requires_grad_()
    theirs = theirs_kind([vector], lr=0.1, eps=1e-5)
    for k in range(5):
        for weights, optimiser in ((ours.flat.vector, ours), (vector, theirs)):
            loss = (weights - k).pow(4).sum()
            if optimiser is ours:
                ours.step(loss)
            else:
                theirs.zero_grad()
                loss.backward()
                theirs.step()
        assert torch.equal(ours.flat.vector, vector)
        ours.load_state_dict(dict(sorted(ours.state_dict().items())))
    expected = theirs.state[vector]
    assert ours.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())
