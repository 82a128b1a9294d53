"""Step two: observations under which the victims do what step one chose.

| name | how |
|---|---|
| fgsm | one step of the budget's L-infinity along the gradient's sign |
| itfgsm | steps along the sign of the target's score's own gradient, until the target is reached |
| pgd | the same along the steepest direction of a norm, projected onto every budget |
| jsma, djsma | few features, by the Jacobian (jsma.py) |
| model | pgd on what a learned model foresees (model.py); no action is wanted |

The gradient is of the current step alone: what the victim's recurrent state holds is a constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marl.agents.cmarl_attack.config import Config
from marl.agents.cmarl_attack.jsma import jsma
from marl.agents.cmarl_attack.victim import Victim, rows_of
from marl.robust.perturbation import Aim, Limits, fgsm, iterative_fgsm, pgd, towards
from marl.types import Carry, TimeStep


def perturb(
    config: Config,
    victim: Victim,
    limits: Limits,
    ts: TimeStep,
    carry: Carry,
    target_BK: Tensor,
    attacked_BK: Tensor,
) -> Tensor:
    """Observations of all agents (B, N, O); only those of attacked victims differ.

    Args:
        config: the attack; not control.
        victim: whom.
        limits: what may change (N, O).
        ts, carry: of the team.
        target_BK: wanted actions.
        attacked_BK: bool.
    """
    row_X = attacked_BK.any(-1).nonzero().flatten()
    rows, memory = rows_of(ts, carry, row_X)
    target_XK, attacked_XK = target_BK[row_X], attacked_BK[row_X]
    by = _by_jacobian if config.force in ("jsma", "djsma") else _by_gradient
    x_XKO = by(config, victim, limits, rows, memory, target_XK, attacked_XK)
    x_XKO = torch.where(attacked_XK[..., None], x_XKO, victim.of_victims(rows.obs_BNO))
    return ts.obs_BNO.index_copy(0, row_X, victim.put(rows.obs_BNO, x_XKO))


def towards_failure(
    config: Config,
    victim: Victim,
    limits: Limits,
    ts: TimeStep,
    carry: Carry,
    aim: Aim,
    attacked_BK: Tensor,
) -> Tensor:
    """As `perturb`, raising a gain of the victims' scores, one number per world, that wants no action."""
    look, x_BNO = victim.look(ts, carry), ts.obs_BNO
    found_BNO = pgd(
        *(look, x_BNO, aim, limits, config.budget),
        step=config.step,
        iterations=config.iterations,
        norm=config.norm,
    )
    found_BKO, x_BKO = (victim.of_victims(x) for x in (found_BNO, x_BNO))
    x_BKO = torch.where(attacked_BK[..., None], found_BKO, x_BKO)
    return victim.put(x_BNO, x_BKO)


def _by_gradient(
    config: Config,
    victim: Victim,
    limits: Limits,
    ts: TimeStep,
    carry: Carry,
    target_BK: Tensor,
    attacked_BK: Tensor,
) -> Tensor:
    """As `perturb`, the victims' alone; of those that are not attacked anything."""
    aim = _of(attacked_BK, towards(target_BK, victim.of_victims(ts.avail_BNA), gain=config.gain))
    given = victim.look(ts, carry), ts.obs_BNO, aim, limits, config.budget
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


def _by_jacobian(
    config: Config,
    victim: Victim,
    limits: Limits,
    ts: TimeStep,
    carry: Carry,
    target_BK: Tensor,
    attacked_BK: Tensor,
) -> Tensor:
    """As `_by_gradient`."""

    def scores(x_XKO: Tensor, row_X: Tensor) -> Tensor:
        rows, memory = rows_of(ts, carry, row_X)
        return victim.look(rows, memory)(victim.put(rows.obs_BNO, x_XKO))

    parts = (limits.free, limits.low, limits.high)
    free_KO, low_KO, high_KO = (part.index_select(0, victim.victims_K) for part in parts)
    pairs = config.force == "djsma"
    return jsma(
        scores,
        victim.of_victims(ts.obs_BNO),
        target_BK,
        victim.of_victims(ts.avail_BNA),
        attacked_BK,
        Limits(free=free_KO, low=low_KO, high=high_KO),
        config.budget,
        thetas=config.thetas if pairs else (config.theta,),
        iterations=config.iterations,
        pairs=pairs,
    )
