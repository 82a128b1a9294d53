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
    "acting": {"marl_agent_inputs": "lllliippp", "marl_epsilon_greedy": "lllpppdp"},
    "gru": {"marl_gru_forward": "llllll" + "p" * 9 + "i", "marl_gru_backward": "llllll" + "p" * 13 + "i"},
}
_TYPES = {"l": ctypes.c_int64, "i": ctypes.c_int, "p": ctypes.c_void_p, "d": ctypes.c_double}


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


def _call(name: str, *arguments: Tensor | float | None) -> None:
    functions = _functions()
    assert functions is not None
    functions[name](*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))


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
        _call(
            "marl_linear_forward",
            *_linear_sizes(x, weight),
            x,
            weight,
            bias,
            int(relu),
            y,
            torch.get_num_threads(),
        )
        ctx.save_for_backward(x, weight, y if relu else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dw, db = torch.empty_like(weight), weight.new_empty(weight.shape[:-1])
        arrays = x, weight, y, dy.contiguous(), dx, dw, db, torch.get_num_threads()
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
        _call(
            "marl_gru_forward",
            *_gru_sizes(x, wh),
            x,
            start,
            h0,
            wi,
            bi,
            wh,
            bh,
            h,
            saved,
            torch.get_num_threads(),
        )
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
        arrays += (torch.get_num_threads(),)
        _call("marl_gru_backward", *_gru_sizes(x, wh), *arrays)
        return dx, None, None, *gradients


def _gru_sizes(x_BTNI: Tensor, weight: Tensor) -> tuple[int, int, int, int, int, int]:
    B, T, N, I = x_BTNI.shape  # noqa: E741 - the legend's letter
    return B, T, N, 1 if weight.dim() == 2 else weight.shape[0], I, weight.shape[-1]


def agent_inputs(
    obs: Tensor, last_action: Tensor, *, actions: int, use_last_action: bool, use_ids: bool
) -> Tensor:
    """[observation | last action one-hot | agent id one-hot] in one pass, without a gradient.

    Args:
        obs: float32 (..., N, O).
        last_action: int64 (..., N), -1 for none.
        actions: number of actions A.
        use_last_action, use_ids: which one-hots to append.
    """
    (N, O), obs, last_action = obs.shape[-2:], obs.contiguous(), last_action.contiguous()  # noqa: E741
    out = obs.new_empty(*obs.shape[:-1], O + actions * use_last_action + N * use_ids)
    sizes = obs.shape[:-2].numel(), N, O, actions
    _call("marl_agent_inputs", *sizes, int(use_last_action), int(use_ids), obs, last_action, out)
    return out


def epsilon_greedy(q_BNA: Tensor, avail_BNA: Tensor, key_B: Tensor, epsilon: float) -> Tensor:
    """`marl.value.explore.epsilon_greedy`, bit for bit."""
    B, N, A = q_BNA.shape
    actions_BN = torch.empty(B, N, dtype=torch.int64)
    arrays = q_BNA.contiguous(), avail_BNA.contiguous(), key_B.contiguous()
    _call("marl_epsilon_greedy", B, N, A, *arrays, epsilon, actions_BN)
    return actions_BN
