"""`marl export`: a trained run's policy in a form that needs none of its training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from marl import config, files
from marl.errors import FieldError, MarlError
from marl.measure import load_agent, load_run
from marl.results import versions
from marl.sparse.export import foreign, order, packed
from marl.sparse.export.policy import Policy


@runtime_checkable
class Exportable(Protocol):
    """A team that can say how it acts, layer by layer."""

    def export(self) -> Policy: ...


def _write_packed(policy: Policy, path: Path) -> None:
    """Write the folder, and look whether it gives the same numbers."""
    packed.write(policy, path)
    again, inputs = packed.load(path), policy.example(4, seed=1)
    with torch.no_grad():
        if not all(a.equal(b) for a, b in zip(policy(*inputs), again(*inputs), strict=True)):
            files.remove_folder(path)
            raise MarlError(
                f"{path} did not give the policy's numbers when it was read again and was removed"
            )


FORMATS: dict[str, tuple[str, Callable[[Policy, Path], None]]] = {  # suffix, writer
    "packed": ("", _write_packed),
    "onnx": (".onnx", foreign.write_onnx),
    "torch": (".pt2", foreign.write_torch),
}


def export_run(
    folder: Path,
    *,
    format: str,
    out: Path | None = None,
    step: int | None = None,
    trust: tuple[str, ...] = (),
) -> Path:
    """Write a run's policy, and print what was written and how large it is.

    Args:
        folder: the run's folder.
        format: packed, onnx or torch.
        out: file (packed: folder) to write; None: policy-<step> in the run's folder.
        step: a checkpoint other than the newest.
        trust: packages besides marl that the run's config may name.

    Raises:
        MarlError: there is no such run, its team cannot be exported, or `out` exists.
    """
    if format not in FORMATS:
        raise FieldError("format", format, f"give one of {', '.join(FORMATS)}")
    cfg, saved = load_run(folder, step=step, trust=trust, device="cpu")
    suffix, write = FORMATS[format]
    path = out or folder / f"policy-{saved.step}{suffix}"
    if path.exists():
        raise FieldError("out", str(path), "it exists: give another path, or remove it first")
    agent = load_agent(cfg, saved)
    if not isinstance(agent, Exportable):
        raise MarlError(f"agent={config.label(cfg.agent)} cannot be exported: its class has no method export")
    policy = order.in_order(agent.export())
    policy.about = {
        "run_id": cfg.run_id,
        "step": saved.step,
        "env": config.label(cfg.env),
        "agent": config.label(cfg.agent),
        "config_hash": cfg.hash,
        "versions": versions(),
    }
    files.make_folder(path.resolve().parent)
    write(policy, path)
    print(f"{cfg.run_id}, checkpoint {saved.step}: {path} is written and gives the policy's numbers")
    print(f"  {_sizes(policy)}")
    return path


def _sizes(policy: Policy) -> str:
    kept, dense = policy.bytes
    if kept == dense:
        return f"{kept:,} bytes of weights, all layers dense"
    return f"{kept:,} bytes of weights and group indices, {dense / kept:.2f} times fewer than dense"
