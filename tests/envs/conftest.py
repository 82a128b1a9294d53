"""Worlds that tests of several doors need."""

import importlib
import sys
from pathlib import Path

import pytest


@pytest.fixture
def camp(tmp_path, monkeypatch):
    """tests/envs/camp.py as a module outside the repository: environments as a user would write them."""
    (tmp_path / "camp.py").write_text(Path(__file__).with_name("camp.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "camp", raising=False)
    return importlib.import_module("camp")
