"""The C++ form equals the torch form: one step from 100,000 sampled states of several sizes."""

import pytest
import torch

from marl.envs.navigation import Config
from marl.rng import Rng

CPU = torch.device("cpu")
# agents, envs, steps, options; 17 envs leave lanes of the last group of worlds empty
CASES = [
    (3, 2048, 34, {}),
    (3, 512, 20, {"actions": "continuous", "local_ratio": 0.2}),
    (6, 512, 40, {"terminate_on_success": True, "limit": 10_000}),
    (2, 512, 20, {"terminate_on_success": True, "limit": 7}),
    (1, 128, 20, {"local_ratio": 1.0}),
    (4, 17, 30, {"actions": "continuous"}),
    (12, 64, 10, {}),
]


def choose(env, generator):
    shape = env.num_envs, env.spec.n_agents
    if env.spec.discrete:
        return torch.randint(-1, 7, shape, generator=generator)  # numbers that are no action, too
    return torch.rand(*shape, 5, generator=generator) * 1.5 - 0.25


def crowd(state, k):
    """Move some agents onto others and onto landmarks: contacts and covered landmarks are rare otherwise."""
    N = state["pos_BN2"].shape[1]
    offset = torch.tensor([0.3 * (k % 5) / 4, 0.02])
    state["pos_BN2"][1::4, -1] = state["pos_BN2"][1::4, 0] + offset
    state["pos_BN2"][2::4] = state["landmark_BN2"][2::4] + 0.02 * (k % 7)
    if k == 3:
        state["pos_BN2"][5::8, N // 2] = state["pos_BN2"][5::8, 0]  # the very same place
    return state


def compare(ours, oracle):
    assert ours.keys() == oracle.keys()
    for key, value in ours.items():
        other = oracle[key]
        assert (value.dtype, value.shape) == (other.dtype, other.shape), key
        if value.is_floating_point():
            torch.testing.assert_close(
                value, other, rtol=1e-5, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}"
            )
        else:
            assert torch.equal(value, other), key


def test_there_are_enough_states():
    assert sum(envs * steps for _, envs, steps, _ in CASES) >= 100_000


@pytest.mark.parametrize(("agents", "envs", "steps", "options"), CASES)
def test_one_step_is_equal(agents, envs, steps, options):
    generator = torch.Generator().manual_seed(0)
    native, oracle = (
        Config(n_agents=agents, form=form, **options).build(num_envs=envs, device=CPU, threads=2)
        for form in ("native", "torch")
    )
    compare(native.reset(Rng(3)).state_dict(), oracle.reset(Rng(3)).state_dict())
    compare(native.state, oracle.state)
    ended = touched = covered = 0
    for k in range(steps):
        if k == 5:  # the step limit in some, while others go on
            native.state["t_B"][::5] = native.config.limit - 1
        oracle.load_state_dict(crowd(native.state, k))
        actions = choose(native, generator)
        ts = native.step(actions)
        compare(ts.state_dict(), oracle.step(actions).state_dict())
        compare(native.state, oracle.state)
        ended += int(ts.done_B.sum())
        touched += int(ts.info["collisions"].sum())
        covered += int(ts.info["covered"].sum())
    assert ended > 0  # resets were compared, too
    assert covered > 0
    assert agents == 1 or touched > 0


def test_threads_change_nothing():
    many, one = (Config(form="native").build(num_envs=9000, device=CPU, threads=t) for t in (2, 1))
    many.reset(Rng(0))
    one.reset(Rng(0))
    for k in range(3):
        actions = torch.randint(5, (9000, 3), generator=torch.Generator().manual_seed(k))
        a, b = many.step(actions).state_dict(), one.step(actions).state_dict()
        assert all(torch.equal(a[name], b[name]) for name in a)
