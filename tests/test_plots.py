"""Figures show the numbers they were given: values, bands, labels and units are read back."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from marl import plots, stats


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_curves_show_iqm_band_and_labels() -> None:
    x_T = np.array([0, 1000, 2000])
    scores_TRM = rng().uniform(size=(3, 5, 1))
    line = plots.learning_line("qmix", x_T, scores_TRM, rng())
    figure = plots.curves({"battle/3m": [line, plots.learning_line("vdn", x_T, scores_TRM / 2, rng())]})
    (ax,) = figure.axes
    drawn = ax.get_lines()
    np.testing.assert_array_equal(drawn[0].get_xdata(), x_T)
    np.testing.assert_allclose(drawn[0].get_ydata(), [stats.iqm(scores_TRM[t]) for t in range(3)])
    (band, _) = ax.collections
    vertices = band.get_paths()[0].vertices
    assert vertices[:, 1].min() == pytest.approx(line.estimate.low.min())
    assert vertices[:, 1].max() == pytest.approx(line.estimate.high.max())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["qmix (n=5)", "vdn (n=5)"]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("team steps", "wins (IQM)", "battle/3m")
    assert ax.yaxis.get_major_formatter()(0.5, 0) == "50%"
    assert len({to_hex(d.get_color()) for d in drawn}) == len({d.get_marker() for d in drawn}) == 2


@pytest.mark.parametrize(("methods", "below"), [(3, False), (5, True)])
def test_the_legend_of_many_methods_does_not_cover_their_curves(methods: int, below: bool) -> None:
    lines = [plots.learning_line(f"agent {i}", [0, 1], np.zeros((2, 5, 1)), rng()) for i in range(methods)]
    figure = plots.curves({"one": lines})
    figure.canvas.draw()
    (ax,) = figure.axes
    assert bool(ax.get_legend().get_window_extent().y1 < ax.get_window_extent().y0) == below


def test_more_lines_than_colours_can_still_be_told_apart() -> None:
    count = 2 * len(plots.COLOURS)
    lines = [plots.learning_line(f"agent {i}", [0, 1], np.zeros((2, 1, 1)), rng()) for i in range(count)]
    (ax,) = plots.curves({"one": lines}).axes
    looks = {(to_hex(d.get_color()), d.get_marker(), d.get_linestyle()) for d in ax.get_lines()}
    assert len(looks) == count


def test_long_labels_leave_the_panel_its_width() -> None:
    """They stood inside the panel, which shrank to a stroke."""
    words = "sparsity=grouped agent.sparsity.balance=capacity agent.sparsity.refresh=10 groups="
    lines = [plots.learning_line(f"{words}{g}", [0, 1], np.zeros((2, 5, 1)), rng()) for g in range(5)]
    figure = plots.curves({"one": lines, "two": lines[:1]})
    figure.canvas.draw()
    for ax in figure.axes:
        box = ax.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
        assert box.width > 0.7 * plots.PANEL[0]
        assert box.height > 0.5 * plots.PANEL[1]
    legend = figure.axes[0].get_legend()
    assert legend.get_window_extent().y1 < figure.axes[0].get_window_extent().y0
    assert {text.get_text().replace("\n ", "") for text in legend.get_texts()} == {x.label for x in lines}


def test_one_run_has_no_band() -> None:
    line = plots.learning_line("qmix", [0, 1], np.zeros((2, 1, 1)), rng())
    (ax,) = plots.curves({"3m": [line]}).axes
    assert not ax.collections
    assert ax.get_legend() is None


def test_run_curves_average_the_episodes_of_each_evaluation() -> None:
    curve = [
        {"step": 0, "wall_s": 0.0, "success": [[0.0, 0.0]], "return": [[1.0, 3.0]]},
        {"step": 10, "wall_s": 1.0, "success": [[1.0, 0.0]], "return": [[5.0, 7.0]]},
    ]
    wins, returns = plots.run_curves(curve, "run", rng()).axes
    np.testing.assert_allclose(wins.get_lines()[0].get_ydata(), [0.0, 0.5])
    np.testing.assert_allclose(returns.get_lines()[0].get_ydata(), [2.0, 6.0])
    np.testing.assert_allclose(wins.get_lines()[0].get_xdata(), [0, 10])
    (band,) = wins.collections
    lowest = band.get_paths()[0].vertices[:, 1]
    assert (lowest.min(), lowest.max()) == pytest.approx((0.0, 0.9055), abs=1e-4)  # Wilson: 0 of 2, 1 of 2


def test_no_win_leaves_room_for_wins_that_were_not_seen() -> None:
    lost = plots.over_episodes("success", [0.0] * 16, rng()).numbers()
    assert lost == pytest.approx((0.0, 0.0, 0.1936), abs=1e-4)
    assert plots.over_episodes("return", [2.0] * 16, rng()).numbers() == (2.0, 2.0, 2.0)
    assert plots.over_episodes("success", [0.5] * 16, rng()).numbers() == (0.5, 0.5, 0.5)


def test_run_curves_without_evaluations_are_an_empty_figure(tmp_path: Path) -> None:
    assert plots.save(plots.run_curves([], "run", rng()), tmp_path / "curves.png").is_file()


def test_profiles_fall_from_one_to_zero() -> None:
    figure = plots.profiles({"a": rng().uniform(size=(5, 3))}, [-0.1, 0.5, 1.1], rng=rng(), xlabel="wins")
    (ax,) = figure.axes
    y = ax.get_lines()[0].get_ydata()
    assert y[0] == 1.0
    assert 0 < y[1] < 1
    assert y[2] == 0.0
    assert ax.get_xlabel() == "wins threshold"


def test_intervals_show_value_and_ends() -> None:
    one = stats.Estimate(value=np.array(0.5), low=np.array(0.4), high=np.array(0.7), runs=5)
    single = stats.Estimate(value=np.array(0.9), low=None, high=None, runs=1)
    (ax,) = plots.intervals({"wins": {"qmix": one, "iql": single}}, share=True).axes
    (bar,) = ax.patches
    assert (bar.get_x(), bar.get_x() + bar.get_width()) == pytest.approx((0.4, 0.7))
    assert [line.get_xdata()[0] for line in ax.get_lines()] == [0.5, 0.9]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["qmix", "iql"]
    assert ax.get_xlabel() == "wins"


def test_five_panels_take_two_rows_and_hide_the_rest() -> None:
    _, axes = plots.canvas(5)
    assert [ax.get_visible() for ax in axes] == [True] * 5 + [False] * 3


def test_save_leaves_only_the_picture(tmp_path: Path) -> None:
    path = plots.save(plots.canvas(1)[0], tmp_path / "new" / "figure.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]


def test_a_conversation_shows_every_message_and_whether_it_arrived() -> None:
    """Agent 0 talks to agent 2 at exchanges 1 and 3; the second time it is lost."""
    wanted = np.zeros((5, 3, 3), dtype=bool)
    wanted[[1, 3], 2, 0] = True
    delivered = wanted.copy()
    delivered[3] = False
    ax, total = plots.conversation(wanted, delivered, title="t").axes
    points = [np.asarray(c.get_offsets()).tolist() for c in ax.collections if len(c.get_offsets())]
    assert points == [[[1.0, 1.0], [3.0, 1.0]], [[1.0, 1.0]]]  # row 1: from 0 to 2
    counts = {tuple(text.get_position()): text.get_text() for text in total.texts}
    assert counts[0, 2] == "2"
    assert sorted(counts.values()) == ["0"] * 5 + ["2"]
