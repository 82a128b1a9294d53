"""A team of action-value learners as `marl export` writes it: Q-values of one step."""

from __future__ import annotations

from marl.sparse.export.build import Builder
from marl.sparse.export.policy import CHOSEN, SCORES, Policy
from marl.types import EnvSpec
from marl.value.network import RecurrentQ


def policy(spec: EnvSpec, net: RecurrentQ) -> Policy:
    """Observation, last action and state to Q-values and state; the mixer belongs to learning alone."""
    b, N, H = Builder(), spec.n_agents, net.core.hidden
    obs = b.input("obs_BNO", N, spec.obs_size)
    last = b.input("last_action_BN", N, dtype="int64", next=CHOSEN, fill=-1) if net.last_action else None
    h = b.input("hidden_BNH", N, H, next="next_hidden_BNH")
    x = b.agent_inputs(obs, last, actions=net.n_actions, ids=net.agent_ids)
    x = b.linear("encoder", net.encoder, x, activation="relu")
    (h,) = b.cell("core", net.core, (x, h), ("next_hidden_BNH",))
    return b.policy(b.linear("head", net.head, h, makes=SCORES), h)
