"""What each part of the native kernels gives: the kernels as they are against themselves without it.

A part is taken away by changing one line of marl/native/grouped.cpp, which is built anew into the cache, or
by calling the same kernels in another way. Every side says which kernels it wants before each call, the
complete one too.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks import sparse_sides as sides
from marl import native as builds
from marl.errors import MarlError
from marl.sparse import Layout
from marl.sparse.backends import native

COMPLETE = "complete"
WITHOUT = {  # part: the line of the source, and what stands there without the part
    "wide tiles": ("constexpr int kVectors = 4;", "constexpr int kVectors = 1;"),
    "series of sums": ("return sums == 1 ? 8 : sums == 2 ? 4 : sums <= 4 ? 2 : 1;", "return sums ? 1 : 1;"),
    "prefetch of the next group": ("constexpr int64_t kAhead = 64;", "constexpr int64_t kAhead = 0;"),
    "copied rows": ("constexpr int64_t kCopy = 4;", "constexpr int64_t kCopy = 1 << 30;"),
    "turned rows": ("kSmall[] = {10, 24, 48};", "kSmall[] = {0, 0, 0};"),
}
LEVELS = {"AVX-512": "AVX2", "vector instructions": "DEFAULT"}  # part: instruction set that has it not
KEPT, CALL = "kept panels", "call past torch.ops"
PARTS = (*WITHOUT, *LEVELS, KEPT, CALL)
CELLS = (  # size, batch, G
    ("128x512", 1, 16),
    ("128x512", 32, 16),
    ("512x512", 32, 32),
    ("1024x1024", 1, 16),
    ("1024x1024", 512, 16),
    ("2048x2048", 128, 32),
    ("4096x4096", 512, 16),
)
MODES = {"network": {"gather": False, "scatter": False}, "alone": {"gather": True, "scatter": True}}


def _address(library: ctypes.CDLL) -> int:
    library.marl_grouped.restype = ctypes.c_void_p
    return int(library.marl_grouped())


def kernels(part: str) -> int:
    """Address of the kernels without a part; COMPLETE: with all.

    Raises:
        MarlError: the source has no such line any more.
    """
    source = Path(native.__file__).parents[2] / "native" / "grouped.cpp"
    level = LEVELS.get(part, torch.backends.cpu.get_cpu_capability())
    flags = (*native.KERNELS, *native.LEVELS.get(level, ()))
    if part not in WITHOUT:
        return _address(builds.load(source, flags))
    old, new = WITHOUT[part]
    text = source.read_text()
    if text.count(old) != 1:
        raise MarlError(f"{source.name} has not exactly one line {old!r}: change it in {Path(__file__).name}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"grouped_without_{part.replace(' ', '_')}.cpp"
        path.write_text(text.replace(old, new))
        return _address(builds.load(path, flags))


def _side(
    part: str, dense: nn.Linear, layout: Layout, options: dict[str, bool], x: Tensor
) -> Callable[[], Any]:
    own, address, flags = native.loaded(), kernels(part), native.flags(relu=False, **options)
    plan = native.make_plan(layout, own.module.use(address))
    packed, bias = layout.pack(dense.weight).detach(), dense.bias.detach()
    if part == KEPT:
        return lambda: (own.module.use(address), own.module.linear(x, packed, bias, plan, flags))
    if part == CALL:
        panels = torch.ops.marl.grouped_pack(packed, bias, plan)
        return lambda: (own.module.use(address), torch.ops.marl.grouped_forward(x, panels, plan, flags))
    made = own.module.Layer(packed, bias, plan, flags, _never)
    for size in range(48):
        made.choose(size)
    return lambda: (own.module.use(address), made(x))


def _never(x: Tensor) -> Tensor:
    raise AssertionError("every size is chosen")


def changes(*, size: str, batch: int, groups: int, threads: int) -> sides.Runs:
    """Dense, the complete kernels and those without each part, inside a network and alone."""
    inputs, outputs = sides.shape(size)
    torch.manual_seed(0)
    dense, x = nn.Linear(inputs, outputs), torch.randn(batch, inputs)
    layout = sides.equal(inputs, outputs, groups)
    runs: sides.Runs = {"dense": lambda: dense(x)}
    for mode, options in MODES.items():
        for part in (COMPLETE, *PARTS):
            runs[f"{mode}: {part}"] = _side(part, dense, layout, options, x)
    return runs
