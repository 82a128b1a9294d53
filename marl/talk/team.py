"""A team of action values whose members add messages to each other's values.

| symbol | name here | meaning |
|---|---|---|
| m_n | message_BNA | what agent n says |
| Q_glb | q_BNA | what it acts on and learns: local values plus messages |
| p_ij | delivered_BTNN | the message of j reached i |

In training everybody talks to everybody at every step through the training link; what a link lost counts 0.
Acting stores which messages arrived, and learning computes the same sums again from these masks, so that a
team that is trained over a lossy link learns what it acted on. In use (`link.testing`) a method's own
protocol decides who talks; here it is the same.

CHOICE: at an entry without an action (an episode's last observation), where nothing was sent, values take
every message as delivered, as marl/comm. The same holds for the last entry of a window that breaks off in
mid-episode, whatever arrived there: the memory hands it out without its action (marl/records.py).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from marl.channel import PerfectLink
from marl.rng import Rng, Stream
from marl.robust.messages import defended, heard_at_ends, message_defence, refuse_export, scores_in_use
from marl.sparse.export.policy import Policy
from marl.talk import export
from marl.talk.config import MessageConfig
from marl.talk.network import TalkingQ
from marl.types import Act, Batch, Carry, EnvSpec, FieldSpec, Link, TimeStep
from marl.value import Look, Networks, QTeam
from marl.value.explore import epsilon_greedy


class Said(NamedTuple):
    """One entry of acting, before anything is sent."""

    local_BNA: Tensor
    message_BNA: Tensor
    ts: TimeStep


def all_to_all(alive: Tensor, *, dead_talk: bool) -> Tensor:
    """Everybody's messages to the others, bool (..., receiver, sender).

    Args:
        alive: bool (..., N).
        dead_talk: the dead talk, too.
    """
    N = alive.shape[-1]
    others_NN = ~torch.eye(N, dtype=torch.bool, device=alive.device)
    return others_NN.expand(*alive.shape, N) if dead_talk else others_NN & alive[..., None, :]


class TalkingTeam(QTeam):
    """All-to-all messages (the AC of TMC's paper); methods replace the protocol and add losses.

    Args:
        spec: the world; as of `QTeam`.
        config: hyper-parameters.
        rng: source of the initial weights.
        device: where networks live and batches arrive.
    """

    config: MessageConfig

    def __init__(self, spec: EnvSpec, config: MessageConfig, *, rng: Rng, device: torch.device) -> None:
        N = spec.n_agents
        self.extras_spec = {"delivered": FieldSpec(shape=(N, N), dtype=torch.bool)}
        super().__init__(spec, config, config.make_mixer(spec), rng=rng, device=device)
        self.message_defence = message_defence(config.defence, spec, rng=rng, device=device)

    def _make_agents(self, generator: torch.Generator) -> nn.Module:
        return TalkingQ(self.spec, self.config, generator)

    # Acting

    def initial_carry(self, rows: int) -> Carry:
        N, A = self.spec.n_agents, self.spec.n_actions
        return super().initial_carry(rows) | {"message_BNA": torch.zeros(rows, N, A, device=self.device)}

    @torch.no_grad()
    @defended
    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        link = PerfectLink(self.device) if link is None else link
        said, carry = self._speak(ts, carry)
        talk = self._protocol if link.testing else self._talk_to_all
        q_BNA, delivered_BNN, carry = talk(said, carry, link)
        actions_BN = epsilon_greedy(q_BNA, ts.avail_BNA, rng, explore)
        return Act(
            actions_BN=actions_BN,
            carry=carry | {"last_action_BN": actions_BN},
            extras={"delivered": delivered_BNN},
        )

    def scores(self, ts: TimeStep, carry: Carry) -> Tensor:
        """Q_glb with every message delivered."""
        if self.message_defence is not None:
            return scores_in_use(self.message_defence, self._values, ts, carry, PerfectLink(self.device))
        said, _ = self._speak(ts, carry)
        return self._net.combine(said.local_BNA, said.message_BNA, self._wanted(ts.alive_BN))

    def _values(self, ts: TimeStep, carry: Carry, link: Link) -> Tensor:
        """Q_glb over a link."""
        said, carry = self._speak(ts, carry)
        return self._talk_to_all(said, carry, link)[0]

    @property
    def _net(self) -> TalkingQ:
        net: TalkingQ = self.online.agents
        return net

    def _speak(self, ts: TimeStep, carry: Carry) -> tuple[Said, Carry]:
        """Local values and messages of one entry, and the carry after it."""
        x_BNI = self._net.inputs(ts.obs_BNO, carry["last_action_BN"])
        local_BNA, h_BNH, message_BNA = self._net.listen_step(
            x_BNI, carry["hidden_BNH"], carry["message_BNA"]
        )
        carry = carry | {"hidden_BNH": h_BNH, "message_BNA": message_BNA}
        return Said(local_BNA, message_BNA, ts), carry

    def _wanted(self, alive: Tensor) -> Tensor:
        """Who would talk to whom, bool (..., receiver, sender). Args: alive: bool (..., N)."""
        return all_to_all(alive, dead_talk=self.config.dead_talk)

    def _talk_to_all(self, said: Said, carry: Carry, link: Link) -> tuple[Tensor, Tensor, Carry]:
        """Everybody sends: Q_glb, what arrived, and the carry."""
        kept_BNNA, delivered_BNN, carry = link.send(said.message_BNA, self._wanted(said.ts.alive_BN), carry)
        return self._net.combine_kept(said.local_BNA, kept_BNNA, delivered_BNN), delivered_BNN, carry

    def _protocol(self, said: Said, carry: Carry, link: Link) -> tuple[Tensor, Tensor, Carry]:
        """Who talks in use; as `_talk_to_all`."""
        return self._talk_to_all(said, carry, link)

    def export(self) -> Policy:
        """What `marl export` writes: acting alone, every message delivered, with masks resolved."""
        refuse_export(self.message_defence)
        return export.policy(self.spec, self._net, dead_talk=self.config.dead_talk)

    # Learning

    def _look(self, nets: Networks, x_BTNI: Tensor, batch: Batch) -> Look:
        local_BTNA, message_BTNA, h_BTNH = nets.agents.listen(x_BTNI, batch.start_BT)
        q_BTNA = nets.agents.combine(local_BTNA, message_BTNA, self._delivered(batch))
        parts = {"message": message_BTNA, "local": local_BTNA}
        return Look(q_BTNA=q_BTNA, features_BTNH=h_BTNH, parts=parts)

    def _delivered(self, batch: Batch) -> Tensor:
        """Which messages arrived, bool (B, T, N, N); all that would be sent where nobody acted."""
        filled_BT11 = batch.filled_BT[..., None, None]
        wanted_BTNN = heard_at_ends(self.message_defence, self._wanted(batch.alive_BTN))
        return torch.where(filled_BT11, batch.extras["delivered"], wanted_BTNN)
