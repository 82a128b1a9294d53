"""JSMA and d-JSMA: change the few features that the Jacobian says tell most against the other actions.

| symbol | name here | meaning |
|---|---|---|
| A_p, A_pq | towards | dQ_t/dx_p of the victim's own observation, or the sum of p's and q's |
| B_p, B_pq | others | sum over available j != t of dQ_j/dx_p, or of p's and q's |
| S | saliency | 0 if A B >= 0, else |A| |B|: both must speak for the target |
| theta | theta | step of every feature that is chosen, towards sign(A) |
| W = B K | rows | one for each world and victim |

JSMA (pairs=False) changes one feature per iteration by a fixed theta. d-JSMA changes the pair of largest S,
first with a small theta; where that fails within `iterations` steps it begins anew with the next larger one.
Features that cannot move by theta's sign any more (their range, or the L-infinity budget) are left out; a
step that would break the L0, L1 or L2 budget ends the attempt: a larger budget only makes paths longer, so
that success never decreases with it.
Of the Jacobian dQ_a/dx_p the saliency needs two sums over its rows alone, A and B; for all worlds they come
from one forward and one backward pass over two copies of the batch.
CHOICE: only available actions count in B, since only they compete.

References: Papernot et al., "The Limitations of Deep Learning in Adversarial Settings", EuroS&P 2016 (JSMA);
Lin et al. 2020 (d-JSMA; its equations 4 to 6 were not found, this is a reconstruction).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from marl.nets import kernels
from marl.robust.perturbation import Budget, Limits, chosen

# From observations of rows (X, K, O) and the worlds of these rows (X,): scores (X, K, A), differentiable.
RowScores = Callable[[Tensor, Tensor], Tensor]
_PAIRS = 1 << 17  # CHOICE: numbers of a table of pairs at a time, which the processor's cache holds


def slopes(
    scores: RowScores, x_XKO: Tensor, row_X: Tensor, target_XK: Tensor, avail_XKA: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A and B (X, K, O) of every victim in its own observation, and the scores (X, K, A); constants.

    Where victims talk to each other an observation counts for all their scores.

    Args:
        scores: see `RowScores`.
        x_XKO: the victims' observations.
        row_X: worlds of the rows.
        target_XK, avail_XKA: wanted and available actions.
    """
    X = len(row_X)
    wanted_XKA = torch.zeros_like(avail_XKA).scatter(-1, target_XK[..., None], True)
    rivals_XKA = avail_XKA & ~wanted_XKA
    with torch.enable_grad():
        copies = torch.cat([x_XKO, x_XKO]).detach().requires_grad_()  # one asks for A, one for B
        all_YKA = scores(copies, row_X.repeat(2))
        gain = torch.where(torch.cat([wanted_XKA, rivals_XKA]), all_YKA, 0.0).sum()
        (slope_YKO,) = torch.autograd.grad(gain, copies)
    return slope_YKO[:X], slope_YKO[X:], all_YKA[:X].detach()


def saliency(towards: Tensor, others: Tensor) -> Tensor:
    """|A| |B| where they differ in sign, else 0."""
    return (-towards * others).clamp(min=0)


def choose_feature(towards_WO: Tensor, others_WO: Tensor, up_WO: Tensor, down_WO: Tensor) -> Tensor:
    """Moves (W, O) of -1, 0, 1: the one feature of largest saliency; all 0 where no feature has any.

    Args:
        towards_WO, others_WO: A_p and B_p.
        up_WO, down_WO: bool; whether the feature can move that way.
    """
    can_WO = torch.where(towards_WO > 0, up_WO, down_WO)
    s_WO = saliency(towards_WO, others_WO) * can_WO
    best_W1 = s_WO.argmax(-1, keepdim=True)
    sign_W1 = towards_WO.gather(-1, best_W1).sign() * (s_WO.gather(-1, best_W1) > 0)
    return torch.zeros_like(towards_WO).scatter(-1, best_W1, sign_W1)


def choose_pair(towards_WO: Tensor, others_WO: Tensor, up_WO: Tensor, down_WO: Tensor) -> Tensor:
    """As `choose_feature`, for the pair p != q of largest saliency; both move by sign(A_pq)."""
    given = tuple(v.contiguous() for v in (towards_WO, others_WO, up_WO, down_WO))
    if kernels.usable(towards_WO):
        move_WO = torch.empty_like(given[0])
        kernels.call("marl_best_pair", *towards_WO.shape, *given, move_WO, kernels.threads())
        return move_WO
    return choose_pair_torch(*given)


