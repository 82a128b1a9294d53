"""Stable-Baselines3's PPO, DQN and A2C with parameter sharing: a baseline whose learner is not ours.

| name | meaning |
|---|---|
| row | one agent of one env: N agents in B envs are B * N rows of an SB3 VecEnv (agents/sb3/rows.py) |
| team | acts with the model's policy (agents/sb3/team.py) |
| loop | lets the model collect and learn, counts team steps, keeps its state (agents/sb3/loop.py) |

Losses, optimisers, memories and exploration are SB3's own and unchanged. What is ours is what a world with
several agents needs: docs/stable_baselines3.md says what that costs the baseline.

Reference: Raffin et al., "Stable-Baselines3: Reliable Reinforcement Learning Implementations", JMLR 22, 2021.
"""

from marl.agents.sb3.config import Config, LoopConfig

__all__ = ["Config", "LoopConfig"]
