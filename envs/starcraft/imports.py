"""Imports of pysc2 and its protocol, which do not import as they are on a current Python.

Two faults stand in the way, each repaired only while `repaired()` is entered:

1. s2clientprotocol ships generated files of an old protobuf compiler; protobuf >= 4 refuses them
   ("Descriptors cannot be created directly"). Each such file holds its serialised descriptor, so an import
   hook takes those bytes out (by `ast`, nothing of the file is run), adds them to the descriptor pool and
   builds the messages as today's generated files do.
2. pysc2.lib.colors calls ``random.shuffle(list, function)``; Python 3.11 dropped the second argument.

Afterwards both are gone from `sys.meta_path` and `random` (what stays there is absl's own finder, which every
import of absl adds). wandb and protobuf 7 work in the same process.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from marl.errors import MarlError

INSTALL = "pip install 'marl-suite[starcraft]'"
_PACKAGE = "s2clientprotocol"
_lock = threading.RLock()  # import hook and shim are process-wide while they are in place
_original_shuffle = random.shuffle


@dataclass(frozen=True, kw_only=True)
class Modules:
    """What the adapter uses of pysc2 and of the protocol; `Any`, since neither has type hints."""

    api: Any  # s2clientprotocol.sc2api_pb2
    raw: Any  # s2clientprotocol.raw_pb2
    common: Any  # s2clientprotocol.common_pb2
    debug: Any  # s2clientprotocol.debug_pb2
    run_configs: Any  # pysc2.run_configs
    crashes: tuple[type[Exception], ...]  # what pysc2 raises when the game has gone
    refusals: tuple[
        type[Exception], ...
    ]  # what it raises when the game cannot be started or refuses a request


class _OldFiles(MetaPathFinder):
    """Finds the protocol's generated files that hold an old-style descriptor; leaves all else alone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not (fullname.startswith(f"{_PACKAGE}.") and fullname.endswith("_pb2")):
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None:
            return None
        descriptor = serialized_descriptor(Path(spec.origin).read_text(encoding="utf-8"))
        if descriptor is None:  # of a newer compiler: imports by itself
            return None
        return importlib.util.spec_from_file_location(fullname, spec.origin, loader=_Rebuild(descriptor))


class _Rebuild(Loader):
    """Builds a protocol module from the serialised descriptor of its file."""

    def __init__(self, descriptor: bytes) -> None:
        self.descriptor = descriptor

    def exec_module(self, module: ModuleType) -> None:
        from google.protobuf import descriptor_pb2, descriptor_pool  # type: ignore[import-untyped]
        from google.protobuf.internal import builder  # type: ignore[import-untyped]

        for needed in descriptor_pb2.FileDescriptorProto.FromString(self.descriptor).dependency:
            importlib.import_module(needed.removesuffix(".proto").replace("/", ".") + "_pb2")
        file = descriptor_pool.Default().AddSerializedFile(self.descriptor)
        names = vars(module)
        names["DESCRIPTOR"] = file
        builder.BuildMessageAndEnumDescriptors(file, names)
        builder.BuildTopDescriptorsAndMessages(file, module.__name__, names)


def serialized_descriptor(source: str) -> bytes | None:
    """The `serialized_pb` of an old-style generated file; None when the source has none.

    Args:
        source: Python text of a *_pb2.py file.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("FileDescriptor"):
            for keyword in node.keywords:
                if keyword.arg == "serialized_pb":
                    return _bytes(keyword.value)
    return None


def _bytes(node: ast.expr) -> bytes | None:
    """The bytes of ``b'...'`` or of ``_b('...')``, the form that served Python 2 too."""
    if isinstance(node, ast.Call) and len(node.args) == 1:
        node = node.args[0]
    value = node.value if isinstance(node, ast.Constant) else None
    return value.encode("latin1") if isinstance(value, str) else value if isinstance(value, bytes) else None


def _shuffle(x: MutableSequence[Any], function: Callable[[], float] | None = None) -> None:
    """`random.shuffle` as Python 3.10 had it: the second argument draws from [0, 1)."""
    if function is None:
        _original_shuffle(x)
        return
    for i in reversed(range(1, len(x))):
        j = int(function() * (i + 1))
        x[i], x[j] = x[j], x[i]


@contextmanager
def repaired() -> Iterator[None]:
    """While this is entered, pysc2 and s2clientprotocol import."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pysc2's own, of old syntax and old interfaces
        hook, shuffle = _OldFiles(), random.shuffle
        sys.meta_path.insert(0, hook)
        random.shuffle = _shuffle  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.meta_path.remove(hook)
            random.shuffle = shuffle  # type: ignore[method-assign]


def load() -> Modules:
    """pysc2 and its protocol, imported with the repairs; a second call finds the same modules.

    Raises:
        MarlError: pysc2 is not installed, or does not import for another reason.
    """
    missing = missing_package()
    if missing:
        raise MarlError(missing)
    with repaired():
        try:
            names = ("sc2api", "raw", "common", "debug")
            api, raw, common, debug = (importlib.import_module(f"{_PACKAGE}.{name}_pb2") for name in names)
            run_configs, protocol, remote, process = (
                importlib.import_module(f"pysc2.{name}")
                for name in ("run_configs", "lib.protocol", "lib.remote_controller", "lib.sc_process")
            )
        except ImportError as error:
            raise MarlError(f"pysc2 does not import ({error}): {INSTALL}") from error
    flags, websocket = importlib.import_module("absl.flags"), importlib.import_module("websocket")
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["marl"])  # pysc2 reads its settings from absl's flags, which must have been parsed
    return Modules(
        api=api,
        raw=raw,
        common=common,
        debug=debug,
        run_configs=run_configs,
        crashes=(
            protocol.ProtocolError,
            protocol.ConnectionError,
            remote.ConnectError,
            websocket.WebSocketException,
            OSError,
        ),
        refusals=(remote.RequestError, process.SC2LaunchError, ValueError, RuntimeError),
    )


def missing_package() -> str:
    """One sentence when pysc2 or its protocol is not installed, else ""."""
    for package in ("pysc2", _PACKAGE):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed: {INSTALL}"
    return ""


def find_smac() -> Any | None:
    """SMAC's own `StarCraft2Env`, or None. The package `smac` of the index is SMAC3, which has none."""
    if missing_package():
        return None
    with repaired():
        try:
            return getattr(importlib.import_module("smac.env"), "StarCraft2Env", None)
        except ImportError:
            return None
