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


@pytest.mark.skipif(MISSING, reason="the extra `triton` is not installed")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["product", "outer"])
def test_kernels_compile_for_a_gpu_that_is_not_here(
    name: str, dtype: str, tmp_path: Path, monkeypatch
) -> None:
    """To machine code of compute capability 8.0; the interpreter takes what a compiler may refuse."""
    import triton as package
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    blocks = triton.TABLE[2]
    kernel = getattr(triton._kernels(), name)
    fixed = {"GATHER": True, "SCATTER": True, "PRECISION": "ieee", "WIDEN": False}
    fixed |= {"BR": blocks.rows, "BC": blocks.columns, "BK": blocks.inner}
    if name == "product":
        fixed |= {"TRANSPOSED": False, "HAS_BIAS": True, "RELU": True}
    kinds = {"start_block": "*i64", **dict.fromkeys(("R", "width_in", "width_out"), "i32")}
    kinds |= dict.fromkeys(("tiles", "order_in", "order_out", "start_in", "start_out"), "*i32")
    kinds |= dict.fromkeys(fixed, "constexpr")
    signature = {argument: kinds.get(argument, f"*{dtype}") for argument in kernel.arg_names}
    constants = {(kernel.arg_names.index(argument),): value for argument, value in fixed.items()}
    options = {"num_warps": blocks.warps, "num_stages": blocks.stages, "enable_fp_fusion": True}
    made = package.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants),
        target=GPUTarget("cuda", 80, 32),
        options=options,
    )
    assert "cubin" in made.asm


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
