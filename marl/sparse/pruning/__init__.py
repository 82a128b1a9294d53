"""Ways to make a network sparse while it learns, behind one interface: `Pruner`.

A way is a dataclass whose `build` takes a network and returns a Pruner for `marl.nets.Optimiser`; the files
of marl/conf/sparsity name them. Grouping replaces layers by grouped ones; the others leave them dense and
hold weights at zero or equal, as reference methods to compare with.
"""

from marl.sparse.pruning.circulant import BlockCirculant
from marl.sparse.pruning.group_sparse import GroupSparse
from marl.sparse.pruning.grouped import GroupPruner
from marl.sparse.pruning.interface import Moved, Pruner, Resting, chosen_layers, sparsify
from marl.sparse.pruning.magnitude import Magnitude

__all__ = [
    "BlockCirculant",
    "GroupPruner",
    "GroupSparse",
    "Magnitude",
    "Moved",
    "Pruner",
    "Resting",
    "chosen_layers",
    "sparsify",
]
