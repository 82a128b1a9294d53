"""Finite worlds: the rooms against their rules in plain Python, random processes against their promises."""

import warnings

import numpy as np
import pytest
import torch
from pettingzoo.utils.conversions import parallel_to_aec

from marl import compose
from marl.config import unmake
from marl.envs.momdp import Config
from marl.envs.momdp.config import FOUR_ROOMS
from marl.errors import FieldError
from marl.pettingzoo import parallel
from marl.rng import Rng

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PettingZoo's tests import one of its own old games
    from pettingzoo.test import parallel_api_test, parallel_seed_test, render_test

CPU = torch.device("cpu")
ROOMS = Config(world="four_rooms")
STEPS = {0: (-1, 0), 1: (0, 1), 2: (1, 0), 3: (0, -1)}


def chances(cell, action, slip, to_any):
    """Where a chosen move leads in the rooms, {cell: probability}, from the rules alone."""
    out = {}
    for move, (di, dj) in STEPS.items():
        p = (1 - slip) * (move == action) + (slip / 4 if to_any else slip / 3 * (move != action))
        to = (cell[0] + di, cell[1] + dj)
        to = cell if FOUR_ROOMS[to[0]][to[1]] == "#" else to
        out[to] = out.get(to, 0.0) + p
    return out


@pytest.mark.parametrize("slip_to", ["other", "any"])
def test_the_rooms_follow_their_rules(slip_to):
    tables = Config(world="four_rooms", slip_to=slip_to).tables()
    model, cells = tables.model, tables.cells
    assert len(cells) == 104
    for s, cell in enumerate(cells):
        for action in STEPS:
            wanted = chances(cell, action, 0.1, slip_to == "any")
            given = {cells[t]: float(p) for t, p in enumerate(model.next_SAS[s, action]) if p > 0}
            assert given == pytest.approx({c: p for c, p in wanted.items() if p > 0})
    assert [cells[g] for g in tables.goals] == [(10, 2), (2, 10), (10, 10)]
    assert model.terminal_S.nonzero().flatten().tolist() == sorted(tables.goals)
    assert cells[int(model.start_S.argmax())] == (2, 2)
    assert tables.arrive_SK[list(tables.goals)].tolist() == np.eye(3).tolist()
    assert float(tables.arrive_SK.sum()) == 3


