"""What episodes brought: told to a policy in hindsight while it learns, and as a wish while it acts.

| symbol | name here | meaning |
|---|---|---|
| R_k | | an episode's sum of rewards of objective k, each scaled to [0, 1] |
| p_k | preference | R_k / sum_j R_j |
| | to_go | what the episode still brings from an entry on |
| | front_FK | non-dominated returns of the data set, F of them at most |
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marl.offline.summary import Scaler, Summary
from marl.offline.transitions import rewards_of
from marl.types import Batch

_FRONT = 256  # returns kept; CHOICE


class Outcomes(nn.Module):
    """The best returns of a data set; stored with the networks.

    Args:
        objectives: K.
    """

    def __init__(self, objectives: int) -> None:
        super().__init__()
        self.register_buffer("front_FK", torch.zeros(_FRONT, objectives))

    def fit(self, summary: Summary, scaler: Scaler) -> None:
        """Keep the non-dominated returns of the data set, evenly thinned; unused places repeat the last."""
        shift_K, scale_K = scaler.get_buffer("reward_shift"), scaler.get_buffer("reward_scale")
        return_EK = (summary.return_EK - summary.length_E[:, None] * shift_K) / scale_K
        kept = front(return_EK)
        index_F = torch.linspace(0, len(kept) - 1, min(_FRONT, len(kept))).round().long()
        chosen = kept[index_F.to(kept.device)]
        table_FK = self.get_buffer("front_FK")
        table_FK[: len(chosen)] = chosen
        table_FK[len(chosen) :] = chosen[-1]

    def best(self, preference_K: Tensor) -> Tensor:
        """The kept return that serves a preference best (K,)."""
        front_FK = self.get_buffer("front_FK")
        return front_FK[(front_FK * preference_K).sum(-1).argmax()]

    @staticmethod
    def hindsight(batch: Batch, scaler: Scaler, limit: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of whole episodes: preference (B, T, K), to_go (B, T, K), and steps left of the limit (B, T)."""
        reward_BTK = torch.where(batch.filled_BT[..., None], scaler.reward(rewards_of(batch)), 0.0)
        to_go_BTK = reward_BTK.flip(1).cumsum(1).flip(1)
        whole_B1K = to_go_BTK[:, :1]
        share_B1K = whole_B1K / whole_B1K.sum(-1, keepdim=True).clamp(min=1e-8)
        left_T = limit - torch.arange(reward_BTK.shape[1], device=reward_BTK.device)
        return share_B1K.expand_as(reward_BTK), to_go_BTK, left_T.clamp(min=1).expand(reward_BTK.shape[:2])


def front(return_EK: Tensor) -> Tensor:
    """The rows that no other row dominates (as good in all objectives and better in one), ordered by the
    first."""
    left_EK = return_EK.unique(dim=0).flip(0)  # sorted by columns: none is dominated by a later one
    kept: list[Tensor] = []
    while len(left_EK):
        kept.append(left_EK[0])
        left_EK = left_EK[(left_EK > left_EK[0]).any(-1)]
    return torch.stack(kept)
