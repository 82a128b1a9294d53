"""The hunt in continuous space: cases by hand, and a plain-Python hunt stepped beside the batched one."""

import warnings

import numpy as np
import pytest
import torch
from pettingzoo.utils.conversions import parallel_to_aec

from marl import compose
from marl.envs.predator_prey.continuous import Config
from marl.errors import FieldError
from marl.pettingzoo import parallel
from marl.rng import Rng

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PettingZoo's tests import one of its own old games
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, render_test

CPU = torch.device("cpu")
STAY, LEFT, RIGHT, DOWN, UP = range(5)
F = np.float32


class OneHunt:
    """One episode in plain Python, in float32 numbers."""

    def __init__(self, config, predators, prey):
        self.config, self.prey, self.t = config, [F(x) for x in prey], 0
        self.at = [[F(x) for x in p] for p in predators]
        self.speed = [[F(0), F(0)] for _ in predators]

    def step(self, actions):
        """Reward, truncated, success."""
        for i, action in enumerate(actions):
            if self.config.actions == "discrete":
                action = {STAY: (0, 0), LEFT: (-1, 0), RIGHT: (1, 0), DOWN: (0, -1), UP: (0, 1)}[action]
            for k in (0, 1):
                push = F(5) * F(min(1, max(-1, action[k])))
                v = F(0.75) * self.speed[i][k] + F(0.1) * push
                x = self.at[i][k] + F(0.1) * v
                if x > 1 or x < -1:
                    x, v = F(1) if x > 1 else F(-1), F(0)
                self.at[i][k], self.speed[i][k] = x, v
        self.t += 1
        touching = 0
        for x, y in self.at:
            dx, dy = x - self.prey[0], y - self.prey[1]
            touching += dx * dx + dy * dy < F(0.125**2)
        A = len(self.at)
        needed = self.config.needed or A
        return F(touching) / F(A), self.t >= self.config.limit, touching >= needed

    def observe(self):
        rows = []
        for i, (at, speed) in enumerate(zip(self.at, self.speed, strict=True)):
            others = [j for j in range(len(self.at)) if j != i]
            row = [*speed, self.prey[0] - at[0], self.prey[1] - at[1]]
            row += [self.at[j][k] - at[k] for j in others for k in (0, 1)]
            row += [self.speed[j][k] - speed[k] for j in others for k in (0, 1)]
            rows.append(row)
        return np.array(rows, F)

    def state(self):
        both = zip(self.at, self.speed, strict=True)
        return np.array([*(x for at, speed in both for x in (*at, *speed)), *self.prey], F)


def start_of(env, b):
    return OneHunt(env.config, env.pos_BN2[b].numpy().tolist(), env.prey_B2[b].numpy().tolist())


def drawn(env, generator):
    """Actions, random but drawn towards the prey, so that contacts and walls are met."""
    B, A = env.num_envs, env.config.n_agents
    away = env.prey_B2[:, None] - env.pos_BN2
    wild = torch.rand(B, A, generator=generator) < 0.4
    if env.config.actions == "continuous":
        return torch.where(wild[..., None], 3 * torch.randn(B, A, 2, generator=generator), 4 * away)
    axis = away.abs().argmax(-1)
    towards = torch.where(axis == 0, torch.where(away[..., 0] > 0, RIGHT, LEFT), STAY)
    towards = torch.where(axis == 1, torch.where(away[..., 1] > 0, UP, DOWN), towards)
    return torch.where(wild, torch.randint(1, 3, (B, A), generator=generator), towards)


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
@pytest.mark.parametrize(("A", "needed"), [(4, None), (3, 1), (1, None)])
def test_equals_the_plain_hunt_step_by_step(actions, A, needed):
    config = Config(n_agents=A, needed=needed, limit=25, actions=actions)
    env, generator = config.build(num_envs=10, device=CPU), torch.Generator().manual_seed(3)
    ts = env.reset(Rng(7))
    hunts, paid, walls, wins = [start_of(env, b) for b in range(10)], 0.0, 0, 0
    for _ in range(80):
        for b, hunt in enumerate(hunts):
            assert np.array_equal(ts.obs_BNO[b].numpy(), hunt.observe())
            assert np.array_equal(ts.state_BS[b].numpy(), hunt.state())
        chosen = drawn(env, generator)
        ts = env.step(chosen)
        for b, hunt in enumerate(hunts):
            reward, truncated, success = hunt.step(chosen[b].tolist())
            assert ts.reward_B[b].numpy() == reward
            assert (bool(ts.terminated_B[b]), bool(ts.truncated_B[b])) == (False, truncated)
            assert bool(ts.info["success"][b]) == success
            paid, walls = paid + reward, walls + sum(abs(x) == 1 for p in hunt.at for x in p)
            if truncated:
                wins += success
                assert np.array_equal(ts.final_obs_BNO[b].numpy(), hunt.observe())
                assert np.array_equal(ts.final_state_BS[b].numpy(), hunt.state())
                hunts[b] = start_of(env, b)
    assert paid > 5
    assert walls > 5
    assert 0 < wins < 30


