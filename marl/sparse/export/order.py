"""Hidden features renamed so that an exported network permutes once between two grouped layers, not twice.

A grouped layer gathers its inputs by group and scatters its outputs back. Which hidden feature comes first is
nobody's business but the network's own: here those of every hidden axis are put into the order of the groups
that their largest grouped reader has. That layer then gathers nothing, and who writes the axis scatters into
this order at once: two permutations have become one. Where no grouped layer reads an axis, the largest one
that writes it scatters nothing.

An axis is what values share that are added to each other, averaged, or handed on from step to step; gates of
a recurrent cell have its state's axis, once per gate. What the world gives or gets keeps its order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from marl.sparse.export.layers import Dense, Grouped, Layer, Norm
from marl.sparse.export.policy import Policy, Step
from marl.sparse.layout import Layout

_GATES = {"gru": 3, "lstm": 4}


def in_order(policy: Policy) -> Policy:
    """The same policy with hidden features in order; their values in the carry change places alike."""
    axes = _Axes(policy)
    layers: dict[str, Any] = dict(policy.layers.items())
    made = {
        name: _renamed(layer, axes.order(_in(name)), axes.order(_out(name)), axes.gates.get(name, 1))
        for name, layer in layers.items()
    }
    return Policy(policy.inputs, policy.outputs, policy.steps, made, policy.about).eval()


def permutations(policy: Policy) -> int:
    """How many times grouped layers gather or scatter, every layer counted once."""
    layers: list[Any] = [layer for layer in policy.layers.values() if isinstance(layer, Grouped)]
    layouts = [layout for layer in layers for layout in layer.layouts]
    return sum((not layout.sorted_in) + (not layout.sorted_out) for layout in layouts)


def _in(layer: str) -> str:
    return f"inputs of {layer}"


def _out(layer: str) -> str:
    return f"outputs of {layer}"


class _Axes:
    """Which ends of layers and which values share an axis, and the order of each."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._parent: dict[str, str] = {}
        self._fixed: set[str] = set()  # names whose axis keeps its order
        self.gates: dict[str, int] = {}  # of layers whose outputs are several of the axis
        handed_on = {f.next for f in policy.inputs if f.dtype == "float32"}
        for f in policy.inputs:
            if f.dtype == "float32" and f.next in policy.outputs:
                self._join(f.name, f.next)
            else:
                self._fixed.add(f.name)
        self._fixed |= {name for name in policy.outputs if name not in handed_on}
        for step in policy.steps:
            self._read(step)
        fixed = {self._root(name) for name in self._fixed}
        self._orders = {
            root: order
            for root in {self._root(name) for name in self._parent} - fixed
            if (order := self._choose(root)) is not None
        }

    def order(self, name: str) -> Tensor | None:
        """Which feature stands at every place of the new order; None: as before."""
        return self._orders.get(self._root(name))

    def _root(self, name: str) -> str:
        while (parent := self._parent.setdefault(name, name)) != name:
            name = parent
        return name

    def _join(self, first: str, *others: str) -> None:
        for other in others:
            self._parent[self._root(other)] = self._root(first)

    def _fix(self, names: Iterable[str]) -> None:
        self._fixed |= set(names)

    def _read(self, step: Step) -> None:
        """Join what the step makes share an axis; fix what it takes apart by place."""
        layers: list[Any] = [self._policy.layers[name] for name in step.layers]
        if any(layer.settings.get("copies") is not None for layer in layers):
            self._fix((*step.reads, *step.makes))  # every agent's own weights have groups of their own
        if step.op == "layer" and isinstance(layers[0], Dense | Grouped):
            self._join(step.reads[0], _in(step.layers[0]))
            self._join(step.makes[0], _out(step.layers[0]))
        elif step.op == "layer" and isinstance(layers[0], Norm):
            self._join(step.reads[0], step.makes[0], _in(step.layers[0]), _out(step.layers[0]))
        elif step.op in _GATES:
            (x, h, *_), (own, recurrent) = step.reads, step.layers
            self._join(x, _in(own))
            self._join(h, *step.reads[2:], *step.makes, _in(recurrent), _out(own), _out(recurrent))
            self.gates |= dict.fromkeys((own, recurrent), _GATES[step.op])
        elif step.op in ("add", "tanh"):
            self._join(step.makes[0], *step.reads)
        elif step.op == "mean":
            self._join(step.makes[0], step.reads[0])
        elif step.op == "attention":
            self._join(step.reads[0], *(_in(name) for name in step.layers))
            self._fix((*step.makes, *(_out(name) for name in step.layers)))
        else:
            self._fix((*step.reads, *step.makes))

    def _choose(self, root: str) -> Tensor | None:
        """The order that the largest grouped reader has, or else the largest writer."""
        found: list[tuple[bool, int, Tensor]] = []
        for name, layer in self._policy.layers.items():
            if not isinstance(layer, Grouped) or layer.settings["copies"] is not None:
                continue
            layout = layer.layouts[0]
            if self._root(_in(name)) == root:
                found.append((True, layout.nnz, layout.order_in_I))
            elif self._root(_out(name)) == root and name not in self.gates:
                found.append((False, layout.nnz, layout.order_out_O))
        return max(found, key=lambda entry: entry[:2])[2] if found else None


def _renamed(layer: Layer, order_in: Tensor | None, order_out: Tensor | None, gates: int) -> Layer:
    """The layer with its inputs and outputs in these orders; outputs are `gates` times those of the axis."""
    tensors = layer.tensors()
    if isinstance(layer, Norm):
        order = slice(None) if order_out is None else order_out
        return Norm(layer.settings, {name: value[..., order] for name, value in tensors.items()})
    if (order_in is None and order_out is None) or not isinstance(layer, Dense | Grouped):
        return layer
    I, O = layer.settings["inputs"], layer.settings["outputs"]  # noqa: E741 - the legend's letters
    read = torch.arange(I) if order_in is None else order_in
    write = torch.arange(O)
    if order_out is not None:
        write = torch.cat([order_out + gate * len(order_out) for gate in range(gates)])
    bias = tensors["bias"][write]
    if isinstance(layer, Dense):
        return Dense(layer.settings, {"weight": tensors["weight"][write][:, read], "bias": bias})
    weight_OI = layer.layouts[0].unpack(tensors["packed"])[write][:, read]
    group_in, group_out = tensors["group_in"][read], tensors["group_out"][write]
    packed = Layout.of(group_in, group_out, layer.settings["groups"]).pack(weight_OI)
    groups = {"group_in": group_in, "group_out": group_out}
    return Grouped(layer.settings, {"packed": packed, "bias": bias, **groups})
