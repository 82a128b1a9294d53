"""Weight grouping: indices against brute force, gradients by hand, by finite differences and by autograd."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from marl.errors import FieldError
from marl.sparse import Grouped, Grouping, Layout
from marl.sparse.grouping import balanced, full_gradients, selected_gradients, through_softmax


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grouping(I: int, O: int, G: int, **settings: object) -> Grouping:  # noqa: E741
    return Grouping(I, O, G, Grouped(**settings), generator())  # type: ignore[arg-type]


class Case:
    """A layer of random numbers in float64, with its mask as a product of one-hot matrices."""

    def __init__(self, I: int, O: int, G: int, seed: int = 0) -> None:  # noqa: E741
        g = generator(seed)
        self.G = G
        self.group_in, self.group_out = (torch.randint(G, (n,), generator=g) for n in (I, O))
        self.layout = Layout.of(self.group_in, self.group_out, G)
        self.W, self.X = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((O, I), (6, I)))
        self.target = torch.randn(6, O, generator=g, dtype=torch.float64)
        self.IS = F.one_hot(self.group_in, G).double()
        self.OS = F.one_hot(self.group_out, G).double().t()

    def loss(self, IS: Tensor, OS: Tensor, W: Tensor | None = None) -> Tensor:
        """The paper's forward rule with real-valued selection matrices."""
        mask_IO = IS @ OS
        Y = self.X @ ((self.W if W is None else W).t() * mask_IO)
        return (Y - self.target).square().sum()

    def dense_gradient(self) -> Tensor:
        """X^T dY, transposed to (O, I)."""
        Y = (self.X @ (self.W.t() * (self.IS @ self.OS))).requires_grad_()
        (Y - self.target).square().sum().backward()
        assert Y.grad is not None
        return Y.grad.t() @ self.X


def test_indices_are_the_largest_logit_and_ties_go_to_the_lowest_group():
    g = grouping(5, 3, 4)
    with torch.no_grad():
        g.IG[0] = torch.tensor([2.0, 7.0, 7.0, 1.0])
        g.OG[:, 1] = torch.tensor([3.0, 3.0, 3.0, 3.0])
    group_in, group_out = g.indices()
    for i, row in enumerate(g.IG.tolist()):
        assert group_in[i] == min(k for k in range(4) if row[k] == max(row))
    for j, column in enumerate(g.OG.t().tolist()):
        assert group_out[j] == min(k for k in range(4) if column[k] == max(column))
    assert group_in[0] == 1
    assert group_out[1] == 0


def test_a_tie_still_puts_every_feature_into_one_group():
    """A test for equality with the maximum would keep two."""
    g = grouping(6, 6, 3)
    with torch.no_grad():
        g.IG.zero_()
        g.OG.zero_()
    mask = Layout.of(*g.indices(), 3).mask_OI()
    assert mask.all()  # all of them in group 0


@pytest.mark.parametrize(("features", "groups"), [(8, 4), (9, 4), (3, 5), (7, 1), (64, 16)])
def test_balanced_groups_are_those_of_the_largest_pair_first(features: int, groups: int):
    logits = torch.randn(features, groups, generator=generator(features))
    got = balanced(logits).tolist()
    room = [sum(1 for f in range(features) if f % groups == g) for g in range(groups)]
    expected: dict[int, int] = {}
    while len(expected) < features:
        free = [
            (logits[f, g].item(), f, g)
            for f, g in itertools.product(range(features), range(groups))
            if f not in expected and room[g]
        ]
        _, f, g = max(free)
        expected[f] = g
        room[g] -= 1
    assert got == [expected[f] for f in range(features)]
    sizes = torch.bincount(torch.tensor(got), minlength=groups)
    assert sizes.max() - sizes.min() <= 1


def test_balance_is_what_indices_use():
    plain, even = grouping(64, 128, 8), grouping(64, 128, 8, balance="capacity")
    assert set(torch.bincount(even.indices()[0]).tolist()) == {8}
    assert set(torch.bincount(even.indices()[1]).tolist()) == {16}
    assert len(set(torch.bincount(plain.indices()[0]).tolist())) > 1


def test_full_gradients_by_hand():
    """2 inputs, 2 outputs, 2 groups: input 0 and output 0 in group 0, the others in group 1."""
    weight_OI = torch.tensor([[2.0, 3.0], [5.0, 7.0]])  # W[i=0, j=1] is 5
    grad_OI = torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
    group = torch.tensor([0, 1])
    dIS, dOS = full_gradients(grad_OI, weight_OI, group, group, 2)
    # dMask (input, output): (0,0) 1*2, (0,1) 100*5, (1,0) 10*3, (1,1) 1000*7
    assert dIS.tolist() == [[2.0, 500.0], [30.0, 7000.0]]
    assert dOS.tolist() == [[2.0, 500.0], [30.0, 7000.0]]
    three = torch.tensor([1, 1])  # both outputs in group 1: group 0 brings nothing
    dIS, dOS = full_gradients(grad_OI, weight_OI, group, three, 2)
    assert dIS.tolist() == [[0.0, 502.0], [0.0, 7030.0]]
    assert dOS.tolist() == [[2.0, 500.0], [30.0, 7000.0]]


