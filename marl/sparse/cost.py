"""What an encoded mask costs: bytes, which are counted, and cycles, which are a fitted model.

| symbol | name here | meaning |
|---|---|---|
| M, N, G | rows, columns, groups of an `Encoding` | inputs, outputs and groups of the layer |
| nnz | nnz | kept weights |
| IG, OG | grouping | the grouping matrices M x G and G x N |

Reference: Yang, Kim, Kim, "LearningGroup", ICFPT 2022.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from marl.sparse.encoding import Encoding

_WEIGHT_BYTES, _GROUPING_BYTES = 4, 2  # reproduce the paper's ratios: fp32 weights, fp16 matrices


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A sum with its parts."""

    @property
    def total(self) -> float:
        return float(sum(self.parts().values()))

    def parts(self) -> dict[str, float]:
        return dataclasses.asdict(self)

    def shares(self) -> dict[str, float]:
        """Every part over the total."""
        return {name: value / self.total for name, value in self.parts().items()}


@dataclass(frozen=True, kw_only=True)
class Bytes(Cost):
    """Memory of one layer that trains on the chip.

    Args:
        weights: the kept ones.
        grouping: IG and OG.
        bitvectors: G rows of N bits.
        workload_and_index: of the G tuples, and the index list of M entries.
    """

    weights: float
    grouping: float
    bitvectors: float
    workload_and_index: float


def memory(encoding: Encoding) -> Bytes:
    """Bytes of a layer with its grouping matrices; fields are packed bit by bit, as on the chip."""
    M, N, G = encoding.rows, encoding.columns, encoding.groups
    workload, index = N.bit_length(), index_bits(G)
    return Bytes(
        weights=_WEIGHT_BYTES * encoding.nnz,
        grouping=_GROUPING_BYTES * (M + N) * G,
        bitvectors=G * N / 8,
        workload_and_index=(G * (workload + index) + M * index) / 8,
    )


def inference_memory(encoding: Encoding) -> float:
    """Bytes of a layer that learns no more: kept weights, and the group of every row and column."""
    indices = (encoding.rows + encoding.columns) * index_bits(encoding.groups)
    return _WEIGHT_BYTES * encoding.nnz + indices / 8


def dense_memory(encoding: Encoding) -> float:
    """Bytes of the dense weights."""
    return float(_WEIGHT_BYTES * encoding.rows * encoding.columns)


def index_bits(groups: int) -> int:
    """Bits of a group index, at least 1."""
    return max(1, (groups - 1).bit_length())


# CHOICE: the cycle model. The paper prints no cycle counts, only that OSEL needs 5.72x fewer than the
# baseline at G = 16, and the mean shares of its four phases. A phase is taken as proportional to what it
# works on, which leaves four constants; they are the solution of the four equations
#     dense_cycles / cycles(G = 16) = 5.72,
#     mean over G = 2, 4, 8, 16, 32 of the shares of compression, miss, max index, hit
#                                   = 57.06 %, 26.45 %, 10.88 %, 5.62 % (normalised: they sum to 100.01 %),
# for the paper's 128 x 512 mask in equal groups. (The mean is over the shares: with the same reading the
# byte model gives the paper's memory shares.) Nothing is left to tune, and the five cycle counts of the
# paper's plot, which were not used, are met within 6 %. How a miss scales with N, one size cannot tell:
# its index list has a column for each, so it is taken as proportional to N.
COMPRESSION = 1.80441  # cycles per kept weight
MISS = 1.19539  # cycles per column, of every row that is made
MAX_INDEX = 0.393371  # cycles per entry of IG and OG that the two argmax look at
HIT = 15.2062  # cycles per row that is there


@dataclass(frozen=True, kw_only=True)
class Cycles(Cost):
    """Cycles of one pass over a mask; the transposed one runs beside it and adds none.

    Args:
        compression: kept weights are gathered.
        miss: rows are made.
        max_index: group indices are found.
        hit: rows are looked up.
    """

    compression: float
    miss: float
    max_index: float
    hit: float


def cycles(encoding: Encoding) -> Cycles:
    """Cycles of the fitted model."""
    M, N, G = encoding.rows, encoding.columns, encoding.groups
    return Cycles(
        compression=COMPRESSION * encoding.nnz,
        miss=MISS * N * encoding.misses,
        max_index=MAX_INDEX * (M + N) * G,
        hit=HIT * (M - encoding.misses),
    )


def dense_cycles(encoding: Encoding) -> float:
    """Cycles of the paper's baseline: 2 M N, so that 128 x 512 takes 131,072; it plots about 130 k."""
    return 2.0 * encoding.rows * encoding.columns
