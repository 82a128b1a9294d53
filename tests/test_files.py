"""Files are whole or absent, and a full disk is one sentence."""

import errno
import os
from pathlib import Path

import pytest

from marl import files
from marl.errors import MarlError


def full_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let `after` bytes through, then answer as a full disk does (a part of the last write succeeds)."""
    left = after
    real = os.write

    def write(handle: int, data: bytes) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = real(handle, bytes(data)[:left])
        left -= part
        return part

    monkeypatch.setattr(os, "write", write)


def test_write_atomic_replaces_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_atomic(path, b"long first content")
    files.write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_full_disk_keeps_the_old_file_and_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    files.write_atomic(path, b"old")
    full_disk(monkeypatch, after=10)
    with pytest.raises(MarlError, match=r"the disk is full: .*a could not be written; free space"):
        files.write_atomic(path, b"x" * 100)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_full_disk_inside_a_folder_removes_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, after=150)

    def fill() -> None:
        with files.atomic_folder(tmp_path / "f") as folder:
            files.write(folder / "one", b"1" * 100)
            files.write(folder / "two", b"2" * 100)

    with pytest.raises(MarlError, match="disk is full"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_atomic_folder_appears_only_when_done(tmp_path: Path) -> None:
    with files.atomic_folder(tmp_path / "f") as folder:
        files.write(folder / "one", b"1")
        assert not (tmp_path / "f").exists()
    assert (tmp_path / "f" / "one").read_bytes() == b"1"


def test_adopt_made_removes_what_a_failing_writer_left(tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("encoder")

    with pytest.raises(ValueError, match="encoder"):
        files.adopt_made(tmp_path / "v.gif", broken)
    assert list(tmp_path.iterdir()) == []
    files.adopt_made(tmp_path / "v.gif", lambda path: path.write_bytes(b"whole") and None)
    assert (tmp_path / "v.gif").read_bytes() == b"whole"


def test_sweep_removes_unfinished_names_only(tmp_path: Path) -> None:
    (tmp_path / ".tmp-1-a").mkdir()
    (tmp_path / ".tmp-1-a" / "x").write_bytes(b"")
    (tmp_path / ".tmp-1-b").write_bytes(b"")
    (tmp_path / "kept").write_bytes(b"")
    files.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_link_copies_where_links_are_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"content")
    files.link(tmp_path / "a", tmp_path / "linked")
    assert (tmp_path / "linked").stat().st_ino == (tmp_path / "a").stat().st_ino

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    files.link(tmp_path / "a", tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes() == b"content"
    assert (tmp_path / "copied").stat().st_ino != (tmp_path / "a").stat().st_ino


def test_lines_go_back_to_a_size_and_refuse_a_longer_past(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    lines = files.LineFile(path)
    lines.append("one")
    size = lines.sync()
    lines.append("two")
    lines.close()
    files.LineFile(path, size).close()
    assert path.read_text() == "one\n"
    with pytest.raises(MarlError, match=r"has 4 bytes where the checkpoint counted 9: lines were lost"):
        files.LineFile(path, 9)


def test_a_line_on_a_full_disk_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = files.LineFile(tmp_path / "lines")
    lines.append("one")
    full_disk(monkeypatch, after=3)
    with pytest.raises(MarlError, match="disk is full"):
        lines.append("a second line")
    assert (tmp_path / "lines").read_text() == "one\n"


def test_a_locked_folder_has_one_owner(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with (
        files.lock(tmp_path),
        pytest.raises(MarlError, match="another process is running"),
        files.lock(tmp_path),
    ):
        pass
    with files.lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place, absent = tmp_path / "file" / "a", tmp_path / "absent" / "a"
    for path, reason in ((place, "Not a directory"), (absent, "No such file or directory")):
        sentence = f"{path.parent} cannot be written to \\({reason}\\): give another place"
        with pytest.raises(MarlError, match=sentence):
            files.write_atomic(path, b"x")
        with pytest.raises(MarlError, match=sentence):
            files.LineFile(path)
        with pytest.raises(MarlError, match=sentence), files.atomic_folder(path):
            pass
        with pytest.raises(MarlError, match=sentence), files.lock(path.parent):
            pass
    with pytest.raises(MarlError, match=r"file cannot be written to \(File exists\)"):
        files.make_folder(tmp_path / "file")


def test_a_folder_in_which_nothing_was_written_goes_with_its_lock(tmp_path: Path) -> None:
    for name in ("empty", "used"):
        (tmp_path / name).mkdir()
    with pytest.raises(RuntimeError), files.lock(tmp_path / "empty"):
        raise RuntimeError
    with files.lock(tmp_path / "used"):
        (tmp_path / "used" / "results.json").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
