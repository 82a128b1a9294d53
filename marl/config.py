"""Configs as typed dataclasses: a config node becomes an object, or one sentence says why not.

Every component (env, agent, loop, logger) is a keyword-only dataclass called `Config`, named by the
`_target_` of its YAML. `make` checks names and types from the annotations; ranges are checked by
each dataclass in `__post_init__` with `marl.errors.require`. A config read from a run folder is data:
only `marl.*` and the packages that the caller trusts are ever imported for it.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union

from marl.errors import FieldError, MarlError, UnknownSettingError, require

_COMPONENTS = ("env", "agent", "loop")  # fields of RunConfig whose class the config names itself
_OPTIONAL = ("logger", "channel", "train_channel")  # such fields that may be None
_NOT_IDENTITY = (
    "run_id",
    "runs_dir",
    "seed",
    "checkpoint",
    "logger",
    "trust",
    "video",
)  # change no number of a run
# Metadata of a field that came after runs had been published: its default leaves no trace in a config's hash.
QUIET = {"quiet": True}
_RUN_ID = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,119}")  # a letter first: 12e45678 would be read as a number


def make(node: Any, *, trust: Iterable[str] = (), where: str = "") -> Any:
    """Turn a config node into the dataclass that its `_target_` names.

    Args:
        node: mapping with `_target_` (OmegaConf or plain); nested dataclass fields need no `_target_`.
        trust: packages besides marl that `_target_` may name.
        where: dotted place of the node in the whole config, for messages ("agent").

    Raises:
        MarlError: a class that may not be named, an unknown key, a missing or wrong value.
    """
    node = plain(node)
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise MarlError(
            f"{where or 'the config'} has no _target_: name a Config class, for example "
            f"{where or 'env'}=<name> from marl/conf or {_join(where, '_target_')}=package.module.Config"
        )
    cls = _find_class(node["_target_"], tuple(trust), _join(where, "_target_"))
    return _fill(cls, {k: v for k, v in node.items() if k != "_target_"}, where, tuple(trust))


def plain(node: Any) -> Any:
    """The node as plain Python containers, interpolations resolved."""
    if isinstance(node, Mapping | list | tuple | str | int | float | bool | type(None)):
        return node
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise MarlError(f"the config cannot be resolved: {str(error).splitlines()[0]}") from error


def unmake(config: Any) -> dict[str, Any]:
    """The inverse of `make`: every field with its value and the `_target_`, as plain JSON-able data."""
    cls = type(config)
    hints = typing.get_type_hints(cls)
    out: dict[str, Any] = {"_target_": f"{cls.__module__}.{cls.__qualname__}"}
    for f in dataclasses.fields(config):
        quiet = f.metadata.get("quiet") and getattr(config, f.name) == f.default
        if f.init and not quiet:
            out[f.name] = _plain_value(getattr(config, f.name), hints[f.name])
    return out


def _plain_value(value: Any, hint: Any = None) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        node = unmake(value)
        if type(value) is hint:  # the annotation already says which class
            del node["_target_"]
        return node
    if isinstance(value, Mapping):
        return {str(k): _plain_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _find_class(target: Any, trust: tuple[str, ...], where: str) -> type:
    """Import the dataclass that a dotted path names, if its package is trusted."""
    allowed = ("marl", *trust)
    path = target if isinstance(target, str) else ""
    module_name, _, name = path.rpartition(".")
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", path):
        raise FieldError(where, target, "give a dotted path package.module.Config")
    if path.split(".")[0] not in allowed:
        raise FieldError(
            where,
            target,
            f"only marl.* may be named; add trust=[{path.split('.')[0]}] if you trust that package",
        )
    try:
        cls = getattr(importlib.import_module(module_name), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        fix = "" if path.startswith("marl.") else "; install its package or put its folder into PYTHONPATH"
        raise FieldError(where, target, f"there is no module {error.name}{fix}") from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise FieldError(where, target, f"{module_name} has no dataclass {name}")
    if cls.__module__.split(".")[0] not in allowed:
        raise FieldError(where, target, f"the class comes from {cls.__module__}, which is not trusted")
    return cls


def _check_code(value: Any, trust: tuple[str, ...], where: str) -> None:
    """A field that names code, "package.module:name": its package must be trusted, marl's own too."""
    package, colon, _ = str(value).partition(":")
    package = package.split(".")[0]
    if colon and package not in trust:
        fix = f"its code is not trusted; add trust=[{package}] if you trust that package"
        raise FieldError(where, value, fix)


def unknown(name: str, valid: Iterable[str], where: str, owner: str) -> UnknownSettingError:
    """The error for a key that does not exist, with the nearest one that does."""
    valid = sorted(valid)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    hint = f"did you mean {_join(where, near[0])}?" if near else f"valid names are {', '.join(valid)}"
    place = _join(where, name)
    return UnknownSettingError(place, f"{place} is not a setting of {owner}: {hint}")