def test_own_rewards_go_to_those_that_touch():
    """Their mean is the team's reward, and nothing else differs."""
    team, own = (Config(n_agents=3, limit=9, reward=r).build(num_envs=8, device=CPU) for r in ("team", "own"))
    assert (team.spec.reward, own.spec.reward) == ("team", "agent")
    generator, paid = torch.Generator().manual_seed(3), 0.0
    for env in (team, own):
        env.reset(Rng(7))
        env.prey_B2[:] = 0.0
    for _ in range(30):
        chosen = drawn(team, generator)
        near_BN = own.pos_BN2.clone()
        one, two = team.step(chosen), own.step(chosen)
        assert (two.reward_B, one.agent_reward_BN) == (None, None)
        assert set(two.agent_reward_BN.unique().tolist()) <= {0.0, 1.0}
        torch.testing.assert_close(two.agent_reward_BN.mean(1), one.reward_B)
        assert torch.equal(one.obs_BNO, two.obs_BNO)
        if not two.truncated_B.any():
            away = (own.pos_BN2 - own.prey_B2[:, None]).square().sum(-1)
            assert torch.equal(two.agent_reward_BN > 0, away < 0.125**2)
        assert not torch.equal(near_BN, own.pos_BN2)
        paid += float(two.agent_reward_BN.sum())
    assert paid > 5


def test_motion_by_hand():
    """From rest under a force to the right: v 0.5, 0.875, 1.15625; the wall stops it."""
    env = Config(n_agents=1).build(num_envs=1, device=CPU)
    env.reset(Rng(0))
    env.pos_BN2[:], env.prey_B2[:] = 0.0, -0.9
    way = []
    for _ in range(9):
        env.step(torch.tensor([[RIGHT]]))
        way.append((round(float(env.pos_BN2[0, 0, 0]), 5), round(float(env.vel_BN2[0, 0, 0]), 5)))
    assert way[:3] == [(0.05, 0.5), (0.1375, 0.875), (0.25313, 1.15625)]
    assert way[-1] == (1.0, 0.0)
    assert env.pos_BN2[0, 0, 1] == 0


def test_contact_pays_a_share_and_success_counts_at_the_end():
    config = Config(n_agents=2, limit=2)
    one, all_ = (Config(**{**vars(config), "needed": n}).build(num_envs=1, device=CPU) for n in (1, None))
    for env, won in ((one, True), (all_, False)):
        env.reset(Rng(0))
        env.prey_B2[:] = 0.0
        env.pos_BN2[:] = torch.tensor([[[0.12, 0.0], [0.13, 0.0]]])
        for _ in range(2):
            ts = env.step(torch.tensor([[STAY, STAY]]))
            assert ts.reward_B.tolist() == [0.5]
            assert ts.info["touching"].tolist() == [1]
        assert ts.truncated_B.all()
        assert ts.info["success"].tolist() == [won]


