"""A memory of whole episodes: one flat ring of records over time, episodes of any length back to back.

| symbol | name here | meaning |
|---|---|---|
| C | capacity | entries that the ring holds |
| head | head | entries written since the beginning; entry number v lies at v mod C |
| E | episodes | episodes stored, numbered since the beginning |
| first(e) | _first | number of episode e's first entry; first(newest + 1) = head |

An episode of L steps takes L + 1 entries (marl/records.py). A new one overwrites the oldest ones
whole, so that everything between the oldest episode's first entry and head is always valid.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from marl.errors import FieldError, MarlError, require
from marl.records import Layout, to_batch
from marl.rng import Stream
from marl.types import Batch, EnvSpec, FieldSpec

_GIB = 1 << 30
_SEGMENT = 4096  # entries in a stored segment; CHOICE: a few MB each on the battle maps
_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class MemoryConfig:
    """How much is remembered, and how exactly."""

    capacity: int = 500_000  # entries, >= one episode; CHOICE, 5,000 episodes (PyMARL) of 100 steps
    max_gib: float = 2.0  # GiB, > 0; wins over capacity; CHOICE
    obs_dtype: Literal["float32", "float16"] = "float32"  # as stored; float16 holds up to 65504
    state_dtype: Literal["float32", "float16"] = "float32"  # as stored

    def __post_init__(self) -> None:
        require(self.capacity >= 2, "capacity", self.capacity, "give an integer >= 2")
        require(self.max_gib > 0, "max_gib", self.max_gib, "give a number above 0")
        for name in ("obs_dtype", "state_dtype"):
            value = getattr(self, name)
            require(value in ("float32", "float16"), name, value, "give float32 or float16")

    def layout(self, spec: EnvSpec, extras_spec: Mapping[str, FieldSpec]) -> Layout:
        """How an entry of this world and agent is stored."""
        dtypes = {name: getattr(torch, getattr(self, name)) for name in ("obs_dtype", "state_dtype")}
        return Layout.of(spec, extras_spec, **dtypes)

    def build(self, layout: Layout, device: torch.device) -> Replay:
        """An empty memory; says so where max_gib allows fewer entries than capacity.

        Raises:
            FieldError: not even one whole episode fits.
        """
        fits, limit = int(self.max_gib * _GIB) // layout.size, layout.spec.episode_limit
        need = f"one episode of {limit} steps takes {limit + 1} entries of {layout.size} bytes"
        if fits <= limit:
            raise FieldError("max_gib", self.max_gib, f"{need}: give more")
        if self.capacity <= limit:
            raise FieldError("capacity", self.capacity, f"{need}: give {limit + 1} or more")
        if fits < self.capacity:
            _log.warning(
                "memory: max_gib=%g holds %d entries of %d bytes, fewer than capacity=%d",
                *(self.max_gib, fits, layout.size, self.capacity),
            )
        return Replay(layout, min(fits, self.capacity), device)


class Replay:
    """The ring.

    Args:
        layout: of its records.
        capacity: entries C; at least one whole episode.
        device: where the records live.
    """

    def __init__(self, layout: Layout, capacity: int, device: torch.device) -> None:
        self.layout, self.capacity, self.device = layout, capacity, device
        self._rows_CR = torch.empty(capacity, layout.size, dtype=torch.uint8, device=device)
        self._first = np.zeros(capacity // 2 + 2, np.int64)  # an episode takes 2 entries or more
        self.head = 0
        self._oldest = 0  # number of the oldest episode
        self._newest = 0  # number of the next episode

    @property
    def episodes(self) -> int:
        return self._newest - self._oldest

    @property
    def entries(self) -> int:
        return self.head - self._start(self._oldest)

    @property
    def bytes(self) -> int:
        """Memory that the records take when all of it is in use."""
        return self._rows_CR.numel()

    def _start(self, episode: int) -> int:
        return int(self._first[episode % len(self._first)])

    def append(self, episode_LR: Tensor) -> None:
        """Store an episode's records (L + 1, R), its final observation included."""
        length, head = episode_LR.shape[0], self.head
        while self._start(self._oldest) < head + length - self.capacity:
            self._oldest += 1
        self._put(head, episode_LR)
        self.head = head + length
        self._newest += 1
        self._first[self._newest % len(self._first)] = self.head

    def _put(self, first: int, rows_LR: Tensor) -> None:
        """Write records at entry number `first` and on, over the ring's seam where needed."""
        at = first % self.capacity
        before = min(rows_LR.shape[0], self.capacity - at)
        self._rows_CR[at : at + before].copy_(rows_LR[:before])
        if before < rows_LR.shape[0]:
            self._rows_CR[: rows_LR.shape[0] - before].copy_(rows_LR[before:])

    def _get(self, number: Tensor) -> Tensor:
        """Records of these entry numbers, (*number.shape, R)."""
        at = (number % self.capacity).flatten().to(self.device)
        return self._rows_CR.index_select(0, at).view(*number.shape, -1)

    # Sampling

    def sample(
        self, rng: Stream, sequences: int, length: int = 0, starts: Literal["episode", "any"] = "episode"
    ) -> Batch:
        """Random sequences, drawn with replacement.

        CHOICE: with replacement (PyMARL: without); from 5,000 episodes 32 draws differ in 90 % of cases.

        Padding repeats the last entry of its sequence.

        Args:
            rng: one stream (B = 1); the draw is a function of it and of what is stored.
            sequences: B.
            length: 0 gives one whole episode per sequence, padded to the longest. L >= 2 gives windows of L
                entries that run on through the episodes stored next and are padded only at the newest end.
            starts: what a window starts at: any episode's first entry, each episode being equally likely, so
                that recurrent state is exact; or any entry with an action, each being equally likely, for
                learners without recurrent state (length 2 gives single transitions).

        Raises:
            MarlError: nothing is stored.
            ValueError: length is 1, or 0 with starts="any".
        """
        if self.episodes == 0:
            raise MarlError("the memory holds no finished episode yet: sample after the first one ended")
        if length == 1 or (length == 0 and starts == "any"):
            raise ValueError(f"length {length} with starts={starts}: see the docstring")
        if starts == "any":
            first_B = self._any_entry(rng, sequences)
        else:
            drawn = self._oldest + rng.integers(self.episodes, sequences)[0].cpu().numpy()
            first_B = torch.from_numpy(self._first[drawn % len(self._first)])
        if length == 0:
            end = torch.from_numpy(self._first[(drawn + 1) % len(self._first)])
            last_B = end - 1 - first_B
            length = int(last_B.max()) + 1
        else:
            last_B = (self.head - 1 - first_B).clamp(max=length - 1)
        step_U = torch.arange(length + 1)
        # A window's last entry needs the record after it no more than padding does: it is not filled.
        number_BU = first_B[:, None] + torch.minimum(step_U, last_B[:, None])
        return to_batch(self.layout, self._get(number_BU), last_B.to(self.device))

    def _any_entry(self, rng: Stream, sequences: int) -> Tensor:
        """Numbers of entries that have an action, all equally likely."""
        stored = np.arange(self._oldest, self._newest)
        first = self._first[stored % len(self._first)]
        acted = first - first[0] - np.arange(len(first))  # actions stored before each episode
        drawn = rng.integers(self.entries - self.episodes, sequences)[0].cpu().numpy()
        episode = np.searchsorted(acted, drawn, side="right") - 1
        return torch.from_numpy(first[0] + drawn + episode)

    def edges(self) -> list[int]:
        """Numbers of the stored episodes' first entries, oldest first, and of the entry after the last."""
        stored = np.arange(self._oldest, self._newest + 1)
        return [int(v) for v in self._first[stored % len(self._first)]]

    def window(self, first: int, end: int) -> Batch:
        """Entries number `first` up to `end`, 2 or more, as one sequence; the last is not filled."""
        last = end - 1 - first
        number_1U = (first + torch.arange(last + 2).clamp(max=last))[None]
        return to_batch(self.layout, self._get(number_1U), torch.tensor([last], device=self.device))

    def scan(self, length: int = 4096) -> Iterator[Batch]:
        """Everything stored, oldest first, every transition once: windows of at most `length` entries, >= 2.

        Windows overlap in one entry: one's last, which is never filled, is the next one's first.
        """
        first = self._start(self._oldest)
        while first < self.head - 1:
            end = min(first + length, self.head)
            yield self.window(first, end)
            first = end - 1

    # Persistence

    def segments(self) -> dict[str, Callable[[], dict[str, Tensor]]]:
        """The content in parts of up to 4,096 entries.

        A name says which entries the part holds, from <first> up to <end>. Entries never change once
        written, so that a part's content changes exactly when its name does.
        """
        out: dict[str, Callable[[], dict[str, Tensor]]] = {}
        first = self._start(self._oldest)
        while first < self.head:
            end = min(self.head, (first // _SEGMENT + 1) * _SEGMENT)
            out[f"{first:012d}-{end:012d}"] = lambda first=first, end=end: {  # type: ignore[misc]
                "records": self._get(torch.arange(first, end))
            }
            first = end
        return out

    def state_dict(self) -> dict[str, Any]:
        """Everything but the content of `segments`."""
        stored = np.arange(self._oldest, self._newest + 1)
        return {
            "fields": self.layout.describe(),
            "capacity": self.capacity,
            "oldest": self._oldest,
            "first": torch.from_numpy(self._first[stored % len(self._first)]),
            "segments": list(self.segments()),
        }

    def load_state_dict(
        self, state: Mapping[str, Any], read_segment: Callable[[str], Mapping[str, Tensor]]
    ) -> None:
        """Restore, after which `sample` and `append` go on bit for bit.

        Raises:
            MarlError: the content is of another world, agent or dtype, or does not fit the capacity.
        """
        self.layout.check(state["fields"], "the stored memory")
        first = state["first"].cpu().numpy()
        entries = int(first[-1] - first[0])
        if entries > self.capacity:
            gib = state["capacity"] * self.layout.size / _GIB
            raise MarlError(
                f"the stored memory has {entries} entries and this one holds {self.capacity}: give "
                f"capacity={state['capacity']} and a max_gib of {gib:.3g} or more"
            )
        self._oldest = int(state["oldest"])
        self._newest = self._oldest + len(first) - 1
        self.head = int(first[-1])
        self._first[np.arange(self._oldest, self._newest + 1) % len(self._first)] = first
        for name in state["segments"]:
            begin, end = (int(part) for part in name.split("-"))
            rows_LR = read_segment(name).get("records")
            shape = (end - begin, self.layout.size)
            if rows_LR is None or rows_LR.dtype != torch.uint8 or rows_LR.shape != shape:
                raise MarlError(f"memory segment {name} does not hold {shape[0]} records of {shape[1]} bytes")
            self._put(begin, rows_LR)
