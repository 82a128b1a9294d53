"""Evaluation: the same episodes each time, whatever runs beside them."""

import torch

from marl.agents.iql import Config as IQL
from marl.envs.matrix_game import Config as Matrix
from marl.envs.relay_game import Config as Relay
from marl.evaluate import _CAPTION_FRAMES, Kept, evaluate, kept, record
from marl.rng import Rng

CPU = torch.device("cpu")
WORLD = Relay(max_leg=4, limit=9)


def make_agent(seed=0, world=WORLD):
    env = world.build(num_envs=1, device=CPU)
    return IQL(hidden=16).build(spec=env.spec, rng=Rng(seed), device=CPU)


def measure(episodes=20, seed=0, explore=0.3, batch=None, agent=None):
    agent = agent or make_agent()
    rng = Rng(seed, "evaluate")
    return evaluate(
        agent, WORLD, episodes=episodes, rng=rng, device=CPU, threads=1, explore=explore, batch=batch
    )


def test_episodes_do_not_depend_on_the_batch():
    whole = measure().lists()
    assert len(set(whole["length"])) > 2
    assert whole == measure(batch=7).lists() == measure(batch=1).lists()
    assert {name: v[:9] for name, v in whole.items()} == measure(episodes=9).lists()
    assert whole != measure(seed=1).lists()


def test_greedy_is_deterministic_and_leaves_the_agent_alone():
    agent = make_agent()
    before = {k: v.clone() for k, v in agent.state_dict()["networks"].items()}
    first = measure(explore=0.0, agent=agent)
    assert first.lists() == measure(explore=0.0, agent=agent).lists()
    assert all(torch.equal(before[k], v) for k, v in agent.state_dict()["networks"].items())


def test_only_the_first_episode_of_each_env_counts():
    """Summed by hand in envs that run alone."""
    agent, out = make_agent(), measure(episodes=6, explore=0.0)
    for e in range(6):
        env = WORLD.build(num_envs=6, device=CPU)
        ts = env.reset(Rng(0, "evaluate").child("env"))
        carry, total, length = agent.initial_carry(6), 0.0, 0
        stream = Rng(0).stream("act", 6)  # greedy: not used
        while length == 0 or not ts.done_B[e]:
            act = agent.act(ts, carry, rng=stream, explore=0.0)
            ts, carry = env.step(act.actions_BN), act.carry
            fresh = agent.initial_carry(6)
            for name in carry:
                carry[name] = torch.where(
                    ts.done_B.view(-1, *[1] * (carry[name].dim() - 1)), fresh[name], carry[name]
                )
            total, length = total + float(ts.reward_B[e]), length + 1
        assert out.length_E[e] == length
        assert abs(out.return_E[e] - total) < 1e-6
        assert out.success_E is not None
        assert out.success_E[e] == ts.info["success"][e]


def test_means_and_columns():
    out = measure(episodes=10)
    assert set(out.episodes) == {"return", "length", "success", "best_return"}
    assert out.means()["length"] == sum(out.lists()["length"]) / 10
    assert out.link["talk"] == 0.0


def test_worlds_without_success_have_none():
    world = Matrix(game="two_step")
    out = evaluate(make_agent(world=world), world, episodes=3, rng=Rng(0), device=CPU, threads=1)
    assert out.length_E.tolist() == [2.0, 2.0, 2.0]


class Growing(Relay):
    """A world that is another one in evaluation."""

    def for_evaluation(self):
        return WORLD


def test_a_world_that_changes_over_training_is_measured_as_it_ends():
    agent, young = make_agent(), Growing(max_leg=1, limit=9)
    args = {"episodes": 6, "rng": Rng(0, "evaluate"), "device": CPU, "threads": 1}
    assert evaluate(agent, young, **args).lists() == evaluate(agent, WORLD, **args).lists()
    assert (
        evaluate(agent, Relay(max_leg=1, limit=9), **args).lists() != evaluate(agent, WORLD, **args).lists()
    )


def test_a_recording_shows_the_evaluated_episodes():
    agent, rng = make_agent(), Rng(0, "evaluate")
    env = WORLD.build(num_envs=2, device=CPU)
    frames = record(agent, env, episodes=1, rng=rng, explore=0.3)
    steps = int(measure(episodes=1, agent=agent).length_E[0])
    assert len(frames) == steps + _CAPTION_FRAMES
    assert all(frame is frames[-1] for frame in frames[steps:])
    assert (frames[-1] != frames[steps - 1]).any()  # the outcome is written on it
    assert frames[0].ndim == 3
    assert frames[0].shape[2] == 3
    assert len(record(agent, env, episodes=3, rng=rng, explore=0.3)) > len(frames)
    assert len(record(agent, env, episodes=3, rng=rng, explore=0.3, enough=len(frames))) == len(frames)


def test_a_slow_world_is_built_once_for_each_number_of_envs_and_plays_the_same():
    built = []

    class Slow(type(WORLD)):
        slow_start = True

        def build(self, **settings):
            built.append(settings["num_envs"])
            return super().build(**settings)

    world, agent = kept(Slow(max_leg=4, limit=9)), make_agent()
    assert isinstance(world, Kept)
    assert kept(WORLD) is WORLD
    for episodes in (20, 20, 5):
        found = evaluate(
            agent, world, episodes=episodes, rng=Rng(0, "evaluate"), device=CPU, threads=1, explore=0.3
        )
        assert found.lists() == measure(episodes=episodes, agent=agent).lists()
    assert built == [20, 5]
