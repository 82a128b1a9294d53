"""What a finished run shows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marl import compose, files, report


def test_long_episodes_give_a_video_that_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run must not fail at its very end because its episodes are long."""
    cfg = compose.compose(["env=matrix_game", "agent=vdn", f"runs_dir={tmp_path}", "run_id=run"])
    files.make_folder(cfg.folder)
    noise = np.random.default_rng(0).integers(0, 255, (500, 8, 8, 3), dtype=np.uint8)
    monkeypatch.setattr(report, "record", lambda *_, **__: list(noise))
    curve = [{"step": 0, "wall_s": 0.0, "return": [[1.0, 2.0]]}]
    (_, path) = report.pictures(cfg, None, curve)
    with Image.open(path) as picture:
        assert picture.n_frames == report._VIDEO_FRAMES


def test_an_offline_run_counts_updates() -> None:
    offline = compose.compose(["env=matrix_game", "agent=vdn", "loop=offline", "loop.data=runs/a"])
    out = {"final": None, "files": {}, "run_id": "run", "steps": 1200, "wall_s": 2.0}
    assert report.summary(offline, out)[0].endswith("(1,200 updates in 2 s)")
    online = compose.compose(["env=matrix_game", "agent=vdn"])
    assert report.summary(online, out)[0].endswith("(1,200 team steps in 2 s)")
