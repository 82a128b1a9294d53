"""How a memory keeps an entry: one record of bytes per entry, so that moving an entry is one copy.

| symbol | name here | meaning |
|---|---|---|
| R | layout.size | bytes of a record |
| P | packed bytes | ceil((N A + N) / 8): availability and alive, one bit each |

A record holds what is known when an entry is REACHED: its observation, state, availability, and the
action, reward and end flags of the transition that led to it. Everything of an entry is thus written
at one moment, right after `env.step`; the action taken AT entry t, its reward and its end are read
from record t + 1, and the last action of entry t from record t: nothing is stored twice. An episode
of L steps takes L + 1 records; the last holds the final observation and says how the episode ended.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from marl.errors import MarlError
from marl.types import Batch, EnvSpec, FieldSpec

START, TERMINATED, TRUNCATED = 1, 2, 4  # bits of a record's flags
_ENDED = TERMINATED | TRUNCATED
EXTRA = "extra."  # prefix of the agent's own fields
_ALIGN = 8  # bytes; every record starts at a multiple, so that views as any dtype are legal

# A word whose eight bytes are 0 or 1, times this, has the eight bits in its top byte, first byte lowest:
# byte i (bit 8i) must go to bit 56 + i, which 2**(56 - 7i) does; no other term reaches the top byte, and
# no two terms meet below it, so that nothing is carried.
_GATHER_BITS = sum(1 << (56 - 7 * i) for i in range(8))


def pack_bits(bits_BK: Tensor) -> Tensor:
    """Eight booleans a byte, first lowest; K must be a multiple of 8. Returns uint8 (B, K / 8)."""
    words_BP = bits_BK.view(torch.int64) * _GATHER_BITS
    return words_BP.view(torch.uint8)[:, 7::8]  # the top byte of each, on little-endian machines


def unpack_bits(packed: Tensor) -> Tensor:
    """The inverse of `pack_bits`: uint8 (..., P) to bool (..., 8 P)."""
    rows = _bits_of_bytes(packed.device).index_select(0, packed.reshape(-1).to(torch.int32))
    return rows.view(*packed.shape[:-1], 8 * packed.shape[-1])


@functools.cache
def _bits_of_bytes(device: torch.device) -> Tensor:
    """bool (256, 8): the bits of every byte, lowest first."""
    byte = torch.arange(256, dtype=torch.uint8, device=device)
    return ((byte[:, None] >> torch.arange(8, dtype=torch.uint8, device=device)) & 1).view(torch.bool)


@dataclass(frozen=True, kw_only=True)
class Field:
    """Where a field stands in a record.

    Args:
        offset: first byte.
        shape: of one entry.
        dtype: as stored.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The fields of a record. `size` is in bytes and includes alignment."""

    spec: EnvSpec
    fields: Mapping[str, Field]
    size: int

    @classmethod
    def of(
        cls,
        spec: EnvSpec,
        extras_spec: Mapping[str, FieldSpec],
        *,
        obs_dtype: torch.dtype = torch.float32,
        state_dtype: torch.dtype = torch.float32,
    ) -> Layout:
        """The layout for a world and an agent.

        Args:
            spec: sizes of the world.
            extras_spec: what the agent wants stored beside its actions.
            obs_dtype, state_dtype: float32, or float16 (10 bits of mantissa, largest value 65504).
        """
        N, A = spec.n_agents, spec.n_actions
        kinds: dict[str, dict[str, tuple[int, ...]]] = {
            "team": {"reward": ()},
            "agent": {"agent_reward": (N,)},
            "vector": {"reward_vector": (len(spec.objectives),)},
        }
        rewards = kinds[spec.reward]
        if spec.costs:
            rewards["cost"] = (len(spec.costs),)
        wanted: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "obs": ((N, spec.obs_size), obs_dtype),
            "state": ((spec.state_size,), state_dtype),
            "action": ((N,), _integer(A)) if spec.discrete else ((N, A), torch.float32),
            **{name: (shape, torch.float32) for name, shape in rewards.items()},
            "bits": ((-(-(N * A + N) // 8),), torch.uint8),
            "flags": ((), torch.uint8),
            **{EXTRA + name: (f.shape, f.dtype) for name, f in extras_spec.items()},
        }
        fields, offset = {}, 0
        for name, (shape, dtype) in sorted(wanted.items(), key=lambda item: -item[1][1].itemsize):
            fields[name] = Field(offset=offset, shape=tuple(shape), dtype=dtype)
            offset += fields[name].bytes
        return cls(spec=spec, fields=fields, size=-(-offset // _ALIGN) * _ALIGN)

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Every field of records uint8 (..., R), as a view (..., *shape) of its own dtype."""
        out = {}
        for name, f in self.fields.items():
            part = rows[..., f.offset : f.offset + f.bytes].view(f.dtype)
            out[name] = part.view(*rows.shape[:-1], *f.shape)
        return out

    def describe(self) -> dict[str, Any]:
        """Shapes and dtypes as plain data, to recognise records of another world or agent."""
        return {n: {"shape": list(f.shape), "dtype": str(f.dtype)} for n, f in self.fields.items()}

    def check(self, described: Mapping[str, Any], source: str) -> None:
        """Raise MarlError, naming the first field that differs, unless `described` is this layout."""
        mine = self.describe()
        for name in [*mine, *(n for n in described if n not in mine)]:
            if mine.get(name) != described.get(name):
                raise MarlError(
                    f"{source} does not fit: its field {name!r} is {_words(described.get(name))}, this run's "
                    f"is {_words(mine.get(name))}; use the env, agent and dtypes that it was made with"
                )


