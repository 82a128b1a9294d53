"""Aggregate scores of many runs: IQM, optimality gap, stratified bootstrap, profiles, improvement.

| symbol | meaning | in Agarwal et al. |
|---|---|---|
| R | runs (seeds) of one method | N |
| M | tasks (maps, worlds) | M |
| x[r, m] | score of run r on task m; for curves with leading axes, one per point | x_{m,n} |
| tau | score threshold of a performance profile | tau |
| gamma | score at which the optimality gap is zero | gamma |

Reference: Agarwal, Schwarzer, Castro, Courville, Bellemare, "Deep Reinforcement Learning at the Edge
of the Statistical Precipice", NeurIPS 2021: section 4.1 stratified bootstrap, 4.2 performance
profiles, 4.3 IQM, optimality gap and probability of improvement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marl.errors import MarlError

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

RESAMPLES = 5000  # CHOICE: below 50,000 of the paper; moves the ends by under 2 % of the width
CONFIDENCE = 0.95  # house rule for every published interval
_Z = 1.959964  # 97.5 % point of the normal distribution: two-sided 95 %
_CHUNK = 1 << 22  # resampled numbers held at once (32 MiB of float64)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A point estimate with its bootstrap interval.

    value, low, high: arrays of the statistic's shape (0-d for one number). low and high are None when
    there is only one run: nothing is known then about the spread between runs.
    """

    value: Floats
    low: Floats | None
    high: Floats | None
    runs: int

    def numbers(self) -> tuple[float, float | None, float | None]:
        """(value, low, high) as plain numbers. Raises TypeError unless the estimate is one number."""
        ends = [None if end is None else float(end) for end in (self.low, self.high)]
        return float(self.value), ends[0], ends[1]


def scores(values: ArrayLike) -> Floats:
    """Check scores and bring them to shape (..., R, M).

    Args:
        values: (R,) scores of one task, (R, M) runs x tasks, or (..., R, M) with leading axes.

    Raises:
        MarlError: no run, no task, or a NaN or infinity (its index is named).
    """
    x_RM = np.asarray(values, dtype=np.float64)
    if x_RM.ndim == 0:
        raise MarlError(f"scores need at least one axis (runs), got the single number {x_RM}")
    if x_RM.ndim == 1:
        x_RM = x_RM[:, None]
    if 0 in x_RM.shape:
        raise MarlError(f"scores of shape {x_RM.shape} are empty: every task needs at least one run")
    if not np.isfinite(x_RM).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(x_RM))[0])
        raise MarlError(f"score {index} is {x_RM[index]}: repair or drop that run before aggregating")
    return x_RM


def mean(x_RM: Floats) -> Floats:
    """Mean over runs and tasks; shape (..., R, M) to (...)."""
    return np.asarray(x_RM.mean(axis=(-2, -1)))


def median(x_RM: Floats) -> Floats:
    """Median over tasks of the mean over runs; shape (..., R, M) to (...)."""
    return np.asarray(np.median(x_RM.mean(axis=-2), axis=-1))


def iqm(x_RM: Floats) -> Floats:
    """Interquartile mean: the mean of the middle half of all R * M scores; (..., R, M) to (...).

    floor(R * M / 4) scores are cut off at either end, as scipy.stats.trim_mean does; under four
    scores nothing is cut and the IQM is the mean.
    """
    flat = x_RM.reshape(*x_RM.shape[:-2], -1)
    cut = flat.shape[-1] // 4
    if cut:
        flat = np.sort(flat, axis=-1)[..., cut : flat.shape[-1] - cut]
    return np.asarray(flat.mean(axis=-1))


def optimality_gap(x_RM: Floats, gamma: float = 1.0) -> Floats:
    """How far scores fall short of gamma on average, scores above it counting as gamma; >= 0."""
    return np.asarray(gamma - np.minimum(x_RM, gamma).mean(axis=(-2, -1)))


def profile(x_RM: Floats, tau_K: Floats) -> Floats:
    """Share of runs with a score above each threshold, averaged over tasks; (..., R, M) to (..., K)."""
    return np.stack([(x_RM > tau).mean(axis=(-2, -1)) for tau in tau_K], axis=-1)


def improvement(x_RM: Floats, y_SM: Floats) -> Floats:
    """Probability that a run of x beats a run of y on a random task; a tie counts half.

    Args:
        x_RM: (..., R, M) scores of the method.
        y_SM: (..., S, M) scores of the other, on the same tasks in the same order.
    """
    x, y = x_RM[..., :, None, :], y_SM[..., None, :, :]
    return np.asarray(((x > y) + 0.5 * (x == y)).mean(axis=(-3, -2, -1)))


