"""Grouped linear layers: every output sees the inputs of its own group only.

`grouped_linear` is the function, `GroupedLinear` the module, `chain` a network of them whose activations
stay in group-major order between the layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marl.errors import require
from marl.sparse.backends import choose, native, reference
from marl.sparse.backends import torch as by_torch
from marl.sparse.backends import triton as by_triton
from marl.sparse.layout import Layout

BACKENDS: dict[str, Callable[..., Tensor]] = {  # by name
    "reference": reference.grouped_linear,
    "torch": by_torch.grouped_linear,
    "native": native.grouped_linear,
    "triton": by_triton.grouped_linear,
}


def grouped_linear(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    layout: Layout,
    *,
    relu: bool = False,
    gather: bool = True,
    scatter: bool = True,
    backend: str = "auto",
) -> Tensor:
    """y = x (W * mask)^T + b, differentiable in x, packed and bias.

    Args:
        x: (..., I) in feature order, or in group-major order if not gather.
        packed: (nnz,) kept weights, `Layout.pack`.
        bias: (O,) in feature order, or None. An output of a group without inputs is its bias.
        layout: on the device of x.
        relu: apply max(., 0).
        gather: x comes in feature order; else in group-major order, as a layer with scatter=False gave it.
        scatter: y is in feature order; else it stays in group-major order.
        backend: a name of `BACKENDS`, or "auto": native where it serves (float32 on the CPU), else the
            fastest of triton (on CUDA, where it is installed), torch and the reference. While torch.compile
            or torch.export traces it is torch, a product per group; `Layout.settle` must have been called.

    Returns: (..., O).
    """
    require(backend in ("auto", *BACKENDS), "backend", backend, f"give one of auto, {', '.join(BACKENDS)}")
    gather, scatter = gather and not layout.sorted_in, scatter and not layout.sorted_out
    options = {"relu": relu, "gather": gather, "scatter": scatter}
    if backend == "auto" and torch.compiler.is_compiling():
        backend = "torch"
    elif backend == "auto":
        backend = "native" if native.usable(x) else _faster(x, packed, bias, layout, options)
    return BACKENDS[backend](x, packed, bias, layout, **options)


@torch.no_grad()
def _faster(x: Tensor, packed: Tensor, bias: Tensor | None, layout: Layout, options: dict[str, bool]) -> str:
    forms = {
        name: functools.partial(BACKENDS[name], x, packed, bias, layout, **options)
        for name in (*(["triton"] if by_triton.usable(x) else []), "torch", "reference")
    }
    return choose.fastest(_key("layer", x, layout, options), forms)


def _key(what: str, x: Tensor, layout: Layout, options: dict[str, bool]) -> str:
    shape = f"{layout.inputs}x{layout.outputs} nnz {layout.nnz} of {layout.groups} groups"
    used = " ".join(name for name, on in options.items() if on)
    rows = f"2^{choose.size_of(x.numel() // layout.inputs)} rows"
    device = torch.cuda.get_device_name(x.device) if x.is_cuda else x.device.type
    return f"{what} {shape}; {rows}; {x.dtype} on {device}; {used}"


class GroupedLinear(nn.Module):
    """A grouped layer over packed weights.

    In eval mode and without gradients the weights count as resting: they are laid out for the kernels
    once, and again when torch has counted a change of them (an optimiser that writes past torch, as the
    native Adam does, is not counted: such weights belong into train mode). Which backend runs is measured
    once per size of batch, the dense product with the masked weight among them.

    Args:
        packed: (nnz,) kept weights, a parameter from now on.
        bias: (O,) in feature order, or None.
        layout: of the weights.
        relu, gather, scatter, backend: as for `grouped_linear`.
    """

    def __init__(
        self,
        packed: Tensor,
        bias: Tensor | None,
        layout: Layout,
        *,
        relu: bool = False,
        gather: bool = True,
        scatter: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.packed = nn.Parameter(packed)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.layout, self.backend = layout.settle(), backend
        gather, scatter = gather and not layout.sorted_in, scatter and not layout.sorted_out
        self.options = {"relu": relu, "gather": gather, "scatter": scatter}

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return grouped_linear(x, self.packed, self.bias, self.layout, backend=self.backend, **self.options)

    def train(self, mode: bool = True) -> GroupedLinear:
        """Eval mode puts a callable of C++ in the place of `forward`; train mode takes it away."""
        super().train(mode)
        self.__dict__.pop("forward", None)
        if not mode and self.backend in ("auto", "native") and native.usable(self.packed):
            self.__dict__["forward"] = _Resting(self).run
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A copy lays its own weights out, once it is put into eval mode."""
        return {name: value for name, value in self.__dict__.items() if name != "forward"}

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """The masked weight (O, I) and the bias, in the order that x comes in and y has."""
        weight_OI, layout = self.layout.unpack(self.packed), self.layout
        bias: Tensor | None = self.bias
        if not self.options["gather"]:
            weight_OI = weight_OI[:, layout.order_in_I]
        if not self.options["scatter"]:
            weight_OI = weight_OI[layout.order_out_O]
            bias = None if bias is None else bias[layout.order_out_O]
        return weight_OI, bias


