"""One JSON object per line: the record that resume puts back and results are read from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marl import files


class JsonLines:
    """metrics.jsonl of a run.

    Args:
        path: the file.
        size: bytes to keep when a run resumes (what the checkpoint counted).
    """

    def __init__(self, path: Path, size: int) -> None:
        self._file = files.LineFile(path, size)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        row: dict[str, Any] = {"step": step}
        row |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.append(row)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add any JSON-able row."""
        self._file.append(json.dumps(row, allow_nan=False))

    def media(self, name: str, path: Path) -> None:
        """Pictures lie beside this file already."""

    def sync(self) -> int:
        """Put the lines on the disk; returns the size in bytes, for the checkpoint."""
        return self._file.sync()

    def close(self) -> None:
        self._file.sync()
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of such a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
