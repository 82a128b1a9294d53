"""Matrix games against their published tables."""

import numpy as np
import pytest
import torch

from marl.envs.matrix_game import QTRAN, Config, additive_fit
from marl.errors import FieldError
from marl.rng import Rng

CPU = torch.device("cpu")


def all_pairs(A):
    return torch.cartesian_prod(torch.arange(A), torch.arange(A))


@pytest.mark.parametrize("game", ["qtran", "qplex", "monotone"])
def test_one_step_games_pay_what_the_table_says(game):
    config = Config(game=game)
    pairs = all_pairs(3)
    env = config.build(num_envs=9, device=CPU)
    assert env.reset(Rng(0)).obs_BNO.tolist() == [[[1.0], [1.0]]] * 9
    for _ in range(2):
        ts = env.step(pairs)
        table = config.joint_values()[0]
        assert torch.equal(ts.reward_B, table[pairs[:, 0], pairs[:, 1]])
        assert ts.terminated_B.all()
        assert not ts.truncated_B.any()
        assert torch.equal(ts.info["success"], ts.reward_B == config.best_return)
    assert config.best_return == 8


def test_two_step_game_by_hand():
    config = Config(game="two_step")
    env = config.build(num_envs=8, device=CPU)
    first = env.reset(Rng(0))
    assert first.obs_BNO[:, 0].argmax(-1).tolist() == [0] * 8
    ts = env.step(torch.tensor([[0, 0], [0, 1], [0, 0], [0, 1], [1, 0], [1, 1], [1, 0], [1, 1]]))
    assert not ts.done_B.any()
    assert ts.reward_B.tolist() == [0.0] * 8
    assert ts.obs_BNO[:, 1].argmax(-1).tolist() == [1] * 4 + [2] * 4
    assert ts.t_B.tolist() == [1] * 8
    ts = env.step(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]] * 2))
    assert ts.reward_B.tolist() == [7.0] * 4 + [0.0, 1.0, 1.0, 8.0]
    assert ts.terminated_B.all()
    assert ts.info["success"].tolist() == [False] * 7 + [True]
    assert ts.final_obs_BNO[:, 0].argmax(-1).tolist() == [1] * 4 + [2] * 4
    assert ts.obs_BNO[:, 0].argmax(-1).tolist() == [0] * 8
    assert ts.t_B.tolist() == [0] * 8


def test_oracles():
    values = Config(game="two_step").joint_values(gamma=0.5)
    assert values[0].tolist() == [[3.5, 3.5], [4.0, 4.0]]
    assert Config(game="two_step").best_return == 8
    # The best sum for QTRAN's table: additive, and no other additive table is nearer.
    table = torch.tensor(QTRAN, dtype=torch.float32)
    fit = additive_fit(table)
    torch.testing.assert_close(fit[0, 0] + fit[1, 1], fit[0, 1] + fit[1, 0])
    design = torch.cat([torch.eye(3).repeat_interleave(3, 0), torch.eye(3).repeat(3, 1)], 1).double().numpy()
    weights = np.linalg.lstsq(design, table.flatten().double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(fit.flatten().numpy(), design @ weights, atol=1e-5)
    assert fit.argmax() != table.argmax()  # why VDN fails here


def test_goes_on_from_its_state_and_can_be_drawn():
    env = Config(game="two_step").build(num_envs=2, device=CPU)
    env.reset(Rng(0))
    env.step(torch.tensor([[1, 0], [0, 0]]))
    state, picture = env.state_dict(), env.render(0)
    expected = env.step(torch.tensor([[1, 1], [1, 1]])).reward_B
    env.load_state_dict(state)
    assert np.array_equal(env.render(0), picture)
    assert not np.array_equal(env.render(1), picture)
    assert torch.equal(env.step(torch.tensor([[1, 1], [1, 1]])).reward_B, expected)
    assert picture.dtype == np.uint8


def test_custom_payoffs():
    config = Config(game="custom", payoff=((1.0, 2.0), (3.0, 0.0)))
    assert config.best_return == 3
    for bad in ({"game": "custom"}, {"game": "custom", "payoff": ((1.0, 2.0), (3.0,))}):
        with pytest.raises(FieldError, match="give a square table"):
            Config(**bad)
    with pytest.raises(FieldError, match="it needs game=custom"):
        Config(payoff=((1.0, 2.0), (3.0, 0.0)))