def resample(x_RM: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Stratified bootstrap: runs drawn with replacement within each task, independently per task.

    Leading axes (points of a curve) share the draw, so that a run stays a run along its curve.

    Returns:
        (count, ..., R, M)
    """
    runs, tasks = x_RM.shape[-2:]
    drawn = rng.integers(runs, size=(count, runs, tasks))
    return np.moveaxis(x_RM[..., drawn, np.arange(tasks)], -3, 0)


def interval(
    values: ArrayLike,
    statistic: Statistic = iqm,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """A statistic of the scores with its percentile interval from the stratified bootstrap.

    Args:
        values: (R,), (R, M) or (..., R, M) finite scores; leading axes are points of a curve.
        statistic: maps (..., R, M) to (...) or (..., K), for instance `iqm`.
        rng: the generator that draws the resamples; the same state gives the same interval.
        resamples: bootstrap draws, >= 1.
        confidence: in (0, 1).

    Raises:
        MarlError: empty or non-finite scores, or an argument out of range.

    Reference: Agarwal et al., section 4.1.
    """
    x_RM = scores(values)
    runs = x_RM.shape[-2]
    _check(resamples, confidence)
    if runs == 1:
        return Estimate(value=statistic(x_RM), low=None, high=None, runs=1)
    drawn = [statistic(resample(x_RM, n, rng)) for n in _chunks(resamples, x_RM.size)]
    return _estimate(statistic(x_RM), np.concatenate(drawn), confidence, runs)


def share(values: ArrayLike) -> Estimate:
    """Share of independent episodes that succeeded, with Wilson's 95 % interval.

    Where none or all succeeded the bootstrap would give an interval of no width, as if all were known.

    Args:
        values: (E,) zeros and ones, or (..., E) with leading axes, for instance points of a curve.

    Raises:
        MarlError: no episode, or a number that is neither 0 nor 1.

    Reference: Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association, 1927.
    """
    x_E = np.asarray(values, dtype=np.float64)
    if x_E.ndim == 0 or x_E.shape[-1] == 0:
        raise MarlError(f"a share of episodes of shape {x_E.shape} is empty: give at least one episode")
    if not np.isin(x_E, (0.0, 1.0)).all():
        raise MarlError("a share of episodes is made of zeros and ones: use interval for other numbers")
    episodes = x_E.shape[-1]
    p, z2n = np.asarray(x_E.mean(axis=-1)), _Z * _Z / episodes
    middle = (p + z2n / 2) / (1 + z2n)
    half = _Z * np.sqrt(p * (1 - p) / episodes + z2n / (4 * episodes)) / (1 + z2n)
    low, high = np.maximum(0.0, middle - half), np.minimum(1.0, middle + half)
    return Estimate(value=p, low=np.asarray(low), high=np.asarray(high), runs=episodes)


def improvement_interval(
    values: ArrayLike,
    other: ArrayLike,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Probability of improvement of `values` over `other`, both (R, M), with its interval.

    Both sides are resampled independently. `runs` is the smaller number of runs; with one run on
    either side there is no interval.

    Raises:
        MarlError: unequal numbers of tasks, or anything `interval` refuses.
    """
    x_RM, y_SM = scores(values), scores(other)
    _check(resamples, confidence)
    if x_RM.shape[-1] != y_SM.shape[-1]:
        raise MarlError(
            f"probability of improvement needs the same tasks on both sides, got {x_RM.shape[-1]} "
            f"and {y_SM.shape[-1]}: keep only the tasks that both methods ran"
        )
    runs = min(x_RM.shape[-2], y_SM.shape[-2])
    if runs == 1:
        return Estimate(value=improvement(x_RM, y_SM), low=None, high=None, runs=1)
    size = x_RM.size * y_SM.shape[-2]  # the comparison of all pairs is the largest array
    drawn = [improvement(resample(x_RM, n, rng), resample(y_SM, n, rng)) for n in _chunks(resamples, size)]
    return _estimate(improvement(x_RM, y_SM), np.concatenate(drawn), confidence, runs)


def difference_interval(
    values: ArrayLike,
    other: ArrayLike,
    statistic: Statistic = iqm,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """A statistic of `values` minus that of `other`, both (R,) or (R, M), with its interval.

    Both sides are resampled independently. `runs` is the smaller number of runs; with one run on
    either side there is no interval. Raises what `interval` does.
    """
    x_RM, y_SM = scores(values), scores(other)
    _check(resamples, confidence)
    value, runs = statistic(x_RM) - statistic(y_SM), min(x_RM.shape[-2], y_SM.shape[-2])
    if runs == 1:
        return Estimate(value=value, low=None, high=None, runs=1)
    counts = _chunks(resamples, max(x_RM.size, y_SM.size))
    drawn = [statistic(resample(x_RM, n, rng)) - statistic(resample(y_SM, n, rng)) for n in counts]
    return _estimate(value, np.concatenate(drawn), confidence, runs)


def profile_interval(values: ArrayLike, tau_K: ArrayLike, **options: Any) -> Estimate:
    """`profile` at the thresholds tau_K with pointwise intervals; options as for `interval`."""
    thresholds = np.asarray(tau_K, dtype=np.float64)
    return interval(values, lambda x_RM: profile(x_RM, thresholds), **options)


def _check(resamples: int, confidence: float) -> None:
    if resamples < 1:
        raise MarlError(f"resamples={resamples} must be at least 1")
    if not 0.0 < confidence < 1.0:
        raise MarlError(f"confidence={confidence} must lie between 0 and 1, for instance 0.95")


def _chunks(resamples: int, size: int) -> list[int]:
    """Split the resamples so that no more than _CHUNK numbers are held at once."""
    step = max(1, _CHUNK // size)
    return [min(step, resamples - start) for start in range(0, resamples, step)]


def _estimate(value: Floats, drawn: Floats, confidence: float, runs: int) -> Estimate:
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(drawn, [tail, 100.0 - tail], axis=0)
    return Estimate(value=value, low=np.asarray(low), high=np.asarray(high), runs=runs)
