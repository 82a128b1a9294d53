"""One `Rng` per run: counter-based streams for worlds and agents, named generators for the rest.

A `Stream` is a pure function of (seed, names, env index, episode, step): asking it twice gives the
same numbers, nothing is consumed, and the numbers of one env do not depend on how many others run
beside it. The native (C++) worlds implement the same three lines (`marl/native/rng.hpp`).

Reference: the mixing function is the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast Splittable
Pseudorandom Number Generators", OOPSLA 2014); number i of a stream with key k is
``mix(k + (i + 1) * GOLDEN)``, that is the SplitMix64 sequence that starts at k.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.native import steps

GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, the Weyl increment of SplitMix64
_M1 = 0xBF58476D1CE4E5B9  # multipliers of the SplitMix64 finaliser (variant 13 of Stafford)
_M2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1
_U0, _U1, _U2 = np.uint64(GOLDEN), np.uint64(_M1), np.uint64(_M2)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_INV24 = 1.0 / (1 << 24)  # float32 holds 24 bits exactly


def _signed(x: int) -> int:
    """The int64 value with the same bits as the unsigned x."""
    x &= _MASK
    return x - (1 << 64) if x >> 63 else x


def _shift(x: Tensor, n: int) -> Tensor:
    """Logical (not arithmetic) right shift of int64 bits."""
    return (x >> n) & ((1 << (64 - n)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64 finaliser of every element; int64 in, int64 out (products wrap)."""
    if x.device.type == "cpu" and x.dim():  # numpy costs a third per operation, and shifts logically
        return torch.from_numpy(_mix_numpy(x.numpy().view(np.uint64)).view(np.int64))
    x = (x ^ _shift(x, 30)) * _signed(_M1)
    x = (x ^ _shift(x, 27)) * _signed(_M2)
    return x ^ _shift(x, 31)


def _mix_numpy(u: np.ndarray) -> np.ndarray:
    """`mix` for uint64 arrays."""
    u = (u ^ (u >> _S30)) * _U1
    u = (u ^ (u >> _S27)) * _U2
    return u ^ (u >> _S31)


def mix_int(x: int) -> int:
    """`mix` for one unsigned Python integer."""
    x &= _MASK
    x = ((x ^ (x >> 30)) * _M1) & _MASK
    x = ((x ^ (x >> 27)) * _M2) & _MASK
    return x ^ (x >> 31)


def word(name: str | int) -> int:
    """A 64-bit word for a name (BLAKE2b of its UTF-8 text) or an integer (itself)."""
    if isinstance(name, int):
        return name & _MASK
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def fold_int(key: int, *words: str | int) -> int:
    """Derive a new key: ``mix(key + mix(word + GOLDEN))``, once per word."""
    for w in words:
        key = mix_int(key + mix_int(word(w) + GOLDEN))
    return key


class Stream:
    """Random numbers, one independent stream per batch row; immutable.

    Args:
        key_B: int64 keys of shape (B,).
    """

    __slots__ = ("key_B",)

    def __init__(self, key_B: Tensor) -> None:
        self.key_B = key_B

    def fold(self, *words: str | int | Tensor) -> Stream:
        """A stream keyed by more words: names, integers, or int64 tensors of shape (B,)."""
        key_B = self.key_B
        for w in words:
            if not isinstance(w, Tensor):
                key_B = mix(key_B + _signed(mix_int(word(w) + GOLDEN)))
            elif steps.usable(w) and w.dim() and key_B.shape == w.shape:
                key_B = steps.fold(key_B, w.to(torch.int64))
            elif w.device.type == "cpu" and w.dim():
                words_B = _mix_numpy(w.to(torch.int64).numpy().view(np.uint64) + _U0)
                mixed_B = _mix_numpy(key_B.numpy().view(np.uint64) + words_B)
                key_B = torch.from_numpy(mixed_B.view(np.int64))
            else:
                key_B = mix(key_B + mix(w.to(torch.int64) + _signed(GOLDEN)))
        return Stream(key_B)

    def bits(self, *shape: int) -> Tensor:
        """int64 tensor (B, *shape) of 64 random bits each."""
        count = math.prod(shape)
        step = _signed(GOLDEN) * torch.arange(1, count + 1, device=self.key_B.device)
        return mix(self.key_B[:, None] + step).reshape(self.key_B.shape[0], *shape)

    def uniform(self, *shape: int) -> Tensor:
        """float32 tensor (B, *shape), uniform on [0, 1), from the top 24 bits."""
        return _shift(self.bits(*shape), 40).to(torch.float32) * _INV24

    def normal(self, *shape: int) -> Tensor:
        """float32 tensor (B, *shape) of standard normals (Box-Muller)."""
        u = self.fold("normal").uniform(2, *shape)
        radius = torch.sqrt(-2.0 * torch.log1p(-u[:, 0]))
        return radius * torch.cos(2.0 * math.pi * u[:, 1])

    def integers(self, high: int, *shape: int) -> Tensor:
        """int64 tensor (B, *shape), uniform on {0, ..., high - 1}; bias below high / 2**31."""
        return (_shift(self.bits(*shape), 33) * high) >> 31


