"""JaxMARL's side of the environment benchmark: SMAX with its heuristic enemy, stepped inside `lax.scan`.

The observations, the state and the available actions of the newest step are carried along: without
that XLA would see that nobody reads them and leave them out.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxmarl import make
from jaxmarl.environments.smax import map_name_to_scenario

from experiments.benchmarks.workers.protocol import Measure, serve, timed


def prepare(*, map: str, envs: int, scan: int) -> tuple[Measure, dict[str, Any]]:
    """Compile the rollout and run it three times (the second call of a jitted function re-traces).

    Args:
        map: name of a SMAX scenario.
        envs: batch size B.
        scan: env steps of one compiled call.
    """
    env = make("HeuristicEnemySMAX", scenario=map_name_to_scenario(map))
    reset = jax.vmap(env.reset)
    step = jax.vmap(env.step)

    def choose(key: jax.Array, avail: jax.Array) -> jax.Array:
        """Uniform over the available actions, by the same rule as on our side."""
        return jnp.argmax(jax.random.uniform(key, avail.shape, minval=1e-6) * avail, axis=-1)

    def one(carry: Any, _: None) -> tuple[Any, jax.Array]:
        key, state, _, avail = carry
        key, key_step, *keys = jax.random.split(key, 2 + env.num_agents)
        actions = {a: choose(k, avail[a]) for a, k in zip(env.agents, keys, strict=True)}
        obs, state, reward, done, _ = step(jax.random.split(key_step, envs), state, actions)
        seen = done["__all__"].sum(), reward[env.agents[0]].sum()
        return (key, state, obs, jax.vmap(env.get_avail_actions)(state)), seen

    @jax.jit
    def rollout(carry: Any) -> Any:
        return jax.lax.scan(one, carry, None, scan)

    key, key_reset = jax.random.split(jax.random.PRNGKey(0))
    obs, state = reset(jax.random.split(key_reset, envs))
    carry = (key, state, obs, jax.vmap(env.get_avail_actions)(state))

    def some_steps() -> int:
        nonlocal carry
        carry, _ = jax.block_until_ready(rollout(carry))
        return scan * envs

    for _ in range(3):
        some_steps()
    sizes = {
        "agents": env.num_agents,
        "obs": obs[env.agents[0]].shape[-1],
        "state": obs["world_state"].shape[-1],
    }
    return lambda seconds: timed(some_steps, seconds), sizes | {"version": jax.__version__}


if __name__ == "__main__":
    serve(prepare)
