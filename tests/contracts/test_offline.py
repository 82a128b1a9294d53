"""Training asks nothing of the network: no account, no server, no download; its files stay in its folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from marl.native import cache_folder

if TYPE_CHECKING:
    from tests.contracts.conftest import Marl

# Refuses every address but this machine's own, and every look-up of a name.
_GUARD = """
import socket
def refuse(*args, **options):
    raise SystemExit(f"the network was asked for: {args}")
real = socket.socket.connect
def connect(self, address):
    if self.family == socket.AF_UNIX or (isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1")):
        return real(self, address)
    refuse(address)
socket.socket.connect = connect
socket.getaddrinfo = socket.gethostbyname = refuse
"""


def has_namespaces() -> bool:
    """Whether this system lets us start a process without any network."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0


def test_a_run_with_default_loggers_needs_no_network(marl: Marl) -> None:
    """The guard watches Python; a network namespace, where there is one, also wandb's own process."""
    home = marl.folder / "home"
    home.mkdir()
    words = [
        "train",
        "env=matrix_game",
        "agent=vdn",
        "total_steps=64",
        "num_envs=4",
        "threads=1",
        "run_id=run",
    ]
    words += ["evaluation.episodes=4", "evaluation.final_episodes=8", "logger=wandb"]
    code = f"{_GUARD}\nimport sys\nfrom marl.cli import main\nsys.exit(main({words!r}))"
    clean = {k: "" for k in os.environ if k.startswith("WANDB_")}
    prefix = ("unshare", "-rn") if has_namespaces() else ()
    process = marl.python(
        code, prefix=prefix, HOME=str(home), XDG_CACHE_HOME="", MARL_CACHE=str(cache_folder()), **clean
    )
    shown = marl.end(process)
    assert "run: " in shown
    assert "wandb:" not in shown  # it is silent
    assert len(list(marl.folder.glob("runs/run/wandb/offline-run-*/*.wandb"))) == 1
    assert [p for p in marl.folder.rglob("*wandb*") if "runs" not in p.relative_to(marl.folder).parts] == []


def test_the_guard_works(marl: Marl) -> None:
    shown = marl.end(marl.python(f"{_GUARD}\nsocket.create_connection(('192.0.2.1', 9))"), code=1)
    assert "the network was asked for" in shown