def choose_pair_torch(towards_WO: Tensor, others_WO: Tensor, up_WO: Tensor, down_WO: Tensor) -> Tensor:
    """As `choose_pair`, by a table of all pairs."""
    O = towards_WO.shape[-1]  # noqa: E741
    pair_2P = torch.triu_indices(O, O, 1, device=towards_WO.device)
    rows = max(1, _PAIRS // max(1, pair_2P.shape[1]))
    cut = (v.split(rows) for v in (towards_WO, others_WO, up_WO, down_WO))
    return torch.cat([_choose_pair(a, b, up, down, pair_2P) for a, b, up, down in zip(*cut, strict=True)])


def _choose_pair(
    towards_WO: Tensor, others_WO: Tensor, up_WO: Tensor, down_WO: Tensor, pair_2P: Tensor
) -> Tensor:
    p, q = pair_2P
    if not len(p):
        return torch.zeros_like(towards_WO)
    a_WP, b_WP = (v.index_select(1, p) + v.index_select(1, q) for v in (towards_WO, others_WO))
    up_WP, down_WP = (can.index_select(1, p) & can.index_select(1, q) for can in (up_WO, down_WO))
    s_WP = saliency(a_WP, b_WP) * torch.where(a_WP > 0, up_WP, down_WP)
    best_W1 = s_WP.argmax(-1, keepdim=True)
    sign_W1 = a_WP.gather(-1, best_W1).sign() * (s_WP.gather(-1, best_W1) > 0)
    pair_W2 = torch.cat([p[best_W1], q[best_W1]], -1)
    return torch.zeros_like(towards_WO).scatter(-1, pair_W2, sign_W1.expand(-1, 2))


def jsma(
    scores: RowScores,
    x_BKO: Tensor,
    target_BK: Tensor,
    avail_BKA: Tensor,
    wanted_BK: Tensor,
    limits: Limits,
    budget: Budget,
    *,
    thetas: Sequence[float],
    iterations: int,
    pairs: bool,
) -> Tensor:
    """Perturbed observations of the victims (B, K, O); those that are not wanted stay as they are.

    A victim's result is that of the smallest theta that succeeds, or else of the last one.

    Args:
        scores: see `RowScores`.
        x_BKO: clean observations.
        target_BK, avail_BKA: wanted and available actions.
        wanted_BK: bool; whose observation is to be changed.
        limits: of the victims' features, (K, O).
        budget: per observation.
        thetas: steps, each > 0, from small to large; JSMA has one.
        iterations: most steps for each theta.
        pairs: two features at a time.
    """
    clean_BKO = found_BKO = x_BKO
    open_BK = wanted_BK
    for theta in thetas:
        x_BKO = torch.where(open_BK[..., None], clean_BKO, found_BKO)
        going_BK = open_BK
        for step in range(iterations + 1):
            row_X = going_BK.any(-1).nonzero().flatten()
            if not len(row_X):
                break
            (x_XKO, target_XK, avail_XKA) = (v[row_X] for v in (x_BKO, target_BK, avail_BKA))
            towards_XKO, others_XKO, q_XKA = slopes(scores, x_XKO, row_X, target_XK, avail_XKA)
            missing_XK = going_BK[row_X] & (chosen(q_XKA, avail_XKA) != target_XK)
            open_BK = open_BK.index_put((row_X,), open_BK[row_X] & (missing_XK | ~going_BK[row_X]))
            going_BK = going_BK.index_put((row_X,), missing_XK)
            if step == iterations:
                break
            clean_XKO = clean_BKO[row_X]
            move_XKO = _choose(towards_XKO, others_XKO, x_XKO, clean_XKO, limits, budget, pairs=pairs)
            moved_XKO = _moved(x_XKO, theta * move_XKO, clean_XKO, limits, budget)
            moved_XKO = torch.where(missing_XK[..., None], moved_XKO, x_XKO)
            going_BK = going_BK.index_put((row_X,), missing_XK & (moved_XKO != x_XKO).any(-1))
            x_BKO = x_BKO.index_put((row_X,), moved_XKO)
        found_BKO = x_BKO
        if not open_BK.any():
            break
    return found_BKO


def _range(clean: Tensor, limits: Limits, budget: Budget) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of every feature."""
    low = torch.minimum(limits.low, clean).maximum(clean - budget.linf)
    return low, torch.maximum(limits.high, clean).minimum(clean + budget.linf)


def _choose(
    towards: Tensor,
    others: Tensor,
    x: Tensor,
    clean: Tensor,
    limits: Limits,
    budget: Budget,
    *,
    pairs: bool,
) -> Tensor:
    """The next move of all rows (X, K, O), -1, 0 or 1."""
    low, high = _range(clean, limits, budget)
    up, down = limits.free & (x < high), limits.free & (x > low)
    choose = choose_pair if pairs else choose_feature
    return choose(*(v.flatten(0, 1) for v in (towards, others, up, down))).view(x.shape)


def _moved(x: Tensor, step: Tensor, clean: Tensor, limits: Limits, budget: Budget) -> Tensor:
    """x + step within the range; rows whose next step would break a budget stay."""
    after = torch.where(step == 0, x, (x + step).clamp(*_range(clean, limits, budget)))
    return torch.where(_within(after - clean, budget)[..., None], after, x)


def _within(delta: Tensor, budget: Budget) -> Tensor:
    """Whether the L0, L1 and L2 budgets hold, but for rounding; bool (...)."""
    slack = 1e-5
    fits = (delta.abs().sum(-1) <= budget.l1 + slack * (budget.l1 > 0)) & (
        delta.norm(dim=-1) <= budget.l2 + slack * (budget.l2 > 0)
    )
    return fits if budget.l0 is None else fits & ((delta != 0).sum(-1) <= budget.l0)
