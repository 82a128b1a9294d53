"""Checkpoints come back as they were, or name the file that is wrong; reading runs no code."""

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from marl import checkpoint, files
from marl.errors import CorruptFileError, MarlError

Content = Callable[[], dict[str, Tensor]]


def make_state() -> dict[str, Any]:
    net = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    net(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    shared = torch.arange(6.0)
    return {
        "agent": {
            "networks": {"net": net.state_dict()},
            "optimisers": {"adam": optimiser.state_dict()},
            "counters": {"updates": 3, "loss": float("nan")},
        },
        "env": {"t": torch.tensor(4), "mask": torch.tensor([True, False]), "none": torch.zeros(0, 3)},
        "views": [shared[:3], shared[3:], shared.reshape(2, 3).T],
        "rng": {"names": ["a"], "big": 2**127, "state": (1, [2, 3], None)},
        "bf16": torch.ones(2, dtype=torch.bfloat16),
    }


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def segment(value: float) -> Content:
    """Tensors in the order of their names, as they are read."""
    return lambda: {"mask": torch.ones(5, dtype=torch.bool), "reward": torch.full((5,), value)}


def write(run: Path, step: int, segments: dict[str, Content] | None = None, **options: Any) -> Path:
    return checkpoint.write(
        run, step, make_state(), segments or {}, info={"run_id": "a", "x": 1.5}, **options
    )


def test_state_info_and_memory_come_back_as_they_were(tmp_path: Path) -> None:
    state = make_state()
    path = checkpoint.write(tmp_path, 7, state, {"s-0": segment(1)}, info={"run_id": "a", "f": float("inf")})
    saved = checkpoint.read(path)
    assert equal(saved.state, state)
    assert saved.step == 7
    assert saved.info == {"run_id": "a", "f": float("inf")}
    assert saved.segments == ("s-0",)
    assert equal(saved.read_segment("s-0"), segment(1)())
    names = {p.name for p in path.iterdir()}
    assert {
        "meta.json",
        "agent.networks.safetensors",
        "agent.optimisers.safetensors",
        "env.safetensors",
    } <= names


def test_unchanged_segments_are_linked_and_only_the_last_checkpoint_keeps_memory(tmp_path: Path) -> None:
    calls: list[str] = []

    def counted(name: str) -> Content:
        def content() -> dict[str, Tensor]:
            calls.append(name)
            return segment(1)()

        return content

    old = write(tmp_path, 1, {"a": counted("a"), "b": counted("b")}, keep=2)
    inode = (old / "memory" / "a.safetensors").stat().st_ino
    new = write(tmp_path, 2, {"a": counted("a"), "c": counted("c")}, keep=2)
    assert calls == ["a", "b", "c"]
    assert (new / "memory" / "a.safetensors").stat().st_ino == inode
    assert not (old / "memory").exists()
    assert equal(checkpoint.read(new).read_segment("a"), segment(1)())
    with pytest.raises(CorruptFileError, match="memory"):
        checkpoint.read(old)
    assert checkpoint.read(old, memory=False).step == 1


def test_keep_says_how_many_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        write(tmp_path, step, keep=2)
    assert checkpoint.steps(tmp_path) == [4, 3]
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"3", "4"}


