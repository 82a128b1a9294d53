"""A small canvas for pictures of worlds: anti-aliased discs, rings and lines, boxes and text, in numpy.

Every shape is painted from its distance field: a pixel's cover is ``clip(0.5 - distance, 0, 1)`` with
the signed distance from the pixel's centre to the shape's edge in pixels, which is exact to a few per
cent for shapes wider than a pixel. Coordinates are pixels: x to the right, y DOWN, (0, 0) the top left
corner of the picture.
"""

from __future__ import annotations

import functools

import numpy as np

Colour = tuple[int, int, int]  # red, green, blue, 0 to 255

GLYPH_WIDTH, GLYPH_HEIGHT = 5, 7
# One glyph: five columns from left to right, two hexadecimal digits each, lowest bit at the top.
_FONT = {
    "A": "7E1111117E", "B": "7F49494936", "C": "3E41414122", "D": "7F4141221C", "E": "7F49494941",
    "F": "7F09090901", "G": "3E4149497A", "H": "7F0808087F", "I": "00417F4100", "J": "2040413F01",
    "K": "7F08142241", "L": "7F40404040", "M": "7F020C027F", "N": "7F0408107F", "O": "3E4141413E",
    "P": "7F09090906", "Q": "3E4151215E", "R": "7F09192946", "S": "4649494931", "T": "01017F0101",
    "U": "3F4040403F", "V": "1F2040201F", "W": "3F4038403F", "X": "6314081463", "Y": "0708700807",
    "Z": "6151494543", "0": "3E5149453E", "1": "00427F4000", "2": "4261514946", "3": "2141454B31",
    "4": "1814127F10", "5": "2745454539", "6": "3C4A494930", "7": "0171090503", "8": "3649494936",
    "9": "064949291E", " ": "0000000000", ".": "0060600000", ",": "0050300000", ":": "0036360000",
    "/": "2010080402", "-": "0808080808", "+": "08083E0808", "=": "1414141414", "_": "4040404040",
    "%": "2313086462", "(": "001C224100", ")": "0041221C00", "!": "00005F0000", "'": "0005030000",
    "<": "0814224100", ">": "0041221408", "?": "0201510906", "#": "147F147F14", "*": "14083E0814",
}  # fmt: skip


@functools.cache
def _glyph(character: str) -> np.ndarray:
    """Cover (7, 5) of a character, 0 or 1; small letters look like capitals, unknown ones like '?'."""
    code = _FONT.get(character.upper(), _FONT["?"])
    columns = np.array([int(code[i : i + 2], 16) for i in range(0, 10, 2)])
    return ((columns[None, :] >> np.arange(GLYPH_HEIGHT)[:, None]) & 1).astype(np.float32)


def text_width(string: str, scale: int = 1) -> int:
    """Width in pixels that `Canvas.text` takes."""
    return max(0, len(string) * (GLYPH_WIDTH + 1) - 1) * scale


