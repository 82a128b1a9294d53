"""Frames to an animated GIF (small enough for a README) or an MP4.

Frames are uint8 RGB pictures (H, W, 3) of one size, as `Env.render` gives them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from marl import files
from marl.errors import MarlError

_MAX_BYTES = 1_000_000  # what this project commits of a GIF at most (experiments/<system>/)
_SHRINK = 0.8  # CHOICE: a further try of a too large GIF has at most this part of the width and height
_READABLE = 0.5  # CHOICE: part of the size down to which the text of our worlds' pictures can be read
_SPARSEST = 4  # CHOICE: a GIF too large at that size shows every second, third or fourth frame
_FEW_COLOURS = 64  # CHOICE: a too large GIF first gets along with this many, before it shrinks
_SMALLEST = 64  # pixels; below this a picture shows nothing, so that the limit is reported instead
_PALETTE_FRAMES = 16  # CHOICE: frames, evenly spread, from which the shared palette is made


def gif(
    frames: Sequence[np.ndarray],
    path: Path | str,
    *,
    fps: float = 10.0,
    max_bytes: int = _MAX_BYTES,
    hold: float = 1.0,
) -> Path:
    """Write an endlessly repeating GIF with one palette for all frames.

    To fit, it first loses colours, then size down to half, then frames (its speed stays), then more size.

    Args:
        frames: uint8 pictures (H, W, 3), at least one.
        path: file to write; its folder must exist.
        fps: frames per second, above 0 and at most 50 (what browsers show).
        max_bytes: largest size of the file.
        hold: seconds that the last picture stands still.

    Returns:
        The path.

    Raises:
        MarlError: no frames, unequal sizes, or no size down to 64 pixels keeps the limit.
    """
    pictures = [Image.fromarray(f) for f in _checked(frames)]
    if not 0 < fps <= 50:
        raise MarlError(f"fps is {fps}: a GIF takes more than 0 and at most 50 frames per second")
    width, height = pictures[0].size
    scale, stride, colours = 1.0, 1, 255
    while True:
        size = (round(width * scale), round(height * scale))
        chosen = pictures[(len(pictures) - 1) % stride :: stride]  # the last one is always there
        scaled = chosen if scale == 1.0 else [p.resize(size, Image.Resampling.BOX) for p in chosen]
        durations = [max(20, round(1000 * stride / fps))] * len(chosen)  # milliseconds
        durations[-1] += round(1000 * hold)
        content = _encode(scaled, durations, colours)
        if len(content) <= max_bytes:
            break
        if colours > _FEW_COLOURS:
            colours = _FEW_COLOURS
            continue
        scale, stride = _smaller(scale, stride, max_bytes / len(content))
        if min(width, height) * scale < _SMALLEST:
            raise MarlError(
                f"max_bytes={max_bytes}: {len(pictures)} frames take {len(content)} bytes even at "
                f"{size[0]}x{size[1]} pixels; give fewer frames or a larger limit"
            )
    files.write_atomic(Path(path), content)
    return Path(path)


def _smaller(scale: float, stride: int, ratio: float) -> tuple[float, int]:
    """What to try after a GIF of this scale and stride that is 1 / ratio times too large.

    Bytes grow about as the number of frames and, of flat pictures, as the width: one try mostly hits.
    """
    if scale > _READABLE:
        return max(_READABLE, scale * min(_SHRINK, ratio)), stride
    if stride < _SPARSEST:
        return scale, min(_SPARSEST, max(stride + 1, math.ceil(stride / ratio)))
    return scale * min(_SHRINK, ratio), stride


def mp4(frames: Sequence[np.ndarray], path: Path | str, *, fps: float = 10.0) -> Path:
    """Write an H.264 MP4.

    Args:
        frames: uint8 pictures (H, W, 3), at least one; odd sizes lose their last row or column.
        path: file to write; its folder must exist.
        fps: frames per second, above 0.

    Raises:
        MarlError: no frames, unequal sizes, or imageio-ffmpeg is not installed.
    """
    checked = _checked(frames)
    if fps <= 0:
        raise MarlError(f"fps is {fps}: it must be above 0")
    try:
        import imageio_ffmpeg  # type: ignore[import-untyped]
    except ImportError as error:
        raise MarlError("MP4 needs imageio-ffmpeg: pip install 'marl-suite[video]'") from error
    height, width = (n - n % 2 for n in checked[0].shape[:2])  # the yuv420p format halves the colour planes

    def make(temporary: Path) -> None:
        writer = imageio_ffmpeg.write_frames(
            str(temporary), (width, height), fps=fps, macro_block_size=2, quality=7, ffmpeg_log_level="error"
        )
        writer.send(None)  # starts the generator
        for frame in checked:
            writer.send(np.ascontiguousarray(frame[:height, :width]))
        writer.close()

    files.adopt_made(Path(path), make)
    return Path(path)


def _checked(frames: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    if not len(frames):
        raise MarlError("frames is empty: a video needs at least one picture")
    shape = frames[0].shape
    for i, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise MarlError(f"frame {i} is {frame.dtype} {frame.shape}: it must be uint8 (H, W, 3)")
        if frame.shape != shape:
            raise MarlError(f"frame {i} has shape {frame.shape}, frame 0 has {shape}: all must be equal")
    return frames


def _encode(pictures: list[Image.Image], durations: list[int], colours: int) -> bytes:
    """GIF bytes; all frames share one palette, so that unchanged pixels cost nothing."""
    width, height = pictures[0].size
    spread = np.linspace(0, len(pictures) - 1, min(_PALETTE_FRAMES, len(pictures)))
    chosen = [pictures[round(i)] for i in spread.tolist()]
    mosaic = Image.new("RGB", (width, height * len(chosen)))
    for i, picture in enumerate(chosen):
        mosaic.paste(picture, (0, i * height))
    palette = mosaic.quantize(colors=colours, method=Image.Quantize.MEDIANCUT)
    quantised = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    buffer = io.BytesIO()
    quantised[0].save(
        buffer, "GIF", save_all=True, append_images=quantised[1:], duration=durations, loop=0, optimize=False
    )
    return buffer.getvalue()
