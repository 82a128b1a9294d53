"""Settings of an attack: `marl attack run=<run> attack=owr attack.force=pgd attack.budget.linf=0.1`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from marl.agents.cmarl_attack.messages import Lie
from marl.agents.cmarl_attack.model import Model
from marl.checkpoint import Saved
from marl.config import RunConfig, unmake
from marl.errors import FieldError, require
from marl.robust.perturbation import Budget

if TYPE_CHECKING:
    from marl.agents.cmarl_attack.team import Attacked

CHOICES = ("random", "local_worst", "mixer_worst", "ow", "owr")
FORCES = ("control", "fgsm", "itfgsm", "pgd", "jsma", "djsma")  # that make the victims do a chosen action
UNTARGETED = ("message", "model")  # that want no particular one
LEARNED = ("ow", "owr")


@dataclass(kw_only=True)
class Learner:
    """How the adversary of ow and owr is trained; a deep Q-network in the team's world, mates frozen."""

    kind: Literal["own", "sb3"] = "own"  # own: recurrent, batched over worlds; sb3: Stable-Baselines3's DQN
    total_steps: int = 200_000  # team steps, >= 1; the paper does not say: CHOICE
    num_envs: int = 16  # >= 1; CHOICE
    seed: int = 0  # >= 0
    hidden: int = 64  # features of the network's layers, >= 1; CHOICE, as the victims'
    learning_rate: float = 1e-3  # > 0; CHOICE, as the victims'
    update_ratio: float = 0.02  # updates per team step, > 0; CHOICE, as the fast settings
    explore_steps: int = 50_000  # team steps in which epsilon falls from 1 to 0.05, >= 0; CHOICE
    # Of owr alone. reward: r_adv = -r_team - weight d^2. soft: the loss gains weight sum_a p_a d_a^2,
    # p = softmax(Q / temperature). The paper's lambda is unknown; d is in units of the victim's scores: give
    # logits a smaller weight than action values.
    regulariser: Literal["reward", "soft"] = "reward"
    weight: float = 0.5  # lambda, >= 0; CHOICE, for action values of returns up to 20
    temperature: float = 0.1  # > 0, in units of the adversary's values; CHOICE

    def __post_init__(self) -> None:
        for name in ("total_steps", "num_envs", "hidden"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give an integer >= 1")
        for name in ("seed", "explore_steps"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "give an integer >= 0")
        for name in ("learning_rate", "update_ratio", "temperature"):
            require(getattr(self, name) > 0, name, getattr(self, name), "give a number above 0")
        require(self.weight >= 0, "weight", self.weight, "give a number >= 0")
        soft = self.kind == "sb3" and self.regulariser == "soft"
        require(not soft, "regulariser", "soft", "give reward: SB3's loss is its own")


@dataclass(kw_only=True)
class Timing:
    """At which steps the attacker acts."""

    when: Literal["always", "random", "critical"] = "always"
    steps: int | None = None  # at most so many attacked steps in an episode, >= 0; None: no limit
    rate: float = 0.5  # of when=random: probability of an attack at each step, [0, 1]; CHOICE
    # Of when=critical: attack where the victim prefers its best action to its worst by at least this much, as
    # a difference of probabilities softmax(scores), [0, 1]; Lin et al. 2017 (strategically timed attack)
    threshold: float = 0.5

    def __post_init__(self) -> None:
        fix = "give null or a whole number of 0 or more"
        require(self.steps is None or self.steps >= 0, "steps", self.steps, fix)
        for name, when in (("rate", "random"), ("threshold", "critical")):
            value = getattr(self, name)
            require(0 <= value <= 1, name, value, "give a number in [0, 1]")
            fix = f"when={self.when} does not read it; leave it out, or give when={when}"
            require(self.when == when or value == getattr(Timing, name), name, value, fix)


def _require_defaults(part: Any, prefix: str, fix: str, names: Sequence[str] = ()) -> None:
    """Of a part of the settings these fields, or all, are as they come: nothing would read another value."""
    default = type(part)()
    for name in names or [option.name for option in dataclasses.fields(part)]:
        value = getattr(part, name)
        require(value == getattr(default, name), f"{prefix}.{name}", value, fix)


@dataclass(kw_only=True)
class Config:
    """Victims, step one, step two, budgets. Values that the paper does not state are CHOICE."""

    agents: tuple[int, ...] = (0,)  # the victims; the paper: one, a stalker (agent 0 of 2s3z)
    sensitive: int | None = None  # so many victims, found by their sensitivity, in place of `agents`; >= 1
    # Step one; none goes with force=message and model alone, which want no particular action.
    choose: Literal["random", "local_worst", "mixer_worst", "ow", "owr", "none"] = "owr"
    # Step two
    force: Literal["control", "fgsm", "itfgsm", "pgd", "jsma", "djsma", "message", "model"] = "djsma"
    timing: Timing = field(default_factory=Timing)
    budget: Budget = field(default_factory=Budget)  # of one observation at one step
    kinds: tuple[Literal["real", "binary", "onehot"], ...] = ("real", "binary", "onehot")  # that may change

    # What fgsm, itfgsm and pgd raise: the target's score (the paper), its lead over the best other action, or
    # its log-probability. null: of pgd the log-probability (AMI's re-implementation), else the score.
    gain: Literal["score", "margin", "cross_entropy"] | None = None
    step: float = 0.1  # of itfgsm, pgd and model, > 0; AMI's re-implementation
    # Of itfgsm, pgd, model, and for each theta of jsma and djsma, >= 1; AMI's re-implementation
    iterations: int = 30
    # In which the steps of pgd and model are steepest. CHOICE: pgd has no random start, which would spend
    # budget that the target does not need.
    norm: Literal["linf", "l2", "l1"] = "linf"
    theta: float = 1.0  # step of jsma, > 0
    thetas: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)  # steps of djsma, rising, each > 0

    lie: Lie = "flip"  # of force=message
    model: Model = field(default_factory=Model)  # of force=model
    learner: Learner = field(default_factory=Learner)  # of ow and owr
    adversary: Path | None = None  # a run folder of theirs; None: trained and kept beside the victim

    def __post_init__(self) -> None:
        require(self.step > 0, "step", self.step, "give a number above 0")
        require(self.theta > 0, "theta", self.theta, "give a number above 0")
        require(self.iterations >= 1, "iterations", self.iterations, "give an integer >= 1")
        rising = all(0 < a < b for a, b in zip(self.thetas, (*self.thetas[1:], math.inf), strict=True))
        require(bool(self.thetas) and rising, "thetas", self.thetas, "give rising numbers above 0")
        require(bool(self.kinds), "kinds", self.kinds, "give one or more of real, binary, onehot")
        untargeted = self.force in UNTARGETED
        fix = f"force={self.force} wants an action; give one of {', '.join(CHOICES)}"
        if untargeted:
            fix = f"force={self.force} wants no particular action; give none"
        require(untargeted == (self.choose == "none"), "choose", self.choose, fix)
        fix = "give null or a whole number of 1 or more"
        require(self.sensitive is None or self.sensitive >= 1, "sensitive", self.sensitive, fix)
        if self.force == "fgsm":
            fix = "give attack.budget.linf=<number>: it is FGSM's step"
            require(math.isfinite(self.budget.linf), "budget.linf", self.budget.linf, fix)
        self._refuse_unread()
        if self.adversary is not None and self.choose not in LEARNED:
            raise FieldError("adversary", str(self.adversary), f"choose={self.choose} has none; leave it out")

    def _refuse_unread(self) -> None:
        """Settings that this way of forcing would not look at."""
        own = Config.__dataclass_fields__
        readers = {
            "gain": ("fgsm", "itfgsm", "pgd"),
            "step": ("itfgsm", "pgd", "model"),
            "iterations": ("itfgsm", "pgd", "model", "jsma", "djsma"),
            "norm": ("pgd", "model"),
            "theta": ("jsma",),
            "thetas": ("djsma",),
            "kinds": tuple(force for force in (*FORCES, "model") if force != "control"),
            "lie": ("message",),
        }
        for name, forces in readers.items():
            value = getattr(self, name)
            fix = f"force={self.force} does not read it; leave it out, or give force={' or '.join(forces)}"
            require(self.force in forces or value == own[name].default, name, value, fix)
        fix = "sensitive finds the victims; leave agents out"
        require(self.sensitive is None or self.agents == own["agents"].default, "agents", self.agents, fix)
        if self.force != "model":
            _require_defaults(self.model, "model", f"force={self.force} does not read it; give force=model")
        if self.force == "control":
            _require_defaults(self.budget, "budget", "direct control perturbs nothing; leave it out")
        if self.force == "message":
            fix = "lies have a budget of linf and of timing.steps alone; leave it out"
            _require_defaults(self.budget, "budget", fix, ("l2", "l1", "l0"))
            if self.lie == "silence":
                _require_defaults(self.budget, "budget", "silence has no size; give timing.steps", ("linf",))
        self._refuse_unread_learner()

    def _refuse_unread_learner(self) -> None:
        """Settings that no adversary would be trained with."""
        learner = self.learner
        if self.choose not in LEARNED:
            _require_defaults(learner, "learner", f"choose={self.choose} trains nobody; leave it out")
        elif self.choose != "owr":
            fix = f"choose={self.choose} has no regulariser; give owr"
            _require_defaults(learner, "learner", fix, ("regulariser", "weight", "temperature"))
        elif learner.regulariser != "soft":
            _require_defaults(learner, "learner", "give learner.regulariser=soft", ("temperature",))
        if learner.kind == "sb3":
            fix = "SB3's DQN has its own; leave it out"
            _require_defaults(learner, "learner", fix, ("update_ratio", "explore_steps"))
        if self.adversary is not None:
            _require_defaults(learner, "learner", "a trained adversary is given; leave the learner out")

    @property
    def raised(self) -> Literal["score", "margin", "cross_entropy"]:
        """What gradient methods raise."""
        if self.gain is not None:
            return self.gain
        return "cross_entropy" if self.force == "pgd" else "score"

    @property
    def label(self) -> str:
        """A short name of file names and tables."""
        return self.force if self.choose == "none" else f"{self.choose}-{self.force}"

    @property
    def hash(self) -> str:
        """Hex digest of every setting."""
        return hashlib.sha256(json.dumps(unmake(self), sort_keys=True).encode()).hexdigest()

    @property
    def budgets(self) -> tuple[str, tuple[float, ...]]:
        """What the robustness curve runs over, and where: attacked steps, L-infinity or L1 (CHOICE)."""
        if self.force in ("control", "message"):
            return "steps", (0, 1, 2, 4, 8, 16)
        if self.force in ("fgsm", "itfgsm", "pgd", "model"):
            values = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
            reach = math.inf if self.force == "fgsm" else self.step * self.iterations
            return "linf", tuple(v for v in values if v <= reach)  # beyond, steps are the limit
        return "l1", (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)

    def within(self, name: str, value: float) -> Config:
        """The same attack with one budget changed: steps, linf, l2, l1 or l0."""
        if name == "steps":
            require(value == int(value), "curve", f"{name}:{value:g}", "give whole numbers")
            return dataclasses.replace(self, timing=dataclasses.replace(self.timing, steps=int(value)))
        known = ("steps", "linf", "l2", "l1", "l0")
        require(name in known, "curve", name, f"give one of {', '.join(known)}")
        require(self.force != "control", "curve", name, "direct control has a budget of steps alone")
        require(name != "l0" or value == int(value), "curve", f"{name}:{value:g}", "give whole numbers")
        changed: Any = {name: int(value) if name == "l0" else value}
        return dataclasses.replace(self, budget=dataclasses.replace(self.budget, **changed))

    def build(self, *, cfg: RunConfig, saved: Saved, agent: Any) -> Attacked:
        """The team under attack.

        Args:
            cfg: of the victim's run.
            saved: its checkpoint.
            agent: its team; its networks are frozen.
        """
        from marl.agents.cmarl_attack.team import Attacked
        from marl.agents.cmarl_attack.world import ready

        attack = self.resolved(cfg, agent)
        team = Attacked(attack, agent, cfg)  # first: what does not fit is said before an adversary is trained
        if self.choose in LEARNED:
            team.adversary, team.learned_on = ready(attack, cfg, saved, agent.spec)
        return team

    def resolved(self, cfg: RunConfig, agent: Any) -> Config:
        """The attack with its victims named, where they are found by their sensitivity."""
        if self.sensitive is None:
            return self
        from marl.agents.cmarl_attack.sensitivity import EPISODES, most_sensitive

        fix = f"the team has {agent.spec.n_agents} agents; give so many or fewer"
        require(self.sensitive <= agent.spec.n_agents, "attack.sensitive", self.sensitive, fix)
        found = most_sensitive(agent, cfg, self.sensitive, episodes=EPISODES, seed=cfg.seed)
        return dataclasses.replace(self, agents=found, sensitive=None)
