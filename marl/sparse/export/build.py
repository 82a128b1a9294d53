"""Put a trained network into a policy, layer by layer: what the teams' own `export` methods are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from marl.errors import MarlError
from marl.nets.linear import Linear
from marl.sparse.export.layers import Dense, Grouped, Layer, Norm, ToBox
from marl.sparse.export.policy import Field, Policy, Step
from marl.sparse.layer import GroupedCopies, GroupedLayer


class Builder:
    """Collects inputs, layers and steps; every method returns the names of the values it makes."""

    def __init__(self) -> None:
        self._inputs: list[Field] = []
        self._steps: list[Step] = []
        self._layers: dict[str, Layer] = {}

    def input(self, name: str, *shape: int, dtype: str = "float32", next: str = "", fill: int = 0) -> str:
        """A named input; see `Field`."""
        self._inputs.append(Field(name=name, shape=shape, dtype=dtype, next=next, fill=fill))
        return name

    def agent_inputs(self, obs: str, last_action: str | None, *, actions: int, ids: bool) -> str:
        """The rows that agents' networks read, by the parts they have."""
        reads = (obs,) if last_action is None else (obs, last_action)
        return self.step("inputs", reads, ("x",), actions=actions, ids=ids)[0]

    def linear(
        self, name: str, module: nn.Module, x: str, *, activation: str = "none", makes: str = ""
    ) -> str:
        """A layer of the factory."""
        self._add(name, _linear(module, activation))
        return self.step("layer", (x,), (makes or name,), (name,))[0]

    def norm(self, name: str, module: Any, x: str) -> str:
        """A LayerNorm of `marl.nets.tower`."""
        copies = None if module.weight.dim() == 1 else module.weight.shape[0]
        settings = {"size": module.weight.shape[-1], "copies": copies}
        self._add(name, Norm(settings, {"weight": module.weight, "bias": module.bias}))
        return self.step("layer", (x,), (name,), (name,))[0]

    def cell(self, name: str, module: Any, reads: Sequence[str], makes: Sequence[str]) -> tuple[str, ...]:
        """One step of a GRU (x, h to h') or LSTM (x, h, c to h', c')."""
        names = f"{name}_input", f"{name}_recurrent"
        for own, layer in zip(names, (module.input, module.recurrent), strict=True):
            self._add(own, _linear(layer, "none"))
        return self.step("gru" if len(makes) == 1 else "lstm", reads, makes, names)

    def to_box(self, x: str, makes: str, bounds: Mapping[str, Tensor]) -> str:
        """Means to actions; bounds (N, A) by the names of `ToBox`."""
        agents, actions = bounds["low"].shape
        self._add("box", ToBox({"agents": agents, "actions": actions}, bounds))
        return self.step("layer", (x,), (makes,), ("box",))[0]

    def shared(self, name: str, module: nn.Module) -> str:
        """A layer that steps name themselves; adding it again changes nothing."""
        self._add(name, _linear(module, "none"))
        return name

    def step(
        self,
        op: str,
        reads: Sequence[str],
        makes: Sequence[str],
        layers: Sequence[str] = (),
        **settings: Any,
    ) -> tuple[str, ...]:
        """Any other operation."""
        new = Step(op=op, reads=tuple(reads), makes=tuple(makes), layers=tuple(layers), settings=settings)
        self._steps.append(new)
        return new.makes

    def policy(self, *outputs: str) -> Policy:
        """The finished policy on the CPU; `about` is empty."""
        return Policy(self._inputs, outputs, self._steps, self._layers, {}).cpu().eval()

    def _add(self, name: str, layer: Layer) -> None:
        self._layers.setdefault(name, layer)


def _linear(module: nn.Module, activation: str) -> Layer:
    """A layer of the factory with its mask resolved: what sleeps stays behind."""
    if isinstance(module, Linear):
        copies = None if module.weight.dim() == 2 else module.weight.shape[0]
        outputs, inputs = module.weight.shape[-2:]
        settings = {"inputs": inputs, "outputs": outputs, "copies": copies, "activation": activation}
        return Dense(settings, {"weight": module.weight, "bias": module.bias})
    if isinstance(module, GroupedLayer):
        return _grouped([module], None, activation)
    if isinstance(module, GroupedCopies):
        return _grouped(list(module.copies), len(module.copies), activation)
    raise MarlError(f"a layer of class {type(module).__name__} cannot be exported")


def _grouped(layers: Sequence[Any], copies: int | None, activation: str) -> Layer:
    first: GroupedLayer = layers[0]
    inputs, outputs = first.layout.inputs, first.layout.outputs
    settings = {"inputs": inputs, "outputs": outputs, "groups": first.count, "copies": copies}
    lead = () if copies is None else (copies,)
    index = torch.uint8 if first.count <= 256 else torch.int16
    tensors = {
        "packed": torch.cat([layer.packed for layer in layers]),
        "bias": torch.cat([layer.bias for layer in layers]).view(*lead, outputs),
        "group_in": torch.cat([layer.group_in_I for layer in layers]).to(index).view(*lead, inputs),
        "group_out": torch.cat([layer.group_out_O for layer in layers]).to(index).view(*lead, outputs),
    }
    return Grouped({**settings, "activation": activation}, tensors)
