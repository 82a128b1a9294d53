"""The team under attack: it acts in the team's place and looks like a team to whoever measures it.

| symbol | name here | meaning |
|---|---|---|
| v | of_victims | the victims among the agents |
| a* | greedy_BN | what the team would do, seeing what it sees |
| t | target_BK | what the attacker wants the victims to do |
| eta | x' - x | change of the victims' observations |

Every step: choose t (choose.py), find eta (force.py), let the team act on o + eta. The perturbed observation
is what the victim's recurrent state takes in, too. Under direct control the victim sees the truth, its action
is replaced, and its memory of its last action holds what it did.
A victim is attacked at a step where it is alive, t (if there is one) differs from a*, and the timing allows.
CHOICE: a* of a team that talks is what it would do if every message arrived; a defence of its messages is in
force (`marl.robust.messages.scores_in_use`).

The numbers of a step are in the act's extras, summed over victims (B,): `attack.attacked`; of attacked ones
`attack.misled` (did not do a*), `attack.hit` (did t), `attack.l0`, `attack.l1`, `attack.linf`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from marl.agents.cmarl_attack import choose, force
from marl.agents.cmarl_attack.config import LEARNED, UNTARGETED, Config
from marl.agents.cmarl_attack.messages import LyingLink
from marl.agents.cmarl_attack.model import foresees_failure, learned
from marl.agents.cmarl_attack.victim import Victim
from marl.agents.cmarl_attack.world import view
from marl.channel import PerfectLink
from marl.config import RunConfig, label
from marl.errors import FieldError, MarlError
from marl.evaluate import for_evaluation, measuring_link
from marl.rng import Rng, Stream
from marl.robust.perturbation import Limits, chosen
from marl.types import Act, Batch, Carry, Env, FieldSpec, Link, TimeStep

_OWN = "attack."  # prefix of what the attacker carries beside the team
_ADVERSARY = "adversary."


class Attacked:
    """See the module's text.

    Args:
        config: the attack.
        agent: the trained team.
        cfg: of its run.

    Raises:
        MarlError: the attack does not fit the team.
    """

    extras_spec: dict[str, FieldSpec] = {}  # noqa: RUF012 - nothing is stored: this team does not learn

    def __init__(self, config: Config, agent: Any, cfg: RunConfig) -> None:
        self.config, self.agent, self.spec = config, agent, agent.spec
        self.victim = Victim(agent, agent.spec, config.agents)
        self.device, self._cfg = self.victim.device, cfg
        self.adversary: Any = None  # the trained one of choose=ow and owr
        self.learned_on = ""  # name of the run that it was trained against: another one's is a transfer
        self.env: Env | None = None  # where it acts: `attach`
        self._copies: Env | None = None
        self._counting_B: Tensor | None = None  # worlds that count; None: all
        with_critic = choose.has_mixer(agent) or choose.has_critic(agent)
        if config.choose == "mixer_worst" and not with_critic:
            fix = f"{label(cfg.agent)} has neither a mixer nor a critic; give local_worst"
            raise FieldError("attack.choose", config.choose, fix)
        copies = config.choose == "mixer_worst" and not choose.has_mixer(agent)
        if copies and not getattr(cfg.env, "exact_resume", True):
            fix = f"{label(cfg.env)} cannot be copied, so that no action can be tried first; give local_worst"
            raise FieldError("attack.choose", config.choose, fix)
        limits = Limits.of(agent.spec, self.device, agents=config.agents, kinds=config.kinds)
        if config.force not in ("control", "message") and not limits.free.any():
            fix = "the victims have no feature of these kinds; give others, or attack.force=control"
            raise FieldError("attack.kinds", config.kinds, fix)
        self.limits = limits
        self.dynamics = learned(agent, cfg, config.model) if config.force == "model" else None

    def attach(self, env: Env) -> None:
        """Say where the team acts: mixer_worst tries actions in copies of it where there is no mixer."""
        self.env, self._copies, self._counting_B = env, None, None

    def count_only(self, worlds_B: Tensor | None) -> None:
        """Leave all other worlds alone from the next step on: whoever measures does not look at them.

        Args:
            worlds_B: bool; None: all count.
        """
        self._counting_B = None if worlds_B is None else worlds_B.to(self.device, copy=True)

    @property
    def victims(self) -> tuple[int, ...]:
        """Whom it attacks."""
        return self.config.agents

    def within(self, name: str, value: float) -> Attacked:
        """The same attack with another budget; victims, adversary and model are not looked for again."""
        other = copy.copy(self)
        other.config = self.config.within(name, value)
        return other

    def initial_carry(self, rows: int) -> Carry:
        """The team's, the adversary's, and how many steps of the episode were attacked."""
        carry = dict(self.agent.initial_carry(rows))
        carry[_OWN + "used_B"] = torch.zeros(rows, dtype=torch.int64, device=self.device)
        if self.adversary is not None:
            own = self.adversary.initial_carry(rows)
            carry |= {_OWN + _ADVERSARY + name: value for name, value in own.items()}
        return carry

    @torch.no_grad()
    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        team = {k: v for k, v in carry.items() if not k.startswith(_OWN)}
        own = {k.removeprefix(_OWN): v for k, v in carry.items() if k.startswith(_OWN)}
        scores_BNA = self.victim.scores(ts, team)
        greedy_BN = chosen(scores_BNA, ts.avail_BNA)
        target_BK = None
        if self.config.force not in UNTARGETED:
            target_BK, own = self._target(ts, team, own, scores_BNA, greedy_BN, rng)
        attacked_BK = self._attacked(ts, own, scores_BNA, greedy_BN, target_BK, rng)
        own = own | {"used_B": own["used_B"] + attacked_BK.any(-1)}
        x_BNO = self._seen(ts, team, greedy_BN, target_BK, attacked_BK)
        lies = None
        if self.config.force == "message":
            lies = self._lies(link or PerfectLink(self.device), attacked_BK, rng)
        act = self.agent.act(replace(ts, obs_BNO=x_BNO), team, rng=rng, explore=explore, link=lies or link)
        if self.config.force == "control":
            assert target_BK is not None
            act = control(act, self.victim, target_BK, attacked_BK)
        own = self._remembered(own, act)
        numbers = self._numbers(act, x_BNO - ts.obs_BNO, lies, greedy_BN, target_BK, attacked_BK)
        kept = {_OWN + name: value for name, value in own.items()}
        return Act(actions_BN=act.actions_BN, carry=act.carry | kept, extras=numbers)

    def _remembered(self, own: Carry, act: Act) -> Carry:
        """The adversary's last action is what the victims did, whether it was what it wanted or not."""
        name = _ADVERSARY + "last_action_BN"
        return own | {name: self.victim.of_victims(act.actions_BN)} if name in own else own

    def _seen(
        self,
        ts: TimeStep,
        team: Carry,
        greedy_BN: Tensor,
        target_BK: Tensor | None,
        attacked_BK: Tensor,
    ) -> Tensor:
        """Step two: the observations that the team acts on (B, N, O)."""
        how = self.config.force
        if how in ("control", "message") or not attacked_BK.any():
            return ts.obs_BNO
        moment = force.Moment(
            config=self.config,
            victim=self.victim,
            limits=self.limits,
            ts=ts,
            carry=team,
            attacked_BK=attacked_BK,
        )
        if target_BK is not None:
            return force.perturb(moment, target_BK)
        assert self.dynamics is not None
        aim = foresees_failure(
            self.dynamics,
            ts.state_BS,
            greedy_BN,
            self.victim.of_victims(ts.avail_BNA),
            self.victim.victims_K,
            temperature=self.config.model.temperature,
        )
        return force.towards_failure(moment, aim)

    def _lies(self, link: Link, attacked_BK: Tensor, rng: Stream) -> LyingLink:
        c = self.config
        return LyingLink(
            link, self.victim.victims_K, attacked_BK, lie=c.lie, linf=c.budget.linf, rng=rng.fold("lies")
        )

    def _numbers(
        self,
        act: Act,
        eta_BNO: Tensor,
        lies: LyingLink | None,
        greedy_BN: Tensor,
        target_BK: Tensor | None,
        attacked_BK: Tensor,
    ) -> dict[str, Tensor]:
        """The extras of a step. A lie misleads if a mate does something else; then all liars count."""
        did_BK, was_BK = (self.victim.of_victims(v) for v in (act.actions_BN, greedy_BN))
        eta_BKO = self.victim.of_victims(eta_BNO)
        sizes = (eta_BKO != 0).sum(-1), eta_BKO.abs().sum(-1), eta_BKO.abs().amax(-1)
        misled_BK = did_BK != was_BK
        if lies is not None:
            if not lies.rounds:
                raise MarlError(f"{label(self._cfg.agent)} sends no messages: give another attack.force")
            sizes = lies.features_BK, lies.change_BK, lies.largest_BK
            changed_BN = self.victim.put(act.actions_BN != greedy_BN, torch.zeros_like(misled_BK))
            misled_BK = changed_BN.any(-1, keepdim=True).expand_as(misled_BK)
        numbers = {"attacked": attacked_BK, "misled": attacked_BK & misled_BK}
        if target_BK is not None:
            numbers["hit"] = attacked_BK & (did_BK == target_BK)
        numbers |= dict(zip(("l0", "l1", "linf"), sizes, strict=True))
        return {_OWN + name: value.sum(-1).to(torch.float64) for name, value in numbers.items()}

    def _target(
        self, ts: TimeStep, team: Carry, own: Carry, scores_BNA: Tensor, greedy_BN: Tensor, rng: Stream
    ) -> tuple[Tensor, Carry]:
        """Step one: the victims' wanted actions (B, K), and what the attacker carries after it."""
        how, victim = self.config.choose, self.victim
        avail_BKA = victim.of_victims(ts.avail_BNA)
        if how in LEARNED:
            memory = {k.removeprefix(_ADVERSARY): v for k, v in own.items() if k.startswith(_ADVERSARY)}
            seen = view(ts, victim)
            act = self.adversary.act(seen, memory, rng=rng.fold("adversary"), explore=0.0)
            own = own | {_ADVERSARY + name: value for name, value in act.carry.items()}
            return act.actions_BN, own
        if how == "random":
            return choose.at_random(victim.of_victims(greedy_BN), avail_BKA, rng.fold("target")), own
        if how == "local_worst":
            return choose.local_worst(victim.of_victims(scores_BNA), avail_BKA), own
        if choose.has_mixer(self.agent):
            return choose.mixer_worst(victim, ts, team, greedy_BN), own
        return self._critic_worst(ts, team, greedy_BN, rng), own

    def _critic_worst(self, ts: TimeStep, team: Carry, greedy_BN: Tensor, rng: Stream) -> Tensor:
        if self.env is None:
            raise MarlError(
                "attack.choose=mixer_worst tries actions in copies of the worlds: attach them first"
            )
        B, A = len(greedy_BN), self.spec.n_actions
        if self._copies is None or self._copies.num_envs != B * A:
            build = for_evaluation(self._cfg.env).build
            self._copies = build(num_envs=B * A, device=self.device, threads=self._cfg.threads)
            self._copies.reset(Rng(0, "copies"))
        link = measuring_link(None, self.device)  # a team with a defence of its messages acts as in use
        after = self.agent.act(ts, team, rng=rng, explore=0.0, link=link).carry
        return choose.critic_worst(self.victim, self._copies, self.env, after, greedy_BN, ts.avail_BNA)

    def _attacked(
        self,
        ts: TimeStep,
        own: Carry,
        scores_BNA: Tensor,
        greedy_BN: Tensor,
        target_BK: Tensor | None,
        rng: Stream,
    ) -> Tensor:
        """Who is attacked now, bool (B, K)."""
        timing, victim = self.config.timing, self.victim
        wanted_BK = victim.of_victims(ts.alive_BN)
        if self._counting_B is not None:
            wanted_BK = wanted_BK & self._counting_B[:, None]
        if target_BK is not None:
            wanted_BK = wanted_BK & (target_BK != victim.of_victims(greedy_BN))
        if timing.steps is not None:
            wanted_BK = wanted_BK & (own["used_B"] < timing.steps)[:, None]
        if timing.when == "random":
            return wanted_BK & (rng.fold("timing").uniform(1) < timing.rate)
        if timing.when == "critical":
            return wanted_BK & (preference(victim, scores_BNA, ts.avail_BNA) >= timing.threshold)
        return wanted_BK

    def scores(self, ts: TimeStep, carry: Carry) -> Tensor:
        """The team's, of what it would see without the attack."""
        team = {k: v for k, v in carry.items() if not k.startswith(_OWN)}
        out: Tensor = self.agent.scores(ts, team)
        return out

    def update(self, batch: Batch, *, rng: Stream) -> dict[str, Tensor]:
        raise MarlError("a team under attack does not learn: train with a defence instead")

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.agent.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.agent.load_state_dict(state)


def preference(victim: Victim, scores_BNA: Tensor, avail_BNA: Tensor) -> Tensor:
    """Largest less smallest probability of an available action, softmax of the scores; (B, K)."""
    avail_BKA = victim.of_victims(avail_BNA)
    p_BKA = victim.of_victims(scores_BNA).masked_fill(~avail_BKA, -torch.inf).softmax(-1)
    return p_BKA.amax(-1) - p_BKA.masked_fill(~avail_BKA, torch.inf).amin(-1)


def control(act: Act, victim: Victim, target_BK: Tensor, attacked_BK: Tensor) -> Act:
    """The act with the attacked victims' actions replaced, in the team's memory of them too."""
    own_BK = torch.where(attacked_BK, target_BK, victim.of_victims(act.actions_BN))
    actions_BN = victim.put(act.actions_BN, own_BK)
    carry = dict(act.carry)
    if "last_action_BN" in carry:
        carry["last_action_BN"] = victim.put(carry["last_action_BN"], own_BK)
    return replace(act, actions_BN=actions_BN, carry=carry)
