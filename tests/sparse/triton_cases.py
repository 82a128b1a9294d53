"""The triton backend against the masked dense layer; run by test_triton.py in a process of its own.

TRITON_INTERPRET=1 must be set before triton is imported: the kernels then run on CPU tensors.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from marl.errors import FieldError, MarlError
from marl.sparse import Layout
from marl.sparse.backends import triton

DEVICE = "cpu" if triton.interpreted() else "cuda"
LAYOUTS = {  # inputs, outputs, groups, of which inputs and outputs use
    "one group": (20, 40, 1, 1, 1),
    "ragged": (70, 53, 5, 5, 5),
    "empty": (20, 30, 8, 3, 6),  # groups without inputs, without outputs, without either
    "more groups than features": (3, 5, 9, 9, 9),
    "nothing kept": (4, 5, 2, 1, 1),
}
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def make(name: str) -> Layout:
    inputs, outputs, groups, used_in, used_out = LAYOUTS[name]
    generator = torch.Generator().manual_seed(inputs)
    group_in = torch.randint(used_in, (inputs,), generator=generator)
    group_out = groups - 1 - torch.randint(used_out, (outputs,), generator=generator)
    return Layout.of(group_in, group_out, groups)


def check(
    layout: Layout, lead: tuple[int, ...], dtype: torch.dtype, options: dict[str, bool], has_bias: bool
):
    """Forward and all gradients, against float64 products of the same rounded numbers."""
    generator = torch.Generator().manual_seed(1)
    I, O = layout.inputs, layout.outputs  # noqa: E741
    x, weight, bias = (torch.randn(s, generator=generator).to(dtype) for s in ((*lead, I), (O, I), (O,)))
    dy = torch.randn(*lead, O, generator=generator).to(dtype)
    wanted = [t.double().requires_grad_() for t in (x, weight, bias)]
    y = F.linear(wanted[0], wanted[1] * layout.mask_OI(), wanted[2] if has_bias else None)
    y = torch.relu(y) if options["relu"] else y
    y.backward(dy.double())

    order_in, order_out = layout.order_in_I, layout.order_out_O
    given = x if options["gather"] else x[..., order_in]
    own = [t.to(DEVICE).requires_grad_() for t in (given, layout.pack(weight), bias)]
    found = triton.grouped_linear(own[0], own[1], own[2] if has_bias else None, layout.to(DEVICE), **options)
    found.backward((dy if options["scatter"] else dy[..., order_out]).to(DEVICE))

    def near(a: Tensor | None, b: Tensor) -> None:
        assert a is not None
        assert a.dtype == dtype
        scale = max([1.0, *b.detach().abs().reshape(-1).tolist()])
        torch.testing.assert_close(a.cpu().double(), b.detach(), rtol=0, atol=TOLERANCE[dtype] * scale)

    assert wanted[0].grad is not None
    assert wanted[1].grad is not None
    near(found, y if options["scatter"] else y[..., order_out])
    near(own[0].grad, wanted[0].grad if options["gather"] else wanted[0].grad[..., order_in])
    near(own[1].grad, layout.pack(wanted[1].grad))
    if has_bias:
        near(own[2].grad, wanted[2].grad)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("relu", [False, True])
def test_equals_masked_dense(name: str, relu: bool):
    for gather, scatter, has_bias in ((True, True, True), (False, True, False), (True, False, True)):
        check(make(name), (5,), torch.float32, {"relu": relu, "gather": gather, "scatter": scatter}, has_bias)


@pytest.mark.parametrize("lead", [(1,), (2, 3), (40,), (0,)])
def test_any_batch(lead: tuple[int, ...]):
    options = {"relu": False, "gather": True, "scatter": True}
    layout = make("ragged")
    if 0 not in lead:
        check(layout, lead, torch.float32, options, True)
        return
    x = torch.zeros(0, layout.inputs, device=DEVICE, requires_grad=True)
    packed = torch.ones(layout.nnz, device=DEVICE, requires_grad=True)
    y = triton.grouped_linear(x, packed, None, layout.to(DEVICE), **options)
    y.sum().backward()
    assert y.shape == (0, layout.outputs)
    assert packed.grad is not None
    assert not packed.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype):
    check(make("ragged"), (9,), dtype, {"relu": True, "gather": True, "scatter": True}, True)
    if dtype == torch.float16:  # 4096 ones and 4096 halves: a sum in float16 stops at 2048
        layout = Layout.of(torch.zeros(4096, dtype=torch.long), torch.zeros(1, dtype=torch.long), 1)
        x = torch.ones(1, 4096, dtype=dtype, device=DEVICE)
        packed = torch.full((4096,), 0.75, dtype=dtype, device=DEVICE)
        options = {"relu": False, "gather": True, "scatter": True}
        assert triton.grouped_linear(x, packed, None, layout.to(DEVICE), **options).item() == 3072


@pytest.mark.parametrize("blocks", triton.TABLE, ids=str)
def test_every_entry_of_the_table(blocks: triton.Blocks, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(triton, "_best", lambda key, run: run(blocks))
    check(make("ragged"), (5,), torch.float32, {"relu": False, "gather": True, "scatter": True}, True)


def test_relu_keeps_nan():
    """It must stop a run, not vanish."""
    layout = make("one group")
    x, packed = torch.zeros(1, layout.inputs, device=DEVICE), torch.ones(layout.nnz, device=DEVICE)
    x[0, 3] = torch.nan
    y = triton.grouped_linear(x, packed, None, layout.to(DEVICE), relu=True, gather=True, scatter=True)
    assert y.isnan().all()


def test_errors():
    layout = make("ragged")
    x, packed = torch.zeros(2, layout.inputs), torch.zeros(layout.nnz)
    options = {"relu": False, "gather": True, "scatter": True}
    if DEVICE == "cuda":
        with pytest.raises(MarlError, match="needs tensors on a CUDA device, x is on cpu"):
            triton.grouped_linear(x, packed, None, layout, **options)
    with pytest.raises(FieldError, match=r"float64.*give float32, float16 or bfloat16"):
        triton.grouped_linear(x.double().to(DEVICE), packed, None, layout, **options)
    with pytest.raises(FieldError, match="give weights of the dtype of x"):
        triton.grouped_linear(x.to(DEVICE), packed.half().to(DEVICE), None, layout, **options)
