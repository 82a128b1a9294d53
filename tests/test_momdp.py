"""Tables of processes against simulation by hand: occupancies, optima, behaviours, estimates."""

import pytest
import torch

from marl import momdp
from marl.envs.momdp import Config
from marl.errors import FieldError
from marl.momdp import Momdp, Trajectories

D = torch.float64
GAMMA = 0.9


def chain():
    """0 -> 1 -> 2 (terminal) by action 0; action 1 stays. Action 0 in state 1 pays 5."""
    next_SAS = torch.zeros(3, 2, 3, dtype=D)
    next_SAS[0, 0, 1] = next_SAS[1, 0, 2] = next_SAS[2, :, 2] = 1
    next_SAS[0, 1, 0] = next_SAS[1, 1, 1] = 1
    reward_SAK = torch.zeros(3, 2, 1, dtype=D)
    reward_SAK[1, 0, 0] = 5
    start_S = torch.tensor([1, 0, 0], dtype=D)
    return Momdp(
        start_S=start_S,
        next_SAS=next_SAS,
        reward_SAK=reward_SAK,
        terminal_S=torch.tensor([False, False, True]),
    )


def test_occupancy_and_return_of_a_chain():
    policy = torch.tensor([[1, 0], [0.5, 0.5], [1, 0]], dtype=D)
    d = momdp.occupancy(chain(), policy, GAMMA)
    at_1 = 0.1 * GAMMA / (1 - GAMMA * 0.5)
    assert torch.allclose(d, torch.tensor([[0.1, 0], [at_1 / 2, at_1 / 2], [0, 0]], dtype=D))
    assert float(momdp.returns(chain(), d)) == pytest.approx(5 * at_1 / 2)


def test_the_optimum_beats_every_deterministic_policy():
    m = Config(states=4, successors=2, actions=3, objectives=2, model=1).tables().model
    weights = torch.tensor([0.3, 0.7], dtype=D)
    best, q = momdp.optimal(m, weights, GAMMA)

    def value(policy):
        return float(momdp.returns(m, momdp.occupancy(m, policy, GAMMA)) @ weights)

    every = [
        torch.eye(3, dtype=D)[torch.tensor(c)] for c in torch.cartesian_prod(*[torch.arange(3)] * 4).tolist()
    ]
    assert value(best) == pytest.approx(max(value(p) for p in every))
    assert float((1 - GAMMA) * q[0].max()) == pytest.approx(value(best))


def test_behaviours():
    models = [Config(model=i).tables().model for i in range(3)]
    m, ones = momdp.stack(models), torch.ones(3, dtype=D)

    def value(policy):
        return momdp.returns(m, momdp.occupancy(m, policy, GAMMA)) @ ones

    uniform = momdp.behaviour(m, "uniform", gamma=GAMMA)
    best, _ = momdp.optimal(m, ones, GAMMA)
    assert torch.allclose(
        momdp.behaviour(m, "mixture", optimality=0.25, gamma=GAMMA), 0.25 * best + 0.75 * uniform
    )
    half = momdp.behaviour(m, "halfway", optimality=0.5, gamma=GAMMA)
    assert torch.allclose(value(half), (value(uniform) + value(best)) / 2, atol=1e-9)
    with pytest.raises(FieldError, match="optimality=1"):
        momdp.behaviour(m, "mixture", optimality=1.0, gamma=GAMMA)


def test_played_returns_are_those_of_the_occupancy():
    tables = Config(world="four_rooms").tables()
    policy = momdp.behaviour(tables.model, "mixture", gamma=GAMMA)
    data = momdp.play(
        tables.model, tables.arrive_SK, policy, episodes=1500, limit=200, rng=torch.Generator().manual_seed(0)
    )
    discount = GAMMA ** torch.arange(200, dtype=D)
    played_EK = (1 - GAMMA) * (data.reward_ETK * discount[:, None]).sum(1)
    wanted_K = momdp.returns(tables.model, momdp.occupancy(tables.model, policy, GAMMA))
    error_K = played_EK.std(0) / 1500**0.5
    assert ((played_EK.mean(0) - wanted_K).abs() < 4 * error_K + 1e-12).all()
    assert data.terminated_E.float().mean() > 0.5
    assert (data.reward_ETK.sum((1, 2)) == data.terminated_E).all()


def by_hand():
    """Two episodes of the chain: 0 -a1-> 0 -a0-> 1 -a0-> 2 ended, and 0 -a0-> 1 cut off."""
    return Trajectories(
        state_ET=torch.tensor([[0, 0, 1, 2], [0, 1, 1, 1]]),
        action_ET=torch.tensor([[1, 0, 0], [0, 0, 0]]),
        reward_ETK=torch.tensor([[[0.0], [0.0], [5.0]], [[0.0], [0.0], [0.0]]], dtype=D),
        filled_ET=torch.tensor([[True, True, True], [True, False, False]]),
        terminated_E=torch.tensor([True, False]),
    )


def test_estimates_by_hand():
    m, data_SA = momdp.estimate(by_hand(), 3, 2)
    assert data_SA.tolist() == [[0.5, 0.25], [0.25, 0], [0, 0]]
    true = chain()
    assert torch.equal(m.next_SAS[data_SA > 0], true.next_SAS[data_SA > 0])
    assert torch.equal(m.reward_SAK, true.reward_SAK)
    assert torch.equal(m.terminal_S, true.terminal_S)
    assert m.start_S.tolist() == [1, 0, 0]


def test_states_that_nothing_left_are_absorbing_or_dropped():
    data = by_hand()
    data.state_ET[0, 2:], data.filled_ET[0, 2], data.terminated_E[0] = (
        1,
        False,
        False,
    )  # nobody leaves state 1
    absorbing, _ = momdp.estimate(data, 3, 2)
    assert absorbing.terminal_S.tolist() == [False, True, False]
    dropped, data_SA = momdp.estimate(data, 3, 2, unseen="dropped")
    assert not dropped.terminal_S.any()
    assert data_SA.tolist() == [[0, 1], [0, 0], [0, 0]]
    with pytest.raises(FieldError, match="unseen='kept'"):
        momdp.estimate(data, 3, 2, unseen="kept")
