"""Where metrics go: lines of JSON always, Weights & Biases and TensorBoard when asked.

All sinks share one interface and get the same rows. Names are grouped for dashboards: `train/` what
learning says, `eval/` the greedy policy, `time/` what the clock says (left out of comparisons).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from marl.errors import MarlError, require
from marl.loggers.jsonl import JsonLines

__all__ = ["Config", "JsonLines", "Logger", "open_loggers"]


class Logger(Protocol):
    """A sink of metrics."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one row.

        Args:
            step: team steps so far; never falls.
            values: metrics by name, "group/name".
        """
        ...

    def media(self, name: str, path: Path) -> None:
        """Add a finished picture (.png) or video (.gif, .mp4) of the run."""
        ...

    def close(self) -> None:
        """Put everything on the disk; the logger is not used after this."""
        ...


@dataclass(kw_only=True)
class Config:
    """Which sinks a run has besides metrics.jsonl."""

    every_steps: int = 2_000  # team steps averaged into one row of train/ metrics, >= 1; CHOICE
    wandb: bool = False  # write a Weights & Biases run into the run folder
    wandb_mode: Literal["offline", "online"] = "offline"  # online needs an account and the network
    project: str = "marl"  # Weights & Biases project name
    tensorboard: bool = False  # write TensorBoard event files; needs the tensorboard extra

    def __post_init__(self) -> None:
        require(self.every_steps >= 1, "every_steps", self.every_steps, "give 1 or more")
        require(bool(self.project.strip()), "project", self.project, "give a name")


def open_loggers(config: Config, folder: Path, run_id: str, settings: Mapping[str, Any]) -> list[Logger]:
    """The optional sinks of a run, each imported only when asked for.

    Args:
        config: which sinks.
        folder: the run's folder; every file lands in it.
        run_id: name of the run.
        settings: the resolved config, shown on dashboards.

    Raises:
        MarlError: a sink's package is not installed.
    """
    loggers: list[Logger] = []
    if config.tensorboard:
        try:
            from marl.loggers.tensorboard import TensorBoard
        except ImportError as error:
            raise MarlError(
                "logger.tensorboard=true needs TensorBoard: pip install 'marl-suite[tensorboard]'"
            ) from error
        loggers.append(TensorBoard(folder / "tensorboard"))
    if config.wandb:
        from marl.loggers.wandb import Wandb

        loggers.append(Wandb(folder, run_id, settings, mode=config.wandb_mode, project=config.project))
    return loggers
