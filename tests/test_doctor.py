"""`marl doctor`: each state as it should be named, and broken packages that cannot break it."""

import importlib.metadata
import json
import sys
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from marl import cli, doctor
from marl.doctor import PARTS, Finding, Part

ROOT = Path(__file__).resolve().parents[1]
BY_NAME = {part.name: part for part in PARTS}
BROKEN = {
    "fine": ("", "ok", ""),
    "raises": ("raise ImportError('first line\\nsecond line')", "broken", "ImportError: first line"),
    "exits": ("raise SystemExit(3)", "broken", "SystemExit: 3"),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "broken", "with SIGSEGV"),
    "leaves": ("import os; os._exit(7)", "broken", "ends Python: 7"),
    "prints": ("print('marl-doctor?', end='')", "ok", ""),
    "hangs": ("import time; time.sleep(100)", "broken", "does not import within 4 s"),
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder on the path with packages of every kind of trouble."""
    for name, (code, *_) in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_package_is_one_line(name, packages, monkeypatch):
    """Stands in for tensorboard, in the process that looks at it."""
    _, state, detail = BROKEN[name]
    (packages / "tensorboard.py").write_text(f"import {name}")
    found = doctor.examine(BY_NAME["tensorboard"], packages, timeout_s=4.0)
    assert found.state == state
    assert detail in found.detail
    assert "\n" not in found.detail


def test_a_package_that_is_not_there():
    found = doctor.look(Part("ghost", "", "pip install ghost", "no_such_package"))
    assert found == Finding("missing", "", "not installed")


def test_pygame_and_its_double(monkeypatch):
    def look(**versions):
        def version(name):
            if name in versions:
                return versions[name]
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "version", version)
        return doctor.look(BY_NAME["pygame"])

    class Module:
        init = None

    monkeypatch.setitem(sys.modules, "pygame", Module)
    assert look().state == "missing"
    assert look(pygame="2.6.1") == Finding("ok", "2.6.1")
    both = look(**{"pygame": "2.6.1", "pygame-ce": "2.5.6"})
    assert both.state == "warning"
    assert "both installed" in both.detail
    monkeypatch.setitem(sys.modules, "pygame", object())  # the folder that an uninstallation emptied
    assert look(pygame="2.6.1").state == "broken"


def test_the_compiler_is_the_one_that_native_parts_would_use(monkeypatch):
    monkeypatch.setenv("CXX", sys.executable)
    found = doctor.look(BY_NAME["C++ compiler"])
    assert found.state == "ok"
    assert found.version.startswith("Python")
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert doctor.look(BY_NAME["C++ compiler"]).state == "broken"
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    assert doctor.look(BY_NAME["C++ compiler"]).state == "missing"


def test_starcraft_is_asked_for_where_sc2path_points(tmp_path, monkeypatch):
    monkeypatch.setenv("SC2PATH", str(tmp_path / "nowhere"))
    found = doctor.examine(BY_NAME["StarCraft II"], tmp_path)
    assert found.state == "missing"
    assert f"SC2PATH={tmp_path / 'nowhere'}" in found.detail or "is not installed" in found.detail


def test_every_part_in_one_command(tmp_path, monkeypatch, capsys):
    """Nothing is written into the home folder; the exit code is 0."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["doctor", "json=true"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(BY_NAME)
    by_name = {row["name"]: row for row in rows}
    assert by_name["wandb"]["state"] == "ok"
    assert by_name["wandb"]["version"] == importlib.metadata.version("wandb")
    for row in rows:
        assert set(row) == {"name", "purpose", "state", "version", "detail", "fix"}
        assert (row["fix"] == "") == (row["state"] == "ok"), row
        assert row["state"] == "ok" or row["detail"], row
    assert list(tmp_path.iterdir()) == []


ROWS = [
    {"name": "a", "purpose": "for a", "state": "ok", "version": "1.0", "detail": "", "fix": ""},
    {
        "name": "b",
        "purpose": "for b",
        "state": "missing",
        "version": "",
        "detail": "[no]",
        "fix": "pip install b",
    },
]


def test_plain_lines_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "run", lambda: ROWS)
    assert cli.main(["doctor"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.startswith("marl ")
    assert lines == ["ok       a 1.0; for a", "missing  b; for b; [no]; fix: pip install b"]


def test_a_table_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("rich.console.Console", lambda: Console(width=80, force_terminal=False))
    doctor.show(ROWS)
    shown = capsys.readouterr().out
    assert "┃ part" in shown
    for word in ("missing", "[no]", "pip install b"):
        assert word in shown


@pytest.mark.parametrize(
    ("word", "said"), [("jsn=true", "jsn is not a setting"), ("json=1", "give true or false")]
)
def test_wrong_words_are_one_sentence(word, said, capsys):
    assert cli.main(["doctor", word]) == 2
    assert said in capsys.readouterr().err


def test_the_commands_name_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for part in PARTS:
        if "marl-suite[" in part.fix:
            assert part.fix.split("[")[1].split("]")[0] in extras