def _fill(cls: type, given: Mapping[str, Any], where: str, trust: tuple[str, ...]) -> Any:
    """Check names and types, build the dataclass, and put the place into its own range errors."""
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise unknown(str(name), known, where, f"{cls.__module__}.{cls.__qualname__}")
        if not (isinstance(value, str) and value == "???"):  # OmegaConf's mark of a missing value
            values[name] = convert(value, hints[name], _join(where, name), trust)
            if known[name].metadata.get("code"):
                _check_code(values[name], trust, _join(where, name))
    for name, f in known.items():
        if name not in values and f.default is f.default_factory is dataclasses.MISSING:
            place = _join(where, name)
            raise MarlError(f"{place} is missing: give {place}=<{_describe(hints[name])}>")
    try:
        return cls(**values)
    except FieldError as error:
        if where and not error.field.startswith(where + "."):
            raise FieldError(_join(where, error.field), error.value, error.fix) from None
        raise
    except MarlError as error:
        if where and str(error).startswith(tuple(f"{name}=" for name in known)):
            raise MarlError(_join(where, str(error))) from None
        raise


def _describe(hint: Any) -> str:
    """A type in words, as short as possible."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if a is type(None) else _describe(a) for a in args)
    if origin in (tuple, list, Sequence):
        return f"a list [{_describe(args[0])}, ...]" if args else "a list"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return "a mapping with " + ", ".join(f.name for f in dataclasses.fields(hint))
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def convert(value: Any, hint: Any, where: str, trust: tuple[str, ...] = ()) -> Any:
    """The value as the annotated type; raises FieldError when it is not one.

    Whole numbers may be written 1e6; tuples come as lists; nested dataclasses as mappings.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    wrong = FieldError(where, value, f"give {_describe(hint)}")
    if not _finite(value):
        raise FieldError(where, value, "give a finite number")
    if hint is Any:
        return make(value, trust=trust, where=where) if _is_component(value) else value
    if origin in (Union, types.UnionType):
        return _convert_union(value, args, where, trust, wrong)
    if origin is Literal:
        if any(value == a and type(value) is type(a) for a in args):
            return value
        raise wrong
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise wrong
        cls = _find_class(value["_target_"], trust, _join(where, "_target_")) if "_target_" in value else hint
        return _fill(cls, {k: v for k, v in value.items() if k != "_target_"}, where, trust)
    if origin in (tuple, list, Sequence) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        return _convert_list(value, origin, args, where, trust, wrong)
    if isinstance(origin or hint, type) and issubclass(origin or hint, Mapping):
        if not isinstance(value, Mapping):
            raise wrong
        inner = args[1] if args else Any
        return {k: convert(v, inner, _join(where, str(k)), trust) for k, v in value.items()}
    return _convert_scalar(value, hint, wrong)


