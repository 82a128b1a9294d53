"""Our side of the training benchmark: the off-policy loop with QMIX, at the peer's own ratio of work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from experiments.benchmarks.workers.protocol import Measure, serve, timed
from marl import runtime
from marl.compose import compose
from marl.process import prepare_process
from marl.rng import Rng


class Split:
    """Wall seconds by part, from clocks around the public calls of one loop.

    forward is `Agent.update` up to the call of backward, optimiser what follows it; rest is what no
    clock surrounds: the loop itself. The clocks add about a microsecond a call.
    """

    def __init__(self, loop: Any) -> None:
        self.seconds: dict[str, float] = {}
        self._wrap(loop.rollout.env, "step", "env")
        self._wrap(loop.rollout.agent, "act", "act")
        self._wrap(loop.tape, "put", "memory")
        self._wrap(loop.memory, "sample", "memory")
        self._backward: tuple[float, float] | None = None
        self._around_backward()
        self._around_update(loop.rollout.agent)

    def _add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def _wrap(self, owner: Any, name: str, part: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def clocked(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            out = inner(*args, **kwargs)
            self._add(part, time.perf_counter() - start)
            return out

        setattr(owner, name, clocked)

    def _around_backward(self) -> None:
        inner = torch.Tensor.backward

        def backward(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            start = time.perf_counter()
            inner(tensor, *args, **kwargs)
            self._backward = (start, time.perf_counter())

        torch.Tensor.backward = backward  # type: ignore[method-assign, assignment]

    def _around_update(self, agent: Any) -> None:
        inner = agent.update

        def update(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            out = inner(*args, **kwargs)
            end = time.perf_counter()
            assert self._backward is not None
            self._add("forward", self._backward[0] - start)
            self._add("backward", self._backward[1] - self._backward[0])
            self._add("optimiser", end - self._backward[1])
            return out

        agent.update = update


def prepare(
    *, overrides: list[str], seed: int, warm_steps: int, threads: int, split: bool
) -> tuple[Measure, dict[str, Any]]:
    """Build the run, fill the memory and let it learn a little.

    Args:
        overrides: words as of `marl train`.
        seed: of the run.
        warm_steps: team steps before the measurement.
        threads: for env and torch.
        split: measure the parts as well; the clocks cost a little, so never for a published rate.
    """
    cfg = compose([*overrides, f"threads={threads}", f"seed={seed}", "logger=none"])
    prepare_process(cfg)
    rng, device = Rng(cfg.seed), torch.device("cpu")
    env = cfg.env.build(num_envs=cfg.num_envs, device=device, threads=threads)
    agent = cfg.agent.build(spec=env.spec, rng=rng.child("agent"), device=device)
    loop = cfg.loop.build(env=env, agent=agent, rng=rng.child("loop"))
    while loop.steps < warm_steps or loop.updates == 0:
        loop.iterate()
    clocks = Split(loop) if split else None

    def iterate() -> int:
        before = loop.steps
        loop.iterate()
        return int(loop.steps - before)

    def measure(seconds: float) -> dict[str, Any]:
        updates = loop.updates
        if clocks is not None:
            clocks.seconds = {}
        out = timed(iterate, seconds) | {"updates": loop.updates - updates}
        return out | {f"{part}_s": spent for part, spent in (clocks.seconds if clocks else {}).items()}

    spec, memory = env.spec, loop.memory
    sizes = {"agents": spec.n_agents, "obs": spec.obs_size, "state": spec.state_size}
    stored = {"entries": memory.entries, "episodes": memory.episodes, "entry_bytes": memory.layout.size}
    sizes |= {"actions": spec.n_actions, "limit": spec.episode_limit}
    return measure, sizes | stored | {"version": torch.__version__}


if __name__ == "__main__":
    runtime.prepare()
    serve(prepare)
