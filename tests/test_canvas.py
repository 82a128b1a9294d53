"""Shapes on the canvas: areas, places and mixing against geometry."""

import math

import numpy as np
import pytest

from marl.canvas import Canvas, text_width

WHITE = (255, 255, 255)


def _cover(canvas: Canvas) -> np.ndarray:
    return canvas.pixels_HW3[..., 0] / 255.0


@pytest.mark.parametrize("radius", [3.0, 7.5, 20.0])
def test_disc_has_the_area_and_centre_of_a_disc(radius):
    canvas = Canvas(64, 80)
    canvas.disc(40.3, 30.8, radius, WHITE)
    cover = _cover(canvas)
    assert cover.sum() == pytest.approx(math.pi * radius**2, rel=0.01)
    rows, columns = np.mgrid[:64, :80] + 0.5
    assert (cover * columns).sum() / cover.sum() == pytest.approx(40.3, abs=0.05)
    assert (cover * rows).sum() / cover.sum() == pytest.approx(30.8, abs=0.05)


def test_ring_and_line_have_their_areas():
    canvas = Canvas(64, 64)
    canvas.ring(32, 32, 20, 3, WHITE)
    assert _cover(canvas).sum() == pytest.approx(2 * math.pi * 20 * 3, rel=0.01)
    canvas = Canvas(64, 64)
    canvas.line(10, 12, 50, 42, 4, WHITE)  # length 50, and two half discs of radius 2
    assert _cover(canvas).sum() == pytest.approx(50 * 4 + math.pi * 4, rel=0.01)


def test_a_line_without_length_is_a_dot():
    canvas = Canvas(20, 20)
    canvas.line(10, 10, 10, 10, 6, WHITE)
    assert _cover(canvas).sum() == pytest.approx(math.pi * 9, rel=0.02)


def test_alpha_mixes_with_what_is_below():
    canvas = Canvas(10, 10, (100, 0, 0))
    canvas.box(2, 3, 6, 8, (200, 50, 0), alpha=0.5)
    image = canvas.image()
    assert image[3:8, 2:6].reshape(-1, 3).tolist() == [[150, 25, 0]] * 20
    assert (image[..., 0] == 100).sum() == 100 - 20


def test_shapes_outside_are_cut_not_wrapped():
    canvas = Canvas(16, 16)
    canvas.disc(-20, 8, 5, WHITE)
    canvas.line(40, 40, 50, 50, 2, WHITE)
    canvas.text(100, 2, "AWAY", WHITE)
    canvas.text(2, -30, "AWAY", WHITE)
    assert _cover(canvas).sum() == 0
    canvas.text(12, 12, "HH", WHITE)
    assert 0 < _cover(canvas)[12:, 12:].sum() == _cover(canvas).sum()


def test_text_is_readable_dots_at_its_anchor():
    canvas = Canvas(20, 40)
    canvas.text(20, 3, "t", WHITE, anchor=0.5)
    dots = _cover(canvas)[3:10, 18:23]
    assert dots.tolist() == [[1, 1, 1, 1, 1]] + [[0, 0, 1, 0, 0]] * 6
    assert text_width("AB", scale=2) == 22
    assert Canvas(9, 9).copy().image().tolist() == Canvas(9, 9).image().tolist()


def test_a_copy_is_apart():
    first = Canvas(8, 8)
    second = first.copy()
    second.box(0, 0, 8, 8, WHITE)
    assert first.image().sum() == 0
    assert second.image().min() == 255
