"""The C++ kernels for the CPU (marl/native/grouped.cpp): packed panels, gather-GEMM-scatter in one call.

The kernels are built once per instruction set (AVX-512, AVX2, or whatever the compiler assumes) and
chosen at run time by what torch finds; `marl/native/grouped_torch.cpp` registers them with torch.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import sysconfig
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marl import native
from marl.errors import MarlError
from marl.sparse.layout import Layout

_FOLDER = Path(native.__file__).parent
KERNELS = ("-O3", "-std=c++20", "-fPIC", "-shared", "-pthread", "-fopenmp", *native.FAST[-3:])
LEVELS = {  # torch's name of an instruction set: what the compiler may use
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
    "DEFAULT": (),
}
_RELU, _GATHER, _SCATTER = 1, 2, 4  # marl::Flag


class _Native:
    """The module that registers the operators, with the kernels of one instruction set."""

    def __init__(self) -> None:
        root = Path(torch.__file__).parent
        includes = (root / "include", sysconfig.get_path("include"))
        abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
        flags = (
            "-O1",
            "-std=c++20",
            "-fPIC",
            "-shared",
            "-pthread",
            abi,
            *(f"-I{path}" for path in includes),
        )
        libraries = (f"-L{root / 'lib'}", "-Wl,--no-as-needed", "-ltorch_python", "-ltorch_cpu", "-lc10")
        self.module: Any = native.load_module(_FOLDER / "grouped_torch.cpp", flags, libraries)
        self.use(torch.backends.cpu.get_cpu_capability())

    def use(self, level: str) -> None:
        """Take the kernels of an instruction set that this machine has; others than LEVELS are "DEFAULT"."""
        library = native.load(_FOLDER / "grouped.cpp", (*KERNELS, *LEVELS.get(level, LEVELS["DEFAULT"])))
        library.marl_grouped.restype = ctypes.c_void_p
        self.lanes: int = self.module.use(library.marl_grouped())  # floats of a vector
        self._plans: weakref.WeakKeyDictionary[Layout, Tensor] = weakref.WeakKeyDictionary()

    def plan(self, layout: Layout) -> Tensor:
        """The layout as the kernels read it, kept as long as it lives."""
        found = self._plans.get(layout)
        if found is None:
            found = self._plans[layout] = make_plan(layout, self.lanes)
        return found


@functools.cache
def _native() -> _Native | None:
    try:
        return _Native()
    except native.NoCompiler as error:
        logging.getLogger(__name__).warning("%s", error)
        return None


def available() -> bool:
    """Whether the kernels can be built and run here."""
    return _native() is not None


def usable(x: Tensor) -> bool:
    """Whether they serve this input: float32 on the CPU, not while torch.compile or torch.export traces."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    return on_cpu and not torch.compiler.is_compiling() and available()


def loaded() -> _Native:
    """The kernels. Raises MarlError where they cannot be had."""
    found = _native()
    if found is None:
        raise MarlError("backend='native' needs a C++ compiler: install g++ or give backend=torch")
    return found


def flags(*, relu: bool, gather: bool, scatter: bool) -> int:
    """Options of a call as the kernels take them."""
    return _RELU * relu | _GATHER * gather | _SCATTER * scatter


def grouped_linear(
    x: Tensor, packed: Tensor, bias: Tensor | None, layout: Layout, *, relu: bool, gather: bool, scatter: bool
) -> Tensor:
    """`marl.sparse.linear.grouped_linear` by the kernels; the panels are packed anew."""
    if torch.compiler.is_compiling():
        raise MarlError(
            "backend='native' cannot be traced by torch.compile or torch.export: give backend=torch"
        )
    own = loaded()
    options = flags(relu=relu, gather=gather, scatter=scatter)
    y: Tensor = own.module.linear(x, packed, bias, own.plan(layout), options)
    return y


def layer(
    packed: Tensor, bias: Tensor | None, layout: Layout, options: int, otherwise: Callable[[Tensor], Tensor]
) -> Any:
    """A callable of x for weights that rest, without a gradient; its `choose(size)` admits batches.

    Args:
        packed, bias: kept; torch's count of their changes says when the panels are packed anew.
        options: of `flags`.
        otherwise: what runs batches of a size (`choose.size_of`) that is not admitted.
    """
    own = loaded()
    return own.module.Layer(packed, bias, own.plan(layout), options, otherwise)


def sums(a: Tensor, b: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """`layout.sums(a * b)` in one pass."""
    sum_I, sum_O = torch.ops.marl.grouped_sums(a, b, loaded().plan(layout))
    return sum_I, sum_O


def make_plan(layout: Layout, lanes: int) -> Tensor:
    """The layout as kernels read it whose vectors have so many floats (marl/native/grouped.hpp)."""
    m_G, n_G = layout.start_in.diff(), layout.start_out.diff()

    def padded(sizes: Tensor) -> Tensor:
        return -(-sizes // lanes) * lanes

    def starts(sizes: Tensor) -> Tensor:
        return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])

    head = torch.tensor([layout.inputs, layout.outputs, layout.groups, layout.nnz])
    parts = [head, layout.start_in, layout.start_out, layout.start_block]
    parts += [starts(sizes) for sizes in (m_G * padded(n_G), padded(n_G), padded(m_G) * n_G, padded(m_G))]
    for order in (layout.order_in_I, layout.order_out_O):
        parts += [_as_int32(order), _as_int32(order.argsort())]
    return torch.cat(parts)


def _as_int32(index: Tensor) -> Tensor:
    """int32 entries in the memory of int64 ones; an odd count is padded."""
    even = index.new_zeros(-(-len(index) // 2) * 2, dtype=torch.int32)
    even[: len(index)] = index
    return even.view(torch.int64)
