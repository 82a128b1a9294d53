"""TMC's team: the test-time protocol, and its losses beside the TD loss.

| symbol | name here | meaning |
|---|---|---|
| m_n | message_BNA | what agent n would say |
| last sent, timer | sent_BNA, quiet_BN | what it last broadcast (0 at first), steps since then |
| delta, timeout | config | send if the distance of m and last sent is above delta, or timer >= timeout |
| buffer, age | kept_BNNA, age_BNN | newest message of each teammate (receiver, sender), steps since it came |
| val | valid_BNN | age <= window and the sender may talk: the buffered message counts, else it adds 0 |

CHOICE: as in the released code a sender takes a message that was lost for sent: there is no acknowledgement.
DEVIATION: buffers and timers are empty at every episode's start; the released code carries them on from one
test episode to the next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marl.agents.tmc.config import Config
from marl.agents.tmc.losses import confidence_loss, smoothing_loss
from marl.talk import TalkingTeam
from marl.talk.team import Said
from marl.types import Batch, Carry, Link
from marl.value import Look


class TMC(TalkingTeam):
    """All-to-all in training; in use agents send when they have something new to say.

    Args: as of `TalkingTeam`.
    """

    config: Config

    def initial_carry(self, rows: int) -> Carry:
        N, A, device = self.spec.n_agents, self.spec.n_actions, self.device
        return super().initial_carry(rows) | {
            "sent_BNA": torch.zeros(rows, N, A, device=device),
            "quiet_BN": torch.zeros(rows, N, dtype=torch.int64, device=device),
            "kept_BNNA": torch.zeros(rows, N, N, A, device=device),
            "age_BNN": torch.full((rows, N, N), self.config.window + 1, device=device),  # nothing came yet
        }

    def _protocol(self, said: Said, carry: Carry, link: Link) -> tuple[Tensor, Tensor, Carry]:
        c, m_BNA = self.config, said.message_BNA
        quiet_BN = carry["quiet_BN"] + 1
        changed_BN = torch.linalg.vector_norm(m_BNA - carry["sent_BNA"], dim=-1) > c.delta
        sends_BN = changed_BN | (quiet_BN >= c.timeout)
        if not c.dead_talk:
            sends_BN = sends_BN & said.ts.alive_BN
        talks_BNN = self._wanted(said.ts.alive_BN)
        wanted_BNN = talks_BNN & sends_BN[:, None]
        received_BNNA, delivered_BNN, carry = link.send(m_BNA, wanted_BNN, carry)
        kept_BNNA = torch.where(delivered_BNN[..., None], received_BNNA, carry["kept_BNNA"])
        age_BNN = torch.where(delivered_BNN, 0, carry["age_BNN"] + 1)
        valid_BNN = (age_BNN <= c.window) & talks_BNN  # who may not talk is not heard, as in training
        q_BNA = self._net.combine_kept(said.local_BNA, kept_BNNA, valid_BNN)
        carry = carry | {
            "sent_BNA": torch.where(sends_BN[..., None], m_BNA, carry["sent_BNA"]),
            "quiet_BN": torch.where(sends_BN, 0, quiet_BN),
            "kept_BNNA": kept_BNNA,
            "age_BNN": age_BNN,
        }
        return q_BNA, delivered_BNN, carry

    def _own_losses(self, look: Look, batch: Batch) -> dict[str, tuple[float, Tensor]]:
        c, filled_BT = self.config, batch.filled_BT
        smoothing = smoothing_loss(
            look.parts["message"], filled_BT, batch.start_BT, c.betas, form=c.smoothing
        )
        confidence = confidence_loss(
            look.q_BTNA, batch.avail_BTNA, filled_BT, form=c.confidence, sharpness=c.sharpness
        )
        return {
            "smoothing": (c.smoothing_weight, smoothing),
            "confidence": (c.confidence_weight, confidence),
        }