def test_every_bit_flip_truncation_and_loss_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, 1, {"s": segment(2)})
    listed = [p for p in path.rglob("*") if p.is_file()]
    assert len(listed) >= 6
    for file in listed:
        good = file.read_bytes()
        spots = sorted({0, 1, 7, 8, 9, len(good) // 3, len(good) // 2, len(good) - 2, len(good) - 1})
        broken = [good[:i] + bytes([good[i] ^ (1 << (i % 8))]) + good[i + 1 :] for i in spots]
        for bad in (*broken, good[:-1], good[: len(good) // 2], b"", good + b"\0"):
            file.write_bytes(bad)
            with pytest.raises(CorruptFileError) as caught:
                checkpoint.read(path)
            assert caught.value.path in (file, path / "meta.json")
            assert str(file if file.name != "meta.json" else path) in str(caught.value)
        file.unlink()
        with pytest.raises(CorruptFileError, match=file.name):
            checkpoint.read(path)
        file.write_bytes(good)
    assert checkpoint.read(path).step == 1


def test_latest_names_what_it_skips_and_never_falls_back_to_nothing(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) == (None, [])
    write(tmp_path, 1, keep=3)
    write(tmp_path, 2, keep=3)
    (tmp_path / "checkpoints" / "2" / "env.safetensors").write_bytes(b"rot")
    saved, skipped = checkpoint.latest(tmp_path)
    assert saved is not None
    assert saved.step == 1
    assert len(skipped) == 1
    assert "checkpoint 2 was skipped" in skipped[0]
    assert "env.safetensors" in skipped[0]
    (tmp_path / "checkpoints" / "1" / "meta.json").unlink()
    with pytest.raises(CorruptFileError, match=r"env\.safetensors"):
        checkpoint.latest(tmp_path)


def test_a_damaged_checkpoint_of_the_same_step_is_set_aside_and_written_anew(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    stamp = (path / "meta.json").stat().st_mtime_ns
    write(tmp_path, 1)
    assert (path / "meta.json").stat().st_mtime_ns == stamp  # whole: left alone
    (path / "env.safetensors").write_bytes(b"rot")
    write(tmp_path, 1)
    assert checkpoint.read(path).step == 1
    assert (tmp_path / "checkpoints" / "damaged-1").is_dir()


class _Bomb:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_named_as_a_part_is_refused_and_not_run(tmp_path: Path) -> None:
    """Even when the attacker writes matching hashes into meta.json."""
    path = write(tmp_path, 1, {"s": segment(1)})
    proof = tmp_path / "code-was-run"
    evil = pickle.dumps(_Bomb(proof))
    for name, group in (("env.safetensors", "files"), ("s", "memory")):
        run = tmp_path / group
        path = write(run, 1, {"s": segment(1)})
        file = path / name if group == "files" else path / "memory" / "s.safetensors"
        file.write_bytes(evil)
        meta = json.loads((path / "meta.json").read_bytes())
        meta[group][name] = {"bytes": len(evil), "sha256": files.sha256(evil)}
        del meta["sha256"]
        dump = json.dumps(meta, separators=(",", ":")).encode()
        meta["sha256"] = files.sha256(dump)
        (path / "meta.json").write_bytes(json.dumps(meta, separators=(",", ":")).encode())
        with pytest.raises(CorruptFileError, match=f"{file.name}.*not a safetensors file"):
            checkpoint.read(path).read_segment("s")
    assert not proof.exists()
    pickle.loads(evil)
    assert proof.exists()  # the bomb works: refusing it is what saved us


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{}", "not a checkpoint of this program"),
        (b"[1]", "not a checkpoint of this program"),
        (b"\x80\x04}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"kind":"marl checkpoint","schema":99}', "schema 99, this version reads 1"),
    ],
)
def test_foreign_meta_files_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = write(tmp_path, 1)
    (path / "meta.json").write_bytes(content)
    with pytest.raises(CorruptFileError, match=words):
        checkpoint.read(path)


def test_names_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    meta = json.loads((path / "meta.json").read_bytes())
    meta["files"]["../../secret"] = {"bytes": 1, "sha256": ""}
    del meta["sha256"]
    meta["sha256"] = files.sha256(json.dumps(meta, separators=(",", ":")).encode())
    (path / "meta.json").write_bytes(json.dumps(meta, separators=(",", ":")).encode())
    with pytest.raises(CorruptFileError, match="foreign name"):
        checkpoint.read(path)
    with pytest.raises(ValueError, match="segment name"):
        write(tmp_path, 2, {"../x": segment(1)})


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1, {"s": segment(1)})
    count = 0
    real = os.write

    def limited(handle: int, data: bytes) -> int:
        nonlocal count
        count += 1
        if count > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    monkeypatch.setattr(os, "write", limited)
    with pytest.raises(MarlError, match="disk is full"):
        write(tmp_path, 2, {"s": segment(1), "t": segment(2)})
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
    saved, skipped = checkpoint.latest(tmp_path)
    assert saved is not None
    assert (saved.step, skipped) == (1, [])
    assert equal(saved.read_segment("s"), segment(1)())
