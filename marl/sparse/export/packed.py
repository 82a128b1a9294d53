"""A policy as a folder that any program can read: policy.json and weights.safetensors.

policy.json: kind, schema, about (the run), inputs, outputs, layers (name, kind, format, settings, and the
shape and dtype of every tensor), steps, file (size and hash of weights.safetensors), and its own hash. A
tensor is named "<layer>.<tensor>". Reading runs no code and checks every hash before it parses.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marl import files, sealed
from marl.errors import CorruptFileError, MarlError
from marl.sparse.export.layers import ACTIVATIONS, KINDS, Layer
from marl.sparse.export.policy import CHOSEN, OPS, Field, Policy, Step

KIND, SCHEMA = "marl policy", 1
LIST, WEIGHTS = "policy.json", "weights.safetensors"


def describe(policy: Policy) -> dict[str, Any]:
    """Everything but the weights, as plain data."""
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "about": policy.about,
        "inputs": [
            {"name": f.name, "shape": list(f.shape), "dtype": f.dtype, "next": f.next, "fill": f.fill}
            for f in policy.inputs
        ],
        "outputs": list(policy.outputs),
        "layers": [_describe(name, layer) for name, layer in policy.layers.items()],
        "steps": [
            {
                "op": step.op,
                "layers": list(step.layers),
                "reads": list(step.reads),
                "makes": list(step.makes),
                "settings": dict(step.settings),
            }
            for step in policy.steps
        ],
    }


def _describe(name: str, layer: Any) -> dict[str, Any]:
    tensors = {
        key: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for key, value in layer.tensors().items()
    }
    return {
        "name": name,
        "kind": layer.kind,
        "format": layer.format,
        "settings": layer.settings,
        "tensors": tensors,
    }


def write(policy: Policy, folder: Path) -> None:
    """Write the folder, whole or not at all."""
    layers: Mapping[str, Any] = dict(policy.layers.items())
    tensors = {f"{n}.{key}": value for n, layer in layers.items() for key, value in layer.tensors().items()}
    with files.atomic_folder(folder) as temporary:
        entry = {"name": WEIGHTS, **sealed.write_tensors(temporary / WEIGHTS, tensors)}
        sealed.write_list(temporary / LIST, {**describe(policy), "file": entry})


def load(folder: Path | str) -> Policy:
    """The policy that `write` put there: it gives the same numbers.

    Raises:
        CorruptFileError: names the file that is missing, damaged or foreign.
    """
    listed, weights = Path(folder) / LIST, Path(folder) / WEIGHTS
    content = sealed.read_list(listed, kind=KIND, schema=SCHEMA, what="an exported policy")
    try:
        tensors = sealed.parse_tensors(weights, sealed.read_checked(weights, content["file"], LIST))
        policy = _policy(content, tensors)
        with torch.no_grad():
            policy(*policy.example(2))  # shapes of steps and layers fit
    except CorruptFileError:
        raise
    except (MarlError, KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CorruptFileError(listed, f"its parts do not fit each other ({error})") from error
    return policy


def _policy(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Policy:
    """Put together what was read; raises what a wrong content makes it raise."""
    inputs = [Field(**{**entry, "shape": tuple(entry["shape"])}) for entry in content["inputs"]]
    for f in inputs:
        _one_of("dtype", f.dtype, ("float32", "int64", "bool"))
        _one_of("next", f.next, ("", CHOSEN, *content["outputs"]))
    layers = {entry["name"]: _layer(entry, tensors) for entry in content["layers"]}
    steps = [
        Step(
            op=_one_of("op", entry["op"], OPS),
            layers=tuple(_one_of("layer", name, layers) for name in entry["layers"]),
            reads=tuple(entry["reads"]),
            makes=tuple(entry["makes"]),
            settings=entry["settings"],
        )
        for entry in content["steps"]
    ]
    return Policy(inputs, content["outputs"], steps, layers, content["about"]).eval()


def _layer(entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Layer:
    name, settings = entry["name"], entry["settings"]
    if "activation" in settings:
        _one_of("activation", settings["activation"], ACTIVATIONS)
    own = {key: tensors[f"{name}.{key}"] for key in entry["tensors"]}
    layer = KINDS[_one_of("kind", entry["kind"], KINDS)](settings, own)
    if _describe(name, layer) != dict(entry):
        raise MarlError(f"layer {name} is not as described")
    return layer


def _one_of(what: str, value: Any, known: Any) -> Any:
    if value not in known:
        raise MarlError(f"{what} {value!r} is unknown to this version")
    return value