class Rng:
    """Owner of every random number of a run.

    `stream` gives counter-based streams that have no state. `python`, `numpy` and `torch` give
    named stateful generators for code that needs one; they are made once, and their states are
    part of `state_dict` as plain integers.
    """

    def __init__(self, seed: int, *names: str) -> None:
        self.seed, self.names = int(seed), tuple(names)
        self.key = fold_int(mix_int(self.seed), *names)
        self._generators: dict[str, Any] = {}
        self._children: dict[str, Rng] = {}

    def child(self, name: str) -> Rng:
        """The sub-run of this name: independent of every other name (same object each time)."""
        if name not in self._children:
            self._children[name] = Rng(self.seed, *self.names, name)
        return self._children[name]

    def stream(self, name: str, rows: int | Tensor, device: torch.device | str = "cpu") -> Stream:
        """One stream per env: keyed by this Rng, the name and the env index.

        Args:
            name: what the numbers are for.
            rows: number of envs B (indices 0..B-1), or an int64 tensor (B,) of env indices.
        """
        index_B = rows.to(device) if isinstance(rows, Tensor) else torch.arange(rows, device=device)
        key = torch.full(index_B.shape, _signed(fold_int(self.key, name)), device=device)
        return Stream(key).fold(index_B)

    def python(self, name: str) -> random.Random:
        return self._make("python", name, lambda key: random.Random(key))

    def numpy(self, name: str) -> np.random.Generator:
        return self._make("numpy", name, lambda key: np.random.Generator(np.random.PCG64(key)))

    def torch(self, name: str) -> torch.Generator:
        return self._make("torch", name, lambda key: torch.Generator().manual_seed(_signed(key)))

    def _make(self, kind: str, name: str, make: Any) -> Any:
        label = f"{kind}:{name}"
        if label not in self._generators:
            self._generators[label] = make(fold_int(self.key, label))
        return self._generators[label]

    def seed_globals(self) -> None:
        """Seed the global generators of random, numpy and torch, for code that uses them."""
        random.seed(fold_int(self.key, "global:python"))
        np.random.seed(fold_int(self.key, "global:numpy") % (1 << 32))  # noqa: NPY002
        torch.manual_seed(_signed(fold_int(self.key, "global:torch")))

    def state_dict(self) -> dict[str, Any]:
        """Seed, names and the state of every named generator, all plain integers and strings."""
        return {
            "seed": self.seed,
            "names": list(self.names),
            "generators": {label: _get_state(g) for label, g in self._generators.items()},
            "children": {name: c.state_dict() for name, c in self._children.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore; raises ValueError when the state is of another seed or name."""
        if (state["seed"], tuple(state["names"])) != (self.seed, self.names):
            raise ValueError(
                f"random state of seed {state['seed']} {state['names']} does not belong to "
                f"seed {self.seed} {list(self.names)}; resume with the run's own seed"
            )
        for label, value in state["generators"].items():
            kind, name = label.split(":", 1)
            _set_state(getattr(self, kind)(name), value)
        for name, child in state["children"].items():
            self.child(name).load_state_dict(child)


def _get_state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        version, internal, gauss = generator.getstate()
        return [version, list(internal), gauss]
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state().view(torch.int64).tolist()


def _set_state(generator: Any, value: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate((value[0], tuple(value[1]), value[2]))
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = value
    else:
        generator.set_state(torch.tensor(value, dtype=torch.int64).view(torch.uint8))
