"""FairDICE's losses by hand, and the guards against the released code's first fault."""

import pytest
import torch

from marl.agents.fairdice import losses
from marl.agents.fairdice.divergence import DIVERGENCES
from marl.agents.fairdice.welfare import AlphaFair

CHI2, SOFT, KL = (DIVERGENCES[name] for name in ("chi2", "soft_chi2", "kl"))
YES = torch.tensor([True, True])


def test_the_dual_by_hand():
    """Two transitions, the second terminated; chi2, beta = 2, Nash."""
    reward = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    mu = torch.tensor([0.5, 2.0])
    ends = torch.tensor([False, True])
    e = losses.advantage(reward, mu, torch.tensor([1.0, 3.0]), torch.tensor([2.0, 7.0]), ends, gamma=0.9)
    assert e.tolist() == pytest.approx([0.5 + 1.8 - 1, 4 - 3])
    value = losses.dual_loss(
        e, YES, torch.tensor([1.0]), mu, gamma=0.9, beta=2.0, f=CHI2, welfare=AlphaFair(1.0)
    )
    y = [0.65, 0.5]
    data = sum(2 * (v + v * v / 2) for v in y) / 2
    assert float(value) == pytest.approx(0.1 + data + (-torch.log(mu) - 1).sum().item())
    keep = torch.tensor([True, False])
    only = losses.dual_loss(
        e, keep, torch.tensor([1.0]), None, gamma=0.9, beta=2.0, f=CHI2, welfare=AlphaFair(1.0)
    )
    assert float(only) == pytest.approx(0.1 + 2 * (0.65 + 0.65**2 / 2))


def test_weights_by_hand():
    e = torch.tensor([0.3, -0.2, 5.0])
    keep = torch.tensor([True, True, False])
    shifted = losses.policy_weights(e, keep, beta=0.5, f=SOFT, shift=True)
    raw = torch.tensor([1.0, torch.exp(torch.tensor(-1.0))])
    assert torch.allclose(shifted, torch.tensor([*(raw / raw.mean()).tolist(), 0.0]))
    plain = losses.policy_weights(e, keep, beta=0.5, f=CHI2, shift=False)
    assert plain.tolist() == pytest.approx([1.6 / 1.1, 0.6 / 1.1, 0.0])
    assert not losses.policy_weights(e.requires_grad_(), keep, beta=0.5, f=KL, shift=True).requires_grad


def gradient(kind, weights):
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    losses.policy_loss(torch.tensor(weights), log_prob, YES, kind=kind).backward()
    return log_prob.grad.tolist()


def test_the_gradient_is_that_of_the_sample_that_weighs():
    assert gradient("fixed", [2.0, 0.0]) == pytest.approx([-1.0, 0.0])
    assert gradient("behaviour_cloning", [2.0, 0.0]) == pytest.approx([-0.5, -0.5])


def test_permuted_weights_change_the_gradient_but_for_the_wrong_broadcast():
    assert gradient("fixed", [1.5, 0.5]) != gradient("fixed", [0.5, 1.5])
    assert gradient("wrong_broadcast", [1.5, 0.5]) == gradient("wrong_broadcast", [0.5, 1.5])
    assert gradient("wrong_broadcast", [2.0, 0.0]) == pytest.approx(gradient("behaviour_cloning", [2.0, 0.0]))


@pytest.mark.parametrize("part", ["weight", "log_prob", "keep"])
def test_a_column_times_a_row_is_refused(part):
    """(B, 1) x (B,): the product that turned FairDICE into behaviour cloning."""
    parts = {"weight": torch.ones(2), "log_prob": torch.zeros(2), "keep": YES}
    parts[part] = parts[part][:, None]
    with pytest.raises(ValueError, match=r"must all have the shape \(X,\)"):
        losses.policy_loss(parts["weight"], parts["log_prob"], parts["keep"], kind="fixed")


def test_shapes_of_the_advantage_are_checked():
    nu = torch.zeros(2)
    with pytest.raises(ValueError, match="nu"):
        losses.advantage(torch.ones(2, 1), torch.ones(1), nu[:, None], nu, YES, gamma=0.9)


def test_advantages_are_averaged_over_equal_states_and_actions():
    state = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    group = losses.alike(state, torch.tensor([[0], [0], [1], [0]]))
    e, keep = torch.tensor([1.0, 2.0, 3.0, 5.0]), torch.tensor([True, True, True, True])
    assert losses.group_mean(e, group, keep).tolist() == [3.0, 2.0, 3.0, 3.0]


def test_rows_that_do_not_count_are_in_no_mean():
    e, group = torch.tensor([2.0, 6.0, torch.nan]), torch.tensor([0, 0, 1])
    keep = torch.tensor([True, False, False])
    assert losses.group_mean(e, group, keep).tolist() == [2, 2, 0]


def test_flow_by_hand():
    """Rows of weight 1, 2 and 5: the second ends, the third does not count."""
    keep, ends = torch.tensor([True, True, False]), torch.tensor([False, True, False])
    flow = losses.flow(torch.tensor([1.0, 2.0, 5.0]), keep, ends, gamma=0.75)
    assert float(flow) == pytest.approx((0.25 + 2) / 2 / 0.25)


def test_the_penalty_by_hand():
    assert float(losses.gradient_penalty(torch.tensor([[3.0, 4.0], [6.0, 8.0]]))) == pytest.approx(12.5)
