"""Files of a run: whole or absent, on the disk when a function returns.

Every write, fsync, rename, link and unlink of a run goes through this module and through `os`, so
that a test can stop the process at any one of them. A full disk becomes one sentence and leaves
nothing half written.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from marl.errors import MarlError

TEMPORARY = ".tmp-"  # a name with this prefix is unfinished or being deleted; `sweep` removes it
_CHUNK = 1 << 24  # bytes handed to one write or hash call; bounds what a signal has to wait for


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in chunks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MarlError(
                f"the disk is full: {path} could not be written; free space there and run the command again"
            ) from error
        raise


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turn any other refusal to make a name in a folder (or the folder itself) into one sentence too."""
    try:
        with _full_disk(folder):
            yield
    except OSError as error:
        fix = "give another place, or the right to write there"
        raise MarlError(f"{folder} cannot be written to ({error.strerror}): {fix}") from error


def write(path: Path, data: bytes) -> None:
    """Write and fsync a new file; an error removes it. Not atomic: for files in an unfinished folder."""
    with _writable(path.parent):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        with _full_disk(path):
            _write_all(handle, data)
            os.fsync(handle)
    except BaseException:
        os.close(handle)
        os.unlink(path)
        raise
    os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view[:_CHUNK]) :]


def fsync_folder(folder: Path) -> None:
    """Make names created, renamed or removed in the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the file's content: a reader sees the old or the new, never a part."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    write(temporary, data)
    adopt(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Replace the file by one line of JSON."""
    write_atomic(path, json.dumps(value, allow_nan=False).encode() + b"\n")


def adopt(temporary: Path, path: Path) -> None:
    """Give a finished and fsynced temporary file (or folder) its name."""
    with _full_disk(path):
        os.replace(temporary, path)
    fsync_folder(path.parent)


def adopt_made(path: Path, make: Callable[[Path], None]) -> None:
    """Atomic form of code that insists on writing to a path itself, such as a video encoder.

    Args:
        path: the file to make; its suffix is kept.
        make: writes the file at the temporary path that it is given.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with _full_disk(path):
            make(temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    handle = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    adopt(temporary, path)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that gets its name when the block ends well, and vanishes otherwise.

    The block writes with `write` or `link`; the folders are fsynced here.
    """
    temporary = folder.with_name(f"{TEMPORARY}{os.getpid()}-{folder.name}")
    remove_folder(temporary)
    with _writable(folder.parent):
        os.mkdir(temporary)
    try:
        yield temporary
        for inner in (*(p for p in temporary.iterdir() if p.is_dir()), temporary):
            fsync_folder(inner)
    except BaseException:
        remove_folder(temporary)
        raise
    adopt(temporary, folder)


def make_folder(folder: Path) -> None:
    """`mkdir -p`."""
    with _writable(folder):
        os.makedirs(folder, exist_ok=True)


def link(source: Path, target: Path) -> None:
    """Hard link, or copy where the file system has no links."""
    try:
        with _full_disk(target):
            os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
            raise
        write(target, source.read_bytes())


def remove_folder(folder: Path) -> None:
    """Delete a folder of files; first its name, so that no half of it is ever seen."""
    if not folder.is_dir():
        return
    if not folder.name.startswith(TEMPORARY):
        trash = folder.with_name(f"{TEMPORARY}{os.getpid()}-gone-{folder.name}")
        remove_folder(trash)
        os.rename(folder, trash)
        fsync_folder(folder.parent)
        folder = trash
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            _remove_files(path)
        else:
            os.unlink(path)
    os.rmdir(folder)


def _remove_files(folder: Path) -> None:
    for path in folder.iterdir():
        os.unlink(path)
    os.rmdir(folder)


def sweep(folder: Path) -> None:
    """Delete what a killed process left unfinished in this folder."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name.startswith(TEMPORARY):
            if path.is_dir() and not path.is_symlink():
                remove_folder(path)
            else:
                os.unlink(path)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Own a folder while the block runs; the system frees it when the process ends, however it ends.

    A folder into which the block wrote nothing goes: a run that could not start leaves none.

    Raises:
        MarlError: another process owns it.
    """
    path = folder / ".lock"
    with _writable(folder):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise MarlError(f"another process is running in {folder}: wait for it or end it first") from error
        try:
            yield
        finally:
            if os.listdir(folder) == [path.name]:
                path.unlink()
                folder.rmdir()
    finally:
        os.close(handle)


class LineFile:
    """An append-only file of lines whose length can be put back to what a checkpoint says.

    Args:
        path: the file; made when absent.
        size: bytes to keep of what is there, or None to keep all.

    Raises:
        MarlError: the file is shorter than `size`.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        with _writable(path.parent):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self.size = os.fstat(self._handle).st_size
        if size is not None and self.size < size:
            os.close(self._handle)
            raise MarlError(
                f"{path} has {self.size} bytes where the checkpoint counted {size}: lines were lost, "
                "put the file back or start the run anew"
            )
        if size is not None and self.size > size:
            os.ftruncate(self._handle, size)
            self.size = size

    def append(self, line: str) -> None:
        """Add one line; on a full disk the part that was written is taken back."""
        data = line.encode() + b"\n"
        try:
            with _full_disk(self.path):
                _write_all(self._handle, data)
        except BaseException:
            os.ftruncate(self._handle, self.size)
            raise
        self.size += len(data)

    def sync(self) -> int:
        """Put the lines on the disk; returns the size in bytes."""
        with _full_disk(self.path):
            os.fsync(self._handle)
        return self.size

    def close(self) -> None:
        os.close(self._handle)
