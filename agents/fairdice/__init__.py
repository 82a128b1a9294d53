"""FairDICE: fair offline learning with several objectives; `tabular` solves it exactly on tables.

Reference: Kim et al., "FairDICE: Fairness-Driven Offline Multi-Objective Reinforcement Learning", NeurIPS
2025.
"""

from marl.agents.fairdice.config import Config

__all__ = ["Config"]
