"""TarMAC's own network: a GRU that takes in what was heard, and a critic that knows everything.

| symbol | name here | meaning |
|---|---|---|
| h_i | h_BNH | state of agent i after its last step |
| g_i | said from | h_i in the first round, h'_i after it |
| k_j, v_j, q_i, alpha_ij | Attention | signature, value, query and attention (eq. 2 and 3), made from g |
| c_i | c_BNV | sum_j alpha_ij v_j (eq. 4) |
| W_{h -> h'} | W | h'_i = tanh(W [c_i, h_i]) between two rounds (eq. 5) |
| Q | critic | value of all agents' states and actions, Q(h_1, a_1, ..., h_N, a_N) (eq. 1) |

A step: rounds of messages from the states of the step before, then h_i = GRU([x_i, c_i], h_i) with the
observation encoded as x_i, then the action from h_i.
CHOICE: x = max(W_x o, 0); after the second round W takes [c, g]; the critic has one hidden layer of H
features, takes zeros for agents that cannot act, and probabilities where no action was taken.

Reference: Das et al., "TarMAC: Targeted Multi-Agent Communication", ICML 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from marl.comm import Attention, TalkingNetwork
from marl.comm.network import Exchange, State
from marl.nets import GRU, MLP, linear

if TYPE_CHECKING:
    from marl.sparse.export.build import Builder


class TargetedNetwork(TalkingNetwork):
    """Encoder, attention, GRU, heads for action and gate, central critic.

    Args:
        inputs, actions, agents: features O, numbers A and N.
        hidden: H.
        rounds: exchanges per step.
        gated: with a head for the gate.
        signature, value: features of signatures and of values.
        generator: source of the initial weights.
    """

    states = ("h",)

    def __init__(
        self,
        inputs: int,
        actions: int,
        agents: int,
        *,
        hidden: int,
        rounds: int,
        gated: bool,
        signature: int,
        value: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__(actions, hidden=hidden, rounds=rounds, gated=gated, central=True)
        self.encoder = linear(inputs, hidden, generator=generator)
        self.aggregate = Attention(hidden, signature=signature, value=value, generator=generator)
        self.W = linear(value + hidden, hidden, generator=generator) if rounds > 1 else None
        self.gru = GRU(hidden + value, hidden, generator=generator)
        self._make_heads(generator)
        self.critic = MLP([agents * (hidden + actions), hidden, 1], generator=generator)

    def encode(self, obs: Tensor) -> Tensor:
        x: Tensor = self.encoder(obs)
        return torch.relu(x)

    def step(self, e_BNH: Tensor, state: State, alive_BN: Tensor, exchange: Exchange) -> State:
        (h_BNH,) = state
        g_BNH, c_BNV = h_BNH, h_BNH.new_zeros(())
        for r in range(self.rounds):
            if r:
                assert self.W is not None
                g_BNH = torch.tanh(self.W(torch.cat((c_BNV, g_BNH), -1)))
            said_BNM = self.aggregate.message(g_BNH)
            c_BNV = self.aggregate(g_BNH, said_BNM, *exchange(said_BNM), alive_BN)
        return (self.gru.cell(torch.cat((e_BNH, c_BNV), -1), h_BNH),)

    def joint_value(self, h: Tensor, alive: Tensor, action: Tensor) -> Tensor:
        known = torch.cat((h, action), -1) * alive[..., None]
        q: Tensor = self.critic(known.flatten(-2))
        return q.expand(*alive.shape)

    def write(self, b: Builder, obs: str, state: tuple[str, ...], heard: str, alive: str) -> tuple[str, ...]:
        e, (h,) = b.linear("encoder", self.encoder, obs, activation="relu"), state
        g, c = h, ""
        for r in range(self.rounds):
            if r:
                assert self.W is not None
                (both,) = b.step("cat", (c, g), (f"both_{r}",))
                (g,) = b.step("tanh", (b.linear("W", self.W, both, makes=f"W_{r}"),), (f"g_{r}",))
            c = self.aggregate.write(b, r, g, heard, alive)
        (x,) = b.step("cat", (e, c), ("x",))
        return b.cell("gru", self.gru, (x, h), ("next_h_BNH",))
