"""Native worlds as PettingZoo environments: PettingZoo's own tests, and what it does not test."""

import warnings

import numpy as np
import pytest
import torch
from pettingzoo.utils.conversions import parallel_to_aec

from marl.envs.battle import Config, scripted
from marl.envs.matrix_game import Config as MatrixGame
from marl.envs.navigation import Config as Navigation
from marl.errors import MarlError
from marl.pettingzoo import parallel
from marl.rng import Rng

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PettingZoo's tests import one of its own old games
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, render_test

CONFIGS = {
    "3m": Config(map="3m"),
    "MMM": Config(map="MMM"),
    "v2": Config(map="v2/terran_5v5"),
    "matrix_game": MatrixGame(),
}
MAPS = [name for name in CONFIGS if name != "matrix_game"]


@pytest.mark.parametrize("name", CONFIGS)
def test_pettingzoo_api(name):
    parallel_api_test(parallel(CONFIGS[name]), num_cycles=300)


# Its warnings are advice (observations without masks, numbered names, no zeros: the dead see zeros); what it
# asserts must hold.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CONFIGS)
def test_pettingzoo_turn_based_api(name):
    api_test(parallel_to_aec(parallel(CONFIGS[name])), num_cycles=100)


@pytest.mark.parametrize("name", CONFIGS)
def test_pettingzoo_seed(name):
    parallel_seed_test(lambda: parallel(CONFIGS[name]), num_cycles=20)


@pytest.mark.parametrize("name", MAPS)
def test_pettingzoo_render(name):
    render_test(lambda render_mode: parallel_to_aec(parallel(CONFIGS[name], render_mode=render_mode)))


def random_episode(env, seed):
    """Observations, rewards and masks of one episode of legal random actions."""
    observations, infos = env.reset(seed=seed)
    trace, rng = [(observations, {}, infos)], np.random.default_rng(seed)
    while env.agents:
        masks = {a: observations[a]["action_mask"] for a in env.agents}
        actions = {a: int(rng.choice(np.flatnonzero(m))) for a, m in masks.items()}
        observations, rewards, terminations, truncations, infos = env.step(actions)
        trace.append((observations, rewards, infos))
    return trace, terminations, truncations


@pytest.mark.parametrize("name", MAPS)
def test_an_episode_keeps_all_agents_and_stays_in_its_spaces(name):
    env = parallel(CONFIGS[name])
    trace, terminations, truncations = random_episode(env, seed=5)
    assert len(trace) > 10
    died = False
    for observations, _, infos in trace:
        assert list(observations) == list(infos) == env.possible_agents
        for agent, observation in observations.items():
            assert env.observation_space(agent).contains(observation), agent
            assert np.array_equal(observation["action_mask"], infos[agent]["action_mask"])
            assert not infos[agent]["illegal_action"]
            dead = observation["action_mask"].tolist() == [1] + [0] * (env.action_space(agent).n - 1)
            assert dead == (not observation["observation"].any())
            died |= dead
    assert died  # random teams lose agents before the end
    assert set(terminations.values()) == {True}
    assert set(truncations.values()) == {False}
    assert isinstance(trace[-1][2][env.possible_agents[0]]["success"], bool)
    with pytest.raises(MarlError, match=r"call reset\(\)"):
        env.step({})


def test_the_last_observation_is_of_the_old_episode():
    """Worlds restart at once; the adapter must show the episode's end, not the next start."""
    env = parallel(Config(map="3m"))
    trace, _, _ = random_episode(env, seed=1)
    hp = [o["observation"][-1] for o in trace[-1][0].values()]
    assert min(hp) < 1.0  # someone is hurt or dead, as nobody is at a start
    last_state = env.state()
    assert env.state_space.contains(last_state)
    env.reset()
    assert not np.array_equal(env.state(), last_state)
    assert env.state().shape == (48,)


