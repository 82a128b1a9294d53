"""JaxMARL's side of the PPO benchmark: its own feed-forward IPPO script on simple_spread, run as it is."""

from __future__ import annotations

import importlib.util
import threading
import time
from pathlib import Path
from typing import Any

import jax
from omegaconf import OmegaConf

from experiments.benchmarks.workers.jaxmarl_train import Gate
from experiments.benchmarks.workers.protocol import Measure, serve

WARM = 3  # updates before the measurement


class IppoGate(Gate):
    """Holds the training between two turns, and keeps the mean return that it reports."""

    def __init__(self) -> None:
        super().__init__()
        self.returned: list[float] = []

    def log(self, metrics: dict[str, Any]) -> None:
        self.returned.append(float(metrics["returned_episode_returns"]))
        super().log({"grad_steps": 1})  # it learns from the first update on


def prepare(*, source: str, envs: int) -> tuple[Measure, dict[str, Any]]:
    """Load the script with its shipped configuration, start its training and warm it up.

    Args:
        source: checkout of the JaxMARL repository; its learners are not in the package.
        envs: environments; minibatches and epochs are the configuration's, 4 and 4.
    """
    folder = Path(source) / "baselines" / "IPPO"
    spec = importlib.util.spec_from_file_location("ippo_ff_mpe", folder / "ippo_ff_mpe.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    gate = IppoGate()
    vars(script)["wandb"] = gate
    config: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
        OmegaConf.load(folder / "config" / "ippo_ff_mpe.yaml")
    )
    config |= {"NUM_ENVS": envs}
    work = {"epochs": config["UPDATE_EPOCHS"], "minibatches": config["NUM_MINIBATCHES"]}
    steps = config["NUM_STEPS"] * envs
    train = jax.jit(script.make_train(config))
    key = jax.random.PRNGKey(0)
    threading.Thread(target=gate.run, args=(lambda: jax.block_until_ready(train(key)),), daemon=True).start()
    for _ in range(WARM):
        gate.one_update()

    def measure(seconds: float) -> dict[str, Any]:
        start, first, cpu = time.perf_counter(), gate.updates, time.process_time()
        while time.perf_counter() - start < seconds:
            gate.one_update()
        done, spent = gate.updates - first, time.perf_counter() - start
        mean = sum(gate.returned[-done:]) / done
        out = {"steps": done * steps, "seconds": spent, "cpu_s": time.process_time() - cpu}
        return out | {"trained": gate.updates * steps, "return": mean}

    return measure, {"version": jax.__version__, "rollout": config["NUM_STEPS"], **work}


if __name__ == "__main__":
    serve(prepare)
