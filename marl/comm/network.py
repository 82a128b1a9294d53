"""What every network of communicating agents has: an encoder, a core that messages enter, heads.

| symbol | name here | meaning |
|---|---|---|
| e | e_BNH | encoded observation |
| m_i | of the aggregate | what agent i makes of the messages that reached it |
| h | the first of State | state that actions follow from |
| g | gate | two-way choice: talk at the next step, or not |

A form of network says how one step goes (`encode`, `step`, `write`): marl/comm/cell.py is that of IC3Net.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from marl.comm.aggregate import Aggregate
from marl.nets import linear

if TYPE_CHECKING:
    from marl.sparse.export.build import Builder

# One round of messages: message_BNM to (received_BNNM, delivered_BNN). None: received as it was sent.
Exchange = Callable[[Tensor], tuple[Tensor | None, Tensor]]
State = tuple[Tensor, ...]  # h first, then what else a recurrent core remembers


class Outputs(NamedTuple):
    """Heads of one or more entries."""

    logits: Tensor  # (..., N, A)
    value: Tensor | None  # (..., N); None where a central critic has it
    gate: Tensor | None  # (..., N, 2): logits of silence and of talking


class TalkingNetwork(nn.Module):
    """Base of the forms; agents share it.

    Args:
        actions: number A.
        hidden: H.
        rounds: exchanges per step.
        gated: with a head for the gate.
        central: without a head for the value; `joint_value` gives it.
    """

    aggregate: Aggregate  # what is said, and what is made of it
    heads: nn.Module  # made by `_make_heads`, the last part of a form's `__init__`

    states: tuple[str, ...]  # what one step leaves for the next: names of State, or none

    def __init__(self, actions: int, *, hidden: int, rounds: int, gated: bool, central: bool) -> None:
        super().__init__()
        self.rounds, self.hidden, self.central = rounds, hidden, central
        self.parts = {"logits": actions, "value": int(not central), "gate": 2 * gated}  # heads' features

    def _make_heads(self, generator: torch.Generator) -> None:
        self.heads = linear(self.hidden, sum(self.parts.values()), generator=generator)

    def encode(self, obs: Tensor) -> Tensor:
        """e of any number of entries: (..., N, O) to (..., N, H)."""
        raise NotImplementedError

    def step(self, e_BNH: Tensor, state: State, alive_BN: Tensor, exchange: Exchange) -> State:
        """h after one entry, and the rest of the state; each (B, N, H).

        Args:
            e_BNH: of `encode`.
            state: before the entry, as `states` says.
            alive_BN: bool.
            exchange: called once per round.
        """
        raise NotImplementedError

    def write(self, b: Builder, obs: str, state: tuple[str, ...], heard: str, alive: str) -> tuple[str, ...]:
        """`encode` and `step` for `marl export`: from names of values to the names of the new state's."""
        raise NotImplementedError

    def joint_value(self, h: Tensor, alive: Tensor, action: Tensor) -> Tensor:
        """Value of all agents' states and actions together, the same for each, (..., N); of `central` forms.

        Args:
            h: (..., N, H).
            alive: bool (..., N); who is not has no part in it.
            action: one-hot (..., N, A), or probabilities where none was taken.
        """
        raise NotImplementedError

    def forward(
        self, e_BTNH: Tensor, start_BT: Tensor, alive_BTN: Tensor, delivered_BTRNN: Tensor, state: State
    ) -> State:
        """States after every entry, each (B, T, N, H), given which messages arrived.

        Args:
            e_BTNH: of `encode`.
            start_BT: bool; True where the state before the entry is zero.
            alive_BTN: bool.
            delivered_BTRNN: bool (round, receiver, sender).
            state: before entry 0, each (B, N, H).
        """
        B, T = start_BT.shape
        if not self.states:  # entries do not depend on each other
            e, alive = e_BTNH.flatten(0, 1), alive_BTN.flatten(0, 1)
            (h,) = self.step(e, (), alive, _replay(delivered_BTRNN.flatten(0, 1)))
            return (h.view(B, T, *h.shape[1:]),)
        keep_BT11 = (~start_BT).to(e_BTNH.dtype)[..., None, None]
        states = []
        for t, e_BNH in enumerate(e_BTNH.unbind(1)):
            state = tuple(x_BNH * keep_BT11[:, t] for x_BNH in state)
            state = self.step(e_BNH, state, alive_BTN[:, t], _replay(delivered_BTRNN[:, t]))
            states.append(state)
        return tuple(torch.stack(x_T, 1) for x_T in zip(*states, strict=True))

    def outputs(self, h: Tensor) -> Outputs:
        """Heads of states (..., N, H)."""
        logits, value, gate = self.heads(h).split(tuple(self.parts.values()), -1)
        value = None if self.central else value.squeeze(-1)
        return Outputs(logits, value, gate if self.parts["gate"] else None)


def _replay(delivered_BRNN: Tensor) -> Exchange:
    """The exchange in which exactly these messages arrive, round by round."""
    rounds = iter(delivered_BRNN.unbind(1))
    return lambda message_BNM: (None, next(rounds))
