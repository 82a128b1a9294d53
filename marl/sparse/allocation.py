"""Which core of an accelerator works on which row of the mask, and how far that is from equal work.

| symbol | name here | meaning |
|---|---|---|
| w_i | workload_M | kept weights of row i (`Encoding.workload_M`) |
| C | cores | 3 in the paper |
| I | ideal | sum_i w_i / C |
| deviation | deviation | max over cores of abs(load - I) |

Rows stay in their order, every core gets a run of them. The paper prints no algorithm and no unit of its
deviations. CHOICE: both below, and the deviation in kept weights.

Reference: Yang, Kim, Kim, "LearningGroup", ICFPT 2022, section on load allocation.
"""

from __future__ import annotations

import numpy as np

from marl.errors import require
from marl.sparse.encoding import Indices


def row_based(workload_M: Indices, cores: int) -> Indices:
    """Core of every row: as many rows for each; where that does not divide, the first have one more."""
    _check(cores)
    parts = np.array_split(np.arange(len(workload_M)), cores)
    return np.repeat(np.arange(cores), [len(part) for part in parts])


def threshold_based(workload_M: Indices, cores: int) -> Indices:
    """Core of every row: a core takes rows while they stay within I; the last takes what is left."""
    _check(cores)
    total, core, load = int(workload_M.sum()), 0, 0
    chosen = []
    for workload in workload_M.tolist():
        if (load + workload) * cores > total and core < cores - 1:
            core, load = core + 1, 0
        load += workload
        chosen.append(core)
    return np.array(chosen, dtype=np.int64)


def loads(workload_M: Indices, core_M: Indices, cores: int) -> Indices:
    """Kept weights of every core."""
    out_C = np.zeros(cores, dtype=np.int64)
    np.add.at(out_C, core_M, workload_M)
    return out_C


def deviation(load_C: Indices) -> float:
    """Largest distance of a core's load from the ideal one, in kept weights."""
    return float(np.abs(load_C - load_C.mean()).max())


def _check(cores: int) -> None:
    require(cores >= 1, "cores", cores, "give at least 1")
