"""Fully learnable weight grouping: which group every input and every output of a layer is in, learned.

| symbol | name here | meaning |
|---|---|---|
| IG, OG | IG (I, G), OG (G, O) | grouping matrices: logits, learned |
| IS, OS | group_in_I, group_out_O | one-hot rows of IG's and columns of OG's maxima, held as indices |
| mask = IS OS | Layout.mask_OI (transposed) | weight (i, j) counts where input i and output j share a group |
| W | weight_OI, packed | all weights; masked ones sleep and may come back |
| X^T dY | grad_OI, packed_grad | gradient of the weights as if nothing were masked |
| dMask = (X^T dY) * W | | gradient of the mask |

Straight-through gradients: dIS = dMask OS^T and dOS = IS^T dMask stand for those of the logits. `full` needs
the dense X^T dY and tells every feature what each group would bring; `selected` takes only the entries that
are 1, dIS[i, g(i)] = sum of (X^T dY)_ij W_ij over the outputs j of i's own group, which the packed weights
and their gradient give alone: row and column sums of their product.
Weights stand as torch has them, (outputs, inputs): the transpose of the paper's.

CHOICE: the paper prints no equation for the logits; these follow from its text, that IG and OG are trained
with the error of the selection matrix that belongs to each. `softmax` sends dIS through the softmax of the
logits, so that those of other groups move too, as public forms of FLGC do; `identity` is dIG := dIS.

References: Yang, Kim, Kim, "LearningGroup", ICFPT 2022 (arXiv 2210.16624); Wang et al., "Fully Learnable
Group Convolution", CVPR 2019 (arXiv 1904.00346).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marl.sparse.backends import native
from marl.sparse.config import Grouped
from marl.sparse.layout import Layout

_ROUNDS = 20  # of `Grouping.fit`, at most
_STARTS = 8  # of it; CHOICE


class Grouping(nn.Module):
    """The grouping matrices of one layer.

    Args:
        inputs, outputs: features I and O.
        groups: G >= 1.
        config: how logits start, which relaxation their gradient takes, and whether groups are balanced.
        generator: source of the initial logits.
    """

    def __init__(
        self, inputs: int, outputs: int, groups: int, config: Grouped, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.groups, self.config = groups, config
        std = config.initial_std
        self.IG = nn.Parameter(torch.randn(inputs, groups, generator=generator) * std)
        self.OG = nn.Parameter(torch.randn(groups, outputs, generator=generator) * std)

    def indices(self) -> tuple[Tensor, Tensor]:
        """(group_in_I, group_out_O): of every feature the group of its largest logit, ties to the lowest."""
        pick = balanced if self.config.balance == "capacity" else _argmax
        return pick(self.IG.detach()), pick(self.OG.detach().t())

    @torch.no_grad()
    def fit(self, weight_OI: Tensor) -> None:
        """Set the logits so that groups of equal size keep much of the sum of squares of these weights.

        In turn every input and every output takes the group where its squares are largest, as far as there is
        room (`balanced`), until nothing changes; of several starts the one counts that keeps most. CHOICE: a
        start after a dense phase; not in the paper.
        """
        square_OI = weight_OI.square()
        made = [self._fit_from(square_OI, self.OG.t().roll(start, 0)) for start in range(_STARTS)]
        _, group_in, score_IG, group_out, score_OG = max(made, key=lambda fitted: fitted[0])
        std = self.config.initial_std
        self.IG.copy_(_largest_at(group_in, score_IG) * std)
        self.OG.copy_(_largest_at(group_out, score_OG).t() * std)

    def _fit_from(self, square_OI: Tensor, logits_OG: Tensor) -> tuple[float, Tensor, Tensor, Tensor, Tensor]:
        """What is kept, then groups and scores of inputs and of outputs, from these logits on."""
        group_out = balanced(logits_OG)
        for _ in range(_ROUNDS):
            score_IG = square_OI.t() @ F.one_hot(group_out, self.groups).to(square_OI.dtype)
            group_in = balanced(score_IG)
            score_OG = square_OI @ F.one_hot(group_in, self.groups).to(square_OI.dtype)
            before, group_out = group_out, balanced(score_OG)
            if torch.equal(before, group_out):
                break
        kept = square_OI[group_out[:, None] == group_in[None]].sum()
        return float(kept), group_in, score_IG, group_out, score_OG

    @torch.no_grad()
    def add_gradients(self, dIS: Tensor, dOS: Tensor) -> None:
        """Add to the logits' gradients what these gradients of the one-hot matrices mean for them."""
        if self.config.relaxation == "softmax":
            dIS = through_softmax(dIS, self.IG, 1, self.config.temperature)
            dOS = through_softmax(dOS, self.OG, 0, self.config.temperature)
        for parameter, gradient in ((self.IG, dIS), (self.OG, dOS)):
            if parameter.grad is None:
                parameter.grad = gradient.clone()
            else:
                parameter.grad += gradient


