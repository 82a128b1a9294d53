"""Native (C++) forms of linear layers and of the GRU, as autograd functions; torch forms elsewhere.

`usable(x)` says whether they serve a tensor: float32 on the CPU of a machine with a C++ compiler. They
give the torch forms' results within rounding. One call uses as many threads as torch is set to, when
the work pays for them; a result depends bitwise on that number and on nothing else of the machine's state.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from marl import native

_FOLDER = Path(native.__file__).parent
_LANES = 16  # floats of a vector in marl/native/tiles.hpp
_SIGNATURES = {
    "linear": {"marl_linear_forward": "llllpppipi", "marl_linear_backward": "llllpppppppi"},
    "gru": {"marl_gru_forward": "llllll" + "p" * 9 + "i", "marl_gru_backward": "llllll" + "p" * 13 + "i"},
}
_TYPES = {"l": ctypes.c_int64, "i": ctypes.c_int, "p": ctypes.c_void_p}


@functools.cache
def _functions() -> dict[str, Any] | None:
    """The C functions by name, or None without a compiler."""
    found = {}
    try:
        for source, signatures in _SIGNATURES.items():
            library = native.load(_FOLDER / f"{source}.cpp", native.FAST)
            for name, types in signatures.items():
                function = getattr(library, name)
                function.argtypes, function.restype = [_TYPES[t] for t in types], None
                found[name] = function
    except native.NoCompiler:
        return None
    return found


def usable(x: Tensor) -> bool:
    """Whether the native forms serve this input."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and _functions() is not None


def _call(name: str, *arguments: Tensor | int | None) -> None:
    functions = _functions()
    assert functions is not None
    values = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    functions[name](*values, torch.get_num_threads())


def linear(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool) -> Tensor:
    """x W^T + b, and ReLU if asked.

    Args:
        x: float32 (..., I), or (..., C, I) when the weights have C copies.
        weight: (O, I) or (C, O, I).
        bias: (O,) or (C, O).
        relu: apply max(., 0).
    """
    return _Linear.apply(x, weight, bias, relu)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
        y = x.new_empty(*x.shape[:-1], weight.shape[-2])
        _call("marl_linear_forward", *_linear_sizes(x, weight), x, weight, bias, int(relu), y)
        ctx.save_for_backward(x, weight, y if relu else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dw, db = torch.empty_like(weight), weight.new_empty(weight.shape[:-1])
        arrays = x, weight, y, dy.contiguous(), dx, dw, db
        _call("marl_linear_backward", *_linear_sizes(x, weight), *arrays)
        return dx, dw, db, None


def _linear_sizes(x: Tensor, weight: Tensor) -> tuple[int, int, int, int]:
    copies = 1 if weight.dim() == 2 else weight.shape[0]
    return x.shape[:-1].numel() // copies, copies, weight.shape[-1], weight.shape[-2]


def gru(
    x_BTNI: Tensor,
    start_BT: Tensor,
    h_BNH: Tensor | None,
    input_weight: Tensor,
    input_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    """States h_BTNH after every entry; arguments as `marl.nets.recurrent.GRU.forward`.

    The gradient reaches x and the weights; the initial state counts as constant.
    """
    return _Gru.apply(x_BTNI, start_BT, h_BNH, input_weight, input_bias, weight, bias)


class _Gru(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, start: Tensor, h0: Tensor | None, *weights: Tensor) -> Tensor:
        x, start = x.contiguous(), start.contiguous()
        h0 = None if h0 is None else h0.contiguous()
        wi, bi, wh, bh = (w.contiguous() for w in weights)
        h = x.new_empty(*x.shape[:-1], wh.shape[-1])
        saved = None
        if any(ctx.needs_input_grad):
            saved = x.new_empty(*x.shape[:-1], 4, -(-wh.shape[-1] // _LANES) * _LANES)
        _call("marl_gru_forward", *_gru_sizes(x, wh), x, start, h0, wi, bi, wh, bh, h, saved)
        ctx.save_for_backward(x, start, h0, wi, wh, h, saved)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:
        x, start, h0, wi, wh, h, saved = ctx.saved_tensors
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        gradients = [torch.empty_like(wi), wi.new_empty(wi.shape[:-1])]
        gradients += [torch.empty_like(wh), wh.new_empty(wh.shape[:-1])]
        arrays = x, start, h0, wi, wh, h, saved, dh.contiguous(), dx, *gradients
        _call("marl_gru_backward", *_gru_sizes(x, wh), *arrays)
        return dx, None, None, *gradients


def _gru_sizes(x_BTNI: Tensor, weight: Tensor) -> tuple[int, int, int, int, int, int]:
    B, T, N, I = x_BTNI.shape  # noqa: E741 - the legend's letter
    return B, T, N, 1 if weight.dim() == 2 else weight.shape[0], I, weight.shape[-1]
