"""The released FairDICE code's side of its benchmark: its own update and buffer, scanned as it does."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.workers.protocol import Measure, serve, steady


def prepare(
    *, source: str, hidden: int, layers: int, obs: int, actions: int, objectives: int, rows: int, chunk: int
) -> tuple[Measure, dict[str, Any]]:
    """Fill the buffer with random rows, compile, and warm up.

    Args:
        source: checkout of ku-dmlab/FairDICE; it is no package.
        hidden, layers: of every network.
        obs, actions, objectives: sizes of the world.
        rows: transitions in the buffer.
        chunk: updates between two looks at the clock.
    """
    sys.path.insert(0, source)
    code = {name: __import__(name) for name in ("FairDICE", "buffer", "divergence")}
    config = SimpleNamespace(
        seed=0,
        state_dim=obs,
        action_dim=actions,
        reward_dim=objectives,
        hidden_dims=[hidden] * layers,
        temperature=1.0,
        tanh_squash_distribution=False,
        layer_norm=True,
        policy_lr=3e-4,
        nu_lr=3e-4,
        mu_lr=3e-4,
        total_train_steps=100_000,
        gamma=0.99,
        beta=0.1,
        divergence=code["divergence"].FDivergence.SOFT_CHI.name,
        gradient_penalty_coeff=1e-4,
        batch_size=256,
    )
    rng = np.random.default_rng(0)
    sizes = {"states": obs, "next_states": obs, "init_states": obs, "actions": actions, "rewards": objectives}
    data = {name: rng.uniform(0, 1, (rows, size)) for name, size in sizes.items()}
    buffer = code["buffer"].Buffer(data | {"terminals": np.arange(rows) % 500 == 499})

    def body(carry: Any, _: None) -> Any:
        state, key = carry
        key, own = jax.random.split(key)
        batch = buffer.sample(own, config.batch_size)
        state, info = code["FairDICE"].train_step(config, state, batch, own)
        return (state, key), info["nu_loss"]

    carry = code["FairDICE"].init_train_state(config), jax.random.PRNGKey(0)
    scan = jax.jit(lambda carry: jax.lax.scan(body, carry, length=chunk))

    def update() -> int:
        nonlocal carry
        carry, losses = scan(carry)
        jax.block_until_ready(losses)
        return chunk

    for _ in range(3):  # the second call compiles anew: the state comes out with other types
        update()
    return steady(update), {"version": jax.__version__}


if __name__ == "__main__":
    serve(prepare)
