"""The on-chip sparse-data encoding loop (OSEL): from group indices to the rows of the mask.

The mask has one row per index of the loop: inputs M x outputs N forward, outputs x inputs transposed.
mask[i, j] = 1 where row i and column j are in one group, so that all rows of a group are equal and at
most G rows exist: the loop makes each of them once, at the first row that needs it.

| symbol | name here | meaning |
|---|---|---|
| gi | index_M | group of every row: the index list |
| go | group_N | group of every column |
| status | valid_G | the memory holds this group's row |
| bit vector | bits_GW | the group's mask row, W = ceil(N / 8) bytes; column j is bit j % 8 of byte j // 8 |
| non-zero indices | nonzero[start_G1[g] : start_G1[g + 1]] | the columns of the group, rising |
| workload | workload_G | number of ones in the group's row |
| miss, hit | ~hit_M, hit_M | the row had to be made; it was there |

What stands in the memory is defined to the last bit, so that hardware can be checked against it: a group
without a row is never asked for and keeps status 0, an empty row and workload 0; a group with rows but no
columns misses once and then hits, with an empty row and workload 0; bits beyond column N - 1 are 0.

DEVIATION: the workload field is as wide as the number N needs (10 bits for N = 512). The paper's 9 bits
cannot hold the workload of a group that has all 512 columns.

Reference: Yang, Kim, Kim, "LearningGroup", ICFPT 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from marl.sparse.layout import Layout

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Encoding:
    """The index list and the sparse row memory after the loop; shapes and meaning in the table above.

    Args:
        columns: N.
    """

    columns: int
    index_M: Indices
    hit_M: NDArray[np.bool_]
    valid_G: NDArray[np.bool_]
    bits_GW: NDArray[np.uint8]
    workload_G: Indices
    nonzero: Indices
    start_G1: Indices

    @property
    def rows(self) -> int:
        """M."""
        return len(self.index_M)

    @property
    def groups(self) -> int:
        """G."""
        return len(self.valid_G)

    @property
    def misses(self) -> int:
        """Rows that had to be made: one per group that has rows."""
        return int(self.valid_G.sum())

    @property
    def workload_M(self) -> Indices:
        """Kept weights of every row."""
        return self.workload_G[self.index_M]

    @property
    def nnz(self) -> int:
        """Kept weights."""
        return int(self.workload_M.sum())

    def nonzero_of(self, group: int) -> Indices:
        """Columns of a group's row, rising; none while its status is 0."""
        return self.nonzero[self.start_G1[group] : self.start_G1[group + 1]]

    def mask_MN(self) -> NDArray[np.bool_]:
        """The mask, every row read from the memory through the index list."""
        return _unpack(self.bits_GW[self.index_M], self.columns)


def encode(layout: Layout, *, transposed: bool = False) -> Encoding:
    """Run the loop over all rows at once: only misses do work, so they are made together.

    Args:
        layout: group of every input and output.
        transposed: the mask of the backward pass: outputs are the rows, inputs the columns.
    """
    index_M, group_N = _indices(layout, transposed)
    valid_G, hit_M = np.zeros(layout.groups, dtype=bool), np.ones(len(index_M), dtype=bool)
    missed, first_row = np.unique(index_M, return_index=True)
    valid_G[missed], hit_M[first_row] = True, False
    row_GN = (np.arange(layout.groups)[:, None] == group_N) & valid_G[:, None]
    workload_G = row_GN.sum(1)
    return Encoding(
        columns=len(group_N),
        index_M=index_M,
        hit_M=hit_M,
        valid_G=valid_G,
        bits_GW=np.packbits(row_GN, axis=1, bitorder="little"),
        workload_G=workload_G,
        nonzero=np.nonzero(row_GN)[1],
        start_G1=np.concatenate([[0], workload_G.cumsum()]),
    )


def encode_by_loop(layout: Layout, *, transposed: bool = False) -> Encoding:
    """The loop as the hardware runs it, one row after the other: the meaning of `encode`, and its oracle."""
    index_M, group_N = _indices(layout, transposed)
    memory: dict[int, list[int]] = {}  # group: its non-zero indices; present means status 1
    hits, index_list = [], []
    for group in index_M.tolist():
        hits.append(group in memory)
        if group not in memory:
            memory[group] = [column for column, other in enumerate(group_N.tolist()) if other == group]
        index_list.append(group)
    G, N = layout.groups, len(group_N)
    bits_GW = np.zeros((G, -(-N // 8)), dtype=np.uint8)
    for group, nonzero in memory.items():
        for column in nonzero:
            bits_GW[group, column // 8] |= 1 << column % 8
    workload_G = np.array([len(memory.get(g, ())) for g in range(G)])
    return Encoding(
        columns=N,
        index_M=np.array(index_list),
        hit_M=np.array(hits),
        valid_G=np.array([g in memory for g in range(G)]),
        bits_GW=bits_GW,
        workload_G=workload_G,
        nonzero=np.array([column for g in range(G) for column in memory.get(g, ())], dtype=np.int64),
        start_G1=np.concatenate([[0], workload_G.cumsum()]),
    )


def _indices(layout: Layout, transposed: bool) -> tuple[Indices, Indices]:
    """Groups of rows and of columns."""
    rows, columns = _array(layout.group_in_I), _array(layout.group_out_O)
    return (columns, rows) if transposed else (rows, columns)


def _array(group: Tensor) -> Indices:
    return np.asarray(group.cpu(), dtype=np.int64)


def _unpack(bits_RW: NDArray[np.uint8], columns: int) -> NDArray[np.bool_]:
    return np.unpackbits(bits_RW, axis=1, count=columns, bitorder="little").astype(bool)
