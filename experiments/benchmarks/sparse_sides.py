"""The sides of the benchmark of grouped layers: what is called, on which data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from marl.errors import MarlError
from marl.nets import Optimiser
from marl.sparse import GroupedLinear, Layout
from marl.sparse.backends import native

Runs = dict[str, Callable[[], Any]]


def shape(size: str) -> tuple[int, int]:
    """Inputs and outputs of "128x512"."""
    inputs, outputs = size.split("x")
    return int(inputs), int(outputs)


def cost(about: Mapping[str, object]) -> float:
    """A cell's share of the time: its dense multiplications over those that weigh as one cell."""
    return math.prod(shape(str(about["size"]))) * int(str(about["batch"])) / 5e8


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within, torch runs on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def equal(inputs: int, outputs: int, groups: int, seed: int = 0) -> Layout:
    """Groups of equal size, features assigned at random."""
    rng = np.random.default_rng(seed)
    group_in, group_out = (rng.permutation(np.arange(n) % groups) for n in (inputs, outputs))
    return Layout.of(torch.from_numpy(group_in), torch.from_numpy(group_out), groups)


def ragged(inputs: int, outputs: int, groups: int, seed: int = 0) -> Layout:
    """Every feature draws its group; the groups' shares are Dirichlet(2), apart for inputs and outputs.

    CHOICE: 2 gives shares between a tenth and three times the mean, as learned groups have; some are empty
    where features are few.
    """
    rng = np.random.default_rng(seed)
    group_in, group_out = (
        torch.from_numpy(rng.choice(groups, size=n, p=rng.dirichlet(np.full(groups, 2.0))))
        for n in (inputs, outputs)
    )
    return Layout.of(group_in, group_out, groups)


def layer(dense: nn.Linear, layout: Layout, **options: Any) -> GroupedLinear:
    """The grouped layer with the dense one's weights, resting."""
    bias = dense.bias.detach().clone()
    return GroupedLinear(layout.pack(dense.weight).detach(), bias, layout, **options).eval()


class MaskedDense(nn.Module):
    """What masks a weight at every call."""

    def __init__(self, dense: nn.Linear, layout: Layout) -> None:
        super().__init__()
        self.weight, self.bias = dense.weight, dense.bias
        self.mask = layout.mask_OI().float()

    def forward(self, x: Tensor) -> Tensor:
        """(R, I) to (R, O)."""
        return nn.functional.linear(x, self.weight * self.mask, self.bias)


