"""A team that talks as `marl export` writes it: one step of all agents, every message delivered."""

from __future__ import annotations

from marl.comm.network import TalkingNetwork
from marl.sparse.export.build import Builder
from marl.sparse.export.policy import SCORES, Policy
from marl.types import EnvSpec


def policy(spec: EnvSpec, net: TalkingNetwork, *, messages: bool) -> Policy:
    """Observation, who is alive, state and gate to logits, state and the gate of the next step.

    Args:
        spec: the world.
        net: of the team.
        messages: False: the mute twin.
    """
    b, N, gated = Builder(), spec.n_agents, net.parts["gate"] > 0
    obs = b.input("obs_BNO", N, spec.obs_size)
    alive = b.input("alive_BN", N, dtype="bool")
    gate = [b.input("gate_BN", N, dtype="bool", next="next_gate_BN")] if gated else []
    names = tuple(f"{name}_BNH" for name in net.states)
    state = tuple(b.input(name, N, net.hidden, next=f"next_{name}") for name in names)
    (heard,) = b.step("talk", (alive, *gate), ("heard",), messages=messages)
    state = net.write(b, obs, state, heard, alive)
    heads = {name: size for name, size in net.parts.items() if size}
    makes = tuple(SCORES if name == "logits" else name for name in heads)
    b.step("split", (b.linear("heads", net.heads, state[0]),), makes, sizes=list(heads.values()))
    outputs = [SCORES, *(state if net.states else ())]
    if gated:
        outputs += b.step("second", ("gate",), ("next_gate_BN",))
    return b.policy(*outputs)
