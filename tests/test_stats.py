"""Oracles of marl.stats: hand-computed values, scipy, simulated coverage and invariances."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import mannwhitneyu, trim_mean

from marl import stats
from marl.errors import MarlError

finite = st.floats(-100, 100, allow_nan=False)
tables = st.tuples(st.integers(1, 7), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=finite)
)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_hand_computed_values() -> None:
    x_RM = np.array([[0.0, 0.2], [1.0, 0.4], [0.5, 0.6], [0.5, 2.0]])
    # sorted: 0, .2, .4, .5, .5, .6, 1, 2; the middle four are .4, .5, .5, .6
    assert stats.iqm(x_RM) == pytest.approx(0.5)
    assert stats.mean(x_RM) == pytest.approx(5.2 / 8)
    assert stats.median(x_RM) == pytest.approx((0.5 + 0.8) / 2)  # of the two task means
    # with gamma = 1 the last score counts 1: 1 - 4.2 / 8
    assert stats.optimality_gap(x_RM) == pytest.approx(1 - 4.2 / 8)
    np.testing.assert_allclose(stats.profile(x_RM, np.array([-1.0, 0.5, 1.5])), [1.0, 3 / 8, 1 / 8])


def test_improvement_by_hand() -> None:
    x_RM, y_SM = np.array([[1.0], [3.0]]), np.array([[1.0], [2.0], [0.0]])
    # pairs: 1-1 tie, 1-2 lost, 1-0 won, 3 beats all three
    assert stats.improvement(x_RM, y_SM) == pytest.approx(4.5 / 6)


@given(tables)
def test_iqm_is_scipys_trimmed_mean(x_RM: np.ndarray) -> None:
    assert stats.iqm(x_RM) == pytest.approx(trim_mean(x_RM, 0.25, axis=None), abs=1e-9)


@given(arrays(np.float64, (5, 1), elements=finite), arrays(np.float64, (4, 1), elements=finite))
def test_improvement_is_mann_whitneys_u(x_RM: np.ndarray, y_SM: np.ndarray) -> None:
    u = mannwhitneyu(x_RM[:, 0], y_SM[:, 0], method="asymptotic", nan_policy="raise").statistic
    assert stats.improvement(x_RM, y_SM) == pytest.approx(u / 20)


@given(tables, st.floats(0.1, 10), finite)
def test_statistics_move_with_the_scores(x_RM: np.ndarray, scale: float, shift: float) -> None:
    for statistic in (stats.iqm, stats.mean, stats.median):
        moved = statistic(scale * x_RM + shift)
        assert moved == pytest.approx(scale * statistic(x_RM) + shift, abs=1e-8)
        assert x_RM.min() - 1e-9 <= statistic(x_RM) <= x_RM.max() + 1e-9


@given(tables, tables)
def test_improvement_of_both_sides_adds_to_one(x_RM: np.ndarray, y_SM: np.ndarray) -> None:
    m = min(x_RM.shape[1], y_SM.shape[1])
    there, back = stats.improvement(x_RM[:, :m], y_SM[:, :m]), stats.improvement(y_SM[:, :m], x_RM[:, :m])
    assert there + back == pytest.approx(1.0)


@settings(max_examples=25)
@given(tables)
def test_interval_encloses_and_forgets_the_order_of_runs(x_RM: np.ndarray) -> None:
    if len(x_RM) == 1:
        return
    one = stats.interval(x_RM, stats.mean, rng=rng(), resamples=400)
    assert one.low is not None
    assert one.high is not None
    assert x_RM.min() - 1e-9 <= one.low <= one.high <= x_RM.max() + 1e-9
    assert one.low - 1e-9 <= one.value <= one.high + 1e-9
    shuffled = x_RM[rng().permutation(len(x_RM))]
    assert stats.interval(shuffled, stats.mean, rng=rng(), resamples=10).value == pytest.approx(one.value)


def test_interval_is_the_percentiles_of_the_bootstrap_of_the_mean() -> None:
    """The bootstrap distribution of a mean is known: standard error sqrt(mean square deviation / n)."""
    x_R = rng().normal(size=200)
    one = stats.interval(x_R, stats.mean, rng=rng(), resamples=20_000)
    half = 1.959964 * x_R.std() / math.sqrt(200)
    assert one.numbers() == pytest.approx((x_R.mean(), x_R.mean() - half, x_R.mean() + half), abs=0.01)


def test_stratified_resampling_keeps_tasks_apart() -> None:
    x_RM = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    drawn = stats.resample(x_RM, 500, rng())
    assert drawn.shape == (500, 3, 2)
    assert set(np.unique(drawn[..., 0])) == {1.0, 2.0, 3.0}
    assert set(np.unique(drawn[..., 1])) == {10.0, 20.0, 30.0}
    # tasks are drawn independently: the rows are not rows of the table
    assert (drawn[..., 0] * 10 != drawn[..., 1]).any()


def test_points_of_a_curve_share_the_draw() -> None:
    x_RM = rng().normal(size=(6, 2))
    curve = np.stack([x_RM, x_RM + 1.0])
    one = stats.interval(curve, rng=rng(), resamples=300)
    assert one.value.shape == (2,)
    assert one.low is not None
    np.testing.assert_allclose(one.low[1] - one.low[0], 1.0)
    flat = stats.interval(x_RM, rng=rng(), resamples=300)
    np.testing.assert_array_equal(one.low[0], flat.low)


@pytest.mark.parametrize(("statistic", "truth"), [(stats.mean, 0.0), (stats.iqm, 0.0)])
def test_coverage_of_the_interval(statistic: stats.Statistic, truth: float) -> None:
    """95 % intervals of 20 runs x 3 tasks hold the truth in 95 % of 300 simulated studies, within noise.

    The binomial standard error is 1.3 points; percentile intervals fall 1-2 points short.
    """
    source = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        x_RM = source.normal(size=(20, 3))
        one = stats.interval(x_RM, statistic, rng=source, resamples=300)
        hits += bool(one.low <= truth <= one.high)  # type: ignore[operator]
    assert 0.90 <= hits / 300 <= 0.985


def test_coverage_of_improvement() -> None:
    source = np.random.default_rng(4)
    truth = 0.5 * (1 + math.erf(0.5 / 2))  # P(X > Y) for normals half a standard deviation apart
    hits = 0
    for _ in range(200):
        x_RM, y_SM = source.normal(0.5, size=(20, 2)), source.normal(size=(20, 2))
        one = stats.improvement_interval(x_RM, y_SM, rng=source, resamples=200)
        hits += bool(one.low <= truth <= one.high)  # type: ignore[operator]
    assert 0.89 <= hits / 200 <= 0.99


def test_profile_interval_is_pointwise() -> None:
    x_RM = rng().uniform(size=(8, 2))
    one = stats.profile_interval(x_RM, [0.2, 0.8], rng=rng(), resamples=500)
    assert one.value.shape == (2,)
    assert one.low is not None
    assert one.high is not None
    assert (one.low <= one.value).all()
    assert (one.value <= one.high).all()
    assert one.value[0] > one.value[1]


def test_same_generator_state_same_interval() -> None:
    x_RM = rng().normal(size=(5, 3))
    first, again = (stats.interval(x_RM, rng=rng()) for _ in range(2))
    assert first.numbers() == again.numbers()
    other = stats.interval(x_RM, rng=np.random.default_rng(8))
    assert other.numbers() != first.numbers()


def test_chunks_change_nothing_but_the_order_of_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    x_RM = rng().normal(size=(5, 3))
    whole = stats.interval(x_RM, rng=rng(), resamples=1000)
    monkeypatch.setattr(stats, "_CHUNK", 100)
    parts = stats.interval(x_RM, rng=rng(), resamples=1000)
    assert parts.numbers() == whole.numbers()


def test_one_run_has_no_interval() -> None:
    one = stats.interval([0.5], rng=rng())
    assert one.numbers() == (0.5, None, None)
    assert stats.improvement_interval([0.5], [0.1, 0.2], rng=rng()).numbers() == (1.0, None, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0.1, math.nan]], r"score \(0, 1\) is nan"),
        ([0.1, math.inf], r"score \(1, 0\) is inf"),
        ([], "empty"),
        (np.zeros((0, 3)), "empty"),
        (0.5, "at least one axis"),
    ],
)
def test_bad_scores_are_refused(values: object, message: str) -> None:
    with pytest.raises(MarlError, match=message):
        stats.interval(values, rng=rng())  # type: ignore[arg-type]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(MarlError, match="resamples=0"):
        stats.interval([0.1, 0.2], rng=rng(), resamples=0)
    with pytest.raises(MarlError, match=r"confidence=95.*0\.95"):
        stats.interval([0.1, 0.2], rng=rng(), confidence=95)
    with pytest.raises(MarlError, match="same tasks"):
        stats.improvement_interval(np.zeros((2, 2)), np.zeros((2, 3)), rng=rng())


def test_a_difference_is_that_of_the_statistics_and_its_interval_covers_it():
    x, y = np.array([0.8, 0.9, 0.85, 0.95, 0.7]), np.array([0.5, 0.6, 0.4, 0.55, 0.45])
    found = stats.difference_interval(x, y, rng=np.random.default_rng(0))
    value, low, high = found.numbers()
    assert value == pytest.approx(0.85 - 0.5)  # the middle three of five
    assert low is not None
    assert high is not None
    assert 0.15 < low < value < high < 0.55
    assert found.runs == 5
    # All pairs of equal resamples of constant sides differ by the same.
    flat = stats.difference_interval(np.full(4, 0.75), np.full(6, 0.25), rng=np.random.default_rng(0))
    assert flat.numbers() == (0.5, 0.5, 0.5)
    assert flat.runs == 4
    assert stats.difference_interval([1.0], y, rng=np.random.default_rng(0)).numbers()[1:] == (None, None)


def test_share_against_published_values() -> None:
    # Newcombe, Statistics in Medicine 17, 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    expected = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605)}
    expected |= {(0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (won, n), ends in expected.items():
        value, *found = stats.share([1.0] * won + [0.0] * (n - won)).numbers()
        assert (value, *found) == pytest.approx((won / n, *ends), abs=5e-5)


def test_share_takes_the_points_of_a_curve() -> None:
    both = stats.share([[0, 0, 1], [1, 1, 1]])
    for t, row in enumerate(([0, 0, 1], [1, 1, 1])):
        assert (both.value[t], both.low[t], both.high[t]) == stats.share(row).numbers()


@pytest.mark.parametrize("values", [[], [[], []], 1.0, [0.5], [float("nan")], [2]])
def test_share_refuses_what_is_no_share(values: object) -> None:
    with pytest.raises(MarlError, match="share of episodes"):
        stats.share(values)
