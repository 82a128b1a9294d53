"""Native (C++) forms of layers and of small steps around networks; torch forms elsewhere.

`usable(x)` says whether they serve a tensor: float32 on the CPU of a machine with a C++ compiler. They
give the torch forms' results within rounding. A call uses as many threads as torch is set to where the
work pays for them; its result depends bitwise on that number and on nothing else of the machine's state.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from marl import native

_FOLDER = Path(native.__file__).parent
_SIGNATURES = {
    "linear": {"marl_linear_forward": "llllpppipi", "marl_linear_backward": "llllpppppppi"},
    "acting": {
        "marl_agent_inputs": "lllliippp",
        "marl_epsilon_greedy": "lllpppdp",
        "marl_lambda_returns": "lllppppffp",
    },
    "gru": {
        "marl_gru_forward": "llllll" + "p" * 9 + "i",
        "marl_gru_backward": "llllll" + "p" * 11 + "i",
        "marl_gru_saved": "llll",
    },
    "lstm": {"marl_lstm_forward": "ll" + "p" * 6, "marl_lstm_backward": "ll" + "p" * 6},
    "tower": {
        "marl_tower_forward": "llllpippppi",
        "marl_tower_backward": "llllpippppppii",
    },
    "mixing": {
        "marl_mixing_forward": "lll" + "p" * 6 + "i",
        "marl_mixing_backward": "lll" + "p" * 9 + "i",
    },
    "adam": {"marl_adam": "lppppldddddp"},
    "pairs": {"marl_best_pair": "llpppppi"},
    "policy": {
        "marl_sample": "lllpppp",
        "marl_policy_loss": "ll" + "p" * 6 + "ffppi",
        "marl_value_loss": "lppppffffpp",
        "marl_moments": "lppp",
    },
}
_THREADS: ContextVar[int | None] = ContextVar("threads of the kernels within `alone`", default=None)
Pointers = ctypes.Array[ctypes.c_void_p]
_TYPES = {
    "l": ctypes.c_int64,
    "i": ctypes.c_int,
    "p": ctypes.c_void_p,
    "d": ctypes.c_double,
    "f": ctypes.c_float,
}


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
    except native.NoCompiler as error:
        logging.getLogger(__name__).warning("%s", error)
        return None
    return found


def usable(x: Tensor) -> bool:
    """Whether the native forms serve this input."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and _functions() is not None


@contextmanager
def alone() -> Iterator[None]:
    """Within, torch's own operations run on one thread and the kernels on all that torch is set to.

    Workers of OpenMP spin for a while after every operation of torch and would take the cores from the
    kernels' threads. Without a compiler nothing changes.
    """
    count = torch.get_num_threads()
    if count == 1 or _functions() is None:
        yield
        return
    token = _THREADS.set(count)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)
        _THREADS.reset(token)


def call(name: str, *arguments: Tensor | Pointers | float | None) -> None:
    """Call a C function of `_SIGNATURES` with numbers, contiguous tensors, and None for null."""
    functions = _functions()
    assert functions is not None
    functions[name](*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))


def threads() -> int:
    """Threads that a kernel may use now."""
    return _THREADS.get() or torch.get_num_threads()


def linear(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool) -> Tensor:
    """x W^T + b, and ReLU if asked.

    Args:
        x: float32 (..., I), or (..., C, I) when the weights have C copies.
        weight: (O, I) or (C, O, I).
        bias: (O,) or (C, O).
        relu: apply max(., 0).
    """
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias, relu)
    return _linear_forward(x.contiguous(), weight, bias, relu)  # autograd costs as much as a small layer


