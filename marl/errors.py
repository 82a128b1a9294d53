"""Errors that a user can act on: one sentence that names the field or file, the value and the fix."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class MarlError(Exception):
    """An error with a message for the user; the command line prints the message alone."""


class FieldError(MarlError):
    """A configuration field has a value that cannot be used.

    Args:
        field: dotted name of the field, seen from the component that raised it.
        value: what was given.
        fix: what to give instead, as a clause ("give a number in [0, 1]").
    """

    def __init__(self, field: str, value: Any, fix: str) -> None:
        super().__init__(f"{field}={value!r} cannot be used: {fix}")
        self.field, self.value, self.fix = field, value, fix


class UnknownSettingError(MarlError):
    """A setting that a component does not have.

    Args:
        setting: its dotted name.
        message: the sentence.
    """

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


class NonFiniteError(MarlError):
    """A loss or a gradient became NaN or infinite; raised before the optimiser steps.

    Args:
        tensor: name of the tensor.
        detail: what else the user should know, as a sentence without its full stop.
    """

    def __init__(self, tensor: str, detail: str = "") -> None:
        super().__init__(f"{tensor} is NaN or infinite" + (f": {detail}" if detail else ""))
        self.tensor = tensor


class EnvError(MarlError):
    """A foreign environment did what none may do, crashed, or gave no answer in time."""


class CorruptFileError(MarlError):
    """A file of a run is damaged, incomplete or not ours.

    Args:
        path: the file.
        reason: what is wrong with it, as a clause.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path} cannot be used: {reason}")
        self.path, self.reason = Path(path), reason


class Interrupted(MarlError):
    """A signal ended the run after its checkpoint was written.

    Args:
        signal: number of the signal; the process exits with 128 + this.
        message: where the checkpoint lies and how to go on.
    """

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.signal = signal


def require(condition: bool, field: str, value: Any, fix: str) -> None:
    """Raise FieldError unless the condition holds; for the `__post_init__` of every Config.

    Args:
        condition: what must be true of the value.
        field: name of the field in its own Config ("gamma"); `marl.config.make` adds where the
            component stands ("agent.gamma").
        value: what was given.
        fix: what to give instead, as a clause ("give a number in [0, 1]").
    """
    if not condition:
        raise FieldError(field, value, fix)


def refuse_unread(config: Any, names: Iterable[str], fix: str) -> None:
    """Raise FieldError for fields that nothing would read, unless they stand at their defaults.

    Args:
        config: a dataclass.
        names: its fields that are not read.
        fix: why, and what to give instead, as a clause.
    """
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        require(f.name not in names or value == f.default, f.name, value, fix)