class PaddedBmm(nn.Module):
    """Gather, torch.bmm over groups of equal size with prepared weights, scatter."""

    def __init__(self, dense: nn.Linear, layout: Layout) -> None:
        super().__init__()
        m, n = layout.sizes_in[0], layout.sizes_out[0]
        if {*layout.sizes_in} != {m} or {*layout.sizes_out} != {n}:
            raise MarlError("groups of unequal size would have to be padded")
        packed = layout.pack(dense.weight).detach()
        self.weight_Gmn = packed.view(layout.groups, n, m).transpose(1, 2).contiguous()
        self.order_in, self.place = layout.order_in_I, layout.place_out_O
        self.bias = dense.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(R, I) to (R, O)."""
        groups, m, _ = self.weight_Gmn.shape
        x_GRm = x.index_select(1, self.order_in).view(-1, groups, m).transpose(0, 1)
        y_RGn = torch.bmm(x_GRm, self.weight_Gmn).transpose(0, 1)
        return y_RGn.reshape(len(x), -1).index_select(1, self.place) + self.bias


def _calls(modules: Mapping[str, Callable[[Tensor], Any]], x: Tensor) -> Runs:
    return {name: (lambda module=module: module(x)) for name, module in modules.items()}  # type: ignore[misc]


def forward(*, size: str, batch: int, groups: int, threads: int) -> Runs:
    """Dense, ours in every setting, masked dense and padded bmm."""
    inputs, outputs = shape(size)
    torch.manual_seed(0)
    dense, x = nn.Linear(inputs, outputs), torch.randn(batch, inputs)
    same, uneven = equal(inputs, outputs, groups), ragged(inputs, outputs, groups)
    modules: dict[str, nn.Module] = {
        "dense": dense,
        "network": layer(dense, same, gather=False, scatter=False),
        "gathered": layer(dense, same, gather=True, scatter=False),
        "alone": layer(dense, same, gather=True, scatter=True),
        f"ragged network {uneven.density:.5f}": layer(dense, uneven, gather=False, scatter=False),
        f"ragged alone {uneven.density:.5f}": layer(dense, uneven, gather=True, scatter=True),
        "masked dense": MaskedDense(dense, same),
        "padded bmm": PaddedBmm(dense, same),
    }
    return _calls(modules, x)


def peers(*, size: str, batch: int, groups: int, threads: int, compiled: bool) -> Runs:
    """Dense and ours beside other libraries' sparse products, stand-alone."""
    import scipy.sparse  # type: ignore[import-untyped]

    inputs, outputs = shape(size)
    torch.manual_seed(0)
    dense, x = nn.Linear(inputs, outputs), torch.randn(batch, inputs)
    layout = equal(inputs, outputs, groups)
    masked = (dense.weight * layout.mask_OI()).detach()
    csr, bias_O1 = masked.to_sparse_csr(), dense.bias.detach()[:, None]
    blocks = masked[layout.order_out_O][:, layout.order_in_I]
    block = math.gcd(inputs, outputs) // groups
    bsr = blocks.to_sparse_bsr((block, block))
    by_scipy, bias, order_in = scipy.sparse.csr_matrix(masked.numpy()), bias_O1.numpy(), layout.order_in_I
    place = layout.place_out_O
    modules: dict[str, Callable[[Tensor], Any]] = {
        "dense": dense,
        "alone": layer(dense, layout),
        "torch CSR": lambda x: (csr @ x.T + bias_O1).T,
        "torch BSR": lambda x: (bsr @ x[:, order_in].T)[place].T + bias_O1[:, 0],
        "scipy CSR": lambda x: (by_scipy @ x.numpy().T + bias).T,
        "padded bmm": PaddedBmm(dense, layout),
    }
    if compiled:
        modules["compiled bmm"] = torch.compile(PaddedBmm(dense, layout), dynamic=False)
    return _calls(modules, x)


class Trainee(nn.Module):
    """A layer and, for a grouped one, the logits that its features have selected."""

    def __init__(self, inner: nn.Module, layout: Layout | None) -> None:
        super().__init__()
        self.inner, self.layout = inner, layout
        if layout is not None:
            self.selected_in = nn.Parameter(torch.zeros(layout.inputs))
            self.selected_out = nn.Parameter(torch.zeros(layout.outputs))
        self.optimiser = Optimiser(
            self, kind="adam", learning_rate=1e-4, eps=1e-8, max_grad_norm=10.0, native=True
        )

    def step(self, x: Tensor, dy: Tensor) -> None:
        """Forward, backward to the input and the weights, mask gradient, clipped Adam."""
        with torch.enable_grad():
            y = self.inner(x)
        y.backward(dy)
        if self.layout is not None and isinstance(self.inner, GroupedLinear):
            gradient = self.inner.packed.grad
            assert gradient is not None
            for logits, sums in zip(
                (self.selected_in, self.selected_out),
                native.sums(gradient, self.inner.packed.detach(), self.layout),
                strict=True,
            ):
                assert logits.grad is not None
                logits.grad.copy_(sums)
        self.optimiser.apply(_ZERO)
        x.grad = None


_ZERO = torch.zeros(())


def training(*, size: str, batch: int, groups: int, threads: int) -> Runs:
    """One whole training step of the dense layer, and of the grouped one inside a network."""
    if not native.available():
        raise MarlError("the training table needs the native kernels: install g++")
    inputs, outputs = shape(size)
    torch.manual_seed(0)
    x, dy = torch.randn(batch, inputs, requires_grad=True), torch.randn(batch, outputs) * 1e-3
    layout = equal(inputs, outputs, groups)
    source = nn.Linear(inputs, outputs)
    packed, bias = layout.pack(source.weight).detach(), source.bias.detach().clone()
    grouped = GroupedLinear(packed, bias, layout, gather=False, scatter=False)
    ours, dense = Trainee(grouped, layout), Trainee(source, None)
    return {"dense": lambda: dense.step(x, dy), "network": lambda: ours.step(x, dy)}
