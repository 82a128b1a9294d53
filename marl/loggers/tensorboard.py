"""TensorBoard event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """A sink that `tensorboard --logdir <folder>` shows."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def media(self, name: str, path: Path) -> None:
        """TensorBoard takes decoded pictures only; the files lie in the run folder."""

    def close(self) -> None:
        self._writer.close()
