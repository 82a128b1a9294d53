"""The regularising term: its inner maximum where that is known, its gradient, and what it may touch."""

import dataclasses

import pytest
import torch

from marl.agents import ic3net, ippo, qmix, tmc
from marl.errors import MarlError
from marl.rng import Rng
from marl.robust.config import Align, Smooth
from marl.robust.losses import squared_distance
from marl.robust.perturbation import Limits
from marl.robust.regularise import Regulariser, View
from marl.types import Box, Slice

CPU = torch.device("cpu")
STREAM = Rng(0).stream("update", 1)


def _limits(N, O, low=-1.0, high=1.0):  # noqa: E741
    ends = torch.full((N, O), low), torch.full((N, O), high)
    return Limits(free=torch.ones(N, O, dtype=torch.bool), low=ends[0], high=ends[1])


def _sliced(make_spec, **changes):
    part = Slice(name="all", start=0, stop=4, low=-9.0, high=9.0, kind="real")
    return make_spec(obs_slices={"any": (part,)}, **changes)


def _linear(w_O, obs, **changes):
    """The smooth term of Q(o) = w o, one action."""

    def look(x):
        return View((x * w_O).sum(-1, keepdim=True), x)

    settings = {"config": Smooth(epsilon=0.1, iterations=5), "limits": _limits(2, 3), "inputs": 0}
    settings |= changes
    avail = torch.ones(*obs.shape[:-1], 1, dtype=torch.bool)
    return Regulariser(settings["config"], settings["limits"], inputs=settings["inputs"]).term(
        look,
        obs,
        look(obs),
        distance=lambda a, b: squared_distance(a, b, avail),
        decision=torch.zeros(obs.shape[:-1], dtype=torch.int64),
        mask=settings.get("mask", avail[..., 0]),
        rng=STREAM,
    )


def test_the_maximum_of_a_linear_network_is_found():
    """max over the ball of (w eta)^2 is (eps |w|_1)^2, at a corner."""
    w, obs = torch.tensor([1.0, -2.0, 0.5]), torch.zeros(4, 2, 3)
    assert _linear(w, obs).item() == pytest.approx((0.1 * 3.5) ** 2, rel=1e-5)


def test_the_perturbation_stays_in_range_and_off_what_is_no_observation():
    """At the upper end of every feature only the way down is left; the last input is an id."""
    w, obs = torch.tensor([1.0, 1.0, 100.0]), torch.ones(4, 2, 3)
    seen = []

    def look(x):
        seen.append(x.detach())
        return View((x * w).sum(-1, keepdim=True), x)

    avail = torch.ones(4, 2, 1, dtype=torch.bool)
    reg = Regulariser(Smooth(epsilon=0.1, iterations=5), _limits(2, 2), inputs=1)
    rest = {"distance": lambda a, b: squared_distance(a, b, avail), "mask": avail[..., 0], "rng": STREAM}
    term = reg.term(look, obs, look(obs), decision=torch.zeros(4, 2, dtype=torch.int64), **rest)
    assert term.item() == pytest.approx(0.2**2, rel=1e-4)
    for x in seen:
        assert (x[..., 2] == 1).all()
        assert x.max() <= 1
        assert x.min() >= 0.9 - 1e-6


def test_the_gradient_is_that_of_the_maximum():
    """d/dw (eps |w|_1)^2 = 2 eps^2 |w|_1 sign(w)."""
    w = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    (slope,) = torch.autograd.grad(_linear(w, torch.zeros(4, 2, 3)), w)
    torch.testing.assert_close(slope, 2 * 0.01 * 3.5 * w.detach().sign())


def test_masked_decisions_do_not_count():
    w, obs = torch.ones(3), torch.zeros(4, 2, 3)
    assert _linear(w, obs, mask=torch.zeros(4, 2, dtype=torch.bool)).item() == 0.0
    align = Align(epsilon=0.1)
    assert _linear(w, obs, config=align, mask=torch.zeros(4, 2, dtype=torch.bool)).item() == 0.0


def test_aligning_draws_a_decision_back_to_its_own_clean_features():
    """Descent on the term alone: it falls, and the perturbed features come nearer to their own clean ones."""
    g = torch.Generator().manual_seed(1)
    net = torch.nn.Linear(3, 4, bias=False)
    torch.nn.init.normal_(net.weight, generator=g)
    obs = torch.rand(16, 2, 3, generator=g) * 2 - 1
    reg = Regulariser(Align(epsilon=0.3, temperature=0.5), _limits(2, 3))

    def term():
        def look(x):
            return View(net(x), net(x))

        clean = look(obs)
        mask = torch.ones(16, 2, dtype=torch.bool)
        return reg.term(
            look,
            obs,
            clean,
            distance=lambda a, b: a.sum(-1),
            decision=clean.scores.argmax(-1),
            mask=mask,
            rng=STREAM,
        )

    first = term().item()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(30):
        optimiser.zero_grad()
        term().backward()
        optimiser.step()
    assert term().item() < first - 0.04


