"""From which first states of a data set an objective can be earned at all, by the data's own transitions.

States are nodes where they are equal to the last bit, transitions are edges, and nothing leads on from a
terminated one. In a continuous world that never meets a state twice these are the episodes themselves.

| symbol | name here | meaning |
|---|---|---|
| X, V | | transitions in the order of their episodes; distinct states |
| | node_VK | from this state a reward of the objective can be reached |
"""

from __future__ import annotations

import torch
from torch import Tensor


def keys(state_XS: Tensor) -> Tensor:
    """A number for every state (int64 X): equal for equal states, and by chance alone for others."""
    bits_XS = (state_XS.float() + 0.0).contiguous().view(torch.int32).long()  # -0.0 + 0.0 is 0.0
    generator = torch.Generator().manual_seed(0)
    factor_S = torch.randint(-(2**62), 2**62, (bits_XS.shape[1],), generator=generator) * 2 + 1
    return (bits_XS * factor_S.to(bits_XS.device)).sum(-1)  # modulo 2^64


def reached(
    key_X: Tensor, next_key_X: Tensor, rewarded_XK: Tensor, terminated_X: Tensor, first_X: Tensor
) -> Tensor:
    """Whether an episode's first state leads to a reward (bool E, K).

    Args:
        key_X, next_key_X: of a transition's two states (`keys`).
        rewarded_XK, terminated_X, first_X: bool; first: the transition starts an episode.
    """
    X, K = rewarded_XK.shape
    states, index = torch.unique(torch.cat([key_X, next_key_X]), return_inverse=True)
    from_X, to_X = index[:X], index[X:]
    start_E = first_X.nonzero()[:, 0]
    end_X = torch.cat([start_E[1:], start_E.new_tensor([X])])[first_X.cumsum(0) - 1]  # of its own episode
    node_VK = torch.zeros(len(states), K, dtype=torch.int64, device=key_X.device)
    while True:
        leads_XK = (rewarded_XK | ((node_VK[to_X] > 0) & ~terminated_X[:, None])).long()
        # What comes later in the same episode: one step of this is as good as many along its chain.
        total_XK = torch.cat([leads_XK.flip(0).cumsum(0).flip(0), leads_XK.new_zeros(1, K)])
        later_XK = ((total_XK[:X] - total_XK[end_X]) > 0).long()
        new_VK = node_VK.index_add(0, from_X, later_XK).clamp(max=1)
        if torch.equal(new_VK, node_VK):
            return node_VK[from_X[first_X]] > 0
        node_VK = new_VK
