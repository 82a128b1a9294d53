"""What the mixers promise: monotone, consistent, and what each can and cannot represent."""

import itertools

import pytest
import torch

from marl.agents import iql, qmix, qplex, vdn
from marl.rng import Rng
from marl.value import Joint

CPU = torch.device("cpu")


def _joint(spec, rows=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    N, A = spec.n_agents, spec.n_actions
    avail = torch.rand(rows, 1, N, A, generator=g) < 0.6
    avail.scatter_(-1, torch.randint(A, (rows, 1, N, 1), generator=g), True)
    q = torch.randn(rows, 1, N, A, generator=g)
    actions = q.masked_fill(~avail, -torch.inf).argmax(-1)
    state = torch.randn(rows, 1, spec.state_size, generator=g)
    return _with_actions(
        Joint(q_BTN=q[..., 0], actions_BTN=actions, q_BTNA=q, avail_BTNA=avail, state_BTS=state), actions
    )


def _with_actions(joint, actions):
    q = joint.q_BTNA.gather(-1, actions[..., None]).squeeze(-1)
    return Joint(
        q_BTN=q,
        actions_BTN=actions,
        q_BTNA=joint.q_BTNA,
        avail_BTNA=joint.avail_BTNA,
        state_BTS=joint.state_BTS,
    )


@pytest.mark.parametrize("module", [vdn, qmix], ids=["vdn", "qmix"])
def test_joint_value_grows_with_every_agents_value(make_spec, module):
    spec = make_spec()
    mixer = module.Config().build(spec=spec, rng=Rng(0), device=CPU).online.mixer
    joint = _joint(spec)
    joint.q_BTN = joint.q_BTN.clone().requires_grad_()
    (slope,) = torch.autograd.grad(mixer(joint).sum(), joint.q_BTN)
    assert (slope >= 0).all()
    assert slope.max() > 0


def test_vdn_is_the_sum_and_iql_the_values_themselves(make_spec):
    joint = _joint(make_spec())
    torch.testing.assert_close(
        vdn.Sum()(joint)[..., 0], joint.q_BTN[..., 0] + joint.q_BTN[..., 1] + joint.q_BTN[..., 2]
    )
    assert iql.Separate()(joint) is joint.q_BTN


def _duplex(spec, **config):
    return qplex.Duplex(spec, qplex.Config(**config), Rng(0).torch("init"))


@pytest.mark.parametrize("layers", [1, 2])
def test_qplex_is_greatest_at_every_agents_best_legal_action(make_spec, layers):
    """Enumerate 2 agents x 3 actions: Q_tot of the legal argmax is sum V_i' and the maximum."""
    spec = make_spec(N=2, A=3)
    mixer, joint = _duplex(spec, extractor_layers=layers), _joint(spec)
    best = mixer(joint)[..., 0]
    v_prime = (mixer.w(joint.state_BTS).abs() + 1e-10) * joint.q_BTN + mixer.b(joint.state_BTS)
    torch.testing.assert_close(best, v_prime.sum(-1))
    beaten = 0
    for pair in itertools.product(range(3), repeat=2):
        actions = torch.tensor(pair).expand_as(joint.actions_BTN)
        legal = joint.avail_BTNA.gather(-1, actions[..., None]).squeeze(-1).all(-1)
        other = mixer(_with_actions(joint, actions))[..., 0]
        assert (other <= best + 1e-6)[legal].all()
        beaten += int((other < best - 1e-6)[legal].sum())
    assert beaten > 0


def test_qplex_scales_advantages_by_positive_importance(make_spec):
    """Q_tot = sum V' + sum lambda A' (eq. 11), with the gradient of the authors' code: dQ_tot/dQ_i = w_i."""
    spec = make_spec()
    mixer, joint = _duplex(spec), _joint(spec)
    joint = _with_actions(joint, torch.zeros_like(joint.actions_BTN))
    joint.q_BTN.requires_grad_()
    v = joint.q_BTNA.masked_fill(~joint.avail_BTNA, -torch.inf).amax(-1)
    w, b = mixer.w(joint.state_BTS).abs() + 1e-10, mixer.b(joint.state_BTS)
    scale = mixer.importance(joint.state_BTS, joint.actions_BTN)
    assert (scale > 0).all()
    total = mixer(joint)
    torch.testing.assert_close(total[..., 0], (w * v + b + scale * w * (joint.q_BTN - v)).sum(-1))
    (slope,) = torch.autograd.grad(total.sum(), joint.q_BTN, retain_graph=True)
    torch.testing.assert_close(slope, w)
    slopes = torch.autograd.grad(total.sum(), list(mixer.parameters()))
    assert all(s.abs().max() > 0 for s in slopes)


def test_qplex_heads_are_summed(make_spec):
    """lambda by a loop over heads."""
    spec = make_spec()
    mixer, joint = _duplex(spec, heads=3, extractor_layers=2, extractor_hidden=7), _joint(spec)
    state = joint.state_BTS
    one_hot = torch.nn.functional.one_hot(joint.actions_BTN, spec.n_actions).flatten(-2).float()

    def head(mlp, x, k):
        for i, layer in enumerate(mlp.layers):
            x = x @ layer.weight[k].T + layer.bias[k]
            x = torch.relu(x) if i == 0 else x
        return x

    expected = 0.0
    for k in range(3):
        key = head(mixer.key, state, k).abs() + 1e-10
        agents = torch.sigmoid(head(mixer.agent, state, k))
        action = torch.sigmoid(head(mixer.action, torch.cat((state, one_hot), -1), k))
        expected = expected + key * agents * action
    torch.testing.assert_close(mixer.importance(state, joint.actions_BTN), expected)
