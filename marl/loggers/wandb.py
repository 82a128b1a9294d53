"""Weights & Biases: offline unless told otherwise, silent, every file inside the run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from marl import files


class Wandb:
    """A Weights & Biases run; `wandb sync <folder>/wandb/offline-run-*` uploads it later.

    Args:
        folder: the run's folder; `wandb/` in it gets everything that wandb writes, its caches too.
        run_id: id and name; a resumed run adds a second offline folder with the same id.
        settings: the resolved config.
        mode: offline opens no network connection.
        project: project name.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str,
        settings: Mapping[str, Any],
        *,
        mode: Literal["offline", "online"],
        project: str,
    ) -> None:
        folder = folder.resolve()
        files.make_folder(folder / "wandb")
        os.environ["WANDB_DIR"] = str(folder)
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            os.environ[name] = str(folder / "wandb")
        os.environ["WANDB_SILENT"] = "true"
        import wandb

        quiet = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,  # no sampling thread beside the learner
            x_disable_meta=True,
            x_save_requirements=False,
        )
        self._wandb = wandb
        self._run = wandb.init(
            id=run_id,
            name=run_id,
            project=project,
            dir=str(folder),
            mode=mode,
            config=dict(settings),
            settings=quiet,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def media(self, name: str, path: Path) -> None:
        if path.suffix == ".png":
            self._run.log({name: self._wandb.Image(str(path))})
        else:
            self._run.log({name: self._wandb.Video(str(path), format="gif")})

    def close(self) -> None:
        self._run.finish()
        self._wandb.teardown()  # waits until wandb's own process has written the file and ended