def _finite(value: Any) -> bool:
    """Whether no number in it is NaN or infinite: a run's config is stored as JSON, which has neither."""
    if isinstance(value, Mapping):
        return all(_finite(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(_finite(v) for v in value)
    return not isinstance(value, float) or math.isfinite(value)


def _is_component(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _convert_union(
    value: Any, args: tuple[Any, ...], where: str, trust: tuple[str, ...], wrong: FieldError
) -> Any:
    if value is None:
        if type(None) in args:
            return None
        raise wrong
    errors: list[MarlError] = []
    for hint in (a for a in args if a is not type(None)):
        try:
            return convert(value, hint, where, trust)
        except MarlError as error:
            errors.append(error)
    raise errors[0] if len(errors) == 1 else wrong


def _convert_list(
    value: Any, origin: Any, args: tuple[Any, ...], where: str, trust: tuple[str, ...], wrong: FieldError
) -> Any:
    if not isinstance(value, list | tuple):
        raise wrong
    if origin is tuple and args and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise FieldError(where, value, f"give {len(args)} values")
        hints: Sequence[Any] = args
    else:
        hints = [args[0] if args else Any] * len(value)
    items = [convert(v, h, f"{where}[{i}]", trust) for i, (v, h) in enumerate(zip(value, hints, strict=True))]
    return items if origin is list else tuple(items)


def _convert_scalar(value: Any, hint: Any, wrong: FieldError) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int and number and value == int(value if abs(value) < 1e300 else 0) and value == value:
        return int(value)
    if hint is float and number:
        return float(value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint in (int, float) or not isinstance(hint, type) or not isinstance(value, hint):
        raise wrong
    return value


@dataclass(kw_only=True)
class Evaluation:
    """How often and how long the greedy policy is measured."""

    every_steps: int = 20_000  # team steps between evaluations, >= 1; CHOICE
    episodes: int = 32  # per evaluation, >= 1; as SMAC's papers report
    final_episodes: int = 320  # at the end, >= 0: ten times as many, after Gorsane et al. 2022

    def __post_init__(self) -> None:
        require(self.every_steps >= 1, "every_steps", self.every_steps, "give 1 or more")
        require(self.episodes >= 1, "episodes", self.episodes, "give 1 or more")
        require(self.final_episodes >= 0, "final_episodes", self.final_episodes, "give 0 or more")


@dataclass(kw_only=True)
class Checkpoint:
    """How often everything a run is goes to disk."""

    every_steps: int = 100_000  # team steps between checkpoints, >= 1; CHOICE
    keep: int = 1  # newest checkpoints kept, >= 1; only the last holds the memory

    def __post_init__(self) -> None:
        require(self.every_steps >= 1, "every_steps", self.every_steps, "give 1 or more")
        require(self.keep >= 1, "keep", self.keep, "give 1 or more")


@dataclass(kw_only=True)
class RunConfig:
    """Everything that defines one run."""

    run_id: str = ""  # starts with a letter; "" names it after its agent, env, seed and config
    runs_dir: Path = Path("runs")  # run folders are made here
    seed: int = 0  # >= 0
    device: str = "cpu"  # cpu, cuda or cuda:<index>
    threads: int = 1  # >= 1, of torch and of the env; part of the bit-exact promise
    num_envs: int = 16  # >= 1, worlds in one batch; part of the bit-exact promise
    total_steps: int = 1_000_000  # >= 1 team steps: steps of one env with all its agents
    env: Any
    agent: Any
    loop: Any
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    logger: Any = None  # a Config of marl.loggers; None writes JSONL only
    # Configs of marl.channel: the link in evaluation, and in training; None loses nothing
    channel: Any = field(default=None, metadata=QUIET)
    train_channel: Any = field(default=None, metadata=QUIET)
    trust: tuple[str, ...] = ()  # packages besides marl that `_target_` may name
    video: bool = True  # a GIF of the learned team at the end

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "give a whole number of 0 or more")
        require(self.threads >= 1, "threads", self.threads, "give 1 or more")
        require(self.num_envs >= 1, "num_envs", self.num_envs, "give 1 or more")
        require(self.total_steps >= 1, "total_steps", self.total_steps, "give 1 or more")
        device_ok = re.fullmatch(r"cpu|cuda(:\d+)?", self.device) is not None
        require(device_ok, "device", self.device, "give cpu, cuda or cuda:<index>")
        delay = getattr(self.train_channel, "delay", 0)
        fix = "give 0: teams learn from messages of the same step (channel.delay is for evaluation)"
        require(delay == 0, "train_channel.delay", delay, fix)
        for package in self.trust:
            require(package.isidentifier(), "trust", package, "give top-level package names")
        if not self.run_id:
            self.run_id = self.default_run_id()
        require(
            _RUN_ID.fullmatch(self.run_id) is not None,
            "run_id",
            self.run_id,
            "start with a letter and use at most 120 letters, digits, '_', '-' and '.'",
        )

    @property
    def folder(self) -> Path:
        return self.runs_dir / self.run_id

    def to_dict(self) -> dict[str, Any]:
        """Every setting with defaults filled in, as plain JSON-able data; `load` reads it back."""
        out = unmake(self)
        del out["_target_"]
        return out

    @property
    def hash(self) -> str:
        """Hex digest of all that shapes the run's numbers, its seed and its place on disk left out."""
        data = {k: v for k, v in self.to_dict().items() if k not in _NOT_IDENTITY}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def default_run_id(self) -> str:
        """<agent>-<env>-s<seed>-<8 digits of the config hash>."""
        return f"{label(self.agent)}-{label(self.env)}-s{self.seed}-{self.hash[:8]}"


def label(config: Any) -> str:
    """A short name of a component for run ids: its `label`, or its module and map."""
    name = getattr(config, "label", None) or type(config).__module__.removesuffix(".config").split(".")[-1]
    chosen = getattr(config, "map", None)
    name = f"{name}_{chosen}" if isinstance(chosen, str) and not hasattr(config, "label") else name
    return re.sub(r"[^A-Za-z0-9_]+", "_", name)


def load(node: Mapping[str, Any], *, trust: Iterable[str] = ()) -> RunConfig:
    """A RunConfig from a composed or stored config.

    Args:
        node: the whole config as plain data. Its own `trust` entry counts only when `trust` says so:
            a stored config cannot allow itself to import anything.
        trust: packages that the user of this process trusts.

    Raises:
        MarlError: as `make`.
    """
    given, trust = dict(plain(node)), tuple(trust)
    given["trust"] = list(trust)
    names = [f.name for f in dataclasses.fields(RunConfig)]
    for name in given:
        if name not in names:
            raise unknown(str(name), names, "", "a run")
    for name in _COMPONENTS:
        given[name] = make(given.get(name), trust=trust, where=name)
    for name in _OPTIONAL:
        if given.get(name) is not None:
            given[name] = make(given[name], trust=trust, where=name)
    return typing.cast(RunConfig, _fill_run(given, trust))


def _fill_run(given: Mapping[str, Any], trust: tuple[str, ...]) -> Any:
    made = {k: v for k, v in given.items() if k in (*_COMPONENTS, *_OPTIONAL)}
    rest = {k: v for k, v in given.items() if k not in made}
    hints = typing.get_type_hints(RunConfig)
    return RunConfig(**{k: convert(v, hints[k], k, trust) for k, v in rest.items()}, **made)
