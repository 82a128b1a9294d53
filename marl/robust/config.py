"""How a team is defended: `defence=adversarial defence.epsilon=0.05`. Files of the group: conf/defence/.

A defence is an option of every team that learns by itself; `agent.defence` holds it.

| name | what | where it works | for |
|---|---|---|---|
| adversarial | acts on observations that an attacker has changed | rollout of training | all |
| byzantine | one ally is not itself | rollout of training | all |
| smooth | scores change little under a small change of the observation | loss | all |
| align | so do the features, told apart from those of other decisions | loss | all |
| message_dropout | messages are lost at random | training; corrected in use | teams that talk |
| ablation | messages of k allies at a time; the majority decides in use | acting | teams that talk |

Sources stand at the head of the module that does the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from marl.errors import FieldError, require

_INTEGER, _UNIT, _ABOVE = "give an integer >= 1", "give a number in [0, 1]", "give a number above 0"


@dataclass(kw_only=True)
class Defence:
    """Base of all defences."""

    name: ClassVar[str] = ""
    for_messages: ClassVar[bool] = False  # of teams that talk alone
    in_rollout: ClassVar[bool] = False  # changes what happens while a team acts to learn


def check(defence: Defence | None, *, talks: bool) -> None:
    """Refuse a defence of messages for a team that sends none; for the `__post_init__` of a team's Config."""
    if defence is not None and defence.for_messages and not talks:
        fix = "this team sends no messages; give adversarial, byzantine, smooth or align"
        raise FieldError("defence", defence.name, fix)


@dataclass(kw_only=True)
class _Perturbed(Defence):
    """Observations changed by at most epsilon per feature, within their ranges."""

    epsilon: float = 0.05  # largest change of a feature, in its own unit, > 0; CHOICE
    # Of one gradient step, > 0; null: 2.5 epsilon / iterations (Madry et al., ICLR 2018, appendix)
    step: float | None = None

    iterations: int = 3  # gradient steps, >= 1; CHOICE, "few" in ERNIE's paper

    def __post_init__(self) -> None:
        require(self.epsilon > 0, "epsilon", self.epsilon, _ABOVE)
        fits = self.step is None or self.step > 0
        require(fits, "step", self.step, "give null or a number above 0")
        require(self.iterations >= 1, "iterations", self.iterations, _INTEGER)

    @property
    def step_size(self) -> float:
        return 2.5 * self.epsilon / self.iterations if self.step is None else self.step


@dataclass(kw_only=True)
class Adversarial(_Perturbed):
    """Training on perturbed observations (marl/robust/rollout.py)."""

    name: ClassVar[str] = "adversarial"
    in_rollout: ClassVar[bool] = True

    # pgd: random start, cross-entropy towards the worst action; ifgsm: its score itself, from the clean point
    attack: Literal["pgd", "ifgsm"] = "pgd"
    probability: float = 1.0  # that an episode is attacked, [0, 1]; CHOICE
    agents: int = 1  # attacked in such an episode, drawn anew each time, >= 1; the sheet: one
    # Team steps over which epsilon grows from 0; >= 0. CHOICE: a team that knows nothing yet learns nothing
    # from being misled.
    ramp: int = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.attack in ("pgd", "ifgsm"), "attack", self.attack, "give pgd or ifgsm")
        require(0 <= self.probability <= 1, "probability", self.probability, _UNIT)
        require(self.agents >= 1, "agents", self.agents, _INTEGER)
        require(self.ramp >= 0, "ramp", self.ramp, "give an integer >= 0")