def full_gradients(
    grad_OI: Tensor, weight_OI: Tensor, group_in_I: Tensor, group_out_O: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """dIS (I, G) = dMask OS^T and dOS (G, O) = IS^T dMask.

    Args:
        grad_OI: X^T dY, nothing masked.
        weight_OI: all weights, sleeping ones too.
        group_in_I, group_out_O: the groups that the forward pass had.
        groups: G.
    """
    dmask_OI = grad_OI * weight_OI
    dIS = dmask_OI.t() @ F.one_hot(group_out_O, groups).to(dmask_OI.dtype)
    dOS = (dmask_OI @ F.one_hot(group_in_I, groups).to(dmask_OI.dtype)).t()
    return dIS, dOS


def selected_gradients(packed_grad: Tensor, packed: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """The entries of `full_gradients` at every feature's own group, zeros elsewhere; costs O(nnz).

    Args:
        packed_grad, packed: (nnz,) gradient and value of the kept weights.
        layout: of both.
    """
    if native.usable(packed):
        sum_I, sum_O = native.sums(packed_grad.contiguous(), packed.detach().contiguous(), layout)
    else:
        sum_I, sum_O = layout.sums(packed_grad * packed)
    dIS = sum_I.new_zeros(layout.inputs, layout.groups)
    dOS = sum_O.new_zeros(layout.groups, layout.outputs)
    dIS.scatter_(1, layout.group_in_I[:, None], sum_I[:, None])
    dOS.scatter_(0, layout.group_out_O[None], sum_O[None])
    return dIS, dOS


def through_softmax(gradient: Tensor, logits: Tensor, dim: int, temperature: float) -> Tensor:
    """Gradient of the logits where `gradient` is that of softmax(logits / temperature).

    With p the softmax: p (dS - sum of p dS) / temperature, along `dim`.
    """
    p = (logits / temperature).softmax(dim)
    return p * (gradient - (p * gradient).sum(dim, keepdim=True)) / temperature


def _largest_at(group: Tensor, score_FG: Tensor) -> Tensor:
    """Scores with mean 0 and deviation 1 per feature; that of its group changes places with the largest."""
    score_FG = score_FG - score_FG.mean(1, keepdim=True)
    score_FG = score_FG / score_FG.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
    rows, best = torch.arange(len(group), device=group.device), score_FG.argmax(1)
    own, top = score_FG[rows, group], score_FG[rows, best]
    score_FG[rows, best] = own
    score_FG[rows, group] = top
    return score_FG


def _argmax(logits_FG: Tensor) -> Tensor:
    return logits_FG.argmax(1)


def balanced(logits_FG: Tensor) -> Tensor:
    """A group for every feature, all groups as large as each other; the largest logits choose first.

    CHOICE: not in the paper. Pairs of feature and group in the order of their logits (ties: lower feature,
    then lower group); a pair holds where the feature is still free and the group has room. Group g has room
    for F / G features, rounded up for the first F mod G groups and down for the others.

    Args: logits_FG: of F features. Returns: (F,) int64 on the same device.
    """
    features, G = logits_FG.shape
    room = [features // G + (g < features % G) for g in range(G)]
    order = logits_FG.reshape(-1).argsort(descending=True, stable=True).tolist()
    group, free = [-1] * features, features
    for pair in order:
        feature, g = divmod(pair, G)
        if group[feature] < 0 and room[g]:
            group[feature] = g
            room[g] -= 1
            free -= 1
            if not free:
                break
    return torch.tensor(group, dtype=torch.int64, device=logits_FG.device)
