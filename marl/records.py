"""How a memory keeps an entry: one record of bytes per entry, so that moving an entry is one copy.

| symbol | name here | meaning |
|---|---|---|
| R | layout.size | bytes of a record |
| W | width | entries that a tape holds for each env |
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from marl.errors import MarlError
from marl.types import Act, Batch, EnvSpec, FieldSpec, TimeStep

START, TERMINATED, TRUNCATED = 1, 2, 4  # bits of a record's flags
_ENDED = TERMINATED | TRUNCATED
_EXTRA = "extra."  # prefix of the agent's own fields
# Reward and cost fields of a record, and where TimeStep has them.
_REWARDS = {
    "reward": "reward_B",
    "agent_reward": "agent_reward_BN",
    "reward_vector": "reward_BK",
    "cost": "cost_BC",
}
_ALIGN = 8  # bytes; every record starts at a multiple, so that views as any dtype are legal

# A word whose eight bytes are 0 or 1, times this, has the eight bits in its top byte, first byte lowest:
# byte i (bit 8i) must go to bit 56 + i, which 2**(56 - 7i) does; no other term reaches the top byte, and
# no two terms meet below it, so that nothing is carried.
_GATHER_BITS = sum(1 << (56 - 7 * i) for i in range(8))


def pack_bits(bits_BK: Tensor) -> Tensor:
    """Eight booleans a byte, first lowest; K must be a multiple of 8. Returns uint8 (B, K / 8)."""
    return (bits_BK.view(torch.int64) * _GATHER_BITS).view(torch.uint8)[
        :, 7::8
    ]  # little-endian: 7 is the top


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
            **{_EXTRA + name: (f.shape, f.dtype) for name, f in extras_spec.items()},
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


class Tape:
    """Running sequences of entries, one row of records per env.

    Args:
        layout: of the records.
        num_envs: B.
        width: entries W per env. With `on_finish` one whole episode must fit: the limit + 1.
        device: where the env's tensors live.
        on_finish: called with the records (L + 1, R) of each episode that ended, in the order of envs;
            the row then begins anew. Without it episodes follow each other on the tape.
    """

    def __init__(
        self,
        layout: Layout,
        num_envs: int,
        width: int,
        device: torch.device,
        on_finish: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.layout, self.width, self._on_finish = layout, width, on_finish
        self.rows_BWR = torch.zeros(num_envs, width, layout.size, dtype=torch.uint8, device=device)
        self.at_B = torch.zeros(num_envs, dtype=torch.int64, device=device)  # the newest entry of each env
        self._highest = 0  # no entry of at_B is above
        self._flat_R = self.rows_BWR.view(-1, layout.size)
        self._base_B = torch.arange(num_envs, device=device) * width
        self._record_BR = torch.zeros(num_envs, layout.size, dtype=torch.uint8, device=device)
        self._new = layout.views(self._record_BR)
        self._rewards = [(self._new[field], name) for field, name in _REWARDS.items() if field in self._new]
        N, A = layout.spec.n_agents, layout.spec.n_actions
        bytes_ = layout.fields["bits"].bytes
        self._bits_BK = torch.zeros(num_envs, 8 * bytes_, dtype=torch.bool, device=device)
        self._avail_BNA = self._bits_BK[:, : N * A].view(num_envs, N, A)
        self._alive_BN = self._bits_BK[:, N * A : N * A + N]

    def start(self, ts: TimeStep) -> None:
        """Forget everything; the first entry of every env is that of `reset`."""
        self.at_B.zero_()
        self._highest = 0
        self._record_BR.zero_()
        self._new["action"].fill_(-1 if self.layout.spec.discrete else 0)
        self._new["flags"].fill_(START)
        self._write(ts.obs_BNO, ts.state_BS, ts.avail_BNA, ts.alive_BN)

    def put(self, act: Act, ts: TimeStep, ended: bool = True) -> None:
        """Add the entries that the action led to.

        Args:
            act: what was done at the newest entries.
            ts: what `env.step` answered.
            ended: False where the caller knows that no episode ended.

        Raises:
            MarlError: an episode is longer than the width.
        """
        new = self._new
        new["action"].copy_(act.actions_BN)
        for view, name in self._rewards:
            view.copy_(getattr(ts, name))
        for name, value in act.extras.items():
            new[_EXTRA + name].copy_(value)
        self.at_B += 1
        self._highest += 1
        if ended:
            self._end(ts)
        else:
            new["flags"].zero_()
        self._write(ts.obs_BNO, ts.state_BS, ts.avail_BNA, ts.alive_BN)

    def _end(self, ts: TimeStep) -> None:
        """Write final observations where episodes ended, and make the new record one that starts there.

        Envs that go on get a final observation too, which `put` overwrites at once. Alive of the final
        entry repeats the entry before: TimeStep has none, and nobody acts there.
        """
        new, done_B = self._new, ts.done_B
        new["flags"].copy_(ts.terminated_B * TERMINATED + ts.truncated_B * TRUNCATED)
        assert ts.final_obs_BNO is not None
        assert ts.final_state_BS is not None
        assert ts.final_avail_BNA is not None
        self._write(ts.final_obs_BNO, ts.final_state_BS, ts.final_avail_BNA, None)
        if self._on_finish is not None:
            self._hand_over(done_B, self._on_finish)
        else:
            self.at_B += done_B
            self._highest += 1
        new["action"].masked_fill_(_like(done_B, new["action"]), -1 if self.layout.spec.discrete else 0)
        for view, _ in self._rewards:
            view.masked_fill_(_like(done_B, view), 0.0)
        new["flags"].copy_(done_B)  # START is bit 0

    def _hand_over(self, done_B: Tensor, on_finish: Callable[[Tensor], None]) -> None:
        envs = done_B.nonzero().flatten().tolist()
        for env, length in zip(envs, self.at_B[done_B].tolist(), strict=True):
            on_finish(self.rows_BWR[env, : length + 1])
        self.at_B.masked_fill_(done_B, 0)

    def _write(self, obs_BNO: Tensor, state_BS: Tensor, avail_BNA: Tensor, alive_BN: Tensor | None) -> None:
        """Put the record, completed by these fields, at `at_B`."""
        if self._highest >= self.width:
            self._highest = int(self.at_B.max())
            if self._highest >= self.width:
                raise MarlError(
                    f"env={self.layout.spec.name} ran past its episode_limit of "
                    f"{self.layout.spec.episode_limit} steps: its spec or its truncation is wrong"
                )
        self._new["obs"].copy_(obs_BNO)
        self._new["state"].copy_(state_BS)
        self._avail_BNA.copy_(avail_BNA)
        if alive_BN is not None:
            self._alive_BN.copy_(alive_BN)
        self._new["bits"].copy_(pack_bits(self._bits_BK))
        self._flat_R.index_copy_(0, self._base_B + self.at_B, self._record_BR)

    def rewind(self) -> None:
        """Make the newest entry of every env its first; what was before is forgotten."""
        self.rows_BWR[:, 0] = self._flat_R.index_select(0, self._base_B + self.at_B)
        self.at_B.zero_()
        self._highest = 0

    def take(self) -> tuple[Tensor, Tensor]:
        """Records (B, T + 1, R) of all envs for `to_batch`, and the index of each env's newest entry.

        T is the most entries that any env has; the others repeat their newest one.
        """
        T = int(self.at_B.max()) + 1
        step_U = torch.arange(T + 1, device=self.at_B.device)
        at_BU = torch.minimum(step_U, self.at_B[:, None]) + self._base_B[:, None]
        return self._flat_R.index_select(0, at_BU.flatten()).view(*at_BU.shape, -1), self.at_B.clone()

    def state_dict(self) -> dict[str, Tensor]:
        """The entries of all envs, the record being written and its unpacked bits."""
        used = int(self.at_B.max()) + 1
        stale_BU = torch.arange(used, device=self.at_B.device) > self.at_B[:, None]
        return {
            "rows": self.rows_BWR[:, :used].masked_fill(stale_BU[..., None], 0),
            "at": self.at_B.clone(),
            "record": self._record_BR.clone(),
            "bits": self._bits_BK.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        rows_BUR = state["rows"]
        expected = (self.rows_BWR.shape[0], self.layout.size)
        if (rows_BUR.shape[0], rows_BUR.shape[2]) != expected or rows_BUR.shape[1] > self.width:
            raise MarlError(
                f"running episodes of {rows_BUR.shape[0]} envs, {rows_BUR.shape[2]} bytes an entry, do not "
                f"fit {expected[0]} envs, {expected[1]} bytes: resume with the same env, agent, num_envs"
            )
        self.rows_BWR[:, : rows_BUR.shape[1]].copy_(rows_BUR)
        self.at_B.copy_(state["at"])
        self._highest = int(self.at_B.max())
        self._record_BR.copy_(state["record"])
        self._bits_BK.copy_(state["bits"])


def _like(mask_B: Tensor, value: Tensor) -> Tensor:
    """The mask with as many trailing dimensions of size 1 as the value has."""
    return mask_B.view(-1, *[1] * (value.dim() - 1))


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
        extras={n.removeprefix(_EXTRA): of_action(n) for n in v if n.startswith(_EXTRA)},
    )
