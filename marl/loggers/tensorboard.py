"""TensorBoard event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """A sink that `tensorboard --logdir <folder>` shows."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))
        self._step = 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._step = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def media(self, name: str, path: Path) -> None:
        """Pictures; TensorBoard shows no video from a file: those lie in the run folder."""
        if path.suffix == ".png":
            picture = np.asarray(Image.open(path).convert("RGB"))
            self._writer.add_image(name, picture, self._step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()
