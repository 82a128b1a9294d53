"""IC3Net's grid: cases by hand, and a plain-Python hunt stepped beside the batched one."""

import warnings

import numpy as np
import pytest
import torch
from pettingzoo.utils.conversions import parallel_to_aec

from marl import compose
from marl.envs.predator_prey import LEVELS, Config
from marl.errors import FieldError
from marl.pettingzoo import parallel
from marl.rng import Rng

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PettingZoo's tests import one of its own old games
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, render_test

CPU = torch.device("cpu")
UP, RIGHT, DOWN, LEFT, STAY = range(5)
MODES = ("mixed", "cooperative", "competitive")


class OneHunt:
    """One episode for one env in plain Python, written from the description of IC3Net's code alone.

    Positions are [row, column]; the observation is cut out of a padded grid of one-hot cells.
    """

    def __init__(self, config, predators, prey):
        self.level, self.mode = config.chosen, config.mode
        self.predators, self.prey = [list(p) for p in predators], list(prey)
        self.reached = [False] * len(predators)
        self.t = 0

    def observe(self):
        D, v = self.level.size, self.level.vision
        grid = np.zeros((D + 2 * v, D + 2 * v, D * D + 4), np.float32)
        grid[..., D * D + 1] = 1  # outside
        for row in range(D):
            for column in range(D):
                grid[row + v, column + v, D * D + 1] = 0
                grid[row + v, column + v, row * D + column] = 1
        grid[self.prey[0] + v, self.prey[1] + v, D * D + 2] += 1
        for row, column in self.predators:
            grid[row + v, column + v, D * D + 3] += 1
        out = [grid[r : r + 2 * v + 1, c : c + 2 * v + 1].reshape(-1) for r, c in self.predators]
        return np.stack(out)

    def step(self, actions):
        """Rewards, terminated, truncated, success."""
        last = self.level.size - 1
        for i, action in enumerate(actions):
            if self.reached[i]:
                continue
            at = self.predators[i]
            if action == UP:
                at[0] = max(0, at[0] - 1)
            elif action == RIGHT:
                at[1] = min(last, at[1] + 1)
            elif action == DOWN:
                at[0] = min(last, at[0] + 1)
            elif action == LEFT:
                at[1] = max(0, at[1] - 1)
        self.t += 1
        on = [p == self.prey for p in self.predators]
        self.reached = [a or b for a, b in zip(self.reached, on, strict=True)]
        there = {"mixed": 0.0, "cooperative": 0.05 * sum(on), "competitive": 0.05 / max(1, sum(on))}
        rewards = [there[self.mode] if here else -0.05 for here in on]
        over = self.mode == "mixed" and all(self.reached)
        return rewards, over, not over and self.t >= self.level.limit, all(on)

    def state(self):
        far = self.level.size - 1
        out = []
        for place, reached in zip(self.predators, self.reached, strict=True):
            out += [place[0] / far, place[1] / far, float(reached)]
        return np.array([*out, self.prey[0] / far, self.prey[1] / far], np.float32)


def start_of(env, b):
    """The plain hunt that begins where env b begins."""
    D = env.level.size
    predators = [divmod(cell, D) for cell in env.cell_BN[b].tolist()]
    return OneHunt(env.config, predators, divmod(int(env.prey_B[b]), D))


def place(env, predators, prey):
    """Put env 0 into a position; rows and columns."""
    D = env.level.size
    env.cell_BN[0] = torch.tensor([row * D + column for row, column in predators])
    env.prey_B[0] = prey[0] * D + prey[1]


SMALL = {"size": 3, "n_agents": 2, "limit": 12}  # random teams succeed often


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("given", "B", "steps"),
    [
        ({"level": "easy"}, 12, 150),
        ({"level": "medium"}, 4, 120),
        ({"level": "hard", "limit": 20}, 2, 60),
        (SMALL, 20, 150),
        (SMALL | {"vision": 2}, 8, 100),
    ],
)
def test_equals_the_plain_hunt_step_by_step(mode, given, B, steps):
    config = Config(mode=mode, **given)
    env, generator = config.build(num_envs=B, device=CPU), torch.Generator().manual_seed(3)
    ts = env.reset(Rng(7))
    hunts = [start_of(env, b) for b in range(B)]
    seen = {"terminated": 0, "truncated": 0}
    for _ in range(steps):
        for b, hunt in enumerate(hunts):
            assert np.array_equal(ts.obs_BNO[b].numpy(), hunt.observe())
            assert np.array_equal(ts.state_BS[b].numpy(), hunt.state())
            assert ts.t_B[b] == hunt.t
        actions = torch.randint(5, (B, config.chosen.n_agents), generator=generator)
        ts = env.step(actions)
        for b, hunt in enumerate(hunts):
            rewards, terminated, truncated, success = hunt.step(actions[b].tolist())
            assert np.array_equal(ts.agent_reward_BN[b].numpy(), np.float32(rewards))
            assert (bool(ts.terminated_B[b]), bool(ts.truncated_B[b])) == (terminated, truncated)
            assert bool(ts.info["success"][b]) == success
            assert int(ts.info["on_prey"][b]) == sum(p == hunt.prey for p in hunt.predators)
            if terminated or truncated:
                assert np.array_equal(ts.final_obs_BNO[b].numpy(), hunt.observe())
                assert np.array_equal(ts.final_state_BS[b].numpy(), hunt.state())
                hunts[b] = start_of(env, b)
            seen["terminated"] += terminated
            seen["truncated"] += truncated
    assert seen["truncated"] > 0
    if given.get("size") == 3:
        assert (seen["terminated"] > 0) == (mode == "mixed")


