"""c-MBA style: perturb what the victims see so that a learned model foresees the team's failure.

| symbol | name here | meaning |
|---|---|---|
| s, s' | state_XS | state of the world before and after a step |
| u | action_XU | joint action, one-hot; of victims softmax(scores / temperature) while attacking |
| f | Dynamics | s' = s + scale f(s / scale, u), learned by least squares from the team's own play |
| s_fail | fail_S | where the team shall end |
| eta | of `marl.robust.pgd` | argmin within budget of |f(s, u(o + eta)) - s_fail|^2, in units of scale |

DEVIATION: c-MBA attacks continuous actions; here a discrete victim's action enters the model as its
probabilities. CHOICE: s_fail is the mean last state of the tenth of collected episodes with the smallest
returns (c-MBA takes a state that an expert names); play for the model explores with `explore`.
c-MBA's mixed-integer choice of victims is not here; sensitivity.py chooses without a model.

Reference: Pham et al., "c-MBA: Adversarial Attack for Cooperative MARL Using Learned Dynamics Model", ICDM
2023.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marl.config import RunConfig
from marl.errors import require
from marl.evaluate import for_evaluation, measuring_link
from marl.nets import MLP
from marl.rng import Rng
from marl.robust.perturbation import Aim
from marl.rollout import Rollout


@dataclass(kw_only=True)
class Model:
    """How the model is learned."""

    episodes: int = 64  # of the team's own play, >= 2; CHOICE
    explore: float = 0.3  # exploration in them, [0, 1]; CHOICE
    hidden: int = 128  # features of two hidden layers, >= 1; CHOICE
    epochs: int = 30  # over all transitions, >= 1; CHOICE
    learning_rate: float = 1e-3  # Adam, > 0; CHOICE
    temperature: float = 0.1  # of the victims' probabilities, > 0, in units of their scores; CHOICE
    seed: int = 0  # >= 0

    def __post_init__(self) -> None:
        require(self.episodes >= 2, "episodes", self.episodes, "give an integer >= 2")
        require(0 <= self.explore <= 1, "explore", self.explore, "give a number in [0, 1]")
        for name in ("hidden", "epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give an integer >= 1")
        for name in ("learning_rate", "temperature"):
            require(getattr(self, name) > 0, name, getattr(self, name), "give a number above 0")
        require(self.seed >= 0, "seed", self.seed, "give a whole number of 0 or more")


@dataclass(kw_only=True)
class Play:
    """What was collected: X transitions, and of every finished episode its return and last state."""

    state_XS: Tensor
    action_XU: Tensor
    next_XS: Tensor
    return_E: Tensor
    last_ES: Tensor


@dataclass
class _Collected:
    states: list[Tensor] = field(default_factory=list)
    actions: list[Tensor] = field(default_factory=list)
    nexts: list[Tensor] = field(default_factory=list)
    returns: list[Tensor] = field(default_factory=list)
    lasts: list[Tensor] = field(default_factory=list)


class Dynamics(nn.Module):
    """f with its scales and s_fail."""

    scale_S: Tensor
    fail_S: Tensor

    def __init__(self, states: int, actions: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.net = MLP((states + actions, hidden, hidden, states), generator=generator)
        self.register_buffer("scale_S", torch.ones(states))
        self.register_buffer("fail_S", torch.zeros(states))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """s' (..., S)."""
        step: Tensor = self.net(torch.cat((state / self.scale_S, action), -1))
        return state + step * self.scale_S

    def distance(self, state: Tensor) -> Tensor:
        """|s - s_fail|^2 in units of scale, (...)."""
        return ((state - self.fail_S) / self.scale_S).square().mean(-1)


def learned(agent: Any, cfg: RunConfig, model: Model) -> Dynamics:
    """The model of a team's world."""
    return learn(collect(agent, cfg, model), model)


def collect(agent: Any, cfg: RunConfig, model: Model) -> Play:
    """Play the team's own episodes, all at once."""
    device = torch.device(cfg.device)
    B = model.episodes
    env = for_evaluation(cfg.env).build(num_envs=B, device=device, threads=cfg.threads)
    rollout = Rollout(env, agent, Rng(model.seed, "dynamics"), link=measuring_link(cfg.channel, device))
    open_B, got = torch.ones(B, dtype=torch.bool, device=device), _Collected()
    A = env.spec.n_actions
    while open_B.any():
        before_BS = rollout.ts.state_BS
        act, finished = rollout.step(model.explore)
        ts = rollout.ts
        after_BS = ts.state_BS
        if ts.final_state_BS is not None:
            after_BS = torch.where(ts.done_B[:, None], ts.final_state_BS, after_BS)
        got.states.append(before_BS[open_B])
        got.actions.append(F.one_hot(act.actions_BN, A).flatten(1)[open_B].to(before_BS.dtype))
        got.nexts.append(after_BS[open_B])
        if finished is not None:
            new_F = open_B[finished["env"]]
            got.returns.append(finished["return"][new_F])
            got.lasts.append(after_BS[finished["env"]][new_F])
            open_B = open_B & ~ts.done_B
    lists = (got.states, got.actions, got.nexts, got.returns, got.lasts)
    names = ("state_XS", "action_XU", "next_XS", "return_E", "last_ES")
    return Play(**{name: torch.cat(part) for name, part in zip(names, lists, strict=True)})


def learn(play: Play, model: Model) -> Dynamics:
    """Fit f by least squares in minibatches of 256."""
    rng = Rng(model.seed, "dynamics")
    S, U = play.state_XS.shape[1], play.action_XU.shape[1]
    made = Dynamics(S, U, model.hidden, rng.torch("init")).to(play.state_XS.device)
    made.scale_S.copy_(play.state_XS.std(0).clamp(min=1e-2))
    worst_E = play.return_E.argsort(stable=True)[: max(1, len(play.return_E) // 10)]
    made.fail_S.copy_(play.last_ES[worst_E].mean(0))
    optimiser = torch.optim.Adam(made.parameters(), lr=model.learning_rate)
    shuffle = rng.torch("shuffle")
    for _ in range(model.epochs):
        for part in torch.randperm(len(play.state_XS), generator=shuffle).split(256):
            error = (made(play.state_XS[part], play.action_XU[part]) - play.next_XS[part]) / made.scale_S
            optimiser.zero_grad()
            error.square().mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return made.requires_grad_(False)


def foresees_failure(
    dynamics: Dynamics,
    state_BS: Tensor,
    greedy_BN: Tensor,
    avail_BKA: Tensor,
    victims_K: Tensor,
    *,
    temperature: float,
) -> Aim:
    """Raise minus the distance of the foreseen state from s_fail, the mates being greedy.

    Args:
        dynamics: f.
        state_BS: of the worlds.
        greedy_BN: what every agent would do.
        avail_BKA: bool; of the victims.
        victims_K: who they are.
        temperature: of their probabilities.
    """
    A = avail_BKA.shape[-1]
    joint_BNA = F.one_hot(greedy_BN, A).to(state_BS.dtype)

    def gain(scores_BKA: Tensor) -> Tensor:
        p_BKA = (scores_BKA / temperature).masked_fill(~avail_BKA, -torch.inf).softmax(-1)
        action_BU = joint_BNA.index_copy(1, victims_K, p_BKA).flatten(1)
        return -dynamics.distance(dynamics(state_BS, action_BU))

    return Aim(gain=gain)