@dataclass(kw_only=True)
class Byzantine(Defence):
    """Training with an ally that is not itself (marl/robust/rollout.py, marl/robust/attacker.py)."""

    name: ClassVar[str] = "byzantine"
    in_rollout: ClassVar[bool] = True

    probability: float = 0.5  # that an episode is attacked, [0, 1]; EIR's adv_prob
    # random: a random available action; worst: the one that its own scores like least; learned: an attacker
    # learns when to force whom to do its worst.
    action: Literal["random", "worst", "learned"] = "worst"

    # Of action=learned, refused elsewhere
    budget: int = 8  # forced steps per episode, >= 1; ROMANCE's README
    learning_rate: float = 2e-4  # Adam, > 0; ROMANCE's code
    gamma: float = 0.99  # discount per step, [0, 1]; CHOICE, the teams'
    hidden: int = 64  # features of its two layers, >= 1; CHOICE
    explore: float = 0.1  # probability of a random choice, [0, 1]; CHOICE
    memory: int = 10_000  # steps that it remembers, >= batch; CHOICE
    batch: int = 64  # of them in an update, one per vector step, >= 1; CHOICE
    tau: float = 0.01  # target <- tau online + (1 - tau) target, (0, 1]; CHOICE

    def __post_init__(self) -> None:
        kinds = ("random", "worst", "learned")
        require(self.action in kinds, "action", self.action, f"give one of {', '.join(kinds)}")
        for name in ("probability", "gamma", "explore"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), _UNIT)
        for name in ("budget", "hidden", "batch"):
            require(getattr(self, name) >= 1, name, getattr(self, name), _INTEGER)
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, _ABOVE)
        require(0 < self.tau <= 1, "tau", self.tau, "give a number in (0, 1]")
        require(self.memory >= self.batch, "memory", self.memory, f"give at least batch={self.batch}")
        if self.action != "learned":
            fix = f"action={self.action} does not read it; leave it out, or give action=learned"
            own = ("budget", "learning_rate", "gamma", "hidden", "explore", "memory", "batch", "tau")
            for name in own:
                require(getattr(self, name) == getattr(Byzantine, name), name, getattr(self, name), fix)


@dataclass(kw_only=True)
class _Regularised(_Perturbed):
    """A term of the loss under the perturbation that is worst for it (marl/robust/regularise.py)."""

    weight: float = 0.1  # of the term, > 0; CHOICE

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.weight > 0, "weight", self.weight, _ABOVE)


@dataclass(kw_only=True)
class Smooth(_Regularised):
    """ERNIE's regulariser: what is learned may change little in a small ball around an observation."""

    name: ClassVar[str] = "smooth"


@dataclass(kw_only=True)
class Align(_Regularised):
    """Adversarial feature alignment: a contrastive term on clean and perturbed features."""

    name: ClassVar[str] = "align"

    temperature: float = 0.1  # tau of the contrastive loss, > 0; as in contrastive learning of images
    rows: int = 256  # decisions compared with each other in an update, >= 2; CHOICE

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, "temperature", self.temperature, _ABOVE)
        require(self.rows >= 2, "rows", self.rows, "give an integer >= 2")


@dataclass(kw_only=True)
class MessageDropout(Defence):
    """Messages dropped at random while learning (marl/robust/messages.py)."""

    name: ClassVar[str] = "message_dropout"
    for_messages: ClassVar[bool] = True

    probability: float = 0.2  # that a message is dropped, [0, 1); CHOICE, within the paper's range
    # In use messages count 1 - probability, as in the paper; attention, whose weights sum to 1 whoever is
    # heard, is not corrected.
    correction: bool = True

    def __post_init__(self) -> None:
        fix = "give a number in [0, 1)"
        require(0 <= self.probability < 1, "probability", self.probability, fix)


@dataclass(kw_only=True)
class Ablation(Defence):
    """Ablated message ensemble (marl/robust/messages.py)."""

    name: ClassVar[str] = "ablation"
    for_messages: ClassVar[bool] = True

    kept: int = 1  # k: messages that a member of the ensemble hears, >= 1 and < agents; paper: 1 is safest
    members: int = 32  # most members; above this many subsets, so many are drawn; >= 1; CHOICE

    def __post_init__(self) -> None:
        for name in ("kept", "members"):
            require(getattr(self, name) >= 1, name, getattr(self, name), _INTEGER)
