"""Native forms of what is done in every step between worlds and agents: one call for several of torch.

They serve CPU tensors where there is a compiler, and give the torch forms' results bit for bit.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marl import native

_P, _L = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES = {
    "marl_fold": (_L, _P, _P, _P),
    "marl_record": (_L, _L, _L, _P, _P, _L, _L, _L, _L, _P, _P, _P, _P, _P, _P, _P),
}
_NARROW = {torch.int8: -1, torch.int16: -2, torch.int32: -4}


@functools.cache
def _functions() -> dict[str, Any] | None:
    """The C functions by name, or None without a compiler."""
    try:
        library = native.load(Path(__file__).with_name("steps.cpp"))
    except native.NoCompiler as error:
        logging.getLogger(__name__).warning("%s", error)
        return None
    found = {name: getattr(library, name) for name in _SIGNATURES}
    for name, function in found.items():
        function.argtypes, function.restype = _SIGNATURES[name], None
    return found


def usable(x: Tensor) -> bool:
    """Whether the native forms serve this tensor's device."""
    return x.device.type == "cpu" and _functions() is not None


def fold(key_B: Tensor, word_B: Tensor) -> Tensor:
    """`marl.rng.Stream.fold` with one int64 word per row; both (B,)."""
    functions, key_B, word_B = _functions(), key_B.contiguous(), word_B.contiguous()
    assert functions is not None
    out_B = torch.empty_like(key_B)
    functions["marl_fold"](key_B.numel(), key_B.data_ptr(), word_B.data_ptr(), out_B.data_ptr())
    return out_B


class Recorder:
    """Writes fields of entries into records, and records onto a tape; `marl.tape.Tape` says what they are.

    Args:
        record_BR: uint8, the newest record of every env, contiguous.
        unpacked_BK: bool, its bits: what can be done by each agent, then who is alive.
        bits: first byte of the packed bits in a record.
        base_B: int64, number of every env's first record on the tape.
        tape: uint8, all records, contiguous.
    """

    def __init__(
        self, record_BR: Tensor, unpacked_BK: Tensor, bits: int, base_B: Tensor, tape: Tensor
    ) -> None:
        functions = _functions()
        assert functions is not None
        self._call = functions["marl_record"]
        self._keep, self._tape = (record_BR, unpacked_BK, base_B, tape), tape.data_ptr()
        self._sizes, self._bits = tuple(record_BR.shape), (bits, unpacked_BK.shape[1] // 8)
        self._to = unpacked_BK.data_ptr(), record_BR.data_ptr(), base_B.data_ptr()
        self._plans: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    @staticmethod
    def kind(given: torch.dtype, stored: torch.dtype) -> int:
        """How a field is written (steps.cpp), or 0: not by this."""
        if given == stored:
            return given.itemsize
        return _NARROW.get(stored, 0) if given == torch.int64 else 0

    def write(
        self,
        fields: Sequence[tuple[int, int, Tensor]],
        avail_BNA: Tensor,
        alive_BN: Tensor | None,
        at_B: Tensor,
    ) -> None:
        """Complete the newest records and put them on the tape.

        Args:
            fields: first byte in a record, kind, and values with B first.
            avail_BNA, alive_BN: bool; None leaves those of before.
            at_B: int64, where on the tape, counted from the env's first record.
        """
        values = [value.contiguous() for _, _, value in fields]
        avail_BNA, alive_BN = avail_BNA.contiguous(), None if alive_BN is None else alive_BN.contiguous()
        plan = tuple([(first, value.numel() // len(value), kind) for first, kind, value in fields])
        if plan not in self._plans:
            self._plans[plan] = (_L * (3 * len(plan)))(*chain(*plan)), (_P * len(plan))()
        numbers, pointers = self._plans[plan]
        pointers[:] = [value.data_ptr() for value in values]
        N, A = avail_BNA.shape[1:]
        alive = None if alive_BN is None else alive_BN.data_ptr()
        bits = *self._bits, N * A, N, avail_BNA.data_ptr(), alive
        self._call(*self._sizes, len(plan), numbers, pointers, *bits, *self._to, at_B.data_ptr(), self._tape)
