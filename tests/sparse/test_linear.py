"""Every backend against the masked dense layer, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from marl.errors import FieldError
from marl.sparse import Layout, grouped_linear
from marl.sparse.backends import choose
from marl.sparse.linear import BACKENDS

LAYOUTS = {  # inputs, outputs, groups, share of the groups that are in use
    "one group": (24, 40, 1, 1.0),
    "equal": (64, 32, 4, None),
    "ragged": (37, 53, 5, 1.0),
    "empty groups": (20, 30, 8, 0.4),
    "more groups than features": (3, 5, 9, 1.0),
    "one feature": (1, 1, 1, 1.0),
    "wide blocks": (150, 170, 2, 1.0),
}


def make(name: str) -> Layout:
    inputs, outputs, groups, used = LAYOUTS[name]
    generator = torch.Generator().manual_seed(inputs)
    if used is None:
        group_in, group_out = torch.arange(inputs) % groups, torch.arange(outputs) % groups
        group_in = group_in[torch.randperm(inputs, generator=generator)]
    else:  # inputs and outputs avoid different groups
        most = max(1, round(groups * used))
        group_in = torch.randint(most, (inputs,), generator=generator)
        group_out = groups - 1 - torch.randint(most, (outputs,), generator=generator)
    return Layout.of(group_in, group_out, groups)


def case(layout: Layout, lead: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (*lead, layout.inputs), (layout.outputs, layout.inputs), (layout.outputs,)
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)  # type: ignore


def masked(x: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout, relu: bool) -> Tensor:
    """The oracle: float64, written without anything of marl.sparse but the mask."""
    y = F.linear(x.double(), weight.double() * layout.mask_OI(), None if bias is None else bias.double())
    return torch.relu(y) if relu else y


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "triton"])  # test_triton.py
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("order", ["feature order", "gathered", "group-major"])
def test_forward_and_backward_equal_masked_dense(backend: str, name: str, order: str):
    layout = make(name)
    gather, scatter = order != "group-major", order == "feature order"
    for lead, relu, has_bias in (
        ((1,), False, True),
        ((7,), True, True),
        ((2, 3), True, False),
        ((33,), False, False),
    ):
        x, weight, bias = case(layout, lead, torch.float32)
        wanted_of = [t.double().requires_grad_() for t in (x, weight, bias)]
        wanted = masked(wanted_of[0], wanted_of[1], wanted_of[2] if has_bias else None, layout, relu)
        dy = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2))
        wanted.backward(dy.double())

        own_of = [t.clone().requires_grad_() for t in (x, layout.pack(weight), bias)]
        given = own_of[0] if gather else own_of[0][..., layout.order_in_I]
        options = {"relu": relu, "gather": gather, "scatter": scatter, "backend": backend}
        y = grouped_linear(given, own_of[1], own_of[2] if has_bias else None, layout, **options)
        y.backward(dy if scatter else dy[..., layout.order_out_O])

        torch.testing.assert_close(
            y.double(), wanted if scatter else wanted[..., layout.order_out_O], rtol=1e-4, atol=1e-4
        )
        close = {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(own_of[0].grad.double(), wanted_of[0].grad, **close)
        torch.testing.assert_close(own_of[1].grad.double(), layout.pack(wanted_of[1].grad), **close)
        if has_bias:
            torch.testing.assert_close(own_of[2].grad.double(), wanted_of[2].grad, **close)


def test_unknown_backend_is_named():
    layout = make("equal")
    x, weight, _ = case(layout, (1,), torch.float32)
    with pytest.raises(FieldError, match="backend"):
        grouped_linear(x, layout.pack(weight), None, layout, backend="fpga")


@pytest.mark.parametrize("backend", ["reference", "padded_bmm", "loop"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
def test_half_precision(backend: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch):
    """Both forms of the torch backend and the reference, against products in float64 of the same numbers."""
    monkeypatch.setattr(choose, "fastest", lambda key, candidates: backend)
    for name, (relu, has_bias) in {
        "ragged": (True, True),
        "empty groups": (False, True),
        "equal": (True, False),
    }.items():
        layout = make(name)
        x, weight, bias = case(layout, (2, 5), dtype)
        wanted_of = [t.double().requires_grad_() for t in (x, weight, bias)]
        wanted = masked(wanted_of[0], wanted_of[1], wanted_of[2] if has_bias else None, layout, relu)
        dy = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        with torch.no_grad():  # where rounding may decide whether ReLU is on, no gradient comes
            before = masked(wanted_of[0], wanted_of[1], wanted_of[2] if has_bias else None, layout, False)
            dy[before.abs() < tolerance * before.abs().max()] = 0.0
        wanted.backward(dy.double())
        own_of = [t.clone().requires_grad_() for t in (x, layout.pack(weight), bias)]
        used = "reference" if backend == "reference" else "torch"
        y = grouped_linear(
            own_of[0], own_of[1], own_of[2] if has_bias else None, layout, relu=relu, backend=used
        )
        y.backward(dy)
        pairs = [
            (y, wanted),
            (own_of[0].grad, wanted_of[0].grad),
            (own_of[1].grad, layout.pack(wanted_of[1].grad)),
        ]
        pairs += [(own_of[2].grad, wanted_of[2].grad)] if has_bias else []
        for own, other in pairs:
            assert own.dtype == dtype
            scale = max([1.0, *other.detach().abs().reshape(-1).tolist()])
            torch.testing.assert_close(own.double(), other.detach(), rtol=0, atol=tolerance * scale)
