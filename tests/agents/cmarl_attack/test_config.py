"""Settings of an attack that nothing would read are refused, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from marl.agents.cmarl_attack import Config, Learner, Timing
from marl.agents.cmarl_attack.model import Model
from marl.errors import FieldError
from marl.robust.perturbation import Budget

UNREAD: list[tuple[dict[str, Any], str]] = [
    ({"force": "djsma", "gain": "margin"}, "gain='margin' cannot be used: force=djsma does not read it"),
    ({"force": "itfgsm", "norm": "l2"}, "norm='l2' cannot be used: force=itfgsm does not read it"),
    ({"force": "pgd", "lie": "noise"}, "lie='noise' cannot be used: force=pgd does not read it"),
    ({"learner": Learner(hidden=8)}, "learner.hidden=8 cannot be used: choose=random trains nobody"),
    ({"force": "djsma", "theta": 0.5}, "theta=0.5 cannot be used: force=djsma does not read it"),
    ({"force": "djsma", "step": 0.5}, "step=0.5 cannot be used: force=djsma does not read it"),
    ({"force": "jsma", "thetas": (0.5,)}, "cannot be used: force=jsma does not read it"),
    ({"force": "control", "kinds": ("real",)}, "cannot be used: force=control does not read it"),
    ({"force": "control", "budget": Budget(l1=1.0)}, "budget.l1=1.0 cannot be used: direct control"),
    ({"force": "pgd", "model": Model(hidden=8)}, "model.hidden=8 cannot be used: force=pgd"),
    (
        {"choose": "none", "force": "message", "lie": "silence", "budget": Budget(linf=0.1)},
        "budget.linf=0.1 cannot be used: silence",
    ),
    ({"agents": (1,), "sensitive": 1}, "cannot be used: sensitive finds the victims"),
    ({"choose": "owr", "learner": Learner(temperature=0.5)}, "learner.temperature=0.5 cannot be used: give"),
    (
        {"choose": "ow", "learner": Learner(kind="sb3", explore_steps=10)},
        "learner.explore_steps=10 cannot be used: SB3's",
    ),
    (
        {"choose": "ow", "learner": Learner(seed=1), "adversary": Path("a")},
        "cannot be used: a trained adversary",
    ),
    ({"choose": "ow", "learner": Learner(weight=2.0)}, "choose=ow has no regulariser; give owr"),
    ({"force": "message", "choose": "none", "budget": Budget(l1=1.0)}, "lies have a budget of linf"),
]


@pytest.mark.parametrize(("settings", "words"), UNREAD)
def test_settings_that_nothing_reads_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(FieldError) as error:
        Config(**({"choose": "random"} | settings))
    assert words in str(error.value)


def test_a_timing_that_nothing_reads_is_refused() -> None:
    with pytest.raises(FieldError, match=r"rate=.*when=critical does not read it"):
        Timing(when="critical", rate=0.1)
    with pytest.raises(FieldError, match=r"threshold=.*give when=critical"):
        Timing(threshold=0.1)
