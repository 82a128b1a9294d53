"""Whole battles: perfect and random play, replays, kiting, determinism, saving."""

import pytest
import torch

from marl.envs.battle import Config, scripted
from marl.rng import Rng

CPU = torch.device("cpu")


def build(name="3m", num_envs=64, **options):
    return Config(map=name, **options).build(num_envs=num_envs, device=CPU, threads=1)


def first_episodes(env, choose, seed=0):
    """Play until every env has ended an episode: wins (B,), returns (B,), actions (T, B, N)."""
    ts = env.reset(Rng(seed))
    open_B = torch.ones(env.num_envs, dtype=torch.bool)
    won_B, return_B, actions = torch.zeros_like(open_B), torch.zeros(env.num_envs), []
    while open_B.any():
        actions.append(choose(ts, len(actions)))
        ts = env.step(actions[-1])
        return_B += ts.reward_B * open_B
        won_B |= open_B & ts.done_B & ts.info["success"]
        open_B &= ~ts.done_B
    return won_B, return_B, torch.stack(actions)


def follow(name, env, seed=0):
    policy = scripted.make(name, env, Rng(seed))
    return lambda ts, t: policy(ts)


@pytest.mark.parametrize("form", ["torch", "native"])
def test_a_perfect_kill_returns_twenty(form):
    """Focus fire on 3m without regeneration: all hp + 10 a kill + 200, scaled by 365 / 20."""
    env = build(num_envs=32, form=form)
    won_B, return_B, _ = first_episodes(env, follow("focus", env))
    assert won_B.any()
    assert (return_B[won_B] - 20).abs().max() < 1e-4
    assert return_B[~won_B].max() <= (135 + 30) / (365 / 20) + 1e-4  # a draw at best


def test_random_play_wins_under_five_percent():
    env = build(num_envs=512)
    won_B, _, _ = first_episodes(env, follow("random", env))
    assert won_B.float().mean() < 0.05


@pytest.mark.parametrize(("name", "policy"), [("3m", "focus"), ("2s3z", "focus"), ("8m", "focus")])
def test_replaying_a_won_episode_wins_less_than_half(name, policy):
    env = build(name, num_envs=128)
    won_B, _, actions_TBN = first_episodes(env, follow(policy, env))
    assert won_B.float().mean() > 0.5  # the policy that looks does win
    rates = []
    for b in won_B.nonzero()[:8, 0].tolist():
        recorded_TN = actions_TBN[:, b]
        replay = build(name, num_envs=128)
        last = len(recorded_TN) - 1
        again_B, _, _ = first_episodes(
            replay, lambda ts, t, r=recorded_TN, k=last: r[min(t, k)].repeat(128, 1), seed=1
        )
        rates.append(again_B.float().mean().item())
    assert max(rates) < 0.5


def test_without_jitter_a_replay_wins_every_time():
    """The counterpart: the jitter is what stops replays."""
    env = build(num_envs=4, spawn_jitter=0, cooldown_jitter=0)
    won_B, _, _ = first_episodes(env, follow("focus", env))
    assert won_B.all()


def test_stalkers_can_kite_zealots():
    """3s_vs_5z: nobody wins standing still, shooting and running wins often (4.13 against 3.15 units/s)."""
    env = build("3s_vs_5z", num_envs=128)
    standing, _, _ = first_episodes(env, follow("focus", env))
    env = build("3s_vs_5z", num_envs=128)
    kiting, _, _ = first_episodes(env, follow("kiting", env))
    assert standing.float().mean() < 0.05
    assert kiting.float().mean() > 0.4


def rollout(env, steps, seed=0, first=None):
    """TimeSteps of a fixed random policy whose numbers do not depend on the batch."""
    ts = env.reset(Rng(seed)) if first is None else first
    stream = Rng(5).stream("policy", env.num_envs)
    out = [ts]
    for _ in range(steps):
        k = env.state["t_B"] + 1000 * env.state["episode_B"]
        u = stream.fold(k).uniform(*ts.avail_BNA.shape[1:]) + 0.01
        ts = env.step((u * ts.avail_BNA).argmax(-1))
        out.append(ts)
    return out


