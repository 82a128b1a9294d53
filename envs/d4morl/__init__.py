"""Robots with the objectives of D4MORL, on MuJoCo: D4MORL-like, never D4MORL itself.

Others may read `Config` and, of a built world, `robot`.
"""

from marl.envs.d4morl.env import Config, Robots

__all__ = ["Config", "Robots"]
