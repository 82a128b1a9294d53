"""200 SIGKILLs spread over every write, fsync, rename, link and unlink of a run; each of them resumes.

After each kill the run is resumed from what lies on the disk. It must load, go on, and end with the same
metrics, episodes, networks and memory as the run that was never killed, and leave no stray file.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.contracts.conftest import ROOT

KILLS, LANES = 200, 2


def test_200_kills_at_every_file_operation() -> None:
    # Memory, where there is one: what is tested is the order of operations, not the disk's speed.
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    try:
        script = Path(__file__).with_name("kill_worker.py")
        lanes = []
        for lane in range(LANES):
            place = folder / str(lane)
            place.mkdir()
            words = [sys.executable, str(script), str(place), str(KILLS), str(lane), str(LANES)]
            environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            lanes.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True))
        found = []
        for process in lanes:
            shown, _ = process.communicate(timeout=280)
            assert process.returncode == 0
            found.append(json.loads(shown))
    finally:
        shutil.rmtree(folder)
    assert all(f["operations"] <= KILLS for f in found), "so that no operation is left out"
    made: dict[str, int] = {}
    for f in found:
        for name, count in f["kinds"].items():
            made[name] = made.get(name, 0) + count
    assert sum(made.values()) == KILLS
    assert set(made) == set(found[0]["all"])
    assert {"write", "fsync", "replace", "link", "unlink"} <= set(made)