@pytest.mark.parametrize("defence", [Smooth(epsilon=0.2, weight=0.7), Align(epsilon=0.2, weight=0.7)])
@pytest.mark.parametrize("kind", ["qmix", "tmc", "ippo", "ippo_flat", "ic3net"])
def test_every_learner_adds_the_terms_gradient(kind, defence, make_spec, make_batch, monkeypatch):
    """The step's gradient with the defence is the one without plus weight times the term's own."""
    spec = _sliced(make_spec)
    team, plain = (_team(kind, spec, d) for d in (defence, None))
    batch = _batch_for(kind, make_batch(spec, run_on=True), team)
    assert batch.reward_BT is not None
    batch.reward_BT.nan_to_num_()
    gradients, found, search = {}, [], team.regulariser._worst
    monkeypatch.setattr(
        team.regulariser, "_worst", lambda *given: found.append(search(*given)) or found[-1], raising=True
    )
    for name, t in (("with", team), ("without", plain)):
        optimiser = t.optimisers["actor"] if hasattr(t, "optimisers") else t.optimiser
        steps = []

        def apply(loss, name="", optimiser=optimiser, steps=steps):
            steps.append(optimiser.flat.grad.clone())
            optimiser.flat.grad.zero_()
            return torch.ones(())

        monkeypatch.setattr(optimiser, "apply", apply)
        metrics = t.update(batch, rng=STREAM)
        gradients[name] = steps[0]
        if name == "with":
            term = metrics[defence.name]
    monkeypatch.undo()
    monkeypatch.setattr(team.regulariser, "_worst", lambda *given: found[0])  # held fixed while theta moves
    assert term > 0
    added = gradients["with"] - gradients["without"]
    assert added.norm() > 1e-4 * gradients["without"].norm()
    if isinstance(defence, Align):
        return  # its anchor is a constant for the gradient, which a finite difference would move
    direction = added / added.norm()
    h, flat = 2e-3, (team.optimisers["actor"] if hasattr(team, "optimisers") else team.optimiser).flat
    values = []
    for sign in (1, -1):
        flat.vector.data.add_(sign * h * direction)
        values.append(_term(kind, team, batch))
        flat.vector.data.sub_(sign * h * direction)
    slope = (values[0] - values[1]) / (2 * h)
    torch.testing.assert_close(0.7 * slope, added.norm(), rtol=0.02, atol=1e-5)


def _team(kind, spec, defence):
    module = {"qmix": qmix, "tmc": tmc, "ic3net": ic3net}.get(kind, ippo)
    extra = {"recurrent": kind == "ippo", "epochs": 1} if kind.startswith("ippo") else {}
    return module.Config(hidden=8, defence=defence, **extra).build(spec=spec, rng=Rng(3), device=CPU)


def _batch_for(kind, batch, team):
    B, T = batch.filled_BT.shape
    extras = {}
    for name, f in team.extras_spec.items():
        extras[name] = torch.ones(B, T, *f.shape, dtype=f.dtype)
    if "left" in extras:
        extras["left"].zero_()
    carry = team.initial_carry(B)
    return dataclasses.replace(batch, extras=extras | {f"carry.{k}": v for k, v in carry.items()})


def _term(kind, team, batch):
    """The term at the parameters as they are, by the learner's own code and the update's random numbers."""
    if kind.startswith("ippo"):
        order = STREAM.fold(0)
        x = team._chunks(batch)
        x = {n: v.index_select(0, order.bits(len(x["mask"]))[0].argsort()) for n, v in x.items()}
        value = team._robust_loss(team.regulariser, x, order.fold("defence", 0))
        team.optimisers["actor"].flat.grad.zero_()
        return value
    if kind == "ic3net":
        x = team._chunks(batch)
        out, h = team._look(x["obs"], x)
        return team._robust_loss(x, out, h, STREAM.fold(0, "defence", 0))[team.regulariser.name].detach()
    look = team._look(team.online, team.online.agents.inputs(batch.obs_BTNO, batch.last_actions_BTN), batch)
    ((_, value),) = team._robust_loss(team.regulariser, look, batch, STREAM).values()
    return value.detach()


def test_a_world_that_does_not_say_what_it_shows_is_refused(make_spec):
    with pytest.raises(MarlError, match="does not say what its observations hold"):
        qmix.Config(hidden=8, defence=Smooth()).build(spec=make_spec(), rng=Rng(0), device=CPU)


def test_gaussian_policies_have_a_distance_and_decisions_of_their_own(make_spec):
    box = Box(low=(-1.0, -1.0), high=(1.0, 1.0))
    spec = _sliced(make_spec, N=2, action_spaces=(box, box))
    head = _team("ippo", spec, Smooth()).policy
    a, b = torch.zeros(3, 2, 2), torch.ones(3, 2, 2)
    torch.testing.assert_close(head.distance(a, b, {}), torch.ones(3, 2))  # two dimensions, half each
    assert len(head.decision(a, {}).unique()) == 6
