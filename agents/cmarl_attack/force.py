"""Step two: observations under which the victims do what step one chose.

| name | how |
|---|---|
| fgsm | one step of the budget's L-infinity along the gradient's sign |
| itfgsm | steps along the sign of the target's score's own gradient, until the target is reached |
| pgd | steepest steps of a norm that raise the target's log-probability, projected onto every budget |
| jsma, djsma | few features, by the Jacobian (jsma.py) |
| model | pgd on what a learned model foresees (model.py); no action is wanted |

The gradient is of the current step alone: what the victim's recurrent state holds is a constant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from marl.agents.cmarl_attack.config import Config
from marl.agents.cmarl_attack.jsma import jsma
from marl.agents.cmarl_attack.victim import Victim, rows_of
from marl.robust.perturbation import Aim, Limits, fgsm, iterative_fgsm, pgd, towards
from marl.types import Carry, TimeStep


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One step of all worlds, seen by the attacker.

    Args:
        config: the attack; not control.
        victim: whom.
        limits: what may change (N, O).
        ts, carry: of the team.
        attacked_BK: bool, the victims that are attacked now.
    """

    config: Config
    victim: Victim
    limits: Limits
    ts: TimeStep
    carry: Carry
    attacked_BK: Tensor

    def worlds(self, row_X: Tensor) -> Moment:
        """Those worlds alone."""
        ts, carry = rows_of(self.ts, self.carry, row_X)
        return replace(self, ts=ts, carry=carry, attacked_BK=self.attacked_BK[row_X])


def perturb(moment: Moment, target_BK: Tensor) -> Tensor:
    """Observations of all agents (B, N, O); only those of attacked victims differ.

    Args:
        moment: what is attacked.
        target_BK: wanted actions.
    """
    victim, x_BNO = moment.victim, moment.ts.obs_BNO
    row_X = moment.attacked_BK.any(-1).nonzero().flatten()
    some = moment.worlds(row_X)
    by = _by_jacobian if moment.config.force in ("jsma", "djsma") else _by_gradient
    x_XKO = by(some, target_BK[row_X])
    x_XKO = torch.where(some.attacked_BK[..., None], x_XKO, victim.of_victims(some.ts.obs_BNO))
    return x_BNO.index_copy(0, row_X, victim.put(some.ts.obs_BNO, x_XKO))


def towards_failure(moment: Moment, aim: Aim) -> Tensor:
    """As `perturb`, raising a gain of the victims' scores, one number per world, that wants no action."""
    config, victim, x_BNO = moment.config, moment.victim, moment.ts.obs_BNO
    found_BNO = pgd(
        *(victim.look(moment.ts, moment.carry), x_BNO, aim, moment.limits, config.budget),
        step=config.step,
        iterations=config.iterations,
        norm=config.norm,
    )
    found_BKO, x_BKO = (victim.of_victims(x) for x in (found_BNO, x_BNO))
    x_BKO = torch.where(moment.attacked_BK[..., None], found_BKO, x_BKO)
    return victim.put(x_BNO, x_BKO)


def _by_gradient(moment: Moment, target_BK: Tensor) -> Tensor:
    """As `perturb`, the victims' alone; of those that are not attacked anything."""
    config, victim, ts = moment.config, moment.victim, moment.ts
    aim = _of(moment.attacked_BK, towards(target_BK, victim.of_victims(ts.avail_BNA), gain=config.raised))
    given = victim.look(ts, moment.carry), ts.obs_BNO, aim, moment.limits, config.budget
    if config.force == "fgsm":
        return victim.of_victims(fgsm(*given))
    step, most = config.step, config.iterations
    if config.force == "itfgsm":
        return victim.of_victims(iterative_fgsm(*given, step=step, iterations=most))
    return victim.of_victims(pgd(*given, step=step, iterations=most, norm=config.norm))


def _of(attacked_BK: Tensor, aim: Aim) -> Aim:
    """The aim of the attacked victims; a world is done when all of them are."""

    def gain(scores_BKA: Tensor) -> Tensor:
        return torch.where(attacked_BK, aim.gain(scores_BKA), 0.0)

    def reached(scores_BKA: Tensor) -> Tensor:
        assert aim.reached is not None
        return (aim.reached(scores_BKA) | ~attacked_BK).all(-1)

    return Aim(gain=gain, reached=reached)


def _by_jacobian(moment: Moment, target_BK: Tensor) -> Tensor:
    """As `_by_gradient`."""
    config, victim, limits, ts = moment.config, moment.victim, moment.limits, moment.ts

    def scores(x_XKO: Tensor, row_X: Tensor) -> Tensor:
        rows, memory = rows_of(ts, moment.carry, row_X)
        return victim.look(rows, memory)(victim.put(rows.obs_BNO, x_XKO))

    parts = (limits.free, limits.low, limits.high)
    free_KO, low_KO, high_KO = (part.index_select(0, victim.victims_K) for part in parts)
    pairs = config.force == "djsma"
    return jsma(
        scores,
        victim.of_victims(ts.obs_BNO),
        target_BK,
        victim.of_victims(ts.avail_BNA),
        moment.attacked_BK,
        Limits(free=free_KO, low=low_KO, high=high_KO),
        config.budget,
        thetas=config.thetas if pairs else (config.theta,),
        iterations=config.iterations,
        pairs=pairs,
    )