def test_walls_clip_and_actions_have_ic3nets_order():
    env = Config(level="easy").build(num_envs=1, device=CPU)
    env.reset(Rng(0))
    place(env, [(0, 0), (4, 4), (2, 2)], prey=(1, 3))
    env.step(torch.tensor([[UP, RIGHT, UP]]))
    assert env.cell_BN[0].tolist() == [0, 24, 7]
    env.step(torch.tensor([[LEFT, DOWN, LEFT]]))
    assert env.cell_BN[0].tolist() == [0, 24, 6]
    env.step(torch.tensor([[RIGHT, STAY, DOWN]]))
    assert env.cell_BN[0].tolist() == [1, 24, 11]


def test_an_observation_by_hand():
    """A corner of the medium grid: five of nine cells are outside."""
    env = Config(level="medium").build(num_envs=1, device=CPU)
    env.reset(Rng(0))
    place(env, [(0, 0), (0, 2), (0, 2), (9, 9), (5, 5)], prey=(1, 0))
    ts = env.step(torch.tensor([[STAY, LEFT, LEFT, STAY, STAY]]))
    window = ts.obs_BNO[0, 0].view(9, 104)
    outside, prey, predators = 101, 102, 103
    expected = {
        (4, 0): 1,
        (4, predators): 1,
        (5, 1): 1,
        (5, predators): 2,
        (7, 10): 1,
        (7, prey): 1,
        (8, 11): 1,
    }
    expected |= {(w, outside): 1 for w in (0, 1, 2, 3, 6)}
    found = {(int(w), int(f)): float(window[w, f]) for w, f in window.nonzero()}
    assert found == expected
    slices = {s.name: s for s in env.spec.obs_slices["predator"]}
    row = ts.obs_BNO[0, 0]
    assert row[slices["predators +0,+1"].start :][:1].tolist() == [2]
    assert row[slices["prey +1,+0"].start :][:1].tolist() == [1]
    assert row[slices["place +1,+1"].start : slices["place +1,+1"].stop].argmax() == 11
    assert [s.start for s in slices.values()][1:] == [s.stop for s in slices.values()][:-1]
    assert env.spec.obs_slices["predator"][-1].stop == env.spec.obs_size == 936


@pytest.mark.parametrize(
    ("mode", "one", "two", "ends"),
    [("mixed", 0.0, 0.0, True), ("cooperative", 0.05, 0.1, False), ("competitive", 0.05, 0.025, False)],
)
def test_rewards_and_freezing_by_hand(mode, one, two, ends):
    """The first predator arrives and cannot leave; the second follows two steps later."""
    env = Config(mode=mode, n_agents=2, size=4, limit=5).build(num_envs=1, device=CPU)
    env.reset(Rng(0))
    place(env, [(0, 0), (0, 3)], prey=(0, 1))
    for actions, rewards, on_prey in (
        ((RIGHT, STAY), (one, -0.05), 1),
        ((DOWN, LEFT), (one, -0.05), 1),  # frozen: down has no effect
        ((LEFT, LEFT), (two, two), 2),
    ):
        ts = env.step(torch.tensor([actions]))
        torch.testing.assert_close(ts.agent_reward_BN, torch.tensor([rewards]), rtol=0, atol=0)
        assert ts.info["on_prey"].tolist() == [on_prey]
        assert ts.alive_BN.all()
        assert ts.avail_BNA.all()
    assert ts.info["success"].all()
    assert ts.terminated_B.tolist() == [ends]
    assert not ts.truncated_B.any()
    if not ends:
        for _ in range(2):
            ts = env.step(torch.tensor([[UP, DOWN]]))
        assert (ts.terminated_B.tolist(), ts.truncated_B.tolist()) == ([False], [True])
        assert ts.info["success"].all()
    assert env.episode_B.tolist() == [1]
    assert ts.t_B.tolist() == [0]


def test_success_at_the_limit_terminates_in_the_mode_mixed():
    env = Config(n_agents=1, size=3, limit=2).build(num_envs=1, device=CPU)
    env.reset(Rng(0))
    place(env, [(0, 0)], prey=(0, 2))
    env.step(torch.tensor([[RIGHT]]))
    ts = env.step(torch.tensor([[RIGHT]]))
    assert (ts.terminated_B.tolist(), ts.truncated_B.tolist()) == ([True], [False])
    assert ts.info["success"].tolist() == [True]