def caption(frame: np.ndarray, string: str) -> np.ndarray:
    """A darker copy of a picture with one line of text in its middle.

    Args:
        frame: uint8 (H, W, 3).
        string: what to write.
    """
    canvas = Canvas(*frame.shape[:2])
    canvas.pixels_HW3[:] = 0.5 * frame
    width = int(0.7 * frame.shape[1])  # CHOICE: of the picture's width at most, and an eighth of its height
    scale = max(1, min(width // max(1, text_width(string)), frame.shape[0] // (8 * GLYPH_HEIGHT)))
    y = (canvas.height - GLYPH_HEIGHT * scale) / 2
    canvas.text(canvas.width / 2, y, string, (255, 255, 255), scale=scale, anchor=0.5)
    return canvas.image()


class Canvas:
    """A picture being painted.

    Args:
        height, width: size in pixels.
        colour: of the ground.
    """

    def __init__(self, height: int, width: int, colour: Colour = (0, 0, 0)) -> None:
        self.pixels_HW3 = np.empty((height, width, 3), np.float32)
        self.pixels_HW3[:] = np.tile(np.asarray(colour, np.float32), (width, 1))  # lines copy faster

    @property
    def height(self) -> int:
        return self.pixels_HW3.shape[0]

    @property
    def width(self) -> int:
        return self.pixels_HW3.shape[1]

    def image(self) -> np.ndarray:
        """The picture, uint8 (H, W, 3)."""
        return np.rint(self.pixels_HW3).clip(0, 255).astype(np.uint8)

    def copy(self) -> Canvas:
        """A canvas with the same pixels, to paint on without changing this one."""
        other = Canvas.__new__(Canvas)
        other.pixels_HW3 = self.pixels_HW3.copy()
        return other

    def disc(self, x: float, y: float, radius: float, colour: Colour, alpha: float = 1.0) -> None:
        """A filled disc around (x, y)."""
        window = self._window(x - radius, y - radius, x + radius, y + radius)
        if window is not None:
            rows, columns, dx, dy = window
            self._blend(rows, columns, 0.5 - (np.hypot(dx - x, dy - y) - radius), colour, alpha)

    def ring(
        self, x: float, y: float, radius: float, width: float, colour: Colour, alpha: float = 1.0
    ) -> None:
        """A circle of the given line width, centred on the radius."""
        reach = radius + width / 2
        window = self._window(x - reach, y - reach, x + reach, y + reach)
        if window is not None:
            rows, columns, dx, dy = window
            distance = np.abs(np.hypot(dx - x, dy - y) - radius) - width / 2
            self._blend(rows, columns, 0.5 - distance, colour, alpha)

    def line(
        self, x0: float, y0: float, x1: float, y1: float, width: float, colour: Colour, alpha: float = 1.0
    ) -> None:
        """A straight line with round ends."""
        half = width / 2
        window = self._window(min(x0, x1) - half, min(y0, y1) - half, max(x0, x1) + half, max(y0, y1) + half)
        if window is None:
            return
        rows, columns, px, py = window
        dx, dy = x1 - x0, y1 - y0
        length2 = dx * dx + dy * dy
        along = ((px - x0) * dx + (py - y0) * dy) / length2 if length2 > 0 else np.zeros_like(px)
        along = along.clip(0.0, 1.0)
        distance = np.hypot(px - x0 - along * dx, py - y0 - along * dy) - half
        self._blend(rows, columns, 0.5 - distance, colour, alpha)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, alpha: float = 1.0) -> None:
        """A filled rectangle, edges rounded to whole pixels."""
        left, right = (int(np.clip(round(v), 0, self.width)) for v in (x0, x1))
        top, bottom = (int(np.clip(round(v), 0, self.height)) for v in (y0, y1))
        part = self.pixels_HW3[top:bottom, left:right]
        part += alpha * (np.asarray(colour, np.float32) - part)

    def text(
        self,
        x: float,
        y: float,
        string: str,
        colour: Colour,
        *,
        scale: int = 1,
        anchor: float = 0.0,
        alpha: float = 1.0,
    ) -> None:
        """One line of text in a 5 x 7 font (capitals only).

        Args:
            x, y: its left edge (see `anchor`) and its top edge.
            scale: pixels per dot of the font.
            anchor: part of the text's width that lies left of x: 0 starts, 0.5 centres, 1 ends there.
        """
        if not string:
            return
        cover = np.zeros((GLYPH_HEIGHT, len(string) * (GLYPH_WIDTH + 1)), np.float32)
        for i, character in enumerate(string):
            cover[:, i * (GLYPH_WIDTH + 1) :][:, :GLYPH_WIDTH] = _glyph(character)
        cover = cover.repeat(scale, 0).repeat(scale, 1)
        left, top = round(x - anchor * text_width(string, scale)), round(y)
        rows = slice(max(top, 0), min(top + cover.shape[0], self.height))
        columns = slice(max(left, 0), min(left + cover.shape[1], self.width))
        if rows.start < rows.stop and columns.start < columns.stop:
            seen = cover[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            self._blend(rows, columns, seen, colour, alpha)

    def _window(
        self, x0: float, y0: float, x1: float, y1: float
    ) -> tuple[slice, slice, np.ndarray, np.ndarray] | None:
        """Rows and columns that a shape within these limits can touch, and its pixels' centres."""
        rows = slice(max(int(y0) - 1, 0), min(int(y1) + 2, self.height))
        columns = slice(max(int(x0) - 1, 0), min(int(x1) + 2, self.width))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return None
        px = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] + 0.5
        py = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5
        return rows, columns, px, py

    def _blend(self, rows: slice, columns: slice, cover: np.ndarray, colour: Colour, alpha: float) -> None:
        weight = (cover.clip(0.0, 1.0) * alpha)[..., None]
        part = self.pixels_HW3[rows, columns]
        part += weight * (np.asarray(colour, np.float32) - part)
