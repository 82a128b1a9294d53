"""PPO's native forms against their torch forms, and what an update that turns NaN leaves behind."""

import pytest
import torch

from marl.agents import ippo, mappo
from marl.envs import relay_game
from marl.errors import MarlError, NonFiniteError
from marl.loops import OnPolicyConfig
from marl.loops.base import Means
from marl.nets import Optimiser, kernels, linear
from marl.nets.tower import Tower
from marl.policy import kernels as native
from marl.policy import value_loss
from marl.policy.heads import CategoricalHead, sample
from marl.policy.normalise import ValueNorm
from marl.rng import Rng

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(not kernels.usable(torch.zeros(1)), reason="needs a C++ compiler")


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@needs_compiler
@pytest.mark.parametrize("copies", [None, 3])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(("norm", "after"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("sizes", [[9, 7, 3], [18, 64, 64, 5], [4, 70, 17]])
def test_tower_equals_its_torch_form(sizes, norm, after, activation, copies):
    """Values and gradients, through autograd and through `learn`; 101 rows are no multiple of a block."""
    layers = len(sizes) - 1
    tower = Tower(
        sizes, activations=[activation] * (layers - 1) + [activation if after else None],
        gains=[1.4] * layers, norm=norm, norm_after=after, copies=copies, generator=_generator(),
    )  # fmt: skip
    with torch.no_grad():
        for p in tower.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=_generator(1)))
    x = torch.randn(101, 3, sizes[0], generator=_generator(2), requires_grad=True)
    dy = torch.randn(101, 3, sizes[-1], generator=_generator(3))
    y, reference = tower(x), tower.torch_form(x)
    leaves = [x, *tower.parameters()]
    ours, theirs = (torch.autograd.grad(out, leaves, dy) for out in (y, reference))
    for a, b in zip((y, *ours), (reference, *theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.detach().abs().max()))
    for _ in range(2):  # adds to what is there
        assert tower.learn(x.detach(), lambda out: (out.sum(), dy)).item() == pytest.approx(
            float(y.detach().sum()), rel=1e-3, abs=1e-2
        )
    for p, once in zip(tower.parameters(), ours[1:], strict=True):
        torch.testing.assert_close(p.grad, 2 * once, rtol=1e-4, atol=1e-4 * float(once.abs().max()))


@needs_compiler
def test_samples_equal_the_torch_form():
    g = _generator()
    logits = torch.randn(3000, 3, 5, generator=g)
    avail = torch.rand(3000, 3, 5, generator=g) < 0.6
    avail.scatter_(-1, torch.randint(5, (3000, 3, 1), generator=g), True)
    rng = Rng(2).stream("act", 3000)
    masked = logits.masked_fill(~avail, -1e10)
    same = native.sample(logits, avail, rng.key_B) == sample(masked, rng)
    assert same.float().mean() > 0.9995  # the last bit of a logarithm may decide
    assert torch.equal(native.sample(logits, avail, None), masked.argmax(-1))


def _minibatch(rows=400, A=5):
    g = _generator()
    avail = torch.rand(rows, 3, A, generator=g) < 0.6
    actions = torch.randint(A, (rows, 3, 1), generator=g)
    avail.scatter_(-1, actions, True)
    logits = torch.randn(rows, 3, A, generator=g)
    x = {"avail": avail, "actions": actions.squeeze(-1), "live": torch.rand(rows, 3, generator=g) < 0.7}
    x["advantage"] = torch.randn(rows, 3, generator=g)
    x["log_prob"] = CategoricalHead().log_prob(logits, x) + 0.3 * torch.randn(rows, 3, generator=g)
    for name, value in (("advantage", torch.nan), ("log_prob", torch.inf)):
        x[name] = torch.where(x["live"], x[name], value)  # what the dead have must never be read
    return logits, x