class _Resting:
    """Ways to run a layer whose weights rest; `run` is the kernels, which hand over what they are not for."""

    def __init__(self, layer: GroupedLinear) -> None:
        self._packed, self._bias, self._layout = layer.packed, layer.bias, layer.layout
        self._options, self._backend = layer.options, layer.backend
        self._make_dense = layer.dense
        self._dense: tuple[tuple[int, ...], Tensor, Tensor | None] | None = None
        flags = native.flags(**layer.options)
        self.run: Any = native.layer(layer.packed, layer.bias, layer.layout, flags, self._otherwise)
        self._choices: dict[tuple[int, int], str] = {}

    def _otherwise(self, x: Tensor) -> Tensor:
        """Batches whose backend is not known yet, or is not the kernels."""
        if torch.is_grad_enabled() or not native.usable(x):
            return grouped_linear(
                x, self._packed, self._bias, self._layout, backend=self._backend, **self._options
            )
        size = choose.size_of(x.numel() // self._layout.inputs)
        at = size, torch.get_num_threads()
        if at not in self._choices:
            self._choices[at] = self._choose(x) if self._backend == "auto" else "native"
        if self._choices[at] == "dense":
            return self._by_dense(x)
        self.run.choose(size)
        y: Tensor = self.run(x)
        return y

    def _choose(self, x: Tensor) -> str:
        size = choose.size_of(x.numel() // self._layout.inputs)
        trial: Any = native.layer(
            self._packed, self._bias, self._layout, native.flags(**self._options), self._otherwise
        )
        trial.choose(size)
        forms = {"native": lambda: trial(x), "dense": lambda: self._by_dense(x)}
        chosen = choose.fastest(_key("resting layer", x, self._layout, self._options), forms)
        if chosen == "native":
            self._dense = None  # its memory
        return chosen

    def _by_dense(self, x: Tensor) -> Tensor:
        tensors = [self._packed] if self._bias is None else [self._packed, self._bias]
        version = tuple(number for t in tensors for number in (t._version, t.data_ptr()))
        if self._dense is None or self._dense[0] != version:
            self._dense = (version, *self._make_dense())
        y = F.linear(x, *self._dense[1:])
        return torch.relu(y) if self._options["relu"] else y


def chain(layers: Sequence[GroupedLinear]) -> nn.Sequential:
    """A network of grouped layers that permutes once between two layers, and not at all where it can.

    The first layer gathers and the last one scatters, as they are given. In between, a layer's outputs
    stay group-major, and the next one's gather is composed with the scatter that is left out; where the
    outputs of a layer and the inputs of the next have the same groups, nothing is permuted. Elementwise
    activations (relu) work in any order. Weights are shared with the layers given.
    """
    composed: list[GroupedLinear] = []
    for k, layer in enumerate(layers):
        options = dict(layer.options)
        layout = layer.layout
        if k > 0:
            layout = layout.after(layers[k - 1].layout)
            options["gather"] = True  # unless the composed order is that of the groups
        if k + 1 < len(layers):
            options["scatter"] = False
        own = GroupedLinear(layer.packed.detach(), None, layout, backend=layer.backend, **options)
        own.packed, own.bias = layer.packed, layer.bias
        composed.append(own)
    return nn.Sequential(*composed)
