"""From the words of a command line to run configs: Hydra composes, this module asks it to.

Hydra's compose API is used, not its application decorator, so that no output folder appears. Keys
whose values are paths are read literally, since Hydra's grammar does not take a bare '='.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from marl.config import RunConfig, load, unknown
from marl.errors import FieldError, MarlError, UnknownSettingError

_OF_AGENT = ("sparsity", "defence")  # groups whose file goes into the agent
GROUPS = ("env", "agent", "loop", "settings", "logger", "channel", *_OF_AGENT)  # folders of marl/conf
_LITERAL = ("run_id", "runs_dir")  # text taken as it stands
_SHORT = {  # words that stand for longer ones
    "groups": "agent.sparsity.groups",
    "train_channel": "channel@train_channel",  # a second place for the files of one group
}
_CODE = ("env.target",)  # settings that name code: what is typed there is trusted for this run
_TOP = tuple(f.name for f in dataclasses.fields(RunConfig))
_SEARCH = "hydra.searchpath"  # where a user's own conf folder is given
_FAMILY = "fast"  # the file of the group `settings` that conf/train.yaml names
_MAX_SEEDS = 10_000  # CHOICE: a range beyond this is a slip of the keyboard


def compose(overrides: Sequence[str]) -> RunConfig:
    """The run that `marl train <overrides>` means.

    Args:
        overrides: `key=value` words of Hydra's override grammar; of two for one key the last wins.

    Raises:
        MarlError: unknown names, values of the wrong type, grammar errors.
    """
    words, literal = _split(overrides)
    for word in words:
        if any(o.is_sweep_override() for o in _parse([word])):
            key = word.lstrip("+").split("=", 1)[0]
            raise MarlError(
                f"{key} has several values: add -m to run one after the other, or quote the value"
            )
    node = _compose(words)
    for group in _OF_AGENT:
        _refuse_without_kind(group, group, (node.get("agent") or {}).get(group), f"agent.{group}")
    for place in ("channel", "train_channel"):
        _refuse_without_kind("channel", place, node.get(place), place)
    try:
        return load(node | literal, trust=dict.fromkeys((*trusted(node), *_typed(words))))
    except UnknownSettingError as error:
        if error.setting == "agent.defence":
            kind = node["agent"]["defence"]["_target_"].rpartition(".")[2]
            fix = "it is for the teams that our own online learners train, this agent is none; leave it out"
            raise FieldError("defence", re.sub(r"\B(?=[A-Z])", "_", kind).lower(), fix) from error
        _blame_settings(error, words)
        raise


def _refuse_without_kind(group: str, word: str, part: Any, path: str) -> None:
    """Settings of a part that nobody chose.

    Args:
        group: whose files are kinds of the part.
        word: that chooses one.
        part: of the config.
        path: of the part's settings.
    """
    if isinstance(part, Mapping) and "_target_" not in part:
        kinds = ", ".join(name for name in options(group) if name != "none")
        settings = ", ".join(f"{path}.{name}" for name in part)
        raise MarlError(f"{settings}: say what kind of {group} it is for, {word}=<one of {kinds}>")


def _blame_settings(error: UnknownSettingError, words: Sequence[str]) -> None:
    """Say so where the setting was not typed but stands in a file of the group `settings`.

    That file was chosen, or else a loop was whose file leaves the default one in force.
    """
    typed = dict(word.lstrip("+").partition("=")[::2] for word in words)
    name = typed.get("settings", _FAMILY)
    if error.setting in typed:
        return
    node: Any = read_option("settings", name)
    for part in error.setting.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    if node is not None:
        wrong = f"settings={name} sets {error.setting}, which this agent does not have"
        fix = f"leave settings={name} out"
        if "settings" not in typed:
            wrong = f"loop={typed.get('loop', 'off_policy')} keeps settings={name}, and {wrong}"
            fix = "leave loop out, or add settings=default"
        raise MarlError(f"{wrong}: {fix}") from error


def over(node: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """A stored config with another link between agents, and other settings of its team.

    Args:
        node: the whole config as plain data.
        words: `channel=<name>`, `channel.<field>=<value>` and `agent.<field>=<value>`.

    Raises:
        MarlError: a word is of anything else, or of no known name.
    """
    out, links = dict(node), [w for w in words if re.split(r"[.=]", w)[0] == "channel"]
    rest = [w for w in words if w not in links]
    fix = "does not fit a measurement: give channel=<name> or agent.<field>=<value>"
    out["agent"] = {**out["agent"], **fields("agent", rest, fix)}
    if links:
        own = node.get("channel") if not any(w.startswith("channel=") for w in links) else None
        given = _compose(_split(links)[0]).get("channel")
        out["channel"] = {**own, **(given or {})} if own else given
        _refuse_without_kind("channel", "channel", out["channel"], "channel")
    return out


def fields(top: str, words: Sequence[str], fix: str = "") -> dict[str, Any]:
    """The values of `<top>.<field>=<value>` by field.

    Args:
        top: agent or env.
        words: as typed.
        fix: what to say of any other word.

    Raises:
        MarlError: a word is of anything else.
    """
    out: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        head, _, field = key.partition(".")
        if not equals or head != top or not re.fullmatch(r"\w+", field):
            raise MarlError(f"{word!r} {fix or f'is no setting of {top}: give {top}.<field>=<value>'}")
        (parsed,) = _parse([f"++{key}={_quote(value)}"])
        out[field] = parsed.value()
    return out


def with_seeds(overrides: Sequence[str], seeds: Sequence[int]) -> list[RunConfig]:
    """The run that the overrides mean, once per seed; composed once, which takes far longer than a copy."""
    first = compose(overrides)
    name = "" if first.run_id == first.default_run_id() else first.run_id
    return [dataclasses.replace(first, seed=seed, run_id=name) for seed in seeds]


def expand(overrides: Sequence[str], *, seeds: str | None = None, multirun: bool = False) -> list[list[str]]:
    """The list of jobs, each as overrides of a single run.

    Args:
        overrides: `key=value` words; sweeps (a=1,2 or a=range(3)) need `multirun`.
        seeds: "0-9", "0,3,5" or None for the seed in the overrides.
        multirun: whether sweeps are allowed.
    """
    words, literal = _split(overrides)
    fixed = [f"{k}={v}" for k, v in literal.items()]
    axes: list[list[str]] = []
    for parsed in _parse(words):
        key = parsed.get_key_element()
        if "." in key:
            key = key.removeprefix("++")  # `compose` puts it there again; a label shows what was typed
        if not parsed.is_sweep_override():
            line = str(parsed.input_line)
            axes.append([line.removeprefix("++") if "." in line.partition("=")[0] else line])
        elif not multirun:
            raise MarlError(f"{key.lstrip('+')} has several values: add -m to run one after the other")
        elif parsed.is_discrete_sweep():
            axes.append([f"{key}={value}" for value in parsed.sweep_string_iterator()])
        else:
            raise MarlError(f"{key.lstrip('+')}: an interval has no list of values; write them out")
    if seeds is not None:
        axes.append([f"seed={seed}" for seed in parse_seeds(seeds)])
    return [[*job, *fixed] for job in itertools.product(*axes)]


def parse_seeds(text: str | int) -> list[int]:
    """Seeds in the order given, each once: "0-9", "0,3,5", "0-4,7"."""
    seeds: list[int] = []
    for part in str(text).split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise FieldError("seeds", text, "write a range 0-9 or a list 0,3,5")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= _MAX_SEEDS:
            raise FieldError("seeds", text, f"give a rising range such as 0-9, of at most {_MAX_SEEDS} seeds")
        seeds += [s for s in range(first, last + 1) if s not in seeds]
    return seeds


def options(group: str) -> list[str]:
    """Names that a config group offers: ["battle", "battle/3m", ...]."""
    folder = conf_folder() / group
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


def read_option(group: str, name: str) -> dict[str, Any]:
    """One file of a group as it stands, without what its defaults list pulls in."""
    from omegaconf import OmegaConf

    if name not in options(group):
        raise _unknown_option(group, name)
    node = OmegaConf.to_container(OmegaConf.load(conf_folder() / group / f"{name}.yaml"))
    assert isinstance(node, dict)
    return {str(k): v for k, v in node.items() if k != "defaults"}


def conf_folder() -> Path:
    """Where the YAML files lie, in a checkout and in an installed wheel."""
    return Path(str(importlib.import_module("marl.conf").__file__)).parent


def _split(overrides: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Overrides as Hydra wants them, and those read literally; the last of a key wins."""
    words: dict[str, str] = {}
    literal: dict[str, str] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        key = _SHORT.get(key, key)
        name = key.lstrip("+~")
        if name == key and "." in name and name.partition(".")[0] in _OF_AGENT:
            key = name = f"agent.{name}"
        if not equals and not key.startswith("~"):
            raise MarlError(f"{override!r} is not a setting: write name=value")
        if name in _LITERAL:
            literal[name] = value
            continue
        top = re.split(r"[.@/]", name)[0]
        if top == "hydra" and name != _SEARCH:
            raise MarlError(f"{name} is not a setting of a run: of Hydra's own only {_SEARCH} is read")
        if top not in (*_TOP, *GROUPS, "hydra"):
            raise unknown(top, (*_TOP, "settings"), "", "a run")
        if name in (*GROUPS, _SHORT["train_channel"]) and equals and value in ("", "null"):
            typed = override.partition("=")[0].lstrip("+")
            raise FieldError(typed, value, f"leave it out, or give one of {', '.join(options(top))}")
        if "." in name and top != "hydra" and not key.startswith("~"):
            key = f"++{name}"  # settings that the YAML leaves to the dataclass; `make` checks the name
        words.pop(name, None)
        words[name] = f"{key}={_quote(value)}" if equals else key
    return list(words.values()), literal