def test_rows_do_not_depend_on_the_batch_and_states_go_on():
    config = Config(limit=9)
    many, few = (config.build(num_envs=B, device=CPU) for B in (9, 4))
    ts, other = many.reset(Rng(4)), few.reset(Rng(4))
    generator = torch.Generator().manual_seed(0)
    for k in range(40):
        if k == 22:
            copy = config.build(num_envs=4, device=CPU)
            copy.load_state_dict(few.state_dict())
            few = copy
        actions = torch.randint(5, (9, 4), generator=generator)
        ts, other = many.step(actions), few.step(actions[:4])
        for name, value in other.state_dict().items():
            assert torch.equal(ts.state_dict()[name][:4], value), name
    assert few.episode_B.tolist() == [4] * 4


def test_an_env_goes_on_alike_in_any_row():
    """Rows taken out of a batch, in another order, play the same episodes as they would have in it."""
    config, rows = Config(limit=9), torch.tensor([7, 2, 5, 0])
    many, few = (config.build(num_envs=B, device=CPU) for B in (9, 4))
    generator = torch.Generator().manual_seed(0)
    many.reset(Rng(4))
    few.load_state_dict({name: value[rows] for name, value in many.state_dict().items()})
    for _ in range(40):
        actions = torch.randint(5, (9, 4), generator=generator)
        ts, other = many.step(actions), few.step(actions[rows])
        for name, value in other.state_dict().items():
            assert torch.equal(ts.state_dict()[name][rows], value), name


def test_everything_is_made_on_the_device():
    """The meta device refuses to mix with the CPU, as a GPU would."""
    meta = torch.device("meta")
    env = Config().build(num_envs=4, device=meta)
    ts = env.reset(Rng(0))
    touching_BN = env._move(torch.zeros(4, 4, dtype=torch.int64, device=meta))
    tensors = [*ts.state_dict().values(), touching_BN, *env._look(), *env.state_dict().values()]
    assert {t.device.type for t in tensors} == {"meta"}


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_observations_stay_within_their_slices(actions):
    env = Config(actions=actions).build(num_envs=50, device=CPU)
    ts, generator = env.reset(Rng(0)), torch.Generator().manual_seed(0)
    slices = env.spec.obs_slices["predator"]
    assert [s.stop for s in slices] == list(range(2, env.spec.obs_size + 1, 2))
    for _ in range(60):
        for s in slices:
            part = ts.obs_BNO[..., s.start : s.stop]
            assert s.low <= float(part.min()), s.name
            assert float(part.max()) <= s.high, s.name
        ts = env.step(drawn(env, generator))


def test_run_id_and_options():
    run = compose.compose(["env=predator_prey_continuous", "env.n_agents=6", "agent=ippo"])
    assert run.run_id.startswith("ippo-predator_prey_continuous-s0-")
    assert run.env.n_agents == 6


@pytest.mark.parametrize(
    ("field", "value"), [("n_agents", 0), ("limit", 0), ("needed", 0), ("needed", 5), ("actions", "both")]
)
def test_bad_settings_name_the_field(field, value):
    with pytest.raises(FieldError, match=rf"^{field}={value!r} "):
        Config(**{field: value})


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_pettingzoo(actions):
    config = Config(limit=15, actions=actions)
    parallel_api_test(parallel(config), num_cycles=60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice; what it asserts must hold
        api_test(parallel_to_aec(parallel(config)), num_cycles=60)
    parallel_seed_test(lambda: parallel(config), num_cycles=20)
    render_test(lambda render_mode: parallel_to_aec(parallel(config, render_mode=render_mode)))


def test_pictures_show_what_changes():
    env = Config().build(num_envs=2, device=CPU)
    env.reset(Rng(0))
    first = env.render(1)
    assert first.dtype == np.uint8
    env.prey_B2[1] = env.pos_BN2[1, 0]
    assert first.shape == env.render(1).shape
    assert not np.array_equal(first, env.render(1))
