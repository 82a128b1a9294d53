"""Triton kernels of grouped layers; imported only where triton is (marl/sparse/backends/triton.py).

| symbol | name here | meaning |
|---|---|---|
| g | g | group of a program's tile |
| R | R | rows of the batch |
| rows, cols, ks | | tile of rows, of the side that is written, of the side that is summed over |

Both ends are permuted while tiles are loaded and stored: position p of a group-major side is feature
order[p]. Sums are float32 whatever the tensors are. WIDEN makes tiles float32 before their product: Triton's
interpreter takes the bits of bfloat16 for whole numbers there.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(
    a,
    weight,
    bias,
    out,
    tiles,
    order_in,
    order_out,
    start_in,
    start_out,
    start_block,
    R,
    width_in,
    width_out,
    TRANSPOSED: tl.constexpr,
    GATHER: tl.constexpr,
    SCATTER: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
):
    """out[r, j] = f(sum over i of j's group of a[r, i] W[j, i] + bias[j]); transposed: W[i, j].

    A program makes one tile of rows and one of `tiles`: (group, first column within it). Groups without
    anything to sum write bias or zeros.
    """
    g = tl.load(tiles + 2 * tl.program_id(0))
    cols = tl.load(tiles + 2 * tl.program_id(0) + 1) + tl.arange(0, BC)
    rows = tl.program_id(1).to(tl.int64) * BR + tl.arange(0, BR)
    first_in, first_out, base = tl.load(start_in + g), tl.load(start_out + g), tl.load(start_block + g)
    K, C = tl.load(start_in + g + 1) - first_in, tl.load(start_out + g + 1) - first_out
    in_rows, in_cols = (rows < R)[:, None], (cols < C)[None, :]
    total = tl.zeros((BR, BC), dtype=tl.float32)
    for k in range(0, K, BK):
        ks = k + tl.arange(0, BK)
        in_k = ks < K
        source = first_in + ks
        if GATHER:
            source = tl.load(order_in + source, mask=in_k, other=0)
        place = rows[:, None] * width_in + source[None, :]
        part = tl.load(a + place, mask=in_rows & in_k[None, :], other=0.0)
        inner = ks[:, None] * C + cols[None, :] if TRANSPOSED else cols[None, :] * K + ks[:, None]
        block = tl.load(weight + base + inner, mask=in_k[:, None] & in_cols, other=0.0)
        if WIDEN:
            part, block = part.to(tl.float32), block.to(tl.float32)
        total = tl.dot(part, block, total, input_precision=PRECISION)
    target = first_out + cols
    feature = tl.load(order_out + target, mask=cols < C, other=0)
    if HAS_BIAS:
        total += tl.load(bias + feature, mask=cols < C, other=0.0).to(tl.float32)[None, :]
    if RELU:
        total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    if SCATTER:
        target = feature
    goal = rows[:, None] * width_out + target[None, :]
    tl.store(out + goal, total.to(out.dtype.element_ty), mask=in_rows & in_cols)


@triton.jit
def outer(
    dy,
    x,
    dweight,
    tiles,
    order_in,
    order_out,
    start_in,
    start_out,
    start_block,
    R,
    width_in,
    width_out,
    GATHER: tl.constexpr,
    SCATTER: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
):
    """dW[j, i] = sum over r of dy[r, j] x[r, i], for pairs of one group, into the packed vector.

    A program makes one of `tiles`: (group, first output, first input within it). The sum over rows is made in
    order by one program, so that it is the same every time.
    """
    at = tiles + 3 * tl.program_id(0)
    g = tl.load(at)
    js, is_ = tl.load(at + 1) + tl.arange(0, BC), tl.load(at + 2) + tl.arange(0, BK)
    first_in, first_out, base = tl.load(start_in + g), tl.load(start_out + g), tl.load(start_block + g)
    I, O = tl.load(start_in + g + 1) - first_in, tl.load(start_out + g + 1) - first_out  # noqa: E741
    in_j, in_i = js < O, is_ < I
    from_j, from_i = first_out + js, first_in + is_
    if SCATTER:
        from_j = tl.load(order_out + from_j, mask=in_j, other=0)
    if GATHER:
        from_i = tl.load(order_in + from_i, mask=in_i, other=0)
    total = tl.zeros((BC, BK), dtype=tl.float32)
    for r in range(0, R, BR):
        rows = (r + tl.arange(0, BR)).to(tl.int64)
        in_rows = rows < R
        left_at = rows[None, :] * width_out + from_j[:, None]
        left = tl.load(dy + left_at, mask=in_rows[None, :] & in_j[:, None], other=0.0)
        right_at = rows[:, None] * width_in + from_i[None, :]
        right = tl.load(x + right_at, mask=in_rows[:, None] & in_i[None, :], other=0.0)
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    goal = base + js[:, None] * I + is_[None, :]
    tl.store(dweight + goal, total.to(dweight.dtype.element_ty), mask=in_j[:, None] & in_i[None, :])
