"""The written-out sequence beside the step-by-step network that autograd differentiates."""

import pytest
import torch

from marl.comm import CommNetwork, Mean
from marl.comm.network import TalkingNetwork
from marl.nets import kernels

B, T, N = 3, 5, 4


def _network(hidden, rounds):
    return CommNetwork(
        7,
        2,
        hidden=hidden,
        rounds=rounds,
        recurrent=True,
        gated=True,
        make_aggregate=lambda _: Mean(hidden),
        generator=torch.Generator().manual_seed(0),
    )


@pytest.mark.skipif(not kernels.usable(torch.zeros(1)), reason="no C++ compiler")
@pytest.mark.parametrize("hidden", [6, 16])
@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("part", ["h", "both"])
def test_states_and_gradients_are_those_of_autograd(hidden, rounds, part):
    net, g = _network(hidden, rounds), torch.Generator().manual_seed(1)
    obs = torch.randn(B, T, N, 7, generator=g).requires_grad_()
    start, alive = torch.rand(B, T, generator=g) < 0.3, torch.rand(B, T, N, generator=g) < 0.7
    delivered = torch.rand(B, T, rounds, N, N, generator=g) < 0.5
    delivered &= alive[:, :, None, None] & ~torch.eye(N, dtype=torch.bool)
    state = tuple(torch.randn(B, N, hidden, generator=g) for _ in range(2))
    weights = [torch.randn(B, T, N, hidden, generator=g) for _ in range(2)]
    found = []
    for forward in (net.forward, lambda *rest: TalkingNetwork.forward(net, *rest)):
        h, c = forward(net.encode(obs), start, alive, delivered, state)
        loss = (h * weights[0]).sum() + ((c * weights[1]).sum() if part == "both" else 0.0)
        cell = [p for name, p in net.named_parameters() if "heads" not in name]
        found.append((h, c, *torch.autograd.grad(loss, (obs, *cell))))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert theirs.abs().sum() > 0
