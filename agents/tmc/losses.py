"""TMC's regularisers, pure functions of tensors.

| symbol | name here | meaning |
|---|---|---|
| m_t | message_BTNA | message of step t |
| w_s, beta_i | len(betas), betas | past messages that count, and their weights |
| k | k_BT | of them, those of the same episode: at most w_s |
| L_s | smoothing | sum_n sum_t sum_{i <= w_s} beta_i ||m_t^n - m_{t-i}^n||^2, and two other forms |
| L_r | gap | largest minus second-largest entry of Q_glb |

betas are listed oldest first, as the released code has them: with k past messages the oldest of them gets
betas[0], so that a lone one gets 0.5 and the newest of three 1.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

_FLOOR = 1e-6  # CHOICE: least ||m||^2 that a distance is divided by; messages are 0 before training has begun
_RELEASED_DIVISOR = 192  # 32 sequences times 6 agents, whatever the map has


def _latest_start(start_BT: Tensor) -> Tensor:
    """Index of the first entry of each entry's episode, int64 (B, T); 0 where that precedes the sequence."""
    at_T = torch.arange(start_BT.shape[1], device=start_BT.device)
    return torch.where(start_BT, at_T, 0).cummax(1).values


def step_distances(
    message_BTNA: Tensor, start_BT: Tensor, betas: Sequence[float], *, relative: bool
) -> Tensor:
    """sum_i beta_i ||m_t - m_{t-i}||^2 of every entry (B, T, N); relative: divided by k ||m_t||^2."""
    w, T, total = len(betas), message_BTNA.shape[1], torch.zeros_like(message_BTNA[..., 0])
    age_BT = torch.arange(T, device=start_BT.device) - _latest_start(start_BT)
    k_BT = age_BT.clamp(max=w)
    beta_w = message_BTNA.new_tensor(list(betas))
    for i in range(1, min(w, T - 1) + 1):
        distance_BTN = (message_BTNA[:, i:] - message_BTNA[:, :-i]).square().sum(-1)
        weight_BT = torch.where(age_BT >= i, beta_w[(k_BT - i).clamp(min=0)], 0.0)  # the k-i-th oldest
        total = total + F.pad(weight_BT[:, i:, None] * distance_BTN, (0, 0, i, 0))
    if not relative:
        return total
    norm_BTN = message_BTNA.square().sum(-1).clamp(min=_FLOOR)
    return total / (k_BT.clamp(min=1)[..., None] * norm_BTN)


def smoothing_loss(
    message_BTNA: Tensor,
    filled_BT: Tensor,
    start_BT: Tensor,
    betas: Sequence[float],
    *,
    form: Literal["relative", "absolute", "released"],
) -> Tensor:
    """L_s of a batch of sequences.

    Args:
        message_BTNA: float, differentiable.
        filled_BT: bool; entries that have an action: others do not count, whatever they hold.
        start_BT: bool; first entries of episodes, beyond which no message is compared.
        betas: weights of past messages, oldest first.
        form: relative: mean over agents and steps. absolute: the paper's distances, summed over agents, mean
            over steps (CHOICE: as the TD loss). released: relative ones as a running sum since the start of
            the episode, divided by sequences, agents and actions, summed over agents, mean over steps.
    """
    B, _, N, A = message_BTNA.shape
    message_BTNA = torch.where(filled_BT[..., None, None], message_BTNA, 0.0)
    term_BTN = step_distances(message_BTNA, start_BT, betas, relative=form != "absolute")
    if form == "released":
        running_BTN = term_BTN.cumsum(1)
        first_BTN = _latest_start(start_BT)[..., None].expand_as(running_BTN)  # has no past: its term is 0
        term_BTN = (running_BTN - running_BTN.gather(1, first_BTN)) / (B * N * A)
    steps = filled_BT.sum().clamp(min=1)
    total = torch.where(filled_BT[..., None], term_BTN, 0.0).sum() / steps
    return total / N if form == "relative" else total


def confidence_loss(
    q_BTNA: Tensor,
    avail_BTNA: Tensor,
    filled_BT: Tensor,
    *,
    form: Literal["exponential", "gap", "released"],
    sharpness: float,
) -> Tensor:
    """What pulls the best two values of every agent apart.

    Args:
        q_BTNA: Q_glb, differentiable.
        avail_BTNA: bool.
        filled_BT: bool.
        form: exponential: mean over agents and steps of exp(-sharpness gap) over available actions. gap: of
            minus the gap. released: exp(-sharpness gap) over all actions, summed over agents, divided by 192.
        sharpness: of the exponential forms.

    An agent with one action has no gap and counts 0.
    """
    N = q_BTNA.shape[2]
    counts_BTN = filled_BT[..., None].expand(q_BTNA.shape[:3])
    if form != "released":
        counts_BTN = counts_BTN & (avail_BTNA.sum(-1) > 1)
        q_BTNA = q_BTNA.masked_fill(~avail_BTNA, -torch.inf)
    best_BTN2 = torch.where(counts_BTN[..., None], q_BTNA, 0.0).topk(2, -1).values
    gap_BTN = best_BTN2[..., 0] - best_BTN2[..., 1]
    term_BTN = -gap_BTN if form == "gap" else torch.exp(-sharpness * gap_BTN)
    total = torch.where(counts_BTN, term_BTN, 0.0).sum() / filled_BT.sum().clamp(min=1)
    return total / (_RELEASED_DIVISOR if form == "released" else N)
