"""Finite decision processes with several objectives, given as tables: policies, occupancies, data, estimates.

| symbol | name here | meaning |
|---|---|---|
| p0(s) | start_S | distribution of first states |
| P(s'|s,a) | next_SAS | transitions |
| r_i(s,a) | reward_SAK | expected rewards of the objectives |
| | terminal_S | states in which nothing more is earned or done |
| pi(a|s) | policy_SA | probability of actions |
| d(s,a) | d_SA | discounted occupancy times (1 - gamma); 0 in terminal states |
| J_i | returned by `returns` | sum over (s,a) of d r_i: discounted return times (1 - gamma) |
| dD(s,a) | data_SA | share of (s,a) among the transitions of a data set |

Legend: S states, A actions, K objectives, E episodes, T steps. Tables are float64 and may carry leading
dimensions (...): a stack of processes is then treated at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from marl.errors import FieldError, MarlError, require

Behaviour = Literal["uniform", "mixture", "halfway"]


@dataclass(frozen=True, kw_only=True)
class Momdp:
    """A process. Shapes: (..., S), (..., S, A, S), (..., S, A, K), bool (..., S)."""

    start_S: Tensor
    next_SAS: Tensor
    reward_SAK: Tensor
    terminal_S: Tensor

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(S, A, K)."""
        S, A, K = self.reward_SAK.shape[-3:]
        return S, A, K

    def moving_SAS(self) -> Tensor:
        """Transitions among states that go on: no way out of terminal states, nor into them."""
        alive_S = (~self.terminal_S).to(self.next_SAS.dtype)
        return self.next_SAS * alive_S[..., None, None] * alive_S[..., None, None, :]


def occupancy(m: Momdp, policy_SA: Tensor, gamma: float) -> Tensor:
    """d(s,a) of a policy: the solution of its flow equations."""
    flow_SS = (m.moving_SAS() * policy_SA[..., None]).sum(-2)
    alive_S = (~m.terminal_S).to(flow_SS.dtype)
    eye_SS = torch.eye(flow_SS.shape[-1], dtype=flow_SS.dtype)
    d_S = torch.linalg.solve(eye_SS - gamma * flow_SS.mT, (1 - gamma) * m.start_S * alive_S)
    return d_S[..., None] * policy_SA


def returns(m: Momdp, d_SA: Tensor) -> Tensor:
    """J (..., K)."""
    return (d_SA[..., None] * m.reward_SAK).sum((-3, -2))


