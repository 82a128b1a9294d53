"""Targets and losses against hand-computed numbers and a loop over episodes."""

import pytest
import torch

from marl.returns import lambda_returns, nstep_returns
from marl.value import double_q_actions, td_loss

GAMMA = 0.9


def _bools(*values):
    return torch.tensor([values], dtype=torch.bool)


def _column(*values):
    return torch.tensor([values])[..., None]


# Two transitions and the final observation. V of the three entries: 1, 2, 3.
REWARD, VALUE, FILLED = _column(1.0, 2.0, 0.0), _column(1.0, 2.0, 3.0), _bools(1, 1, 0)


@pytest.mark.parametrize(
    ("terminated", "expected"),
    [
        # G_1 = 2 (+ 0.9 * 3 if cut off); G_0 = 1 + 0.9 (0.5 * 2 + 0.5 G_1)
        (_bools(0, 1, 0), [1 + 0.9 * (1.0 + 1.0), 2.0]),
        (_bools(0, 0, 0), [1 + 0.9 * (1.0 + 2.35), 4.7]),
    ],
    ids=["terminated", "truncated"],
)
def test_lambda_returns_by_hand(terminated, expected):
    returned = lambda_returns(REWARD, VALUE, terminated, FILLED, gamma=GAMMA, trace=0.5)
    torch.testing.assert_close(returned[0, :2, 0], torch.tensor(expected))


@pytest.mark.parametrize(
    ("terminated", "steps", "expected"),
    [
        (_bools(0, 0, 0), 1, [1 + 0.9 * 2, 2 + 0.9 * 3]),
        (_bools(0, 0, 0), 2, [1 + 0.9 * 2 + 0.81 * 3, 2 + 0.9 * 3]),
        (_bools(0, 1, 0), 5, [1 + 0.9 * 2, 2.0]),
    ],
)
def test_nstep_returns_by_hand(terminated, steps, expected):
    returned = nstep_returns(REWARD, VALUE, terminated, FILLED, gamma=GAMMA, steps=steps)
    torch.testing.assert_close(returned[0, :2, 0], torch.tensor(expected))


def _episodes(batch, b):
    """(first entry, number of transitions) of every episode in a sequence."""
    filled, start = batch.filled_BT[b].tolist(), batch.start_BT[b].tolist()
    for first in (t for t, s in enumerate(start) if s):
        length = 0
        while filled[first + length]:
            length += 1
        yield first, length


def _loop(batch, value, target_of):
    """Targets entry by entry, each episode alone."""
    out = torch.zeros_like(value)
    for b in range(value.shape[0]):
        for first, length in _episodes(batch, b):
            r = batch.reward_BT[b, first : first + length].tolist()
            v = value[b, first : first + length + 1, 0].tolist()
            if length and batch.terminated_BT[b, first + length - 1]:
                v[-1] = 0.0
            for t in range(length):
                out[b, first + t, 0] = target_of(r[t:], v[t + 1 :])
    return out


def _nstep(r, v, n):
    n = min(n, len(r))
    return sum(GAMMA**k * r[k] for k in range(n)) + GAMMA**n * v[n - 1]


def _lambda(r, v, trace):
    """The definition: a geometric mixture of n-step targets, the rest of the weight on the longest."""
    L = len(r)
    mixture = sum((1 - trace) * trace ** (n - 1) * _nstep(r, v, n) for n in range(1, L))
    return mixture + trace ** (L - 1) * _nstep(r, v, L)


@pytest.mark.parametrize("run_on", [True, False])
@pytest.mark.parametrize("trace", [0.0, 0.6, 1.0])
def test_lambda_returns_equal_a_loop_over_episodes(make_spec, make_batch, run_on, trace):
    batch = make_batch(make_spec(), B=16, T=30, run_on=run_on)
    value = torch.randn(16, 30, 1, generator=torch.Generator().manual_seed(1))
    ends = batch.terminated_BT, batch.filled_BT
    fast = lambda_returns(batch.reward_BT[..., None], value, *ends, gamma=GAMMA, trace=trace)
    slow = _loop(batch, value, lambda r, v: _lambda(r, v, trace))
    torch.testing.assert_close(fast[batch.filled_BT], slow[batch.filled_BT], rtol=1e-5, atol=1e-5)
    assert batch.terminated_BT.any()
    assert batch.truncated_BT.any()


@pytest.mark.parametrize("run_on", [True, False])
@pytest.mark.parametrize("steps", [1, 3, 40])
def test_nstep_returns_equal_a_loop_over_episodes(make_spec, make_batch, run_on, steps):
    batch = make_batch(make_spec(), B=16, T=30, run_on=run_on)
    value = torch.randn(16, 30, 1, generator=torch.Generator().manual_seed(1))
    ends = batch.terminated_BT, batch.filled_BT
    fast = nstep_returns(batch.reward_BT[..., None], value, *ends, gamma=GAMMA, steps=steps)
    slow = _loop(batch, value, lambda r, v: _nstep(r, v, steps))
    torch.testing.assert_close(fast[batch.filled_BT], slow[batch.filled_BT], rtol=1e-5, atol=1e-5)


def test_truncation_bootstraps_and_termination_does_not():
    """Constant reward 1: cut off, every target is 1 / (1 - gamma); ended, it is the reward left."""
    reward, value = torch.ones(1, 4, 1), torch.full((1, 4, 1), 1 / (1 - GAMMA))
    filled = _bools(1, 1, 1, 0)
    cut = lambda_returns(reward, value, _bools(0, 0, 0, 0), filled, gamma=GAMMA, trace=0.8)
    torch.testing.assert_close(cut[0, :3, 0], torch.full((3,), 10.0))
    ended = lambda_returns(reward, value, _bools(0, 0, 1, 0), filled, gamma=GAMMA, trace=1.0)
    torch.testing.assert_close(ended[0, :3, 0], torch.tensor([1 + 0.9 + 0.81, 1.9, 1.0]))


def test_double_q_never_picks_an_unavailable_action():
    q = torch.tensor([[[[5.0, 1.0, -3.0]]], [[[-5.0, -6.0, -7.0]]]])
    avail = torch.tensor([[[[False, True, True]]], [[[False, False, True]]]])
    assert double_q_actions(q, avail).flatten().tolist() == [1, 2]


@pytest.mark.parametrize(("kind", "expected"), [("squared", (4.0 + 0.25) / 2), ("huber", (1.5 + 0.125) / 2)])
def test_td_loss_by_hand_ignores_unfilled_entries(kind, expected):
    value = _column(3.0, 0.5, torch.nan).requires_grad_()
    loss = td_loss(value, _column(1.0, 1.0, torch.inf), FILLED, kind=kind)
    torch.testing.assert_close(loss.item(), expected)
    loss.backward()
    slope = {"squared": [2.0, -0.5, 0.0], "huber": [0.5, -0.25, 0.0]}[kind]  # by hand, /2 for the mean
    torch.testing.assert_close(value.grad[0, :, 0], torch.tensor(slope))


def test_td_loss_averages_over_agents():
    value, target = torch.tensor([[[1.0, 3.0]]]), torch.zeros(1, 1, 2)
    assert td_loss(value, target, _bools(1), kind="squared").item() == 5.0
