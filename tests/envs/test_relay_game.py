"""The relay: its best return, what guessing earns, endings, streams."""

import numpy as np
import pytest
import torch

from marl.envs.relay_game import Config
from marl.errors import FieldError
from marl.rng import Rng

CPU = torch.device("cpu")


class Runner:
    """Plays right with memory, or guesses at every handover; looks at observations alone."""

    def __init__(self, env, guess=False):
        self.N, self.K = env.spec.n_agents, env.config.signals
        self.known = torch.zeros(env.num_envs, dtype=torch.int64)
        self.guess, self.g = guess, torch.Generator().manual_seed(0)

    def act(self, ts):
        K = self.K
        told = ts.obs_BNO[..., : 2 * K].unflatten(-1, (2, K)).sum(2)  # seen or heard, by each runner
        some = told.sum(-1) > 0
        self.known = torch.where(
            some.any(1), told.argmax(-1).gather(1, some.int().argmax(1)[:, None])[:, 0], self.known
        )
        shout = self.known if not self.guess else torch.randint(K, self.known.shape, generator=self.g)
        handover = ts.obs_BNO[..., 2 * K + 1] > 0
        return torch.where(handover, 1 + shout[:, None], 0)


def play(config, B=400, steps=30, guess=False):
    env = config.build(num_envs=B, device=CPU)
    ts, runner = env.reset(Rng(0)), Runner(env, guess)
    total, results = torch.zeros(B), [[] for _ in range(B)]
    for _ in range(steps):
        actions = runner.act(ts)
        assert ts.avail_BNA.gather(-1, actions[..., None]).all()
        assert ts.avail_BNA.any(-1).all()
        ts = env.step(actions)
        total += ts.reward_B
        for b in ts.done_B.nonzero().flatten().tolist():
            ends = (ts.info["success"], ts.info["best_return"])
            results[b].append([float(total[b]), *(float(v[b]) for v in ends)])
        total[ts.done_B] = 0
    # The first episode of every env alone: among all that end in a fixed time short ones are too many.
    return torch.tensor([row[0] for row in results])


def test_memory_reaches_the_best_return():
    result = play(Config(runners=3, signals=4, max_leg=3))
    torch.testing.assert_close(result, torch.ones(len(result), 3))


def test_under_a_limit_the_best_return_is_known_per_episode():
    result = play(Config(runners=3, max_leg=4, limit=7))
    torch.testing.assert_close(result[:, 0], result[:, 2])
    assert torch.equal(result[:, 1] == 1, result[:, 2] == 1)
    assert len(result[:, 2].unique()) > 2


def test_guessing_earns_what_the_formula_says():
    config = Config(runners=3, signals=2)
    result = play(config, B=4000, guess=True)[:, 0]
    assert config.guess_return == pytest.approx((1 / 2 + 1 / 4 + 1 / 8) / 3)
    assert abs(float(result.mean()) - config.guess_return) < 4 * float(result.std()) / len(result) ** 0.5


