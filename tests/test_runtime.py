"""What the command line sets before torch is loaded, seen from a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MADVISE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SETTINGS = ("OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE")
SHOW = (
    "import os; from marl import runtime; runtime.prepare(); "
    f"print(*(os.environ[name] for name in {SETTINGS}))"
)


def shown(**environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
    )
    return done.stdout.strip()


def test_threads_sleep_and_pages_are_huge_unless_the_user_says_otherwise() -> None:
    assert shown() == "PASSIVE 1"
    assert shown(OMP_WAIT_POLICY="ACTIVE", THP_MEM_ALLOC_ENABLE="0") == "ACTIVE 0"


def test_nothing_that_loads_torch_comes_before_the_settings() -> None:
    code = "import sys; from marl import cli, runtime; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


@pytest.mark.skipif(not MADVISE.is_file() or "[never]" in MADVISE.read_text(), reason="no huge pages here")
def test_a_large_tensor_takes_few_page_faults() -> None:
    """64 MiB above glibc's highest threshold are 16,384 small pages, or 32 huge ones."""
    code = (
        "import resource; from marl import runtime; runtime.prepare(); import torch\n"
        "count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "torch.ones(1 << 24); before = count(); torch.ones(1 << 24); print(count() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) < 4096


def faults(setup: str) -> int:
    """Page faults of ten steps of 1,024 battles, about 10 MB of new tensors each, after twenty to warm up."""
    code = (
        f"import resource, torch; from marl import runtime; {setup}\n"
        "from marl.envs.battle import Config; from marl.rng import Rng\n"
        "env = Config(map='3s5z').build(num_envs=1024, device=torch.device('cpu'))\n"
        "env.reset(Rng(0)); stop = torch.ones(1024, 8, dtype=torch.int64)\n"
        "count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "[env.step(stop) for _ in range(20)]; before = count()\n"
        "[env.step(stop) for _ in range(10)]; print(count() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return int(done.stdout)


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="glibc's allocator")
def test_freed_memory_stays_with_the_process() -> None:
    """Ten steps' tensors are about 25,000 pages; the default returns some or all."""
    returned = "import ctypes; ctypes.CDLL(None).mallopt(-1, 0)"  # M_TRIM_THRESHOLD: give all back at once
    assert faults("runtime.keep_freed_memory()") < faults(returned) // 4