@pytest.mark.parametrize(("I", "O", "G"), [(5, 4, 3), (8, 12, 4), (3, 3, 6), (4, 5, 1)])
def test_full_gradients_are_those_of_the_relaxed_form(I: int, O: int, G: int):  # noqa: E741
    """The loss as a function of real-valued IS and OS, by finite differences and by autograd."""
    case = Case(I, O, G)
    dIS, dOS = full_gradients(case.dense_gradient(), case.W, case.group_in, case.group_out, G)
    step = 1e-6
    for matrix, found in (("IS", dIS), ("OS", dOS)):
        for place in itertools.product(*(range(n) for n in found.shape)):
            ends = []
            for sign in (1, -1):
                moved = {"IS": case.IS.clone(), "OS": case.OS.clone()}
                moved[matrix][place] += sign * step
                ends.append(case.loss(**moved))
            torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), found[place], rtol=1e-5, atol=1e-5)
    IS, OS = case.IS.clone().requires_grad_(), case.OS.clone().requires_grad_()
    case.loss(IS, OS).backward()
    torch.testing.assert_close((dIS, dOS), (IS.grad, OS.grad))


@pytest.mark.parametrize(("I", "O", "G"), [(5, 4, 3), (16, 12, 4), (3, 3, 6), (4, 5, 1)])
def test_selected_gradients_are_the_entries_of_the_full_ones(I: int, O: int, G: int):  # noqa: E741
    case = Case(I, O, G)
    dense = case.dense_gradient()
    full = full_gradients(dense, case.W, case.group_in, case.group_out, G)
    pack = case.layout.pack
    dIS, dOS = selected_gradients(pack(dense), pack(case.W), case.layout)
    torch.testing.assert_close(dIS, full[0] * case.IS)
    torch.testing.assert_close(dOS, full[1] * case.OS)
    if G == 1:  # one group: every entry is selected
        torch.testing.assert_close((dIS, dOS), full)


def test_selected_gradients_in_float32_are_those_in_float64():
    """float32 on the CPU takes the native sums where they can be built."""
    case = Case(33, 40, 5)
    both = [case.layout.pack(x) for x in (case.dense_gradient(), case.W)]
    found = selected_gradients(both[0].float(), both[1].float().requires_grad_(), case.layout)
    for own, wanted in zip(found, selected_gradients(both[0], both[1], case.layout), strict=True):
        assert not own.requires_grad
        torch.testing.assert_close(own.double(), wanted, rtol=1e-4, atol=1e-3)


def test_selected_gradients_never_see_what_sleeps():
    case = Case(9, 7, 3)
    first = selected_gradients(*(case.layout.pack(x) for x in (case.dense_gradient(), case.W)), case.layout)
    case.W += 100 * ~case.layout.mask_OI()
    again = selected_gradients(*(case.layout.pack(x) for x in (case.dense_gradient(), case.W)), case.layout)
    torch.testing.assert_close(first, again)


@pytest.mark.parametrize("dim", [0, 1])
def test_through_softmax_is_autograds_jacobian(dim: int):
    logits = torch.randn(4, 5, generator=generator(), dtype=torch.float64).requires_grad_()
    slope = torch.randn(4, 5, generator=generator(1), dtype=torch.float64)
    ((logits / 0.3).softmax(dim) * slope).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(through_softmax(slope, logits.detach(), dim, 0.3), logits.grad)


def test_softmax_moves_the_logits_of_other_groups_and_identity_does_not():
    layout_of = {}
    for relaxation in ("identity", "softmax"):
        g = grouping(6, 4, 3, relaxation=relaxation)
        layout = Layout.of(*g.indices(), 3)
        ones = torch.ones(layout.nnz)
        gradients = selected_gradients(ones, ones, layout)
        g.add_gradients(*gradients)
        once = g.IG.grad.clone()
        g.add_gradients(*gradients)
        torch.testing.assert_close(g.IG.grad, 2 * once)  # added, not replaced
        layout_of[relaxation] = once, F.one_hot(layout.group_in_I, 3).bool()
    once, own = layout_of["identity"]
    assert once[~own].abs().sum() == 0
    once, own = layout_of["softmax"]
    assert once[~own].abs().sum() > 0
    torch.testing.assert_close(once.sum(1), torch.zeros(6))


def test_initial_logits_are_normal_with_the_deviation_asked_for():
    g = grouping(400, 300, 8, initial_std=0.1)
    assert abs(g.IG.std().item() - 0.1) < 0.01
    assert abs(g.OG.mean().item()) < 0.01
    same, other = grouping(400, 300, 8, initial_std=1.0), Grouping(400, 300, 8, Grouped(), generator(1))
    torch.testing.assert_close(same.IG * 0.1, g.IG)
    assert all(torch.equal(a, b) for a, b in zip(same.indices(), g.indices(), strict=True))
    assert not torch.equal(other.IG, same.IG)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": 0}, "groups=0.*>= 1"),
        ({"layer_groups": {"lstm": 0}}, "layer_groups.lstm=0"),
        ({"ste": "half"}, "ste='half'.*full, selected"),
        ({"balance": "yes"}, "balance='yes'"),
        ({"relaxation": "hard"}, "relaxation='hard'"),
        ({"temperature": 0.0, "relaxation": "softmax"}, "temperature=0.0.*above 0"),
        ({"temperature": 0.5}, "temperature=0.5.*relaxation=softmax"),
        ({"initial_std": 0.0}, "initial_std=0.0"),
        ({"refresh": 0}, "refresh=0"),
        ({"smallest": 0}, "smallest=0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], message: str):
    with pytest.raises(FieldError, match=message):
        Grouped(**settings)  # type: ignore[arg-type]


def test_layers_are_chosen_by_size_and_name():
    config = Grouped(groups=8, smallest=32, dense=("encoder",), layer_groups={"lstm": 4, "lstm.input": 2})
    assert config.means("C", 128, 128)
    assert not config.means("heads", 128, 8)
    assert not config.means("encoder", 128, 128)
    assert config.means("encoder2", 128, 128)
    assert [config.of(n) for n in ("C", "lstm.input", "lstm.recurrent", "lstm2")] == [8, 2, 4, 8]
