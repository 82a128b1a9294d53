"""Build a native (C++) part at first use and load it through ctypes.

The library lies in a cache keyed by the hash of its sources, the compiler and the machine's
instruction set, so that a change of any of them builds anew. Without a compiler `load` raises
`NoCompiler`, and the caller falls back to the torch form.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch

from marl.errors import MarlError

# -ffp-contract=off keeps a*b+c two roundings, as in the torch form: equality to the last bits matters
# more for worlds than the few per cent of a fused multiply-add.
STRICT = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-pthread", "-ffp-contract=off")
# Kernels of networks are compared within a tolerance and may fuse. Not -ffast-math: it drops the NaNs that
# must stop a run, and linked into a library it flushes denormals to zero in the whole process.
FAST = (*STRICT[:-1], "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")


T = TypeVar("T")

_SLOWER = "the slower torch form is used"


class NoCompiler(RuntimeError):
    """No C++ compiler, or it failed; the message says which and what to do."""


def cache_folder() -> Path:
    """$MARL_CACHE, else $XDG_CACHE_HOME/marl, else ~/.cache/marl."""
    if folder := os.environ.get("MARL_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "marl"


@functools.cache
def _machine() -> str:
    """The instruction set that -march=native depends on."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return line
    except OSError:
        pass
    return f"{platform.machine()} {platform.processor()}"


def native_form(form: str, device: torch.device, make: Callable[[], T]) -> T | None:
    """The C++ form of a world, or None where the torch form shall run.

    Args:
        form: "auto" (C++ on the CPU where it can be built, torch elsewhere), "torch" or "native".
        device: of the world's tensors.
        make: builds the C++ form; may raise NoCompiler.

    Raises:
        MarlError: form is "native", and it cannot be had.
    """
    if form == "torch" or (form == "auto" and device.type != "cpu"):
        return None
    if device.type != "cpu":
        raise MarlError(f"form='native' cannot run on {device}: give device=cpu or form=torch")
    try:
        return make()
    except NoCompiler as error:
        if form == "native":
            raise MarlError(f"form='native' cannot be used: {error}") from error
        logging.getLogger(__name__).warning("%s", error)
        return None


@functools.cache
def load(source: Path, flags: tuple[str, ...] = STRICT) -> ctypes.CDLL:
    """Compile `source` (once per content, compiler and machine) and load it.

    Raises:
        NoCompiler: no compiler was found (set CXX to name one), the build failed, or the cache is
            no use.
    """
    with _usable(source, flags, ()) as library:
        return ctypes.CDLL(str(library))


@functools.cache
def load_module(source: Path, flags: tuple[str, ...], libraries: tuple[str, ...]) -> ModuleType:
    """The same for a source that is an extension module of Python, linked with these libraries.

    Raises:
        NoCompiler: as `load`.
    """
    with _usable(source, flags, libraries) as library:
        spec = importlib.util.spec_from_file_location(source.stem, library)
        assert spec is not None
        assert spec.loader is not None
        try:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        except ImportError as error:
            raise OSError(str(error)) from error
        return module


@contextmanager
def _usable(source: Path, flags: tuple[str, ...], libraries: tuple[str, ...]) -> Iterator[Path]:
    """The library of a source, built where the cache has none; within, OSError is NoCompiler."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NoCompiler(f"no C++ compiler found: install g++ or set CXX; {_SLOWER}")
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise NoCompiler(f"{compiler} cannot be run ({error.strerror}): set CXX; {_SLOWER}") from error
    digest = hashlib.sha256("\n".join([version, _machine(), *flags, *libraries]).encode())
    for path in sorted({source, *source.parent.glob("*.hpp"), *Path(__file__).parent.glob("*.hpp")}):
        digest.update(path.read_bytes())
    library = cache_folder() / f"{source.stem}-{digest.hexdigest()[:20]}.so"
    try:
        if not library.is_file():
            with _alone(library):  # the second of two processes waits for what the first builds
                if not library.is_file():
                    _build(compiler, source, flags, libraries, library)
        yield library
    except OSError as error:  # a folder that is read-only, or from which nothing may be run
        raise NoCompiler(f"{library} cannot be used ({error}): set MARL_CACHE; {_SLOWER}") from error


@contextmanager
def _alone(library: Path) -> Iterator[None]:
    library.parent.mkdir(parents=True, exist_ok=True)
    with open(library.with_suffix(".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(
    compiler: str, source: Path, flags: tuple[str, ...], libraries: tuple[str, ...], library: Path
) -> None:
    handle, temporary = tempfile.mkstemp(dir=library.parent, suffix=".so")
    os.close(handle)
    command = [compiler, *flags, f"-I{Path(__file__).parent}", str(source), *libraries, "-o", temporary]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        os.unlink(temporary)
        raise NoCompiler(f"{compiler} could not build {source.name}:\n{result.stderr[:2000]}")
    os.chmod(temporary, 0o755)
    os.replace(temporary, library)
