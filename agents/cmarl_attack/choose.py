"""Step one: which action to force on the victims.

| name | choice |
|---|---|
| random | any available action but the greedy one |
| local_worst | argmin_a Q^v(o, a); of an actor the least likely available action |
| mixer_worst | argmin_a of the team's joint value with the victim's action replaced by a |
| ow, owr | what the trained adversary chooses (world.py, adversary.py) |

mixer_worst asks the mixer of a team of action values. A mixer that is monotonic in every agent's value (VDN,
QMIX) puts the victim's actions in the order of its own values, so that mixer_worst is local_worst there, but
for ties; QPLEX's is not. For actor-critic victims the mixer's role falls to the critic, which knows no
actions: every action is tried for one step in a copy of the worlds, the mates being greedy, and
r + gamma V(next) is what it is worth (CHOICE; the copy draws the same random numbers as the world will, so
that this attacker knows the next step and not only its odds).
With several victims each one's action is chosen while the others are greedy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from marl.agents.cmarl_attack.victim import Victim, rows_of
from marl.errors import MarlError
from marl.rng import Stream
from marl.robust.perturbation import chosen
from marl.types import Carry, Env, TimeStep


def at_random(greedy_BK: Tensor, avail_BKA: Tensor, rng: Stream) -> Tensor:
    """An available action but the greedy one, all equally likely; the greedy one where there is no other.

    Args:
        greedy_BK: int64.
        avail_BKA: bool.
        rng: one stream per world.
    """
    other_BKA = avail_BKA.scatter(-1, greedy_BK[..., None], False)
    lot_BKA = rng.uniform(*avail_BKA.shape[1:]).masked_fill(~other_BKA, -1.0)
    return torch.where(other_BKA.any(-1), lot_BKA.argmax(-1), greedy_BK)


def local_worst(scores_BKA: Tensor, avail_BKA: Tensor) -> Tensor:
    """The available action of the lowest score."""
    return scores_BKA.masked_fill(~avail_BKA, torch.inf).argmin(-1)


def mixer_worst(victim: Victim, ts: TimeStep, carry: Carry, greedy_BN: Tensor) -> Tensor:
    """The victims' actions (B, K) for which the mixer's joint value is lowest.

    Args:
        greedy_BN: what every agent would do.
    """
    B, A = len(greedy_BN), victim.spec.n_actions
    row_X = torch.arange(B, device=greedy_BN.device).repeat_interleave(A)
    rows, memory = rows_of(ts, carry, row_X)
    worth = []
    with torch.no_grad():
        for v in victim.victims_K.tolist():
            joint_XN = _tried(greedy_BN, v, A)
            value_XM: Tensor = victim.agent.joint_value(rows, memory, joint_XN)
            worth.append(value_XM.sum(-1).view(B, A))
    return local_worst(torch.stack(worth, 1), victim.of_victims(ts.avail_BNA))


def critic_worst(
    victim: Victim, copies: Env, env: Env, after: Carry, greedy_BN: Tensor, avail_BNA: Tensor
) -> Tensor:
    """The victims' actions (B, K) of the lowest r + gamma V(next), tried in copies of the worlds.

    Args:
        copies: B * A worlds.
        env: the B worlds as they stand.
        after: the team's carry after this entry.
        greedy_BN: what every agent would do.
        avail_BNA: bool.
    """
    B, A = len(greedy_BN), victim.spec.n_actions
    row_X = torch.arange(B, device=greedy_BN.device).repeat_interleave(A)
    state = {
        k: v.index_select(0, row_X) if v.dim() and len(v) == B else v for k, v in env.state_dict().items()
    }
    memory = {k: v.index_select(0, row_X) for k, v in after.items()}
    worth = []
    with torch.no_grad():
        for v in victim.victims_K.tolist():
            copies.load_state_dict(state)
            ts = copies.step(_legal(_tried(greedy_BN, v, A), avail_BNA[row_X]))
            value_X = victim.agent.values(ts, memory).mean(-1)
            future_X = torch.where(ts.done_B, 0.0, value_X)  # the next observation is of another episode
            worth.append((team_reward(ts) + victim.agent.discount * future_X).view(B, A))
    return local_worst(torch.stack(worth, 1), victim.of_victims(avail_BNA))


def _tried(greedy_BN: Tensor, v: int, A: int) -> Tensor:
    """Joint actions (B * A, N): everybody greedy, agent v each of its actions in turn."""
    joint_XN = greedy_BN.repeat_interleave(A, 0)
    joint_XN[:, v] = torch.arange(A, device=greedy_BN.device).repeat(len(greedy_BN))
    return joint_XN


def _legal(joint_XN: Tensor, avail_XNA: Tensor) -> Tensor:
    """Unavailable actions replaced by available ones: what they would be worth is never asked."""
    allowed_XN = avail_XNA.gather(-1, joint_XN[..., None]).squeeze(-1)
    return torch.where(
        allowed_XN, joint_XN, chosen(torch.zeros_like(avail_XNA, dtype=torch.float32), avail_XNA)
    )


def team_reward(ts: TimeStep) -> Tensor:
    """The step's reward (B,): the team's, or the sum over agents or objectives."""
    if ts.reward_B is not None:
        return ts.reward_B
    given = ts.agent_reward_BN if ts.agent_reward_BN is not None else ts.reward_BK
    if given is None:
        raise MarlError("this entry has no reward: it is the first after a reset")
    return given.sum(-1)


def has_mixer(agent: Any) -> bool:
    """Whether the team has a joint value of its agents' actions."""
    return hasattr(agent, "joint_value")


def has_critic(agent: Any) -> bool:
    """Whether the team has a value of its agents' situation."""
    return hasattr(agent, "values")