@pytest.mark.parametrize(("level", "obs"), [("easy", 29), ("medium", 936), ("hard", 3636)])
def test_levels(level, obs):
    env = Config(level=level).build(num_envs=2, device=CPU)
    assert (env.spec.obs_size, env.spec.episode_limit) == (obs, LEVELS[level].limit)
    assert env.reset(Rng(0)).obs_BNO.shape == (2, LEVELS[level].n_agents, obs)
    assert env.spec.reward == "agent"


def test_starts_are_distinct_and_uniform():
    env = Config(n_agents=3, size=2).build(num_envs=4000, device=CPU)
    env.reset(Rng(0))
    cells = torch.cat([env.cell_BN, env.prey_B[:, None]], 1)
    assert (cells.sort(1).values == torch.arange(4)).all()
    counts = torch.stack([(cells == c).sum(0) for c in range(4)])  # of cell c for each of the four
    assert ((counts - 1000).abs() < 5 * (4000 * 0.25 * 0.75) ** 0.5).all()


def test_rows_do_not_depend_on_the_batch_and_states_go_on():
    config = Config(**SMALL | {"vision": 1})
    many, few = (config.build(num_envs=B, device=CPU) for B in (9, 4))
    ts, other = many.reset(Rng(4)), few.reset(Rng(4))
    generator = torch.Generator().manual_seed(0)
    for k in range(60):
        if k == 30:
            copy = config.build(num_envs=4, device=CPU)
            copy.load_state_dict(few.state_dict())
            few = copy
        actions = torch.randint(5, (9, 2), generator=generator)
        ts, other = many.step(actions), few.step(actions[:4])
        for name, value in other.state_dict().items():
            assert torch.equal(ts.state_dict()[name][:4], value), name
    assert (few.episode_B > 2).all()


def test_an_env_goes_on_alike_in_any_row():
    """Rows taken out of a batch, in another order, play the same episodes as they would have in it."""
    config, rows = Config(**SMALL), torch.tensor([7, 2, 5, 0])
    many, few = (config.build(num_envs=B, device=CPU) for B in (9, 4))
    generator = torch.Generator().manual_seed(0)
    many.reset(Rng(4))
    few.load_state_dict({name: value[rows] for name, value in many.state_dict().items()})
    for _ in range(40):
        actions = torch.randint(5, (9, 2), generator=generator)
        ts, other = many.step(actions), few.step(actions[rows])
        for name, value in other.state_dict().items():
            assert torch.equal(ts.state_dict()[name][rows], value), name


def test_everything_is_made_on_the_device():
    """The meta device refuses to mix with the CPU, as a GPU would."""
    meta = torch.device("meta")
    env = Config(level="medium").build(num_envs=4, device=meta)
    ts = env.reset(Rng(0))
    on_BN, reward_BN = env._move(torch.zeros(4, 5, dtype=torch.int64, device=meta))
    tensors = [*ts.state_dict().values(), on_BN, reward_BN, *env._look(env.cell_BN, env.prey_B)]
    assert {t.device.type for t in (*tensors, *env.state_dict().values())} == {"meta"}


def test_run_ids_name_the_level():
    one = compose.compose(["env=predator_prey/medium", "agent=ippo"])
    two = compose.compose(["env=predator_prey", "env.level=medium", "agent=ippo"])
    assert one.run_id == two.run_id
    assert one.run_id.startswith("ippo-predator_prey_medium-s0-")
    assert compose.compose(["env=predator_prey", "agent=ippo"]).run_id.startswith(
        "ippo-predator_prey_easy-s0-"
    )


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"level": "huge"}, "level='huge'"),
        ({"mode": "kind"}, "mode='kind'"),
        ({"size": 1}, "size=1"),
        ({"n_agents": 0}, "n_agents=0"),
        ({"n_agents": 25}, "n_agents=25"),
        ({"level": "hard", "size": 3}, "n_agents=10"),
        ({"vision": -1}, "vision=-1"),
        ({"vision": 5}, "vision=5"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_bad_settings_name_the_field(given, field):
    with pytest.raises(FieldError, match=rf"^{field} "):
        Config(**given)


def test_pettingzoo():
    config = Config(level="medium", limit=15)
    parallel_api_test(parallel(config), num_cycles=60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice; what it asserts must hold
        api_test(parallel_to_aec(parallel(config)), num_cycles=60)
    parallel_seed_test(lambda: parallel(config), num_cycles=20)
    render_test(lambda render_mode: parallel_to_aec(parallel(config, render_mode=render_mode)))


@pytest.mark.parametrize("level", LEVELS)
def test_pictures_show_what_changes(level):
    env = Config(level=level).build(num_envs=2, device=CPU)
    env.reset(Rng(0))
    first = env.render(1)
    assert first.dtype == np.uint8
    assert np.array_equal(first, env.render(1))
    moved = (env.prey_B[1] + 1) % env.level.size**2
    env.prey_B[1] = moved
    second = env.render(1)
    env.cell_BN[1] = moved  # all on the prey
    assert first.shape == second.shape == env.render(1).shape
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, env.render(1))