def test_random_processes_keep_the_papers_sizes():
    tables, other = Config(model=4).tables(), Config(model=5).tables()
    m = tables.model
    assert m.sizes == (50, 4, 3)
    assert ((m.next_SAS > 0).sum(-1) == 4).all()
    assert torch.allclose(m.next_SAS.sum(-1), torch.ones(50, 4, dtype=torch.float64))
    assert len(set(tables.goals)) == 3
    assert 0 not in tables.goals
    assert not m.terminal_S.any()
    assert not torch.equal(m.next_SAS, other.model.next_SAS)
    assert torch.equal(m.next_SAS, Config(model=4).tables().model.next_SAS)
    shares = torch.stack([Config(model=i).tables().model.next_SAS.amax(-1) for i in range(20)])
    assert (
        abs(float(shares.mean()) - (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4) < 0.01
    )  # largest of a flat Dirichlet of 4


@pytest.mark.parametrize("config", [ROOMS, Config(states=6, limit=9)], ids=["rooms", "random"])
def test_a_batch_walks_as_its_tables_say(config):
    """Frequencies of 20,000 steps against the tables; rewards, ends and restarts step by step."""
    env = config.build(num_envs=500, device=CPU)
    tables, (S, A, _) = env.tables, env.tables.model.sizes
    ts = env.reset(Rng(3))
    start = int(tables.model.start_S.argmax())
    count = torch.zeros(S, A, S)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        before, t_B = env.state_B.clone(), ts.t_B.clone()
        assert torch.equal(ts.state_BS, torch.nn.functional.one_hot(before, S).float())
        actions = torch.randint(A, (500, 1), generator=generator)
        ts = env.step(actions)
        to = ts.final_state_BS.argmax(-1)
        count.index_put_((before, actions[:, 0], to), torch.ones(500), accumulate=True)
        assert torch.equal(ts.reward_BK, tables.arrive_SK[to].float())
        assert torch.equal(ts.terminated_B, tables.model.terminal_S[to])
        assert torch.equal(ts.truncated_B, (t_B + 1 >= config.limit) & ~ts.terminated_B)
        assert torch.equal(env.state_B, torch.where(ts.done_B, start, to))
        assert torch.equal(ts.info["success"], torch.isin(to, torch.tensor(tables.goals)))
    tried = count.sum(-1, keepdim=True)
    wanted = tried * tables.model.next_SAS
    assert (count[wanted == 0] == 0).all()
    deviation = (wanted * (1 - tables.model.next_SAS)).sqrt()
    assert ((count - wanted).abs() <= 5 * deviation + 1).all()
    assert tried.max() > 300


def test_an_end_at_the_limit_is_an_end_and_no_cut():
    """The goal is one step to the right of the start, and the limit is one step."""
    env = Config(world="four_rooms", limit=1, goals=((2, 3), (4, 2)), slip=0.0).build(num_envs=2, device=CPU)
    env.reset(Rng(0))
    ts = env.step(torch.tensor([[1], [3]]))
    assert (ts.terminated_B.tolist(), ts.truncated_B.tolist()) == ([True, False], [False, True])


def test_weights_make_one_reward_and_leave_no_trace_without():
    config = Config(states=6, weights=(1.0, 0.5, 0.25))
    one, many = (c.build(num_envs=200, device=CPU) for c in (config, Config(states=6)))
    assert (one.spec.reward, one.spec.objectives, one.spec.name) == ("team", (), "momdp_random_1_0.5_0.25")
    one.reset(Rng(0))
    many.reset(Rng(0))
    for _ in range(5):
        actions = torch.zeros(200, 1, dtype=torch.int64)
        ts, other = one.step(actions), many.step(actions)
        assert ts.reward_BK is None
        assert torch.equal(ts.reward_B, (other.reward_BK * torch.tensor([1.0, 0.5, 0.25])).sum(-1))
    assert float(ts.reward_B.max()) > 0
    assert "weights" not in unmake(Config())


def test_rows_do_not_depend_on_the_batch_and_states_go_on():
    config = Config(states=8, limit=7)
    many, few = (config.build(num_envs=B, device=CPU) for B in (9, 4))
    ts, other = many.reset(Rng(4)), few.reset(Rng(4))
    generator = torch.Generator().manual_seed(0)
    for k in range(40):
        if k == 20:
            copy = config.build(num_envs=4, device=CPU)
            copy.load_state_dict(few.state_dict())
            few = copy
        actions = torch.randint(4, (9, 1), generator=generator)
        ts, other = many.step(actions), few.step(actions[:4])
        for name, value in other.state_dict().items():
            assert torch.equal(ts.state_dict()[name][:4], value), name


def test_pictures_show_the_walker_and_the_goals():
    for config in (ROOMS, Config(states=12)):
        env = config.build(num_envs=2, device=CPU)
        env.reset(Rng(0))
        first = env.render(1)
        assert first.dtype == np.uint8
        assert len({tuple(c) for c in first.reshape(-1, 3)}) > 5
        env.step(torch.tensor([[1], [1]]))
        assert not np.array_equal(first, env.render(1))


def test_pettingzoo():
    config = Config(world="four_rooms", limit=20)
    parallel_api_test(parallel(config), num_cycles=60)
    parallel_seed_test(lambda: parallel(config), num_cycles=20)  # the AEC test compares rewards as numbers
    render_test(lambda render_mode: parallel_to_aec(parallel(config, render_mode=render_mode)))
    env = parallel(config)
    env.reset(seed=0)
    assert env.step({"walker": 1})[1]["walker"].shape == (3,)


def test_run_ids_name_the_world():
    one, two = (
        compose.compose(["env=momdp/four_rooms"]),
        compose.compose(["env=momdp", "env.world=four_rooms"]),
    )
    assert one.run_id == two.run_id
    assert "-momdp_four_rooms-s0-" in one.run_id


IN_ROOMS = {"world": "four_rooms"}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"world": "maze"}, "world='maze'"),
        ({"limit": 0}, "limit=0"),
        ({"states": 3}, "states=3"),
        ({"successors": 60}, "successors=60"),
        ({**IN_ROOMS, "slip": 1.5}, "slip=1.5 cannot be used: give a number"),
        ({**IN_ROOMS, "slip_to": "none"}, "slip_to='none' cannot be used: give other"),
        ({**IN_ROOMS, "start": (0, 0)}, "start=.*: give the row"),
        ({**IN_ROOMS, "goals": ((2, 6),)}, "goals=.*: give the row"),
        ({**IN_ROOMS, "goals": ((2, 2),)}, "goals=.*: give one distinct cell"),
        ({"slip": 0.2}, "slip=0.2 cannot be used: leave it out: world=random has none"),
        ({**IN_ROOMS, "states": 9}, "states=9 cannot be used: leave it out: world=four_rooms has none"),
        ({"model": -1}, "model=-1"),
        (
            {"weights": (1.0, 1.0)},
            "weights=.*: give one number >= 0 for each of goal_0, goal_1, goal_2, or none",
        ),
        (
            {**IN_ROOMS, "goals": ((2, 4),), "weights": (-1.0,)},
            "weights=.*: give one number >= 0 for each of goal_0, or none",
        ),
    ],
)
def test_bad_settings_are_refused(given, field):
    with pytest.raises(FieldError, match=field.replace("(", r"\(")):
        Config(**given)