def test_without_memory_short_legs_are_still_right():
    """A team that looks at the present step alone, and guesses where it shows no signal."""
    config = Config(runners=2, signals=2, max_leg=2)
    env = config.build(num_envs=4000, device=CPU)
    ts, total, open_B = env.reset(Rng(0)), torch.zeros(4000), torch.ones(4000, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    while open_B.any():
        told_BNK = ts.obs_BNO[..., :4].unflatten(-1, (2, 2)).sum(2)
        guess_BN = torch.randint(2, told_BNK.shape[:2], generator=generator)
        shout_BN = torch.where(told_BNK.sum(-1) > 0, told_BNK.argmax(-1), guess_BN)
        ts = env.step(torch.where(ts.obs_BNO[..., 5] > 0, 1 + shout_BN, 0))
        total += ts.reward_B * open_B
        open_B &= ~ts.done_B
    assert config.memoryless_return == pytest.approx((3 / 4 + 9 / 16) / 2)
    assert config.guess_return < config.memoryless_return < 1
    assert abs(float(total.mean()) - config.memoryless_return) < 4 * float(total.std()) / 4000**0.5


def test_endings():
    env = Config(runners=2, max_leg=1, limit=2).build(num_envs=3, device=CPU)
    ts = env.reset(Rng(0))
    right = 1 + env.signal_B
    wrong = 3 - right
    ts = env.step(
        torch.stack([torch.tensor([right[0], wrong[1], right[2]]), torch.zeros(3, dtype=torch.int64)], 1)
    )
    assert ts.terminated_B.tolist() == [False, True, False]
    assert ts.reward_B.tolist() == [0.5, 0.0, 0.5]
    assert ts.alive_BN.tolist() == [[False, True], [True, True], [False, True]]  # who handed over has left
    assert ts.avail_BNA[0].tolist() == [[True, False, False], [False, True, True]]
    assert ts.t_B.tolist() == [1, 0, 1]
    heard = ts.obs_BNO[0, 1, 2:4].argmax() + 1
    assert heard == right[0]
    ts = env.step(torch.stack([torch.zeros(3, dtype=torch.int64), torch.tensor([right[0], 1, wrong[2]])], 1))
    assert ts.terminated_B.tolist()[::2] == [True, True]
    assert ts.info["success"].tolist()[::2] == [True, False]


def test_a_false_start_ends_the_episode():
    env = Config(max_leg=3).build(num_envs=50, device=CPU)
    ts = env.reset(Rng(0))
    on_the_way = env.left_B > 0
    assert on_the_way.any()
    assert (
        ts.avail_BNA[:, 0].sum(-1) == torch.where(on_the_way, 2, 2)
    ).all()  # silent and one shout, or two shouts
    shout = ts.avail_BNA[:, 0, 1:].to(torch.uint8).argmax(-1) + 1
    ts = env.step(torch.stack([shout, torch.zeros_like(shout), torch.zeros_like(shout)], 1))
    assert ts.terminated_B[on_the_way].all()
    assert (ts.reward_B[on_the_way] == 0).all()


def test_final_observation_is_what_would_have_come_next():
    """The same episodes without the cut, one step further."""
    cut = Config(runners=3, max_leg=4, limit=3).build(num_envs=60, device=CPU)
    free = Config(runners=3, max_leg=4, limit=50).build(num_envs=60, device=CPU)
    ts_cut, ts_free = cut.reset(Rng(0)), free.reset(Rng(0))
    alive = torch.ones(60, dtype=torch.bool)
    a, b = Runner(cut), Runner(free)
    for _ in range(3):
        alive &= ~ts_free.done_B
        ts_cut, ts_free = cut.step(a.act(ts_cut)), free.step(b.act(ts_free))
    alive &= ~ts_free.done_B
    assert ts_cut.truncated_B[alive].all()
    assert alive.sum() > 20
    assert torch.equal(ts_cut.final_obs_BNO[alive], ts_free.obs_BNO[alive])
    assert torch.equal(ts_cut.final_avail_BNA[alive], ts_free.avail_BNA[alive])
    assert torch.equal(ts_cut.final_state_BS[alive, :-1], ts_free.state_BS[alive, :-1])  # all but the clock


def test_rows_do_not_depend_on_the_batch_and_states_go_on():
    many, few = (Config(limit=5).build(num_envs=B, device=CPU) for B in (7, 3))
    ts, other = many.reset(Rng(4)), few.reset(Rng(4))
    a, b = Runner(many), Runner(few)
    for k in range(25):
        if k == 12:
            copy = Config(limit=5).build(num_envs=3, device=CPU)
            copy.load_state_dict(few.state_dict())
            few = copy
        ts, other = many.step(a.act(ts)), few.step(b.act(other))
        for name, value in other.state_dict().items():
            assert torch.equal(ts.state_dict()[name][:3], value), name


def test_can_be_drawn():
    env = Config(runners=2, max_leg=3).build(num_envs=4, device=CPU)
    ts, runner = env.reset(Rng(0)), None
    first = env.render(1)
    runner = Runner(env)
    env.step(runner.act(ts))
    assert first.shape == env.render(1).shape
    assert first.dtype == np.uint8
    assert not np.array_equal(first, env.render(1))


@pytest.mark.parametrize(
    ("field", "value"), [("runners", 0), ("signals", 1), ("signals", 7), ("max_leg", 0), ("limit", -1)]
)
def test_bad_settings_name_the_field(field, value):
    with pytest.raises(FieldError, match=rf"^{field}={value} "):
        Config(**{field: value})
