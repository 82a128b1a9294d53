"""Acting to learn under attack: perturbed observations, or an ally that is not itself.

| symbol | name here | meaning |
|---|---|---|
| o, o + eta | ts.obs_BNO before, after | observation, and what the victim acts on |
| v | victim_BN | agents under attack in this episode; drawn anew for every episode |
| u^ | act.actions_BN | joint action that the world got |
| u | extras["intended"] | joint action that the team chose |

Nothing of this happens where a team is measured or filmed.

`adversarial`: in attacked episodes the victims act on observations that raise the score of their worst
available action, within a budget and the features' ranges. The memory holds what was acted on, so that
learners of all kinds learn from it as from any other observation. CHOICE: an episode's final observation, on
which nobody acts, is clean, and so is the state of the world that critics and mixers see. The gradient is
that of the current step; the perturbed observation then enters the recurrent state.

`byzantine`: in attacked episodes one ally does something random, or its own worst, at every step; or a
learned attacker has a budget of steps at which it forces somebody to its worst (marl/robust/attacker.py).
Last actions in the networks' input are those that were done. What is learned from:
 - action values learn Q(u) of what the team CHOSE: the attack is part of the world, as in ROMANCE's
   LPA-Dec-POMDP. A value of what was done would assume an ally that comes to its senses at the next step.
 - policies learn nothing from the decisions of an ally under attack, which were not theirs; all others learn
   to make the best of it, as EIR-MAPPO's robust agents.
CHOICE: an ally under attack goes on to say what it would have said; lies are for the defences of messages.
What is not here of EIR: beliefs about who is Byzantine as an input (a recurrent state has to do), and an
adversary that is itself a policy for every action (`action=learned` picks when and whom, not what).

References: Lin et al., "On the Robustness of Cooperative Multi-Agent Reinforcement Learning", 2020 (one
victim's observation); Madry et al., ICLR 2018 (adversarial training); Yuan et al., AAAI 2023 (ROMANCE);
Li et al., "Byzantine Robust Cooperative Multi-Agent Reinforcement Learning as a Bayesian Game"
(EIR-MAPPO), ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from marl.channel import PerfectLink
from marl.errors import FieldError, MarlError
from marl.rng import Rng, Stream
from marl.robust.attacker import Attacker
from marl.robust.config import Adversarial, Byzantine, Defence
from marl.robust.extras import FORCED, INTENDED
from marl.robust.perturbation import Aim, Budget, pgd, towards
from marl.robust.regularise import limits_of, random_start
from marl.rollout import Rollout
from marl.types import Act, Agent, Box, Env, EnvSpec, TimeStep
from marl.value.explore import epsilon_greedy

_GAINS: dict[str, Literal["cross_entropy", "score"]] = {"pgd": "cross_entropy", "ifgsm": "score"}
LAST_ACTION = "last_action_BN"  # in the carry of teams that see what they did


def training_rollout(env: Env, agent: Agent, rng: Rng, *, link: PerfectLink | None = None) -> Rollout:
    """The rollout in which an agent learns: as its defence says."""
    defence = getattr(agent, "defence", None)
    if isinstance(defence, Adversarial):
        return AdversarialRollout(defence, env, agent, rng, link=link)
    if isinstance(defence, Byzantine):
        return ByzantineRollout(defence, env, agent, rng, link=link)
    return Rollout(env, agent, rng, link=link)


def refuse_in_rollout(agent: Agent) -> None:
    """For loops that do not act.

    Raises:
        FieldError: the agent's defence is an attack while acting.
    """
    defence: Defence | None = getattr(agent, "defence", None)
    if defence is not None and defence.in_rollout:
        fix = "an offline loop does not act, so that nothing can be attacked; give smooth or align"
        raise FieldError("defence", defence.name, fix)


def drawn(ts: TimeStep, stream: Stream, count: int, probability: float) -> Tensor:
    """Victims of an episode, bool (B, N): none, or `count` of those who exist in it.

    Args:
        ts: `present_BN` is read.
        stream: of the episode, so that every step draws the same.
        count: how many.
        probability: that there are any.
    """
    N = ts.present_BN.shape[1]
    lot_BN = torch.where(ts.present_BN, stream.fold("lot").uniform(N), -1.0)
    rank_BN = lot_BN.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    attacked_B1 = stream.fold("coin").uniform(1) < probability
    return (rank_BN < count) & ts.present_BN & attacked_B1


class AdversarialRollout(Rollout):
    """Victims act on perturbed observations.

    Args:
        config: the attack.
        others: as of `Rollout`.

    Raises:
        MarlError: actions are continuous, or the world does not say what its observations hold.
    """

    def __init__(
        self, config: Adversarial, env: Env, agent: Agent, rng: Rng, *, link: PerfectLink | None = None
    ) -> None:
        super().__init__(env, agent, rng, link=link)
        self.config, self.steps = config, 0
        self.limits = limits_of(env.spec, env.device)
        if not env.spec.discrete:
            raise MarlError(f"env={env.spec.name} has continuous actions: defence=adversarial needs discrete")
        if config.agents > env.spec.n_agents:
            fix = f"give at most {env.spec.n_agents}: there are no more agents"
            raise FieldError("agent.defence.agents", config.agents, fix)
        self._perturb()

    def step(self, explore: float) -> tuple[Act, dict[str, Tensor] | None]:
        out = super().step(explore)
        self.steps += self.env.num_envs
        self._perturb()
        return out

    @property
    def epsilon(self) -> float:
        """The budget by now."""
        return self.config.epsilon * (min(1.0, self.steps / self.config.ramp) if self.config.ramp else 1.0)

    def _perturb(self) -> None:
        """Change what the victims see at the next decision."""
        c, ts, epsilon = self.config, self.ts, self.epsilon
        episode = self._stream.fold("adversarial")
        victim_BN = drawn(ts, episode, c.agents, c.probability) & ts.alive_BN
        if epsilon == 0 or not victim_BN.any():
            return
        share = epsilon / c.epsilon
        limits = replace(self.limits, free=self.limits.free & victim_BN[..., None])
        with torch.no_grad():
            target_BN = worst(self.agent.scores(ts, self.carry), ts.avail_BNA)
        start = None
        if c.attack == "pgd":
            u_BNO = episode.fold(ts.t_B).uniform(*ts.obs_BNO.shape[1:])
            start = random_start(ts.obs_BNO, limits, epsilon, u_BNO)
        obs_BNO = pgd(
            lambda x_BNO: self.agent.scores(replace(ts, obs_BNO=x_BNO), self.carry),
            ts.obs_BNO,
            _of(victim_BN, towards(target_BN, ts.avail_BNA, gain=_GAINS[c.attack])),
            limits,
            Budget(linf=epsilon),
            step=share * c.step_size,
            iterations=c.iterations,
            start=start,
        )
        self.ts = replace(ts, obs_BNO=obs_BNO)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"defence": {"steps": self.steps}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.steps = int(state["defence"]["steps"])


class ByzantineRollout(Rollout):
    """An ally does what is not its choice.

    Args:
        config: the attack.
        others: as of `Rollout`.

    Raises:
        MarlError: actions are continuous and have no bounds, within which to do anything.
    """

    def __init__(
        self, config: Byzantine, env: Env, agent: Agent, rng: Rng, *, link: PerfectLink | None = None
    ) -> None:
        super().__init__(env, agent, rng, link=link)
        self.config, self._extras = config, agent.extras_spec
        self._box = None if env.spec.discrete else _bounds(env.spec, env.device)
        self.attacker: Attacker | None = None
        if config.action == "learned":
            self.attacker = Attacker(env.spec, config, env.num_envs, rng.child("defence"), env.device)
        self._before: dict[str, Tensor] = {}  # what the attacker saw and chose

    def _decide(self, stream: Stream, explore: float) -> Act:
        ts, before = self.ts, self.carry
        act = super()._decide(stream, explore)
        forced_BN = self._victims(stream) & ts.alive_BN
        stored = {INTENDED: act.actions_BN, FORCED: forced_BN}
        extras = act.extras | {name: value for name, value in stored.items() if name in self._extras}
        if not forced_BN.any():
            return replace(act, extras=extras)
        if self.config.action == "random":
            done = self._random(stream.fold("byzantine"))
        else:
            with torch.no_grad():
                done = self._worst(self.agent.scores(ts, before))
        mask = forced_BN if self._box is None else forced_BN[..., None]
        done = torch.where(mask, done, act.actions_BN)
        carry = act.carry | ({LAST_ACTION: done} if LAST_ACTION in act.carry else {})
        return Act(actions_BN=done, carry=carry, extras=extras)

    def _victims(self, stream: Stream) -> Tensor:
        """Whose actions are not their own at this step, bool (B, N)."""
        c, ts, episode = self.config, self.ts, self._stream.fold("byzantine")
        if self.attacker is None:
            return drawn(ts, episode, 1, c.probability)
        attacked_B = drawn(ts, episode, 1, c.probability).any(-1)
        look_BX = self.attacker.look(ts.state_BS)
        choice_B = self.attacker.choose(ts.state_BS, ts.alive_BN, attacked_B, stream.fold("attacker"))
        self._before = {"look": look_BX, "choice": choice_B, "attacked": attacked_B}
        return F.one_hot(choice_B, ts.alive_BN.shape[1] + 1)[:, :-1].bool()

    def _random(self, rng: Stream) -> Tensor:
        avail_BNA = self.ts.avail_BNA
        if self._box is None:
            return epsilon_greedy(avail_BNA.float(), avail_BNA, rng, 1.0)
        low_NA, high_NA = self._box
        return low_NA + (high_NA - low_NA) * rng.uniform(*low_NA.shape)

    def _worst(self, scores_BNA: Tensor) -> Tensor:
        """The available action of the lowest score; of a Gaussian the Box's corner farthest from its mean."""
        if self._box is None:
            return worst(scores_BNA, self.ts.avail_BNA)
        low_NA, high_NA = self._box
        return torch.where(scores_BNA > 0, low_NA, high_NA)

    def step(self, explore: float) -> tuple[Act, dict[str, Tensor] | None]:
        out = super().step(explore)
        if self.attacker is not None:
            self._teach(self.attacker)
        return out

    def _teach(self, attacker: Attacker) -> None:
        """What the attacked episodes' last step was to the attacker."""
        ts, b = self.ts, self._before
        done_B, state_BS = ts.done_B, ts.state_BS
        if ts.final_state_BS is not None:
            state_BS = torch.where(done_B[:, None], ts.final_state_BS, state_BS)
        at_F = b["attacked"].nonzero().flatten()
        if len(at_F):
            rows = {
                "look": b["look"],
                "choice": b["choice"],
                "reward": -_team_reward(ts),
                "next": attacker.look(state_BS),
                "may": attacker.may(ts.alive_BN),  # after a truncation: of the next episode's start
                "ended": ts.terminated_B,
            }
            attacker.remember({name: value.index_select(0, at_F) for name, value in rows.items()})
            attacker.learn()
        attacker.left_B = torch.where(done_B, self.config.budget, attacker.left_B)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return state if self.attacker is None else state | {"defence": self.attacker.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self.attacker is not None:
            self.attacker.load_state_dict(state["defence"])


def worst(scores_BNA: Tensor, avail_BNA: Tensor) -> Tensor:
    """The available action of the lowest score, int64 (B, N)."""
    return scores_BNA.masked_fill(~avail_BNA, torch.inf).argmin(-1)


def _of(victim_BN: Tensor, aim: Aim) -> Aim:
    """The aim for these agents alone; nothing is wanted of others."""
    reached = aim.reached
    assert reached is not None
    return Aim(
        gain=lambda scores: torch.where(victim_BN, aim.gain(scores), 0.0),
        reached=lambda scores: reached(scores) | ~victim_BN,
    )


def _team_reward(ts: TimeStep) -> Tensor:
    """The team's reward; that of a world with rewards per agent is their sum, (B,)."""
    if ts.reward_B is not None:
        return ts.reward_B
    assert ts.agent_reward_BN is not None
    return ts.agent_reward_BN.sum(-1)


def _bounds(spec: EnvSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ends of every dimension of the agents' Boxes, 0 where an agent has fewer; each (N, A)."""
    low_NA = torch.zeros(spec.n_agents, spec.n_actions)
    high_NA = low_NA.clone()
    for n, space in enumerate(spec.action_spaces):
        assert isinstance(space, Box)
        low_NA[n, : len(space.low)], high_NA[n, : len(space.high)] = (
            torch.tensor(space.low),
            torch.tensor(space.high),
        )
    if not (low_NA.isfinite() & high_NA.isfinite()).all():
        raise MarlError(f"env={spec.name} has actions without bounds: defence=byzantine needs bounds")
    return low_NA.to(device), high_NA.to(device)
