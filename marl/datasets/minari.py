"""Episodes as a Minari data set: an HDF5 file and a JSON file that Minari itself can load.

    <folder>/data/main_data.hdf5   groups episode_<i>: observations, actions, rewards, terminations,
                                   truncations
    <folder>/data/metadata.json    Minari's fields, and "marl": what made the data

One agent that sees the whole state and may always take every action is stored plainly: observations (L + 1,
O), actions (L,) or (L, A). Any other world is stored for the team: observations {obs (L + 1, N, O), state,
avail, alive}, actions (L, N) or (L, N, A). Rewards are (L, K): objectives, agents, or the team's one.

The file is written with h5py alone, because Minari's own writer brings half a dozen heavy packages.

Reference: Minari 0.5 (Younis et al., Farama Foundation), storage format "hdf5".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl import files
from marl.datasets import checks
from marl.datasets.checks import Unfit
from marl.datasets.episode import Episode
from marl.errors import CorruptFileError, MarlError
from marl.offline.transitions import objectives_of
from marl.types import Box, EnvSpec

_DATA, _META = "main_data.hdf5", "metadata.json"
_FORMAT = "0.5.4"  # of Minari, whose layout this is
# What h5py, numpy and torch raise for parts of an episode that are missing or of another kind.
_BROKEN = (KeyError, ValueError, IndexError, TypeError, AttributeError, OSError, RuntimeError, OverflowError)


def import_h5py() -> Any:
    """h5py, or one sentence on how to get it."""
    try:
        import h5py
    except ImportError as error:
        raise MarlError(
            f"Minari data sets need h5py, which cannot be imported ({error}): "
            "install it with pip install 'marl-suite[morl]'"
        ) from error
    return h5py


def is_dataset(folder: Path) -> bool:
    """Whether a folder, or its data/, is a Minari data set in HDF5."""
    return _place(folder) is not None


def _place(folder: Path) -> Path | None:
    for place in (folder / "data", folder):
        if (place / _META).is_file() and (place / _DATA).is_file():
            return place
    return None


def write(
    folder: Path,
    spec: EnvSpec,
    episodes: Iterable[tuple[Episode, Mapping[str, Any]]],
    about: Mapping[str, Any],
) -> dict[str, int]:
    """Write a data set, whole or not at all.

    Args:
        folder: made here; must not exist. Its name becomes the data set's.
        spec: the world.
        episodes: each with plain numbers or text about it (kept as attributes of its group).
        about: what made the data, JSON-able.

    Returns:
        Numbers of episodes and steps.

    Raises:
        MarlError: the folder exists, h5py is missing, or there is no episode.
    """
    h5py = import_h5py()
    if folder.exists():
        raise MarlError(f"{folder} exists already: give another folder for the data set, or remove it")
    files.make_folder(folder.parent)
    plain = _is_plain(spec)
    count = steps = 0
    with files.atomic_folder(folder) as temporary:
        files.make_folder(temporary / "data")
        with h5py.File(temporary / "data" / _DATA, "w", track_order=True) as file:
            for episode, attributes in episodes:
                group = file.create_group(f"episode_{count}")
                group.attrs.update({"id": count, "total_steps": episode.length, **attributes})
                _put(group, episode, plain)
                count, steps = count + 1, steps + episode.length
        if not count:
            raise MarlError("there is no episode to write: play at least one")
        size = (temporary / "data" / _DATA).stat().st_size / 1e6
        metadata = _metadata(folder.name, spec, plain, about) | {
            "total_episodes": count,
            "total_steps": steps,
            "dataset_size": round(size, 1),
        }
        files.write_json(temporary / "data" / _META, metadata)
    return {"episodes": count, "steps": steps}


def _is_plain(spec: EnvSpec) -> bool:
    return spec.n_agents == 1 and spec.state_size == spec.obs_size


def _put(group: Any, episode: Episode, plain: bool) -> None:
    if plain:
        if not bool(episode.avail_UNA.all()):
            raise MarlError(
                "a world of one agent whose actions are not always available cannot be stored yet"
            )
        group["observations"] = episode.obs_UNO[:, 0].numpy()
        group["actions"] = episode.actions_LN[:, 0].numpy()
    else:
        seen = group.create_group("observations")
        parts = {"obs": episode.obs_UNO, "state": episode.state_US}
        masks = {"avail": episode.avail_UNA.to(torch.int8), "alive": episode.alive_UN.to(torch.int8)}
        for name, value in (parts | masks).items():
            seen[name] = value.numpy()
        group["actions"] = episode.actions_LN.numpy()
    group["rewards"] = episode.reward_LK.numpy()
    last_L = np.arange(episode.length) == episode.length - 1
    group["terminations"] = last_L & episode.terminated
    group["truncations"] = last_L & (not episode.terminated)


def _box(low: Any, high: Any, shape: tuple[int, ...], dtype: str = "float32") -> dict[str, Any]:
    """A Box as Minari's JSON."""
    limits = {"low": np.broadcast_to(low, shape).tolist(), "high": np.broadcast_to(high, shape).tolist()}
    return {"type": "Box", "dtype": dtype, "shape": list(shape), **limits}


