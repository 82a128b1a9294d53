"""What is installed of StarCraft II: the game's folder, SMAC's maps, and one sentence on what is missing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from marl.envs.battle.maps import SMAC
from marl.envs.starcraft.imports import Modules, find_smac, load, missing_package
from marl.errors import MarlError

GAME = "https://github.com/Blizzard/s2client-proto#downloads"
MAP_FILES = "https://github.com/oxwhirl/smac/releases/download/v0.1-beta1/SMAC_Maps.zip"
FOLDER = "SMAC_Maps"  # below the game's Maps


class Check(NamedTuple):
    """Whether StarCraft II can be used, and one sentence that says why not or what is used."""

    usable: bool
    sentence: str


def check(game_version: str = "") -> Check:
    """Look for pysc2, the game and SMAC's maps; starts nothing."""
    missing = missing_package()
    if missing:
        return Check(False, missing)
    try:
        found = find_game(load(), game_version)
        map_path(Path(found.data_dir), "3m")
    except MarlError as error:
        return Check(False, str(error))
    door = "SMAC's own environment" if find_smac() else "pysc2"
    return Check(True, f"StarCraft II {found.version.game_version} in {found.data_dir} through {door}")


def find_game(modules: Modules, version: str = "") -> Any:
    """pysc2's run configuration of the installed game.

    Raises:
        MarlError: there is no game, or not of this version.
    """
    where = os.environ.get("SC2PATH") or "~/StarCraftII"
    absent: tuple[type[Exception], ...] = (OSError, *modules.refusals)
    try:
        found = modules.run_configs.get(version=version or None)
    except absent as error:
        if version and Path(where).expanduser().joinpath("Versions").is_dir():
            raise MarlError(f"game_version={version!r} is not in {where} ({error})") from error
        raise MarlError(
            f"StarCraft II is not in {where}: install it from {GAME} and set SC2PATH to its folder, the one "
            "that holds Versions and Maps"
        ) from error
    return found


def map_path(data_dir: Path, name: str) -> Path:
    """The file of one of SMAC's maps.

    Raises:
        MarlError: the map, or the game's folder of SMAC's maps, is missing.
    """
    if name not in SMAC:
        raise MarlError(f"map={name!r} is none of SMAC's")
    path = data_dir / "Maps" / FOLDER / f"{name}.SC2Map"
    if not path.is_file():
        raise MarlError(f"SMAC's map {path} is missing: unzip {MAP_FILES} into {data_dir / 'Maps'}")
    return path
