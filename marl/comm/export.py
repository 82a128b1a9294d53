"""A team that talks as `marl export` writes it: one step of all agents, every message delivered."""

from __future__ import annotations

from marl.comm.aggregate import Attention
from marl.comm.network import CommNetwork
from marl.sparse.export.build import Builder
from marl.sparse.export.policy import SCORES, Policy
from marl.types import EnvSpec


def policy(spec: EnvSpec, net: CommNetwork, *, gated: bool, messages: bool) -> Policy:
    """Observation, who is alive, state and gate to logits, state and the gate of the next step.

    Args:
        spec: the world.
        net: of the team.
        gated: agents choose when to talk.
        messages: False: the mute twin.
    """
    b, N = Builder(), spec.n_agents
    obs = b.input("obs_BNO", N, spec.obs_size)
    alive = b.input("alive_BN", N, dtype="bool")
    gate = [b.input("gate_BN", N, dtype="bool", next="next_gate_BN")] if gated else []
    e = b.linear("encoder", net.encoder, obs, activation="tanh" if net.lstm is None else "none")
    h, c = e, ""
    if net.lstm is not None:
        H = net.lstm.hidden
        h, c = (b.input(f"{name}_BNH", N, H, next=f"next_{name}_BNH") for name in ("h", "c"))
    (heard,) = b.step("talk", (alive, *gate), ("heard",), messages=messages)
    for r in range(net.rounds):
        x = b.step("add", (e, _heard(b, net, r, h, heard, alive)), (f"x_{r}",))[0]
        names = ("next_h_BNH", "next_c_BNH") if r == net.rounds - 1 else (f"h_{r}", f"c_{r}")
        if net.lstm is not None:
            h, c = b.cell("lstm", net.lstm, (x, h, c), names)
        else:
            assert net.W is not None
            own = b.linear("W", net.W, h, makes=f"own_{r}")
            (h,) = b.step("tanh", b.step("add", (x, own), (f"sum_{r}",)), (f"h_{r}",))
    sizes = [net.actions, 1, 2] if gated else [net.actions, 1]
    out = b.linear("heads", net.heads, h)
    makes = (SCORES, "value", "gate")[: len(sizes)]
    b.step("split", (out,), makes, sizes=sizes)
    outputs = [SCORES, *((h, c) if net.lstm is not None else ())]
    if gated:
        outputs += b.step("second", ("gate",), ("next_gate_BN",))
    return b.policy(*outputs)


def _heard(b: Builder, net: CommNetwork, r: int, h: str, heard: str, alive: str) -> str:
    """C m of round r."""
    if isinstance(net.aggregate, Attention):
        layers = b.shared("say", net.aggregate.say), b.shared("query", net.aggregate.query)
        signature = net.aggregate.signature
        (m,) = b.step("attention", (h, heard, alive), (f"m_{r}",), layers, signature=signature)
    else:
        (m,) = b.step("mean", (h, heard, alive), (f"m_{r}",))
    return b.linear("C", net.C, m, makes=f"C_{r}")