def _linear_forward(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    y = x.new_empty(*x.shape[:-1], weight.shape[-2])
    arguments = *_linear_sizes(x, weight), x, weight, bias, int(relu), y, threads()
    call("marl_linear_forward", *arguments)
    return y


def _linear_sizes(x: Tensor, weight: Tensor) -> tuple[int, int, int, int]:
    copies = 1 if weight.dim() == 2 else weight.shape[0]
    return x.shape[:-1].numel() // copies, copies, weight.shape[-1], weight.shape[-2]


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        x = x.contiguous()
        y = _linear_forward(x, weight, bias, relu)
        ctx.save_for_backward(x, weight, y if relu else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dw, db = torch.empty_like(weight), weight.new_empty(weight.shape[:-1])
        arrays = x, weight, y, dy.contiguous(), dx, dw, db
        call("marl_linear_backward", *_linear_sizes(x, weight), *arrays, threads())
        return dx, dw, db, None


def gru(x_BTNI: Tensor, start_BT: Tensor, h_BNH: Tensor | None, *weights: Tensor) -> Tensor:
    """States h_BTNH after every entry: `marl.nets.recurrent.GRU.forward`.

    The gradient reaches x and the weights; the initial state counts as constant.

    Args:
        x_BTNI: float32.
        start_BT: bool.
        h_BNH: float32, or None for zeros.
        weights: W_i (3H, I), b_i (3H), W_h (3H, H), b_h (3H), or C copies of each.
    """
    x_BTNI, start_BT = x_BTNI.contiguous(), start_BT.contiguous()
    h_BNH = None if h_BNH is None else h_BNH.detach().contiguous()
    if torch.is_grad_enabled():
        return _Gru.apply(x_BTNI, start_BT, h_BNH, *weights)
    return _gru_forward(x_BTNI, start_BT, h_BNH, weights, None)


def _gru_forward(
    x: Tensor, start: Tensor, h0: Tensor | None, weights: tuple[Tensor, ...], saved: Tensor | None
) -> Tensor:
    h = x.new_empty(*x.shape[:-1], weights[2].shape[-1])
    arguments = *_gru_sizes(x, weights[2]), x, start, h0, *weights, h, saved, threads()
    call("marl_gru_forward", *arguments)
    return h


def _gru_sizes(x_BTNI: Tensor, weight: Tensor) -> tuple[int, int, int, int, int, int]:
    B, T, N, I = x_BTNI.shape  # noqa: E741 - the legend's letter
    return B, T, N, 1 if weight.dim() == 2 else weight.shape[0], I, weight.shape[-1]


def _saved(sizes: tuple[int, int, int, int, int, int]) -> int:
    """Floats that the backward pass needs from the forward pass."""
    functions = _functions()
    assert functions is not None
    functions["marl_gru_saved"].restype = ctypes.c_int64
    B, T, N, _, _, H = sizes
    return int(functions["marl_gru_saved"](B, T, N, H))


class _Gru(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, start: Tensor, h0: Tensor | None, *weights: Tensor) -> Tensor:
        wi, _, wh, _ = weights
        saved = x.new_empty(_saved(_gru_sizes(x, wh)))
        ctx.save_for_backward(x, start, wi, wh, saved)
        return _gru_forward(x, start, h0, weights, saved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor) -> tuple[Tensor | None, ...]:
        x, start, wi, wh, saved = ctx.saved_tensors
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        gradients = [torch.empty_like(wi), wi.new_empty(wi.shape[:-1])]
        gradients += [torch.empty_like(wh), wh.new_empty(wh.shape[:-1])]
        arrays = x, start, wi, wh, saved, dh.contiguous(), dx
        call("marl_gru_backward", *_gru_sizes(x, wh), *arrays, *gradients, threads())
        return dx, None, None, *gradients


def lstm_cell(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """(h', c') of an LSTM cell: `marl.nets.recurrent.LSTM.step` after its two products.

    Args: a, b: products of input and state (..., 4H), float32; c: (..., H).
    """
    a, b, c = a.contiguous(), b.contiguous(), c.contiguous()
    if torch.is_grad_enabled():
        return _LstmCell.apply(a, b, c)
    return lstm_forward(a, b, c, None)


def lstm_forward(a: Tensor, b: Tensor | None, c: Tensor, saved: Tensor | None) -> tuple[Tensor, Tensor]:
    """`lstm_cell` without autograd; `saved` (..., 5, H) takes what `lstm_backward` needs."""
    h_next, c_next = torch.empty_like(c), torch.empty_like(c)
    call("marl_lstm_forward", c.shape[:-1].numel(), c.shape[-1], a, b, c, h_next, c_next, saved)
    return h_next, c_next


class _LstmCell(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        saved = c.new_empty(*c.shape[:-1], 5, c.shape[-1])
        ctx.save_for_backward(c, saved)
        return lstm_forward(a, b, c, saved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh: Tensor, dc_next: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c, saved = ctx.saved_tensors
        dgates = c.new_empty(*c.shape[:-1], 4 * c.shape[-1])
        dc = lstm_backward(saved, c, dh.contiguous(), dc_next.contiguous(), dgates)
        return dgates, dgates, dc


def lstm_backward(saved: Tensor, c: Tensor, dh: Tensor, dc_next: Tensor, dgates: Tensor) -> Tensor:
    """Gradient of c from those of h' and c'; that of the products (..., 4H) is written into dgates."""
    dc = torch.empty_like(c)
    call("marl_lstm_backward", c.shape[:-1].numel(), c.shape[-1], saved, c, dh, dc_next, dgates, dc)
    return dc


def agent_inputs(obs: Tensor, last_action: Tensor | None, *, actions: int, ids: bool) -> Tensor:
    """`marl.nets.inputs.agent_inputs` in one pass, without a gradient."""
    (N, O), obs = obs.shape[-2:], obs.contiguous()  # noqa: E741 - the legend's letter
    last_action = None if last_action is None else last_action.contiguous()
    out = obs.new_empty(*obs.shape[:-1], O + actions * (last_action is not None) + N * ids)
    sizes = obs.shape[:-2].numel(), N, O, actions
    call("marl_agent_inputs", *sizes, int(last_action is not None), int(ids), obs, last_action, out)
    return out


def epsilon_greedy(q_BNA: Tensor, avail_BNA: Tensor, key_B: Tensor | None, epsilon: float) -> Tensor:
    """`marl.value.explore.epsilon_greedy`, bit for bit; greedy without keys."""
    B, N, A = q_BNA.shape
    actions_BN = torch.empty(B, N, dtype=torch.int64)
    key_B = None if key_B is None else key_B.contiguous()
    arrays = q_BNA.contiguous(), avail_BNA.contiguous(), key_B
    call("marl_epsilon_greedy", B, N, A, *arrays, epsilon, actions_BN)
    return actions_BN


def lambda_returns(
    reward_BTM: Tensor, value_BTM: Tensor, ends: tuple[Tensor, Tensor], gamma: float, trace: float
) -> Tensor:
    """`marl.returns.lambda_returns`; ends are terminated_BT and filled_BT."""
    arrays = [x.contiguous() for x in (reward_BTM, value_BTM, *ends)]
    out_BTM = torch.empty_like(arrays[1])
    call("marl_lambda_returns", *value_BTM.shape, *arrays, gamma, trace, out_BTM)
    return out_BTM
