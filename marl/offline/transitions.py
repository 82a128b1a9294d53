"""The filled entries of a batch as transitions, one row each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from marl.types import Batch, EnvSpec, TimeStep


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """X transitions in the order of the batch.

    Args:
        actions_XN: int64 (X, N), or float32 (X, N, A).
        reward_XK: one number per objective (`rewards_of`).
        terminated_X, truncated_X, first_X: bool; first: the transition starts an episode.
    """

    obs_XNO: Tensor
    state_XS: Tensor
    avail_XNA: Tensor
    actions_XN: Tensor
    reward_XK: Tensor
    next_state_XS: Tensor
    terminated_X: Tensor
    truncated_X: Tensor
    first_X: Tensor


def objectives_of(spec: EnvSpec) -> tuple[str, ...]:
    """Names of what is traded off: the vector's objectives, the agents, or the team."""
    return {"vector": spec.objectives, "agent": spec.agents, "team": ("team",)}[spec.reward]


def rewards_of(batch: Batch) -> Tensor:
    """Rewards by objective (B, T, K): the vector, each agent's own (K = N), or the team's one."""
    return _by_objective(batch.reward_BTK, batch.agent_reward_BTN, batch.reward_BT)


def earned(ts: TimeStep) -> Tensor:
    """The same of a step (B, K)."""
    return _by_objective(ts.reward_BK, ts.agent_reward_BN, ts.reward_B)


def _by_objective(vector: Tensor | None, own: Tensor | None, team: Tensor | None) -> Tensor:
    """Whichever of the three kinds of reward the world gives, objectives last."""
    if vector is not None:
        return vector
    if own is not None:
        return own
    assert team is not None
    return team[..., None]


def transitions(batch: Batch) -> Transitions:
    """All transitions of a batch."""
    filled = batch.filled_BT[:, :-1].flatten().nonzero()[:, 0]  # the last entry is never filled

    def of(value: Tensor) -> Tensor:
        return value[:, :-1].flatten(0, 1).index_select(0, filled)

    return Transitions(
        obs_XNO=of(batch.obs_BTNO),
        state_XS=of(batch.state_BTS),
        avail_XNA=of(batch.avail_BTNA),
        actions_XN=of(batch.actions_BTN),
        reward_XK=of(rewards_of(batch)),
        next_state_XS=batch.state_BTS[:, 1:].flatten(0, 1).index_select(0, filled),
        terminated_X=of(batch.terminated_BT),
        truncated_X=of(batch.truncated_BT),
        first_X=of(batch.start_BT),
    )