def _integer(n_actions: int) -> torch.dtype:
    """The smallest signed integer for actions and -1."""
    return torch.int8 if n_actions <= 128 else torch.int16 if n_actions <= 32768 else torch.int32


def _words(field: Mapping[str, Any] | None) -> str:
    return "absent" if field is None else f"{field['dtype']}{field['shape']}"


def to_batch(layout: Layout, rows_BUR: Tensor, last_B: Tensor) -> Batch:
    """Sequences of T entries from T + 1 consecutive records each.

    Where nothing was done (`filled_BT` False) actions, rewards and extras are 0.

    Args:
        layout: of the records.
        rows_BUR: uint8 (B, T + 1, R); what follows a sequence's last entry should repeat it.
        last_B: int64; index of the last entry, at most T - 1. It and all after it are not filled.
    """
    spec, v, T = layout.spec, layout.views(rows_BUR), rows_BUR.shape[1] - 1
    N, A = spec.n_agents, spec.n_actions
    step_T, last_B1 = torch.arange(T, device=last_B.device), last_B[:, None]
    flags_BT, ahead_BT = v["flags"][:, :T], v["flags"][:, 1:]
    filled_BT = ((flags_BT & _ENDED) == 0) & (step_T < last_B1)
    start_BT = ((flags_BT & START) != 0) & (step_T <= last_B1)
    bits_BTK = unpack_bits(v["bits"][:, :T])

    def of_action(name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A field of the transition t -> t + 1; 0 where there is none."""
        value = v[name][:, 1:]
        mask = filled_BT.view(*filled_BT.shape, *[1] * (value.dim() - 2))
        nothing = torch.zeros((), dtype=value.dtype, device=value.device)
        return torch.where(mask, value, nothing).to(dtype or value.dtype)

    def reward(name: str) -> Tensor | None:
        return of_action(name) if name in v else None

    action_dtype = torch.int64 if spec.discrete else torch.float32
    return Batch(
        obs_BTNO=v["obs"][:, :T].to(torch.float32).contiguous(),
        state_BTS=v["state"][:, :T].to(torch.float32).contiguous(),
        avail_BTNA=bits_BTK[..., : N * A].unflatten(-1, (N, A)),
        alive_BTN=bits_BTK[..., N * A : N * A + N],
        actions_BTN=of_action("action", action_dtype),
        last_actions_BTN=v["action"][:, :T].to(action_dtype),
        terminated_BT=((ahead_BT & TERMINATED) != 0) & filled_BT,
        truncated_BT=((ahead_BT & TRUNCATED) != 0) & filled_BT,
        filled_BT=filled_BT,
        start_BT=start_BT,
        reward_BT=reward("reward"),
        agent_reward_BTN=reward("agent_reward"),
        reward_BTK=reward("reward_vector"),
        cost_BTC=reward("cost"),
        extras={n.removeprefix(EXTRA): of_action(n) for n in v if n.startswith(EXTRA)},
    )
