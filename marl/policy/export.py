"""A team of actors as `marl export` writes it: logits, or a Gaussian's means and the action they mean."""

from __future__ import annotations

from marl.nets.tower import Tower
from marl.policy.heads import CategoricalHead, GaussianHead
from marl.policy.network import SequenceNet
from marl.sparse.export.build import Builder
from marl.sparse.export.policy import ACTION, SCORES, Policy
from marl.types import EnvSpec


def policy(spec: EnvSpec, net: SequenceNet, head: CategoricalHead | GaussianHead, *, ids: bool) -> Policy:
    """Observation and state to the actor's outputs and state; the critic belongs to learning alone.

    Args:
        spec: the world.
        net: the actor.
        head: what its outputs mean.
        ids: whether it sees the agent's id.
    """
    b, N = Builder(), spec.n_agents
    obs = b.input("obs_BNO", N, spec.obs_size)
    x = b.agent_inputs(obs, None, actions=spec.n_actions, ids=ids)
    outputs = [SCORES]
    if net.core is None or net.head is None:
        _tower(b, "body", net.body, x, SCORES)
    else:
        h = b.input("hidden_BNH", N, net.core.hidden, next="next_hidden_BNH")
        x = _tower(b, "body", net.body, x, "body")
        (h,) = b.cell("core", net.core, (x, h), ("next_hidden_BNH",))
        _tower(b, "head", net.head, h, SCORES)
        outputs.append(h)
    if isinstance(head, GaussianHead):
        bounds = {"low": head.low_NA, "high": head.high_NA, "middle": head.middle_NA}
        bounds["half_width"] = head.half_NA
        outputs.append(b.to_box(SCORES, ACTION, bounds))
    return b.policy(*outputs)


def _tower(b: Builder, name: str, tower: Tower, x: str, makes: str) -> str:
    """All stages; the last value is called `makes`."""
    last = len(tower.layers) - 1
    for i, (layer, activation) in enumerate(zip(tower.layers, tower.activations, strict=True)):
        if len(tower.norms):
            x = b.norm(f"{name}_norm_{i}", tower.norms[i], x)
        end = makes if i == last and tower.after is None else ""
        x = b.linear(f"{name}_{i}", layer, x, activation=activation or "none", makes=end)
    return x if tower.after is None else b.norm(f"{name}_after", tower.after, x)
