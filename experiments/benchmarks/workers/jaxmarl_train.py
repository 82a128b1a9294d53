"""JaxMARL's side of the training benchmark: its own QMIX script, run as it is.

The script's training function is one compiled call. It reports every update through `wandb.log`;
here that name leads to a gate which counts updates and holds the call between two turns, so that
compiling, and the first 65,536 steps in which it does not learn, stay outside the measurement.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from omegaconf import OmegaConf

from experiments.benchmarks.workers.protocol import Measure, serve


class Gate:
    """Stands in for the script's `wandb`: lets the training go on update by update."""

    def __init__(self) -> None:
        self.updates = 0  # finished
        self.metrics: dict[str, Any] = {}  # of the last one
        self.allowed = 0  # the training may go on past this many
        self.learning = False
        self.error: BaseException | None = None
        self.changed = threading.Condition()

    def log(self, metrics: dict[str, Any]) -> None:
        """Called by the training after every update; returns when the next one is allowed."""
        with self.changed:
            self.updates += 1
            self.metrics = metrics
            self.learning = self.learning or int(metrics["grad_steps"]) > 0
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.allowed >= self.updates)

    def run(self, train: Callable[[], Any]) -> None:
        """The training thread; an error is handed to whoever waits."""
        try:
            train()
            raise RuntimeError("the training came to its end before the measurement did")
        except BaseException as error:
            with self.changed:
                self.error = error
                self.changed.notify_all()

    def one_update(self) -> None:
        """Allow one more update and wait until it is done."""
        with self.changed:
            before = self.allowed = self.updates
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.updates > before or self.error is not None)
            if self.error is not None:
                raise self.error


def start(source: str, seed: int, test_every: int = 0, **changes: Any) -> tuple[Gate, dict[str, Any]]:
    """Load the script and start its training, which then waits at the gate.

    Args:
        source: checkout of the JaxMARL repository; its learners are not in the package.
        seed: of the run.
        test_every: updates between two of its greedy tests; 0: it never tests.
        changes: settings that differ from the script's own for SMAX, by its names.

    Returns: the gate, and all settings.
    """
    folder = Path(source) / "baselines" / "QLearning"
    spec = importlib.util.spec_from_file_location("qmix_rnn", folder / "qmix_rnn.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    gate = Gate()
    vars(script)["wandb"] = gate
    files = (folder / "config" / "config.yaml", folder / "config" / "alg" / "ql_rnn_smax.yaml")
    config: dict[str, Any] = {}
    for path in files:
        config |= OmegaConf.to_container(OmegaConf.load(path))  # type: ignore[arg-type]
    config |= {"WANDB_MODE": "online"} | changes  # any mode but "disabled" reports
    updates = config["TOTAL_TIMESTEPS"] // config["NUM_STEPS"] // config["NUM_ENVS"]
    interval = (test_every + 0.5) / updates  # the script wants a share of all updates and rounds down
    config |= {"TEST_DURING_TRAINING": test_every > 0, "TEST_INTERVAL": interval}
    env, _ = script.env_from_config(dict(config))
    train = jax.jit(script.make_train(config, env))
    key = jax.random.PRNGKey(seed)
    threading.Thread(target=gate.run, args=(lambda: jax.block_until_ready(train(key)),), daemon=True).start()
    return gate, config


def prepare(
    *, source: str, map: str, hidden: int, mixer: dict[str, int], envs: int, sequences: int
) -> tuple[Measure, dict[str, Any]]:
    """Start the training and wait until it learns.

    Args:
        source: checkout of the JaxMARL repository.
        map: SMAX scenario.
        hidden: width of the recurrent network.
        mixer: sizes of the mixer by the script's own names.
        envs, sequences: environments, and sequences of 128 steps in a batch.
    """
    sizes = {"HIDDEN_SIZE": hidden, "NUM_ENVS": envs, "BUFFER_BATCH_SIZE": sequences} | mixer
    gate, config = start(source, 0, MAP_NAME=map, **sizes)
    steps = config["NUM_STEPS"] * envs
    while not gate.learning:
        gate.one_update()
    gate.one_update()

    def measure(seconds: float) -> dict[str, Any]:
        start, first = time.perf_counter(), gate.updates
        while time.perf_counter() - start < seconds:
            gate.one_update()
        done, spent = gate.updates - first, time.perf_counter() - start
        return {"steps": done * steps, "seconds": spent, "updates": done * config["NUM_EPOCHS"]}

    return measure, {"version": jax.__version__, "not_learning_steps": gate.updates * steps}


if __name__ == "__main__":
    serve(prepare)
