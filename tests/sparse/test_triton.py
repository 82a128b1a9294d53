"""The cases of triton_cases.py: by Triton's interpreter on the CPU, and compiled where there is a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from marl.errors import MarlError
from marl.sparse import Layout, grouped_linear
from marl.sparse.backends import triton

ROOT = Path(__file__).resolve().parents[2]
MISSING = importlib.util.find_spec("triton") is None
DEVICES = ["interpreter", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.skipif(MISSING, reason="the extra `triton` is not installed")
@pytest.mark.parametrize("device", DEVICES)
def test_cases(device: str, tmp_path: Path) -> None:
    """In a process of its own: the interpreter must be chosen before triton is imported."""
    own = {"TRITON_INTERPRET": "1" if device == "interpreter" else "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/sparse/triton_cases.py"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout[-8000:]


def layer() -> tuple[torch.Tensor, torch.Tensor, None, Layout]:
    layout = Layout.of(torch.tensor([0, 1]), torch.tensor([0, 1]), 2)
    return torch.ones(1, 2), torch.ones(2), None, layout


def test_without_triton_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    triton._kernels.cache_clear()
    with pytest.raises(MarlError, match=r"needs triton: pip install 'marl-suite\[triton\]'"):
        grouped_linear(*layer(), backend="triton")
    triton._kernels.cache_clear()


@pytest.mark.skipif(MISSING, reason="the extra `triton` is not installed")
def test_tensors_elsewhere_are_refused() -> None:
    with pytest.raises(MarlError, match="needs tensors on a CUDA device, x is on cpu: give backend=auto"):
        grouped_linear(*layer(), backend="triton")
    assert not triton.usable(torch.ones(1))
