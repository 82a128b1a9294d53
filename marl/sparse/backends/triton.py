"""Ragged grouped products on CUDA by Triton, permutations fused: gather on load, scatter on store.

One launch serves all groups: the host lists the tiles of all groups in a table, and program (t, r) makes tile
t for the r-th block of rows. Block sizes are measured once per kind of call and size, from a small table.
float32 follows `torch.set_float32_matmul_precision`; float16 and bfloat16 are summed in float32.

Triton's interpreter runs the same kernels on CPU tensors where TRITON_INTERPRET=1 was set before triton was
imported; the tests do.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from marl.errors import MarlError, require
from marl.sparse.layout import Layout

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Blocks(NamedTuple):
    """Tile of rows, of columns, of the sum; warps and stages of a program."""

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


# CHOICE: few, since each is compiled and measured; small batches first. 16 is the least that tl.dot takes.
TABLE = (
    Blocks(16, 32, 64, 2, 3),
    Blocks(16, 64, 64, 4, 3),
    Blocks(32, 32, 32, 2, 3),
    Blocks(64, 64, 32, 4, 3),
    Blocks(128, 64, 32, 4, 3),
    Blocks(128, 128, 32, 8, 3),
)


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def available() -> bool:
    """Whether triton is installed and has a device to run on."""
    return importlib.util.find_spec("triton") is not None and (interpreted() or torch.cuda.is_available())


def usable(x: Tensor) -> bool:
    """Whether the kernels serve this input."""
    return x.dtype in DTYPES and x.is_cuda != interpreted() and available()


@functools.cache
def _kernels() -> Any:
    if importlib.util.find_spec("triton") is None:
        raise MarlError("backend='triton' needs triton: pip install 'marl-suite[triton]'")
    return importlib.import_module("marl.sparse.backends.triton_kernels")


def grouped_linear(
    x: Tensor, packed: Tensor, bias: Tensor | None, layout: Layout, *, relu: bool, gather: bool, scatter: bool
) -> Tensor:
    """`marl.sparse.linear.grouped_linear` by the kernels.

    Raises:
        MarlError: triton is missing, x is not on a CUDA device, or the dtypes differ or are none of `DTYPES`.
    """
    _kernels()
    if x.is_cuda == interpreted():
        raise MarlError(
            f"backend='triton' needs tensors on a CUDA device, x is on {x.device}: give backend=auto"
        )
    require(x.dtype in DTYPES, "dtype", x.dtype, "give float32, float16 or bfloat16 with backend=triton")
    require(packed.dtype == x.dtype, "dtype", packed.dtype, f"give weights of the dtype of x, {x.dtype}")
    rows = x.reshape(-1, layout.inputs).contiguous()
    with torch.cuda.device_of(x):
        y: Tensor = _Grouped.apply(rows, packed.contiguous(), bias, layout, (relu, gather, scatter))
    return y.view(*x.shape[:-1], layout.outputs)


class _Grouped(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        packed: Tensor,
        bias: Tensor | None,
        layout: Layout,
        options: tuple[bool, bool, bool],
    ) -> Tensor:
        relu, gather, scatter = options
        plan = _plan(layout)
        y = x.new_empty(len(x), layout.outputs)
        _product(plan.forward, x, packed, bias, y, gather, scatter, relu=relu)
        ctx.save_for_backward(x, packed, y if relu else None)
        ctx.layout, ctx.options, ctx.bias_dtype = layout, options, None if bias is None else bias.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, packed, y = ctx.saved_tensors
        (relu, gather, scatter), layout = ctx.options, ctx.layout
        plan = _plan(layout)
        dy = (torch.where(y > 0, dy, 0.0) if relu else dy).contiguous()
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(x)
            _product(plan.backward, dy, packed, None, dx, scatter, gather, relu=False)
        if ctx.needs_input_grad[1]:
            dw = torch.empty_like(packed)
            _outer(plan, dy, x, dw, gather, scatter)
        if ctx.needs_input_grad[2]:
            db = dy.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
            db = db if scatter else torch.empty_like(db).index_copy_(0, layout.order_out_O, db)
        return dx, dw, db, None, None


class _Side(NamedTuple):
    """One direction of the product: what is summed over, what is written."""

    name: str
    order_in: Tensor
    start_in: Tensor
    sizes_in: tuple[int, ...]
    order_out: Tensor
    start_out: Tensor
    sizes_out: tuple[int, ...]
    start_block: Tensor
    tiles: dict[int, Tensor]  # by block size


class _Plan(NamedTuple):
    forward: _Side
    backward: _Side
    pairs: dict[tuple[int, int], Tensor]  # tiles of the weights by block sizes


_PLANS: weakref.WeakKeyDictionary[Layout, _Plan] = weakref.WeakKeyDictionary()


def _plan(layout: Layout) -> _Plan:
    """The layout as the kernels read it, kept as long as the layout lives."""
    found = _PLANS.get(layout)
    if found is None:
        inputs = layout.order_in_I.int(), layout.start_in.int(), layout.sizes_in
        outputs = layout.order_out_O.int(), layout.start_out.int(), layout.sizes_out
        found = _PLANS[layout] = _Plan(
            _Side("forward", *inputs, *outputs, layout.start_block, {}),
            _Side("backward", *outputs, *inputs, layout.start_block, {}),
            {},
        )
    return found


def _product(
    side: _Side,
    a: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    out: Tensor,
    gather: bool,
    scatter: bool,
    *,
    relu: bool,
) -> None:
    """Launch `triton_kernels.product` for one direction."""
    R = len(a)

    def run(blocks: Blocks) -> None:
        if blocks.columns not in side.tiles:
            rows = [(g, c) for g, n in enumerate(side.sizes_out) for c in range(0, n, blocks.columns)]
            side.tiles[blocks.columns] = torch.tensor(rows, dtype=torch.int32, device=a.device)
        tiles = side.tiles[blocks.columns]
        _kernels().product[len(tiles), -(-R // blocks.rows)](
            a,
            packed,
            out if bias is None else bias,  # not read without a bias
            out,
            tiles,
            side.order_in,
            side.order_out,
            side.start_in,
            side.start_out,
            side.start_block,
            R,
            a.shape[1],
            out.shape[1],
            TRANSPOSED=side.name == "backward",
            GATHER=gather,
            SCATTER=scatter,
            HAS_BIAS=bias is not None,
            RELU=relu,
            PRECISION=_precision(),
            WIDEN=interpreted() and a.dtype == torch.bfloat16,
            BR=blocks.rows,
            BC=blocks.columns,
            BK=blocks.inner,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
            enable_fp_fusion=True,
        )

    if R:
        _best((side.name, *_size(a, out, packed, side.sizes_in)), run)


def _outer(plan: _Plan, dy: Tensor, x: Tensor, dw: Tensor, gather: bool, scatter: bool) -> None:
    """Launch `triton_kernels.outer`."""
    side, R = plan.forward, len(x)

    def run(blocks: Blocks) -> None:
        key = blocks.columns, blocks.inner
        if key not in plan.pairs:
            sizes = zip(side.sizes_in, side.sizes_out, strict=True)
            rows = [
                (g, j, i)
                for g, (m, n) in enumerate(sizes)
                for j in range(0, n, blocks.columns)
                for i in range(0, m, blocks.inner)
            ]
            plan.pairs[key] = torch.tensor(rows, dtype=torch.int32, device=x.device)
        tiles = plan.pairs[key]
        _kernels().outer[(len(tiles),)](
            dy,
            x,
            dw,
            tiles,
            side.order_in,
            side.order_out,
            side.start_in,
            side.start_out,
            side.start_block,
            R,
            x.shape[1],
            dy.shape[1],
            GATHER=gather,
            SCATTER=scatter,
            PRECISION=_precision(),
            WIDEN=interpreted() and x.dtype == torch.bfloat16,
            BR=blocks.rows,
            BC=blocks.columns,
            BK=blocks.inner,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
            enable_fp_fusion=True,
        )

    if len(dw):
        _best(("outer", *_size(x, dy, dw, side.sizes_in)), run)


def _precision() -> str:
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _size(a: Tensor, out: Tensor, packed: Tensor, sizes: tuple[int, ...]) -> tuple[Any, ...]:
    """What block sizes are chosen by: calls that share it share them."""
    rows = max(len(a) - 1, 0).bit_length()
    return rows, a.shape[1], out.shape[1], len(sizes), packed.numel().bit_length(), packed.dtype, a.device


_BEST: dict[tuple[Any, ...], Blocks] = {}


def _best(key: tuple[Any, ...], run: Callable[[Blocks], None]) -> None:
    """Run with the fastest blocks for this key; at its first call all are measured."""
    if interpreted():
        run(TABLE[0])
        return
    if key not in _BEST:
        seconds = {blocks: _measure(functools.partial(run, blocks)) for blocks in TABLE}
        _BEST[key] = min(seconds, key=lambda blocks: seconds[blocks])
    run(_BEST[key])


def _measure(run: Callable[[], None]) -> float:
    """Milliseconds of a call; without end for blocks that this GPU has not enough memory for."""
    bench, errors = (importlib.import_module(f"triton.{name}") for name in ("testing", "runtime.errors"))
    try:
        return float(bench.do_bench(run, warmup=5, rep=20))
    except errors.OutOfResources:
        return float("inf")
