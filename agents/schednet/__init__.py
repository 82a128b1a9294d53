"""SchedNet: of N agents K may broadcast; who, is learned from what it is worth to the team.

| symbol | name here | meaning |
|---|---|---|
| w_i = sigma(g(o_i)) | weight_BN | weight of agent i, from its own observation |
| c | scheduled_BN | schedule: the K agents of largest weight (Top(k)), or drawn by weight (Softmax(k)) |
| m_j | message_BNL | what agent j says, L features of its own observation |
| Q_i | `SchedQ` | values of agent i: own observation and what the scheduled say, itself included |
| Q(s, w) | Critic | value of weights in a state |
| a_i | average_BN | agent i's past schedule, a <- (a + c) / 2 |

Losses: TD of the mixed action values; (r + gamma Q(s', w'^-) - Q(s, w))^2 of the critic; -Q(s, g(o)) of the
weight generator, the deterministic policy gradient.

DEVIATION: the paper's agents are actors, taught by a critic V(s); here they are the recurrent action values
of this suite (double Q, mixer), so that methods of one comparison differ in how they talk and not in how
they learn. The schedule and how it is learned are the paper's.
DEVIATION: a message keeps its sender's place in the receiver's input (N L entries, silence is 0); the
released code lines up the K messages, so that a receiver cannot tell who speaks.
DEVIATION: faults of the released code are not kept: its critic's target was never cut at an end, its weight
generator saw all observations for agent 0 and none for the others, Softmax(k) drew one agent whatever K.

References: Kim et al., "Learning to Schedule Communication in Multi-agent Reinforcement Learning", ICLR 2019;
Lillicrap et al., "Continuous control with deep reinforcement learning", ICLR 2016; SchedNet's released code.
"""

from marl.agents.schednet.config import Config
from marl.agents.schednet.team import SchedNet

__all__ = ["Config", "SchedNet"]