def test_it_is_the_native_world():
    """Rewards, observations and masks equal those of the batched world under the same seed and actions."""
    env = parallel(Config(map="3m"))
    world = Config(map="3m").build(num_envs=1, device=torch.device("cpu"), threads=1)
    ts = world.reset(Rng(9, "pettingzoo", "0"))
    policy = scripted.make("focus", world, Rng(0))
    observations, _ = env.reset(seed=9)
    while env.agents:
        for i, agent in enumerate(env.agents):
            assert np.array_equal(observations[agent]["observation"], ts.obs_BNO[0, i].numpy())
            assert np.array_equal(observations[agent]["action_mask"], ts.avail_BNA[0, i].numpy())
        assert np.array_equal(env.state(), ts.state_BS[0].numpy())
        actions_BN = policy(ts)
        ts = world.step(actions_BN)
        actions = dict(zip(env.agents, actions_BN[0].tolist(), strict=True))
        observations, rewards, terminations, _, _ = env.step(actions)
        assert set(rewards.values()) == {float(ts.reward_B[0])}
        assert set(terminations.values()) == {bool(ts.terminated_B[0])}
    assert np.array_equal(env.state(), ts.final_state_BS[0].numpy())


def test_seeds_name_sequences_of_episodes():
    first, second = parallel(CONFIGS["MMM"]), parallel(CONFIGS["MMM"])

    def starts(env):
        return [env.reset(seed=3)[0], env.reset()[0], env.reset()[0]]

    for one, other in zip(starts(first), starts(second), strict=True):
        for agent in first.possible_agents:
            assert np.array_equal(one[agent]["observation"], other[agent]["observation"])
    a, b, _ = (start[first.possible_agents[9]]["observation"] for start in starts(first))
    assert not np.array_equal(a, b)
    other_seed = first.reset(seed=4)[0][first.possible_agents[9]]["observation"]
    assert not np.array_equal(a, other_seed)
    unseeded = [parallel(CONFIGS["MMM"]).reset()[0] for _ in range(2)]
    assert not np.array_equal(*(start[first.possible_agents[9]]["observation"] for start in unseeded))


def test_illegal_actions_are_replaced_and_said():
    env = parallel(Config(map="3m"))
    env.reset(seed=0)
    last = env.action_space(env.agents[0]).n - 1
    stop = {agent: 1 for agent in env.agents}
    _, _, _, _, infos = env.step(stop | {env.agents[0]: last})  # nobody is in reach at the start
    assert [infos[a]["illegal_action"] for a in env.agents] == [True, False, False]
    twin = parallel(Config(map="3m"))
    twin.reset(seed=0)
    twin.step(stop)
    assert np.array_equal(env.state(), twin.state())  # it was the first legal action: stop


def test_wrong_use_is_one_sentence():
    env = parallel(Config(map="3m"))
    env.reset(seed=0)
    with pytest.raises(MarlError, match="actions lacks"):
        env.step({env.agents[0]: 1})
    with pytest.raises(MarlError, match="is 99: it must be in"):
        env.step(dict.fromkeys(env.agents, 99))
    steered = parallel(Navigation(actions="continuous"))
    steered.reset(seed=0)
    with pytest.raises(MarlError, match=r"^action of 'agent_1' is \[nan, 0.0.*: give numbers$"):
        steered.step({a: np.array([np.nan if a == "agent_1" else 1, 0, 0, 0, 0]) for a in steered.agents})
    with pytest.raises(MarlError, match="render_mode is None"):
        env.render()
    with pytest.raises(MarlError, match="render_mode is 'ansi'"):
        parallel(Config(map="3m"), render_mode="ansi")
    with pytest.raises(MarlError, match="num_envs=2"):
        parallel(Config(map="3m").build(num_envs=2, device=torch.device("cpu"), threads=1))


def test_the_window_shows_the_picture():
    from matplotlib import pyplot

    pyplot.switch_backend("Agg")
    env = parallel(Config(map="3m"), render_mode="human")
    env.reset(seed=0)
    assert env.render() is None
    env._figure.canvas.draw()
    shown = np.asarray(env._figure.canvas.buffer_rgba())[..., :3]
    assert np.array_equal(shown, env.env.render(0))
    number = env._figure.number
    env.close()
    assert not pyplot.fignum_exists(number)