def same(a, b, rows=slice(None)):
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k][rows], right[k][rows]) for k in left)


@pytest.mark.parametrize("form", ["torch", "native"])
@pytest.mark.parametrize("name", ["3m", "MMM", "v2/protoss_5v5"])
def test_the_same_seed_gives_the_same_battles(name, form):
    steps = 25 if form == "torch" else 120
    one, two = (rollout(build(name, 8, form=form), steps) for _ in range(2))
    assert all(same(a, b) for a, b in zip(one, two, strict=True))
    other = rollout(build(name, 8, form=form), 1, seed=1)
    assert not same(one[0], other[0])


@pytest.mark.parametrize("name", ["3m", "v2/zerg_10v11"])
def test_a_row_does_not_depend_on_how_many_run_beside_it(name):
    few, many = rollout(build(name, 1), 100), rollout(build(name, 37), 100)
    for a, b in zip(few, many, strict=True):
        for key, value in a.state_dict().items():
            assert torch.equal(value[:1], b.state_dict()[key][:1]), key
    assert not torch.equal(many[0].state_BS[0], many[0].state_BS[1])  # rows differ from each other


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_a_bit(threads):
    """A batch large enough that the work is really shared."""
    one = Config(map="3s5z").build(num_envs=600, device=CPU, threads=1)
    more = Config(map="3s5z").build(num_envs=600, device=CPU, threads=threads)
    assert more.threads == threads
    assert all(same(a, b) for a, b in zip(rollout(one, 10), rollout(more, 10), strict=True))


@pytest.mark.parametrize("form", ["torch", "native"])
def test_a_saved_state_goes_on_bit_for_bit(form):
    env = build("MMM", 4, form=form)
    rollout(env, 20)
    env.state["t_B"][0] = env.map.limit - 3  # an episode ends after the load
    saved, ts = env.state_dict(), env.observe()
    ahead = rollout(env, 10, first=ts)
    fresh = build("MMM", 4, form=form)
    fresh.load_state_dict(saved)
    behind = rollout(fresh, 10, first=ts)
    assert any(a.done_B.any() for a in ahead[1:])
    assert all(same(a, b) for a, b in zip(ahead, behind, strict=True))
    assert torch.equal(saved["t_B"][:1], torch.tensor([env.map.limit - 3]))  # a copy, not a view


@pytest.mark.parametrize("form", ["torch", "native"])
def test_outputs_are_fresh_and_final_fields_are_of_the_old_episode(form):
    env = build("3m", 16, form=form)
    steps = rollout(env, 40)
    kept = [{k: v.clone() for k, v in ts.state_dict().items()} for ts in steps]
    rollout(env, 3, first=steps[-1])
    assert all(
        torch.equal(ts.state_dict()[k], v)
        for ts, copy in zip(steps, kept, strict=True)
        for k, v in copy.items()
    )
    seen = 0
    for ts in steps[1:]:
        done = ts.done_B
        assert torch.equal(ts.t_B == 0, done)
        assert torch.equal(ts.final_obs_BNO[~done], ts.obs_BNO[~done])
        lost = done & ~ts.info["success"]
        assert ts.alive_BN[done].all()  # the new episode
        dead = ts.info["dead_allies"] == 3
        assert not ts.final_obs_BNO[lost & dead].any()  # the old one: everybody dead
        seen += int(done.sum())
    assert seen > 0


def test_it_keeps_the_protocol_of_an_env():
    env = build()
    ts = env.reset(Rng(0))
    assert ts.final_obs_BNO is None
    assert ts.obs_BNO.dtype == ts.state_BS.dtype == ts.reward_B.dtype == torch.float32
    assert ts.avail_BNA.any(-1).all()
    picture = env.render(0)
    assert picture.dtype.name == "uint8"
    assert picture.shape[-1] == 3
