"""Virtual environments of the peers: python -m experiments.benchmarks.peers jaxmarl

Each lies in `.benchmark-venvs/<peer>` and holds exactly the versions of
`requirements/<peer>.txt`. Nothing of a peer is copied into this repository; a peer whose learners
are not in its package is run from a checkout that the user gives (`--peer-source`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from experiments.benchmarks.machine import ROOT
from marl.errors import MarlError

FOLDER = ROOT / ".benchmark-venvs"
REQUIREMENTS = Path(__file__).parent / "requirements"
NAMES = sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def python_of(peer: str) -> Path:
    """The peer's interpreter. Raises MarlError when its environment has not been made."""
    python = FOLDER / peer / "bin" / "python"
    if not python.exists():
        raise MarlError(f"{peer} is not installed: run `python -m experiments.benchmarks.peers {peer}` first")
    return python


def install(peer: str, base: str = sys.executable) -> Path:
    """Make the peer's environment from the package index; does nothing when it is complete."""
    folder = FOLDER / peer
    stamp = folder / ".ready"
    wanted = (REQUIREMENTS / f"{peer}.txt").read_text()
    if not (stamp.exists() and stamp.read_text() == wanted):
        subprocess.run([base, "-m", "venv", str(folder)], check=True)
        pip = [
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        subprocess.run([*pip, "-r", str(REQUIREMENTS / f"{peer}.txt")], check=True)
        stamp.write_text(wanted)
    return python_of(peer)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.peers", description=__doc__)
    parser.add_argument("peer", nargs="+", choices=NAMES)
    for peer in parser.parse_args().peer:
        print(f"{peer}: {install(peer)}")


if __name__ == "__main__":
    main()
