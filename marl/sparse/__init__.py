"""Grouped-sparse layers: learnable weight grouping, the packed layout, and the backends that execute it.

Legend: I inputs, O outputs, G groups, R rows of a batch.
"""

from marl.sparse.config import Grouped, Layers, RandomGroups
from marl.sparse.grouping import Grouping
from marl.sparse.layer import GroupedLayer, follow, grouped_layers
from marl.sparse.layout import Layout
from marl.sparse.linear import GroupedLinear, chain, grouped_linear
from marl.sparse.pruning import Pruner, sparsify

__all__ = [
    "Grouped",
    "GroupedLayer",
    "GroupedLinear",
    "Grouping",
    "Layers",
    "Layout",
    "Pruner",
    "RandomGroups",
    "chain",
    "follow",
    "grouped_layers",
    "grouped_linear",
    "sparsify",
]
