"""JaxMARL's side of the race to 95 % wins: its own QMIX script on SMAX 3m, with its own greedy tests.

Settings are the script's for SMAX but for the map, the widths, and how often and on how many episodes it
tests. The first update, which compiles, is not timed; tests are.
"""

from __future__ import annotations

import time
from typing import Any

import jax

from experiments.benchmarks.workers.jaxmarl_train import start
from experiments.benchmarks.workers.protocol import Measure, serve

EPISODES = 320  # of a test, as those that confirm ours


def prepare(
    *, source: str, hidden: int, mixer: dict[str, int], seed: int, every_updates: int
) -> tuple[Measure, dict[str, Any]]:
    """Start the training; every measurement asked for goes on until the next test.

    Args:
        source: checkout of the JaxMARL repository.
        hidden: width of the recurrent network.
        mixer: sizes of the mixer by the script's own names.
        seed: of the run.
        every_updates: the script's updates (rounds of play and learning) between two tests.
    """
    changes: dict[str, Any] = {"MAP_NAME": "3m", "HIDDEN_SIZE": hidden, "TEST_NUM_ENVS": EPISODES} | mixer
    gate, config = start(source, seed, test_every=every_updates, **changes)
    steps = config["NUM_STEPS"] * config["NUM_ENVS"]
    gate.one_update()
    spent = 0.0

    def measure(_: float) -> dict[str, Any]:
        nonlocal spent
        begin = time.perf_counter()
        while True:
            gate.one_update()
            if gate.updates % every_updates == 0:
                break
        spent += time.perf_counter() - begin
        wins = float(gate.metrics["test_returned_won_episode"])
        return {"steps": gate.updates * steps, "updates": gate.updates, "seconds": spent, "wins": wins}

    return measure, {"version": jax.__version__}


if __name__ == "__main__":
    serve(prepare)
