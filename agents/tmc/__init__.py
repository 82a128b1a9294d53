"""TMC: messages that change little over time need not be sent, and an old one can stand in for a lost one.

| symbol | name here | meaning |
|---|---|---|
| Q_loc, m, Q_glb | `marl.talk.TalkingQ` | local values, messages, and their sum |
| L_s, L_r | `marl.agents.tmc.losses` | smoothing and confidence |
| delta, timeout, window | Config, `marl.agents.tmc.team` | when to send, how long it counts (Algorithm 1) |

Training is all-to-all; the protocol runs where the team is measured or used.

References: Zhang, Zhang, Lin, "Succinct and Robust Multi-Agent Communication With Temporal Message Control",
NeurIPS 2020, arXiv 2010.14391, as published summaries report it; its released code (commit 63bcca5).
"""

from marl.agents.tmc.config import Config
from marl.agents.tmc.team import TMC

__all__ = ["TMC", "Config"]
