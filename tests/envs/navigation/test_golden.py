"""Observations and rewards are those of mpe2.simple_spread_v3, recorded in mpe2.npz.

experiments/worlds/record_navigation.py made the file and says what is in it.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from marl.rng import Rng

CASES = [(3, "discrete"), (3, "continuous"), (6, "discrete"), (6, "continuous")]


def golden(agents, actions):
    with np.load(Path(__file__).with_name("mpe2.npz"), allow_pickle=False) as file:
        prefix = f"n{agents}_{actions}/"
        return {k.removeprefix(prefix): torch.from_numpy(file[k]) for k in file.files if k.startswith(prefix)}


def place(env, g, t):
    """Put all envs (one per recorded episode) where the recorded agents were before step t."""
    state = env.state_dict()
    state["pos_BN2"], state["vel_BN2"] = g["pos"][:, t], g["vel"][:, t]
    state["landmark_BN2"] = g["landmark"]
    state["t_B"] = torch.full_like(state["t_B"], t)
    env.load_state_dict(state)


def actions_at(g, t):
    action = g["action"][:, t]
    return action.contiguous() if action.is_floating_point() else action.long()


def alive_at(g, t):
    """Which recorded episodes still ran before step t."""
    return ~(g["terminated"] | g["truncated"])[:, :t].any(1)


def close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("agents", "actions"), CASES)
def test_every_step_from_the_recorded_state(build, agents, actions):
    g = golden(agents, actions)
    env = build(len(g["pos"]), n_agents=agents, actions=actions, terminate_on_success=agents == 3)
    env.reset(Rng(0))
    place(env, g, 0)
    close(env.observe().obs_BNO, g["obs"][:, 0])
    seen = 0
    for t in range(25):
        place(env, g, t)
        ts = env.step(actions_at(g, t))
        runs = alive_at(g, t)
        close(ts.final_obs_BNO[runs], g["obs"][runs, t + 1])
        close(ts.agent_reward_BN[runs], g["reward"][runs, t])
        assert torch.equal(ts.truncated_B[runs], g["truncated"][runs, t])
        if agents == 3:  # only there a covered team ends; all its episodes are recorded so
            covers = g["terminated"].any(1)
            assert torch.equal(ts.terminated_B[runs & covers], g["terminated"][runs & covers, t])
        seen += int(runs.sum())
    assert seen > 25 * len(g["pos"]) // 2


# The longer two agents press on each other, the more a rounding error grows (up to 1.7-fold a step).
@pytest.mark.parametrize(("agents", "actions"), CASES)
def test_whole_episodes_from_the_first_state(build, agents, actions):
    g = golden(agents, actions)
    env = build(len(g["pos"]), n_agents=agents, actions=actions)
    env.reset(Rng(0))
    place(env, g, 0)
    seen = 0
    for t in range(25):
        ts = env.step(actions_at(g, t))
        runs = alive_at(g, t)
        close(ts.final_obs_BNO[runs], g["obs"][runs, t + 1], 1e-3)
        close(ts.agent_reward_BN[runs], g["reward"][runs, t], 1e-3)
        seen += int(runs.sum())
    assert seen > 25 * len(g["pos"]) // 2


def test_the_recording_has_contacts_and_ends():
    """What the comparison is worth: steps with agents in contact, clipped pushes, covered landmarks."""
    for agents, actions in CASES:
        g = golden(agents, actions)
        gap = torch.cdist(g["pos"], g["pos"]) + torch.eye(agents)
        assert (gap < 0.3).any(-1).any(-1).float().mean() > 0.2, (agents, actions)
        assert g["truncated"][:, -1].any()
        assert agents == 6 or g["terminated"].any()
        assert actions == "discrete" or ((g["action"] < 0) | (g["action"] > 1)).any()
    size = Path(__file__).with_name("mpe2.npz").stat().st_size
    assert size < 200_000