def _metadata(name: str, spec: EnvSpec, plain: bool, about: Mapping[str, Any]) -> dict[str, Any]:
    N, A, inf = spec.n_agents, spec.n_actions, float("inf")
    if plain:
        seen = _box(-inf, inf, (spec.obs_size,))
    else:
        parts = {
            "obs": _box(-inf, inf, (N, spec.obs_size)),
            "state": _box(-inf, inf, (spec.state_size,)),
            "avail": _box(0, 1, (N, A), "int8"),
            "alive": _box(0, 1, (N,), "int8"),
        }
        seen = {"type": "Dict", "subspaces": parts}
    return {
        "dataset_id": f"{name}-v0",
        "minari_version": _FORMAT,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": json.dumps(seen),
        "action_space": json.dumps(_action_space(spec, plain)),
        "algorithm_name": str(about.get("algorithm", "")),
        "description": f"{spec.name}: rewards of {', '.join(objectives_of(spec))}",
        "marl": {
            "env": spec.name,
            "reward": spec.reward,
            "rewards": list(objectives_of(spec)),
            "agents": list(spec.agents),
            "episode_limit": spec.episode_limit,
            **about,
        },
    }


def _action_space(spec: EnvSpec, plain: bool) -> dict[str, Any]:
    N, A = spec.n_agents, spec.n_actions
    if spec.discrete and plain:
        return {"type": "Discrete", "dtype": "int64", "start": 0, "n": A}
    if spec.discrete:
        return {"type": "MultiDiscrete", "dtype": "int64", "nvec": [A] * N, "start": [0] * N}
    boxes = [space for space in spec.action_spaces if isinstance(space, Box)]
    low, high = [list(b.low) for b in boxes], [list(b.high) for b in boxes]
    return _box(low[0], high[0], (A,)) if plain else _box(low, high, (N, A))


def about(folder: Path) -> dict[str, Any]:
    """metadata.json of a data set.

    Raises:
        CorruptFileError: there is none, or it is not JSON.
    """
    place = _place(folder)
    if place is None:
        raise CorruptFileError(folder, f"it holds no Minari data set (data/{_META} and data/{_DATA})")
    try:
        out = json.loads((place / _META).read_text())
    except ValueError as error:
        raise CorruptFileError(place / _META, "it is not JSON") from error
    if not isinstance(out, dict):
        raise CorruptFileError(place / _META, "it is not a mapping")
    return out


def read(folder: Path, spec: EnvSpec) -> Iterator[Episode]:
    """The episodes of a data set, ours or anyone's of one agent, as episodes of this world.

    A step that is neither terminated nor truncated at an episode's end counts as truncated.

    Raises:
        CorruptFileError: there is no data set, the file is damaged, or an episode lacks a part, holds
            unequal lengths or what is no number, ends on the way, or has fractions for a discrete world's
            actions.
    """
    about(folder)
    place, h5py = _place(folder), import_h5py()
    assert place is not None
    path = place / _DATA
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise CorruptFileError(path, f"it is no whole HDF5 file ({error})") from error
    with file:
        for name in sorted(file, key=lambda n: _number(path, n)):
            try:
                episode = _get(file[name], spec, f"{path}: {name}")
            except Unfit as error:
                raise CorruptFileError(path, f"{name} {error}") from error
            except _BROKEN as error:
                raise CorruptFileError(path, f"{name} is not whole ({error})") from error
            yield episode


def _number(path: Path, name: str) -> int:
    """Of an episode's group."""
    digits = name.removeprefix("episode_")
    if not digits.isdecimal():
        raise CorruptFileError(path, f"its group {name!r} is none of episode_<number>")
    return int(digits)


def _get(group: Any, spec: EnvSpec, origin: str) -> Episode:
    def floats(name: str, data: Any) -> Tensor:
        return torch.from_numpy(checks.reals(name, data[()]))

    seen, reward = group["observations"], floats("rewards", group["rewards"])
    L, N, A = len(reward), spec.n_agents, spec.n_actions
    reward = reward[:, None] if reward.dim() == 1 else reward
    actions = _actions(group["actions"][()], spec)
    if hasattr(seen, "keys"):
        obs, state = floats("obs", seen["obs"]), floats("state", seen["state"])
        avail, alive = (torch.from_numpy(seen[n][()]).bool() for n in ("avail", "alive"))
    else:
        state = floats("observations", seen)
        obs, actions = state[:, None], actions[:, None]
        avail, alive = torch.ones(L + 1, N, A, dtype=torch.bool), torch.ones(L + 1, N, dtype=torch.bool)
    if len(obs) != L + 1 or len(actions) != L or L == 0:
        raise ValueError(f"{L} rewards, {len(actions)} actions, {len(obs)} observations")
    ended_L = checks.flags("terminations", group["terminations"][()], L)
    cut_L = checks.flags("truncations", group["truncations"][()], L) if "truncations" in group else ended_L
    checks.ends_last("terminations", ended_L)
    checks.ends_last("truncations", cut_L)
    return Episode(
        obs_UNO=obs,
        state_US=state,
        avail_UNA=avail,
        alive_UN=alive,
        actions_LN=actions,
        reward_LK=reward,
        terminated=bool(ended_L[-1]),
        origin=origin,
    )


def _actions(value: Any, spec: EnvSpec) -> Tensor:
    """float32 of a Box, int64 of numbered actions."""
    array = np.asarray(value)
    if not spec.discrete or array.dtype.kind not in "fiub":
        return torch.from_numpy(checks.reals("actions", array))
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.round(array))).all():
        raise Unfit(
            f"has actions that are no whole numbers, env={spec.name} numbers its own from 0 to "
            f"{spec.n_actions - 1}: use the env that the data were made in"
        )
    return torch.from_numpy(array.astype(np.int64))
