"""Grouped-sparse layers: learnable weight grouping, the packed layout, and the backends that execute it.

Legend: I inputs, O outputs, G groups, R rows of a batch.
"""

from marl.sparse.config import Grouped
from marl.sparse.grouping import Grouping
from marl.sparse.layout import Layout
from marl.sparse.linear import grouped_linear

__all__ = ["Grouped", "Grouping", "Layout", "grouped_linear"]
