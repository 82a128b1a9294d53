"""Acting: availability, exploration, independence of the batch, gradients of the scores."""

import pytest
import torch
from scipy import stats

from marl.agents import qmix
from marl.rng import Rng
from marl.value.explore import epsilon_greedy

CPU = torch.device("cpu")


def _team(spec, **config):
    return qmix.Config(hidden=8, **config).build(spec=spec, rng=Rng(0), device=CPU)


def _stream(rows):
    return Rng(3).stream("act", rows)


def _q(net, obs, last_action, start):
    return net(net.inputs(obs, last_action), start)


@pytest.mark.parametrize("explore", [0.0, 0.3, 1.0])
def test_only_available_actions_are_taken(make_spec, make_step, explore):
    ts = make_step(make_spec(), B=500)
    team = _team(make_spec())
    actions = team.act(ts, team.initial_carry(500), rng=_stream(500), explore=explore).actions_BN
    assert ts.avail_BNA.gather(-1, actions[..., None]).all()


def test_greedy_takes_the_best_available_action(make_spec, make_step):
    ts = make_step(make_spec(), B=50)
    team = _team(make_spec())
    carry = team.initial_carry(50)
    actions = team.act(ts, carry, rng=_stream(50), explore=0.0).actions_BN
    scores = team.scores(ts, carry)
    taken = scores.gather(-1, actions[..., None])
    assert ((scores <= taken) | ~ts.avail_BNA).all()


def test_full_exploration_is_uniform_over_available_actions():
    rows = 20_000
    avail = torch.tensor([True, False, True, True, False]).expand(rows, 2, 5)
    q = torch.tensor([9.0, 8.0, 0.0, 0.0, 0.0]).expand(rows, 2, 5)
    for i in range(2):
        actions = epsilon_greedy(q, avail, _stream(rows), 1.0)[:, i]
        counts = torch.bincount(actions, minlength=5)
        assert counts[[1, 4]].sum() == 0
        assert stats.chisquare(counts[[0, 2, 3]].numpy()).pvalue > 0.01


def test_epsilon_is_the_rate_of_random_actions():
    rows, epsilon = 20_000, 0.2
    avail = torch.ones(rows, 1, 4, dtype=torch.bool)
    q = torch.tensor([0.0, 0.0, 1.0, 0.0]).expand(rows, 1, 4)
    other = int((epsilon_greedy(q, avail, _stream(rows), epsilon) != 2).sum())
    assert stats.binomtest(other, rows, epsilon * 3 / 4).pvalue > 0.01


def test_agents_of_a_row_explore_independently():
    rows = 20_000
    avail, q = torch.ones(rows, 2, 2, dtype=torch.bool), torch.zeros(rows, 2, 2)
    actions = epsilon_greedy(q, avail, _stream(rows), 1.0)
    table = torch.bincount(actions[:, 0] * 2 + actions[:, 1], minlength=4).reshape(2, 2)
    assert stats.chi2_contingency(table.numpy()).pvalue > 0.01


def test_actions_do_not_depend_on_the_number_of_rows(make_spec, make_step):
    spec = make_spec()
    team, ts = _team(spec), make_step(spec, B=40)
    few = ts.map(lambda x: x[:7])
    all_rows = team.act(ts, team.initial_carry(40), rng=_stream(40), explore=0.5)
    few_rows = team.act(few, team.initial_carry(7), rng=_stream(7), explore=0.5)
    assert torch.equal(all_rows.actions_BN[:7], few_rows.actions_BN)
    torch.testing.assert_close(all_rows.carry["hidden_BNH"][:7], few_rows.carry["hidden_BNH"])


def test_acting_step_by_step_equals_the_sequence(make_spec, make_batch, make_step):
    """The carry holds what the learner derives from the batch: hidden state and last action."""
    spec = make_spec()
    team, batch = _team(spec), make_batch(spec, B=3, T=5)
    batch.start_BT[:] = torch.arange(5) == 0
    carry, ts, actions, values = team.initial_carry(3), make_step(spec, B=3), [], []
    for t in range(5):
        ts.obs_BNO, ts.avail_BNA = batch.obs_BTNO[:, t], batch.avail_BTNA[:, t]
        values.append(team.scores(ts, carry).detach())
        act = team.act(ts, carry, rng=_stream(3), explore=0.5)
        carry = act.carry
        actions.append(act.actions_BN)
    none = torch.full((3, 1, spec.n_agents), -1)
    last = torch.cat([none, torch.stack(actions[:-1], 1)], 1)
    q = _q(team.online.agents, batch.obs_BTNO, last, batch.start_BT)
    torch.testing.assert_close(torch.stack(values, 1), q.detach())


@pytest.mark.parametrize("acted", [False, True])
def test_scores_are_differentiable_in_the_observation(make_spec, make_step, acted):
    """At an episode's start, and with a carry that `act` returned."""
    spec = make_spec()
    team, ts = _team(spec), make_step(spec)
    carry = team.initial_carry(2)
    if acted:
        carry = team.act(ts, carry, rng=_stream(2), explore=0.0).carry
    ts.obs_BNO.requires_grad_()
    score = team.scores(ts, carry)[0, 1, 2]
    (slope,) = torch.autograd.grad(score, ts.obs_BNO)
    assert slope[0, 1].abs().min() > 0
    slope[0, 1] = 0.0
    assert (slope == 0).all()  # no other agent's or row's observation matters
    nudge = 1e-3
    with torch.no_grad():
        ts.obs_BNO[0, 1, 0] += nudge
        moved = team.scores(ts, carry)[0, 1, 2]
    (slope,) = torch.autograd.grad(team.scores(ts, carry)[0, 1, 2], ts.obs_BNO)
    torch.testing.assert_close((moved - score.detach()) / nudge, slope[0, 1, 0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["last_action", "agent_ids"])
def test_inputs_can_be_left_out(make_spec, make_step, name):
    spec = make_spec()
    with_it, without = _team(spec), _team(spec, **{name: False})
    width = spec.n_actions if name == "last_action" else spec.n_agents
    shapes = [t.state_dict()["networks"]["agents.encoder.weight"].shape[1] for t in (with_it, without)]
    assert shapes[0] - shapes[1] == width
    ts, carry = make_step(spec), without.initial_carry(2)
    ts.obs_BNO[:, 1] = ts.obs_BNO[:, 0]
    other = carry | {"last_action_BN": torch.tensor([[0, 0, 0], [1, 1, 1]])}
    scores = without.scores(ts, carry)
    if name == "last_action":
        assert torch.equal(scores, without.scores(ts, other))
        assert not torch.equal(with_it.scores(ts, carry), with_it.scores(ts, other))
    else:
        torch.testing.assert_close(scores[:, 0], scores[:, 1])
        assert not torch.allclose(with_it.scores(ts, carry)[:, 0], with_it.scores(ts, carry)[:, 1])
