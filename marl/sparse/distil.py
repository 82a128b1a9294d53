"""Distillation: a finished run, dense as a rule, teaches a sparse team by a term in its loss.

| symbol | name here | meaning |
|---|---|---|
| z_T, z_S | taught, own | what teacher and student give for every action: logits, or Q-values |
| tau | temperature | of both softmaxes |
| p_T, p_S | | softmax(z / tau) over the available actions |
| w | weight | of the term; falls linearly to 0 over `distil_decay` steps of the optimiser |

L = RL loss + w tau^2 mean over live agents of sum_a p_T log(p_T / p_S). The factor tau^2 keeps the gradient's
size when tau changes. The teacher sees what the student's rollout holds: the same observations, and the
messages that arrived there.

CHOICE: LearningGroup has no teacher; this is what we add to keep its accuracy where few weights are left.
CHOICE: a recurrent teacher begins a rollout with a zero state, as it begins an episode: give rollouts whole
episodes (value teams learn from whole ones by default).

References: Rusu et al., "Policy Distillation", ICLR 2016 (arXiv 1511.06295); Hinton, Vinyals, Dean,
"Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531), for tau^2; Schmitt et al.,
"Kickstarting Deep Reinforcement Learning", 2018 (arXiv 1803.03835), for the term that fades.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from marl.errors import FieldError, MarlError
from marl.nets import linear_decay
from marl.rng import Rng
from marl.robust.losses import categorical_kl
from marl.sparse.config import Layers
from marl.types import Batch, EnvSpec, FieldSpec

_NOT_LOADED = -1  # as the teacher's step in a checkpoint


class Student(Protocol):
    """What a teacher must know of a team."""

    spec: EnvSpec
    device: torch.device
    extras_spec: dict[str, FieldSpec]


class Teacher:
    """The team of a finished run, read when it is first asked: acting and evaluation never need it.

    Its checkpoint's step is part of the student's state, so that a run that goes on learns from the same one.

    Args:
        config: says which run, and how much it counts.
        student: whom it teaches.
        family: class that the teacher's team must be of.
    """

    def __init__(self, config: Layers, student: Student, family: type[Any]) -> None:
        self.config, self._student, self._family = config, student, family
        self._step = _NOT_LOADED
        self._team: Any = None

    def lessons(self, batch: Batch) -> dict[str, Tensor]:
        """What the teacher makes of every entry of a batch, by the student's own names for it.

        Raises:
            FieldError: there is no such run, or its team does not fit the student's world and kind.
        """
        if self._team is None:
            self._team = self._load()
        with torch.no_grad():
            made: dict[str, Tensor] = self._team.lessons(batch)
        return made

    def weight(self, steps: int) -> float:
        """w after so many steps of the optimiser."""
        return self.config.distil_weight * linear_decay(steps, self.config.distil_decay)

    def divergence(self, own: Tensor, taught: Tensor, live: Tensor, avail: Tensor | None = None) -> Tensor:
        """tau^2 KL(p_T || p_S), mean over live agents.

        Args:
            own, taught: (..., A); the former differentiable.
            live: bool (...).
            avail: bool (..., A); None: all.
        """
        return divergence(own, taught, live, avail, temperature=self.config.distil_temperature)

    def _load(self) -> Any:
        from marl.measure import load_run

        folder = self.config.distil
        try:
            step = None if self._step == _NOT_LOADED else self._step
            cfg, saved = load_run(Path(folder), step=step)
            rng = Rng(cfg.seed).child("agent")
            team = cfg.agent.build(spec=self._student.spec, rng=rng, device=self._student.device)
            if not isinstance(team, self._family):
                wrong, wanted = type(team).__name__, self._family.__name__
                raise MarlError(f"its team is a {wrong}, the student learns as a {wanted}")
            own = self._student.extras_spec
            if missing := [name for name, field in team.extras_spec.items() if own.get(name) != field]:
                raise MarlError(f"its team stores {', '.join(missing)} while it acts, the student does not")
            team.load_state_dict(saved.state["agent"])
        except MarlError as error:
            fix = f"give the folder of a run of the same world and kind of team ({error})"
            raise FieldError("agent.sparsity.distil", folder, fix) from error
        self._step = saved.step
        return team

    @property
    def counters(self) -> dict[str, int]:
        """Its part of the student's counters."""
        return {"teacher": self._step}

    def restore(self, counters: Mapping[str, Any]) -> None:
        """Take the student's counters."""
        step = int(counters["teacher"])
        if step != self._step:
            self._step, self._team = step, None


def teacher_of(config: Layers | None, student: Student, family: type[Any]) -> Teacher | None:
    """The teacher that a config names, or None."""
    return Teacher(config, student, family) if config is not None and config.distil else None


def divergence(
    own: Tensor, taught: Tensor, live: Tensor, avail: Tensor | None, *, temperature: float
) -> Tensor:
    """`Teacher.divergence` as a pure function."""
    if avail is None:
        avail = torch.ones_like(own, dtype=torch.bool)
    each = categorical_kl(taught / temperature, own / temperature, avail)
    return temperature**2 * torch.where(live, each, 0.0).sum() / live.sum().clamp(min=1)