def optimal(m: Momdp, weights_K: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Policy iteration for the weighted sum of objectives.

    Returns:
        The deterministic optimal policy (..., S, A) and its action values Q (..., S, A).
    """
    moving_SAS, alive_S = m.moving_SAS(), (~m.terminal_S).to(m.next_SAS.dtype)
    reward_SA = (m.reward_SAK * weights_K[..., None, None, :]).sum(-1) * alive_S[..., None]
    S, A, _ = m.sizes
    eye_SS = torch.eye(S, dtype=reward_SA.dtype)
    q_SA = reward_SA
    for _ in range(1000):
        policy_SA = torch.nn.functional.one_hot(q_SA.argmax(-1), A).to(reward_SA.dtype)
        flow_SS = (moving_SAS * policy_SA[..., None]).sum(-2)
        v_S = torch.linalg.solve(eye_SS - gamma * flow_SS, (reward_SA * policy_SA).sum(-1))
        new_SA = reward_SA + gamma * (moving_SAS * v_S[..., None, None, :]).sum(-1)
        if bool((new_SA - q_SA).abs().amax() < 1e-12):
            return policy_SA, new_SA
        q_SA = new_SA
    raise MarlError(f"policy iteration did not end: gamma={gamma} is too near 1")


def behaviour(
    m: Momdp, kind: Behaviour, *, optimality: float = 0.5, weights_K: Tensor | None = None, gamma: float
) -> Tensor:
    """The policy (..., S, A) that makes a data set.

    Args:
        m: the process.
        kind: uniform; mixture: the optimal action with probability `optimality`, else a uniform one (the
            replication); halfway: a softmax over Q whose return is the uniform policy's plus this share of
            the way to the optimum (the paper's words; CHOICE: a softmax, by bisection of its temperature).
        optimality: in [0, 1).
        weights_K: of the objectives in the return meant; by default all 1.
        gamma: discount.
    """
    require(0 <= optimality < 1, "optimality", optimality, "give a number in [0, 1)")
    _, A, K = m.sizes
    uniform_SA = torch.full_like(m.reward_SAK[..., 0], 1 / A)
    if kind == "uniform":
        return uniform_SA
    weights_K = torch.ones(K, dtype=m.reward_SAK.dtype) if weights_K is None else weights_K
    best_SA, q_SA = optimal(m, weights_K, gamma)
    if kind == "mixture":
        return optimality * best_SA + (1 - optimality) * uniform_SA

    def value(policy_SA: Tensor) -> Tensor:
        return (returns(m, occupancy(m, policy_SA, gamma)) * weights_K).sum(-1)

    low, high = value(uniform_SA), value(best_SA)
    goal = low + optimality * (high - low)
    scale_SA = (q_SA - q_SA.amax(-1, keepdim=True)) / (q_SA.amax((-2, -1), keepdim=True) + 1e-300)
    cold, hot = torch.full_like(goal, -3.0), torch.full_like(goal, 8.0)  # log10 of the inverse temperature
    for _ in range(60):
        middle = (cold + hot) / 2
        policy_SA = (10 ** middle[..., None, None] * scale_SA).softmax(-1)
        over = value(policy_SA) >= goal
        cold, hot = torch.where(over, cold, middle), torch.where(over, middle, hot)
    return policy_SA


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """E episodes of up to T steps.

    Args:
        state_ET: int64 (E, T + 1); after the end it repeats the last state.
        action_ET: int64 (E, T).
        reward_ETK: float64; 0 after the end.
        filled_ET: bool; a step was made.
        terminated_E: bool; the episode ended in a terminal state, else it was cut off.
    """

    state_ET: Tensor
    action_ET: Tensor
    reward_ETK: Tensor
    filled_ET: Tensor
    terminated_E: Tensor


def play(
    m: Momdp, arrive_SK: Tensor, policy_SA: Tensor, *, episodes: int, limit: int, rng: torch.Generator
) -> Trajectories:
    """Episodes of a policy in one process whose reward is that of the state arrived at."""
    next_cdf, policy_cdf = m.next_SAS.cumsum(-1), policy_SA.cumsum(-1)

    def draw(cdf: Tensor) -> Tensor:
        u = torch.rand(cdf.shape[:-1], generator=rng, dtype=cdf.dtype)[..., None] * cdf[..., -1:]
        return (u >= cdf).sum(-1).clamp(max=cdf.shape[-1] - 1)

    state_E = draw(m.start_S.cumsum(-1).expand(episodes, -1))
    states, actions, rewards, filled = [state_E], [], [], []
    for _ in range(limit):
        going_E = ~m.terminal_S[state_E]
        action_E = draw(policy_cdf[state_E])
        to_E = torch.where(going_E, draw(next_cdf[state_E, action_E]), state_E)
        states.append(to_E)
        actions.append(action_E)
        rewards.append(arrive_SK[to_E] * going_E[:, None])
        filled.append(going_E)
        state_E = to_E
    return Trajectories(
        state_ET=torch.stack(states, 1),
        action_ET=torch.stack(actions, 1),
        reward_ETK=torch.stack(rewards, 1),
        filled_ET=torch.stack(filled, 1),
        terminated_E=m.terminal_S[state_E],
    )


def estimate(
    data: Trajectories, states: int, actions: int, *, unseen: Literal["absorbing", "dropped"] = "absorbing"
) -> tuple[Momdp, Tensor]:
    """The maximum-likelihood process of a data set, and dD.

    A (s,a) that the data lack has dD = 0 and no transition.

    Args:
        data: the episodes.
        states, actions: S and A.
        unseen: what becomes of states that were reached and never left in the data (an episode was cut off
            there): absorbing, without reward; or dropped: transitions into them are left out.

    Raises:
        FieldError: `unseen` is none of the two, or nothing is left.
    """
    require(unseen in ("absorbing", "dropped"), "unseen", unseen, "give absorbing or dropped")
    f, last_E = data.filled_ET, data.filled_ET.sum(1)
    from_X, to_X, action_X = data.state_ET[:, :-1][f], data.state_ET[:, 1:][f], data.action_ET[f]
    reward_XK = data.reward_ETK[f]
    S, A, K = states, actions, reward_XK.shape[1]
    terminal_S = torch.zeros(S, dtype=torch.bool)
    at_end_E = data.state_ET.gather(1, last_E[:, None])[:, 0]
    terminal_S[at_end_E[data.terminated_E]] = True
    kept_X = torch.ones_like(from_X, dtype=torch.bool)
    while True:
        left_S = torch.zeros(S, dtype=torch.bool)
        left_S[from_X[kept_X]] = True
        dead_X = kept_X & ~left_S[to_X] & ~terminal_S[to_X]
        if unseen == "absorbing":
            terminal_S[to_X[dead_X]] = True
            break
        if not dead_X.any():
            break
        kept_X &= ~dead_X
    if not kept_X.any():
        raise FieldError("unseen", unseen, "no transition is left; use absorbing")
    row_X = (from_X * A + action_X)[kept_X]
    count_SAS = torch.bincount(row_X * S + to_X[kept_X], minlength=S * A * S).double().view(S, A, S)
    count_SA = count_SAS.sum(-1)
    sum_SAK = torch.zeros(S * A, K, dtype=torch.float64)
    sum_SAK.index_add_(0, row_X, reward_XK[kept_X].double())
    seen_SA1 = count_SA.clamp(min=1)[..., None]
    first_S = torch.bincount(data.state_ET[:, 0], minlength=S).double()
    m = Momdp(
        start_S=first_S / first_S.sum(),
        next_SAS=count_SAS / seen_SA1,
        reward_SAK=sum_SAK.view(S, A, K) / seen_SA1,
        terminal_S=terminal_S,
    )
    return m, count_SA / count_SA.sum()


def stack(models: list[Momdp]) -> Momdp:
    """Processes of one size as one with a leading dimension."""
    fields = ("start_S", "next_SAS", "reward_SAK", "terminal_S")
    return Momdp(**{name: torch.stack([getattr(m, name) for m in models]) for name in fields})