def _quote(value: str) -> str:
    """Paths and text with '=' as a quoted string of Hydra's grammar; all else as it stands."""
    path = value.startswith(("/", "./", "../", "~")) or ("=" in value and value[0] not in "[{'\"$")
    if not path or "," in value:
        return value
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return f"'{escaped}'"


@contextmanager
def _hydra() -> Iterator[None]:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    if GlobalHydra.instance().is_initialized():
        GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        yield


def _parse(words: Sequence[str]) -> list[Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return list(OverridesParser.create().parse_overrides(list(words)))
    except HydraException as error:
        raise MarlError(f"the command line cannot be read: {_first_line(error)}") from error


def _compose(words: Sequence[str]) -> dict[str, Any]:
    """The composed config as plain data."""
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with _hydra(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Hydra's hints are about its own versions
            node = OmegaConf.to_container(hydra_compose("train", overrides=list(words)), resolve=True)
    except MissingConfigException as error:
        raise _no_option(error) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise MarlError(f"the config cannot be composed: {_first_line(error)}") from error
    assert isinstance(node, dict)
    return {str(k): v for k, v in node.items()}


def _no_option(error: Any) -> MarlError:
    group, _, name = str(error.missing_cfg_file or "").partition("/")
    if group not in GROUPS:
        return MarlError(f"the config cannot be composed: {_first_line(error)}")
    return _unknown_option(group, name)


def _unknown_option(group: str, name: str) -> MarlError:
    wrong = str(unknown(name, options(group), "", f"{group}="))
    return MarlError(
        wrong.replace(f"{name} is not a setting of {group}=", f"{group}={name} does not exist", 1)
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _typed(words: Sequence[str]) -> Iterator[str]:
    """Packages of code that words of a command line name: typing it is asking for it to run."""
    for word in words:
        key, _, value = word.partition("=")
        match = re.match(r"['\"]?([A-Za-z_]\w*)[\w.]*:", value)
        if key.lstrip("+") in _CODE and match:
            yield match[1]


def trusted(node: Mapping[str, Any]) -> tuple[str, ...]:
    """The packages that a composed config, or words of a command line, trust."""
    trust = node.get("trust") or []
    if not isinstance(trust, list) or not all(isinstance(t, str) for t in trust):
        raise FieldError("trust", trust, "give a list of package names, trust=[mypackage]")
    return tuple(trust)
