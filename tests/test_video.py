"""GIF and MP4: what is written is read back as the same moving picture."""

import subprocess
import sys

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from marl import video
from marl.canvas import Canvas
from marl.errors import MarlError


def _frames(count=12, height=96, width=130):
    frames = []
    for t in range(count):
        canvas = Canvas(height, width, (30, 60, 40))
        canvas.disc(20 + 7 * t, 40, 12, (220, 90, 60))
        canvas.disc(width - 20 - 6 * t, 60, 9, (70, 140, 230))
        canvas.text(4, 4, f"STEP {t}", (255, 255, 255))
        frames.append(canvas.image())
    return frames


def test_gif_keeps_pictures_and_times(tmp_path):
    frames = _frames()
    path = video.gif(frames, tmp_path / "a.gif", fps=20, hold=1.0)
    read = iio.imread(path)
    assert read.shape == (12, 96, 130, 3)
    assert np.abs(read.astype(int) - np.stack(frames)).mean() < 2.0
    with Image.open(path) as picture:
        durations = []
        for t in range(picture.n_frames):
            picture.seek(t)
            durations.append(picture.info["duration"])
        assert picture.info["loop"] == 0
    assert durations == [50] * 11 + [1050]


def test_gif_shrinks_to_its_limit_or_says_why_not(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 160, 200, 3), dtype=np.uint8)
    full = video.gif(noise, tmp_path / "full.gif").stat().st_size
    path = video.gif(noise, tmp_path / "small.gif", max_bytes=full // 2)
    assert path.stat().st_size <= full // 2
    height, width = iio.imread(path).shape[1:3]
    assert height < 160
    assert width / height == pytest.approx(200 / 160, rel=0.02)
    with pytest.raises(MarlError, match="max_bytes=100: 6 frames take"):
        video.gif(noise, tmp_path / "no.gif", max_bytes=100)
    assert not (tmp_path / "no.gif").exists()


def test_a_long_gif_stays_readable_and_keeps_its_speed(tmp_path):
    """Frames go before the picture is smaller than half; the last one, with the outcome, stays."""
    noise = np.random.default_rng(0).integers(0, 256, (21, 160, 200, 3), dtype=np.uint8)
    full = video.gif(noise, tmp_path / "full.gif").stat().st_size
    path = video.gif(noise, tmp_path / "small.gif", max_bytes=full // 16)
    assert path.stat().st_size <= full // 16
    with Image.open(path) as picture:
        assert picture.size == (100, 80)
        durations = []
        for t in range(picture.n_frames):
            picture.seek(t)
            durations.append(picture.info["duration"])
        last = np.asarray(picture.convert("RGB"), float)
    stride = durations[0] // 100
    assert stride in (2, 3, 4)
    assert durations[:-1] == [100 * stride] * (20 // stride)
    wanted = np.asarray(Image.fromarray(noise[-1]).resize((100, 80), Image.Resampling.BOX), float)
    other = np.asarray(Image.fromarray(noise[-2]).resize((100, 80), Image.Resampling.BOX), float)
    assert np.abs(last - wanted).mean() < 0.5 * np.abs(last - other).mean()


def test_mp4_keeps_pictures(tmp_path):
    frames = _frames(width=131)  # an odd width loses its last column
    path = video.mp4(frames, tmp_path / "a.mp4", fps=10)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True)
    read = np.frombuffer(raw.stdout, np.uint8).reshape(12, 96, 130, 3)
    assert np.abs(read.astype(int) - np.stack(frames)[:, :, :130]).mean() < 6.0
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_mp4_without_its_encoder_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MarlError, match=r"pip install 'marl-suite\[video\]'"):
        video.mp4(_frames(2), tmp_path / "a.mp4")


@pytest.mark.parametrize("write", [video.gif, video.mp4])
def test_wrong_frames_are_named(write, tmp_path):
    good = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(MarlError, match="frames is empty"):
        write([], tmp_path / "a.gif")
    with pytest.raises(MarlError, match="frame 1 has shape"):
        write([good, good[:32]], tmp_path / "a.gif")
    with pytest.raises(MarlError, match="frame 0 is float64"):
        write([good / 255.0], tmp_path / "a.gif")
    with pytest.raises(MarlError, match="fps is 0"):
        write([good], tmp_path / "a.gif", fps=0)
