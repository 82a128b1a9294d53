"""A policy in the formats of other programs: ONNX, and torch.export's .pt2.

Both hold the step function of `Policy.forward` with B left open; its inputs and outputs have the policy's
names. A grouped layer becomes a gather, one product per group and a scatter, as `grouped_linear` is traced,
so that only kept weights are in the file. The policy's description (`packed.describe`) goes along as text.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marl import files
from marl.errors import MarlError
from marl.sparse.export.packed import LIST, describe
from marl.sparse.export.policy import Policy

_ROWS = 3  # of the example that is traced: neither 0 nor 1, which torch.export takes for constants
_CLOSE = 1e-4  # relative and absolute: another program sums in another order


def _program(policy: Policy) -> torch.export.ExportedProgram:
    example = policy.example(_ROWS)
    rows = torch.export.Dim("rows")
    shapes = tuple({0: rows} for _ in example)
    with torch.no_grad():
        return torch.export.export(policy, example, dynamic_shapes=(shapes,))


def write_torch(policy: Policy, path: Path) -> None:
    """Write a .pt2 file, after its program was found to give the policy's numbers.

    It is read by `torch.export.load(path).module()`; unlike the packed form it holds code, so read only
    files that you trust.
    """
    program = _program(policy)
    _compare(policy, lambda *values: program.module()(*values), "torch.export")
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # places in the source of this machine
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={LIST: json.dumps(describe(policy))})
    files.write_atomic(path, buffer.getvalue())


def has_onnx() -> bool:
    """Whether the extra `export` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxscript"))


def write_onnx(policy: Policy, path: Path) -> None:
    """Write an .onnx file, after ONNX's reference evaluator was found to give the policy's numbers.

    Raises:
        MarlError: onnx or onnxscript is not installed.
    """
    if not has_onnx():
        raise MarlError("format=onnx needs onnx and onnxscript: pip install 'marl-suite[export]'")
    from onnx.checker import check_model
    from onnx.reference import ReferenceEvaluator

    model, names = _onnx_model(policy), [f.name for f in policy.inputs]
    check_model(model, full_check=True)
    session = ReferenceEvaluator(model)

    def run(*values: Tensor) -> list[Tensor]:
        fed = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return [torch.from_numpy(made) for made in session.run(None, fed)]

    _compare(policy, run, "ONNX's reference evaluator")
    files.write_atomic(path, model.SerializeToString())


def _onnx_model(policy: Policy) -> Any:
    """The ModelProto, with the policy's description among its metadata."""
    program = _program(policy)
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[f.name for f in policy.inputs],
            output_names=list(policy.outputs),
        )
    assert made is not None
    model = made.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]  # where in the source it came from: larger than a small policy's weights
    entry = model.metadata_props.add()
    entry.key, entry.value = LIST, json.dumps(describe(policy))
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, the exporter keeps to itself what it would deprecate, skip or like to have installed."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _compare(policy: Policy, run: Callable[..., Sequence[Tensor]], other: str) -> None:
    """Run both on random inputs with another number of rows than the traced one.

    Raises:
        MarlError: they differ; nothing was written.
    """
    inputs = policy.example(2 * _ROWS, seed=1)
    with torch.no_grad():
        pairs = zip(policy.outputs, policy(*inputs), run(*inputs), strict=True)
    for name, ours, theirs in pairs:
        same = ours.equal(theirs) if ours.dtype == torch.bool else ours.allclose(theirs, _CLOSE, _CLOSE)
        if not same:
            raise MarlError(f"{other} gives other numbers than the policy in {name}: nothing was written")