@needs_compiler
def test_policy_loss_equals_the_torch_form(monkeypatch):
    logits, x = _minibatch()
    options = {"clip": 0.2, "weight": 0.03}
    ours = CategoricalHead().loss(logits, x, **options)
    monkeypatch.setattr(kernels, "usable", lambda _: False)
    reference = CategoricalHead().loss(logits, x, **options)
    torch.testing.assert_close(ours[0][:2], reference[0][:2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[1], reference[1], rtol=1e-4, atol=1e-7)
    assert (ours[1][~x["live"]] == 0).all()


@needs_compiler
def test_value_loss_and_moments_equal_the_torch_form(monkeypatch):
    g = _generator()
    value, old, returned = (torch.randn(500, generator=g) * 2 for _ in range(3))
    mask = torch.rand(500, generator=g) < 0.7
    limits = {"clip": 0.5, "huber": 1.5}
    loss, gradient = native.value_loss(value, old, returned, mask, moments=(0.5, 2.0), **limits)
    leaf = value.clone().requires_grad_()
    reference = value_loss(leaf, old, (returned - 0.5) / 2.0, mask, **limits)
    torch.testing.assert_close(loss, reference.detach())
    torch.testing.assert_close(gradient, *torch.autograd.grad(reference, leaf))
    norms = [ValueNorm(enabled=True), ValueNorm(enabled=True)]
    norms[0].update(returned, mask)
    norms[0].update(returned, torch.zeros_like(mask))  # nothing seen, nothing learned
    monkeypatch.setattr(kernels, "usable", lambda _: False)
    norms[1].update(returned, mask)
    norms[1].update(returned, torch.zeros_like(mask))
    torch.testing.assert_close(norms[0].statistics, norms[1].statistics)


@needs_compiler
def test_native_adam_equals_torchs():
    nets = [linear(7, 5, generator=_generator()) for _ in range(2)]
    options = {"kind": "adam", "learning_rate": 0.01, "eps": 1e-5, "max_grad_norm": 0.5}
    steps = [Optimiser(net, native=k == 1, **options) for k, net in enumerate(nets)]
    x = torch.randn(30, 7, generator=_generator(1))
    for k in range(20):
        norms = [s.step((net(x) * (k - 9)).square().mean()) for s, net in zip(steps, nets, strict=True)]
        torch.testing.assert_close(*norms, rtol=1e-4, atol=1e-6)
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    states = [s.state_dict() for s in steps]
    assert states[0].keys() == states[1].keys()
    assert states[0]["step"] == states[1]["step"] == 20


@needs_compiler
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_nan_reaches_the_towers_outputs(activation):
    tower = Tower(
        [3, 4, 2],
        activations=[activation, None],
        gains=[1, 1],
        norm=False,
        copies=None,
        generator=_generator(),
    )
    x = torch.zeros(2, 3)
    x[0, 1] = torch.nan
    y = tower(x)
    assert y[0].isnan().all()
    assert not y[1].isnan().any()


def _relay(module, **config):
    env = relay_game.Config().build(num_envs=8, device=CPU)
    team = module.Config(hidden=8, epochs=3, minibatches=2, chunk=4, **config).build(
        spec=env.spec, rng=Rng(0), device=CPU
    )
    loop = OnPolicyConfig(rollout_steps=9).build(env=env, agent=team, rng=Rng(0))
    return team, loop


@pytest.mark.parametrize("module", [ippo, mappo])
@pytest.mark.parametrize("recurrent", [True, False])
def test_an_update_that_turns_nan_midway_changes_nothing(monkeypatch, module, recurrent):
    """The second step of the first epoch fails: the first one, too, is taken back, bit for bit."""
    team, loop = _relay(module, recurrent=recurrent)
    loop.iterate()
    before, inner, calls = team.state_dict(), team._value_loss, []

    def poisoned(value, x):
        calls.append(1)
        loss, gradient = inner(value, x)
        return (loss, gradient) if len(calls) == 1 else (loss, gradient * torch.nan)

    monkeypatch.setattr(team, "_value_loss", poisoned)
    batch = loop.collect(Means())
    with pytest.raises(NonFiniteError, match="gradient of value loss"):
        team.update(batch, rng=Rng(0).stream("update", 1))
    after = team.state_dict()
    assert len(calls) == 2
    assert after["counters"] == before["counters"]
    for group in ("networks", "optimisers"):
        flat = [{**state[group], **state[group].get("actor", {})} for state in (before, after)]
        for name, value in flat[0].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, flat[1][name]), name
    monkeypatch.undo()
    metrics = team.update(batch, rng=Rng(0).stream("update", 1))  # no NaN is left in a gradient
    assert torch.isfinite(metrics["loss"])


@pytest.mark.parametrize("module", [ippo, mappo])
def test_without_a_gru_every_action_is_learned_from_once_and_alone(module):
    team, loop = _relay(module, recurrent=False, activation="tanh", layer_norm=False)
    assert not any("norm" in name for name, _ in team.actor.named_parameters())
    batch = loop.collect(Means())
    x = team._chunks(batch)
    assert x["actions"].shape == (8 * 9, 1, 3)  # no padding, no final observations
    assert torch.equal(x["actions"][:, 0], batch.actions_BTN[batch.filled_BT])
    assert x["mask"].all()


def test_an_unknown_activation_names_its_field():
    with pytest.raises(MarlError, match="activation"):
        ippo.Config(activation="gelu")
