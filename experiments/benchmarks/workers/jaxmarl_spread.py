"""JaxMARL's side of the navigation benchmark: simple_spread, stepped inside `lax.scan`.

The observations of the newest step are carried along, and the rewards summed up: without that XLA
would see that nobody reads them and leave them out. The env resets itself after 25 steps.
"""

from __future__ import annotations

from typing import Any

import jax
from jaxmarl import make

from experiments.benchmarks.workers.protocol import Measure, serve, timed


def prepare(*, envs: int, scan: int) -> tuple[Measure, dict[str, Any]]:
    """Compile the rollout and run it three times (the second call of a jitted function re-traces).

    Args:
        envs: batch size B.
        scan: env steps of one compiled call.
    """
    env = make("MPE_simple_spread_v3")
    step = jax.vmap(env.step)

    def one(carry: Any, _: None) -> tuple[Any, jax.Array]:
        key, state, _ = carry
        key, key_act, key_step = jax.random.split(key, 3)
        chosen = jax.random.randint(key_act, (env.num_agents, envs), 0, 5)
        actions = dict(zip(env.agents, chosen, strict=True))
        obs, state, reward, _, _ = step(jax.random.split(key_step, envs), state, actions)
        return (key, state, obs), sum(reward[a].sum() for a in env.agents)

    @jax.jit
    def rollout(carry: Any) -> Any:
        return jax.lax.scan(one, carry, None, scan)

    key, key_reset = jax.random.split(jax.random.PRNGKey(0))
    obs, state = jax.vmap(env.reset)(jax.random.split(key_reset, envs))
    carry = (key, state, obs)

    def some_steps() -> int:
        nonlocal carry
        carry, _ = jax.block_until_ready(rollout(carry))
        return scan * envs

    for _ in range(3):
        some_steps()
    facts = {"agents": env.num_agents, "obs": obs[env.agents[0]].shape[-1], "version": jax.__version__}
    return lambda seconds: timed(some_steps, seconds) | {"envs": envs}, facts


if __name__ == "__main__":
    serve(prepare)
