"""Folders that can be trusted after reading: one JSON file lists size and hash of all others, and its own.

Only JSON and safetensors are ever parsed, and nothing is parsed before its hash was checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from marl import files
from marl.errors import CorruptFileError

HASH = "sha256"  # of everything else in the JSON file; its last entry


def dump(content: Mapping[str, Any]) -> bytes:
    """The one way in which content is written, so that equal content has equal bytes."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def write_list(path: Path, content: Mapping[str, Any]) -> None:
    """Write the JSON file, its hash added."""
    files.write(path, dump({**content, HASH: files.sha256(dump(content))}))


def read_list(path: Path, *, kind: str, schema: int, what: str) -> dict[str, Any]:
    """The JSON file's content, if it is ours and unchanged to the last byte.

    Args:
        path: the file.
        kind, schema: what its entries "kind" and "schema" must be.
        what: it is, for the message ("a checkpoint").

    Raises:
        CorruptFileError: names the file.
    """
    try:
        raw = path.read_bytes()
        content = json.loads(raw)
    except OSError as error:
        raise CorruptFileError(path, error.strerror or "it cannot be read") from error
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(path, "it is not JSON") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise CorruptFileError(path, f"it is not {what} of this program")
    if content.get("schema") != schema:
        raise CorruptFileError(path, f"it has schema {content.get('schema')!r}, this version reads {schema}")
    body = {k: v for k, v in content.items() if k != HASH}
    if content.get(HASH) != files.sha256(dump(body)) or raw != dump(content):
        raise CorruptFileError(path, "its content does not match its hash")
    return content


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write one safetensors file; returns the entry that the JSON file shall hold: its size and hash."""
    # A clone of its own for each: safetensors refuses views that share memory.
    data = safetensors.torch.save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})
    files.write(path, data)
    return {"bytes": len(data), HASH: files.sha256(data)}


def read_checked(path: Path, entry: Mapping[str, Any], listed_in: str) -> bytes:
    """The file's bytes, if size and hash are as the file `listed_in` says."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptFileError(path, error.strerror or "it cannot be read") from error
    if len(data) != entry["bytes"]:
        raise CorruptFileError(path, f"it has {len(data)} bytes, {listed_in} says {entry['bytes']}")
    if files.sha256(data) != entry[HASH]:
        raise CorruptFileError(path, "its content does not match its hash")
    return data


def parse_tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file's bytes, by name in order."""
    try:
        return dict(sorted(safetensors.torch.load(data).items()))  # it promises no order of its own
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(path, f"it is not a safetensors file ({error})") from error
