"""Teams with sparse layers: every method takes them, learns, and goes on from its state bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from marl.agents import commnet, ic3net, ippo, iql, mappo, qmix, qplex, tarmac
from marl.channel import PerfectLink
from marl.comm.network import TalkingNetwork
from marl.errors import NonFiniteError
from marl.rng import Rng
from marl.sparse import Grouped, RandomGroups, grouped_layers
from marl.sparse.pruning import BlockCirculant, GroupSparse, Magnitude
from marl.types import Batch, EnvSpec

CPU = torch.device("cpu")
KINDS: dict[str, Callable[[], Any]] = {
    "full": lambda: Grouped(groups=2, smallest=4, initial_std=0.01),
    "selected": lambda: Grouped(groups=2, smallest=4, initial_std=0.01, ste="selected", refresh=2),
    "random": lambda: RandomGroups(groups=2, smallest=4),
    "magnitude": lambda: Magnitude(smallest=4, every=2, end=6),
    "circulant": lambda: BlockCirculant(smallest=4),
    "group sparse": lambda: GroupSparse(smallest=4, every=1, rise=0.1),
}
AGENTS = {
    "iql": (iql, {}),
    "qmix": (qmix, {}),
    "qplex": (qplex, {"heads": 2}),
    "ippo": (ippo, {"recurrent": False}),
    "mappo": (mappo, {"share": False}),
    "commnet": (commnet, {"recurrent": False}),
    "ic3net": (ic3net, {"learner": "ppo"}),
    "tarmac": (tarmac, {}),
}


def build(name: str, spec: EnvSpec, sparsity: Any, seed: int = 0) -> Any:
    module, settings = AGENTS[name]
    return module.Config(hidden=8, **settings, sparsity=sparsity).build(spec=spec, rng=Rng(seed), device=CPU)


def with_extras(team: Any, batch: Batch) -> Batch:
    """What acting would have stored."""
    B, T = batch.start_BT.shape
    g = torch.Generator().manual_seed(5)
    for name, field in team.extras_spec.items():
        batch.extras[name] = torch.rand(B, T, *field.shape, generator=g) < 0.5
    carry = team.initial_carry(B)
    batch.extras |= {f"carry.{name}": value for name, value in carry.items()}
    for name in ("reward_BT", "obs_BTNO", "state_BTS"):
        setattr(batch, name, getattr(batch, name).nan_to_num(0.0))
    return batch


def learn(team: Any, batch: Batch, times: int = 3) -> dict[str, torch.Tensor]:
    for index in range(times):
        metrics = team.update(batch, rng=Rng(0).stream("update", 1).fold(index))
    return metrics


def networks(team: Any) -> dict[str, torch.Tensor]:
    state = team.state_dict()
    return {**state["networks"], **{f"target {k}": v for k, v in state["targets"].items()}}


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "full") for name in AGENTS), *((name, "selected") for name in ("qplex", "mappo", "ic3net"))],
)
def test_every_method_learns_with_grouped_layers(
    name: str, kind: str, make_spec: Any, make_batch: Any, make_step: Any
):
    spec = make_spec(O=6)
    team = build(name, spec, KINDS[kind]())
    batch = with_extras(team, make_batch(spec))
    before = networks(team)
    metrics = learn(team, batch)
    after = networks(team)
    groups = [key for key in after if "group_in_I" in key]
    assert len(groups) >= 3
    assert any(not torch.equal(before[key], after[key]) for key in after if key.endswith("IG"))
    densities = [value for key, value in metrics.items() if key.endswith("density")]
    assert densities
    assert all(0.2 < float(value) < 0.9 for value in densities)
    assert team.scores(make_step(spec), team.initial_carry(2)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("qmix", "full"), ("qplex", "selected"), ("mappo", "full"), *(("ic3net", kind) for kind in KINDS)],
)
def test_a_team_goes_on_from_its_state_bit_for_bit(
    name: str, kind: str, make_spec: Any, make_batch: Any, make_step: Any
):
    spec = make_spec(O=6)
    team, other = build(name, spec, KINDS[kind]()), build(name, spec, KINDS[kind](), seed=9)
    batch = with_extras(team, make_batch(spec))
    learn(team, batch)
    other.load_state_dict(team.state_dict())
    for one in (team, other):
        learn(one, batch)
    a, b = networks(team), networks(other)
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0, equal_nan=True)
    now = make_step(spec), team.initial_carry(2)
    assert torch.equal(team.scores(*now), other.scores(*now))


def test_a_target_holds_the_groups_of_its_copy_until_the_next(make_spec: Any, make_batch: Any):
    spec = make_spec(O=6)
    config = qmix.Config(hidden=8, target_every=2, sparsity=KINDS["full"]())
    team = config.build(spec=spec, rng=Rng(0), device=CPU)
    batch = with_extras(team, make_batch(spec))

    def equal() -> bool:
        pairs = zip(grouped_layers(team.online), grouped_layers(team.target), strict=True)
        return all(
            torch.equal(a.dense() * a.layout.mask_OI(), b.dense() * b.layout.mask_OI())
            for (_, a), (_, b) in pairs
        )

    assert equal()
    learn(team, batch, 1)
    assert not equal()
    learn(team, batch, 1)
    assert equal()
    assert not any(one.leaf.requires_grad for _, one in grouped_layers(team.target))


def test_a_soft_target_moves_every_weight_also_where_groups_differ(make_spec: Any, make_batch: Any):
    spec = make_spec(O=6)
    config = qmix.Config(hidden=8, target_every=1, target_tau=0.25, sparsity=KINDS["full"]())
    team = config.build(spec=spec, rng=Rng(0), device=CPU)
    batch = with_extras(team, make_batch(spec))
    dense = [one.dense().clone() for _, one in grouped_layers(team.target)]
    learn(team, batch, 1)
    for before, (_, b), (_, a) in zip(
        dense, grouped_layers(team.target), grouped_layers(team.online), strict=True
    ):
        torch.testing.assert_close(b.dense(), 0.75 * before + 0.25 * a.dense())
        assert torch.equal(a.group_in_I, b.group_in_I)


@pytest.mark.parametrize("kind", ["full", "selected", "group sparse"])
def test_an_update_that_is_not_finite_changes_nothing(kind: str, make_spec: Any, make_batch: Any):
    spec = make_spec(O=6)
    team = build("ic3net", spec, KINDS[kind]())
    batch = with_extras(team, make_batch(spec))
    learn(team, batch, 1)
    before = networks(team)
    bad = with_extras(team, make_batch(spec))
    bad.reward_BT[bad.filled_BT] = torch.inf
    with pytest.raises(NonFiniteError):
        learn(team, bad, 1)
    after = networks(team)
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=0, equal_nan=True)
    learn(team, batch, 1)


@pytest.mark.parametrize("name", ["qmix", "ippo", "ic3net"])
def test_a_sparse_team_starts_with_the_weights_of_its_dense_twin(name: str, make_spec: Any):
    spec = make_spec(O=6)
    dense, sparse = build(name, spec, None), build(name, spec, KINDS["full"]())
    nets = [
        team.online if name == "qmix" else team.network if name == "ic3net" else team.actor
        for team in (dense, sparse)
    ]
    found = dict(grouped_layers(nets[1]))
    assert found
    for key, layer in found.items():
        weight = nets[0].get_submodule(key).weight
        kept = (weight * layer.layout.mask_OI()).square().sum()
        torch.testing.assert_close(layer.dense(), weight * (weight.square().sum() / kept).sqrt())


def test_acting_sends_messages_through_grouped_layers(make_spec: Any, make_step: Any):
    spec = make_spec(O=6)
    team = build("tarmac", spec, KINDS["selected"]())
    stream = Rng(0).stream("act", 2)
    act = team.act(make_step(spec), team.initial_carry(2), rng=stream, explore=1.0, link=PerfectLink(CPU))
    assert act.actions_BN.shape == (2, 3)
    assert act.extras["delivered"].any()


def test_a_cell_of_full_layers_runs_as_one_native_pass(make_spec: Any):
    """IC3Net's sequence with W * mask as dense weights: the numbers of the plain loop, and its gradients."""
    net = build("ic3net", make_spec(O=6), KINDS["full"]()).network
    g = torch.Generator().manual_seed(3)
    e, state = torch.randn(2, 5, 3, 8, generator=g), tuple(torch.randn(2, 2, 3, 8, generator=g))
    alive = torch.ones(2, 5, 3, dtype=torch.bool)
    rest = torch.rand(2, 5, generator=g) < 0.3, alive, torch.rand(2, 5, 1, 3, 3, generator=g) < 0.5, state
    found = []
    for run in (net, lambda *given: TalkingNetwork.forward(net, *given)):
        h, c = run(e, *rest)
        (h.square().sum() + c.sum()).backward()
        found.append([h, c, *(one.leaf.grad.clone() for _, one in grouped_layers(net))])
        for _, one in grouped_layers(net):
            one.leaf.grad.zero_()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
