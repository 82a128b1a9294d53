"""Robots with D4MORL's rewards: formulas by hand on simulated steps, ends, restarts, resume."""

import sys

import numpy as np
import pytest
import torch

from marl.envs.d4morl import Config
from marl.envs.d4morl.robots import ROBOTS, Motion
from marl.errors import FieldError, MarlError
from marl.rng import Rng

CPU = torch.device("cpu")


def motion(speed=(0.0, 0.0), effort=0.0, qpos=(0.0, 1.25, 0.0, 0.0, 0.0, 0.0)):
    return Motion(
        speed_B2=np.array([speed]),
        effort_B=np.array([effort]),
        qpos_BQ=np.array([qpos]),
        qvel_BV=np.zeros((1, 6)),
    )


@pytest.mark.parametrize(
    ("robot", "given", "wanted"),
    [
        ("ant", {"speed": (2.0, -1.0), "effort": 0.5}, [2.75, -0.25]),
        ("halfcheetah", {"speed": (5.0, 0.0), "effort": 1.5}, [5.0, 3.5]),
        ("halfcheetah", {"speed": (1.0, 0.0), "effort": 6.0}, [2.0, -1.0]),
        ("hopper", {"speed": (2.0, 0.0), "effort": 10.0}, [3.998, 0.998]),
        ("hopper", {"qpos": (0, 1.5, 0, 0, 0, 0)}, [1.0, 4.0]),
        ("hopper_3obj", {"speed": (2.0, 0.0), "effort": 3.0, "qpos": (0, 1.0, 0, 0, 0, 0)}, [4.0, -2.0, 2.0]),
        ("swimmer", {"speed": (0.4, 3.0), "effort": 2.0}, [0.4, 0.0]),
        ("walker2d", {"speed": (1.0, 0.0), "effort": 2.0}, [2.0, 3.0]),
    ],
)
def test_rewards_by_hand(robot, given, wanted):
    assert ROBOTS[robot].reward(motion(**given))[0].tolist() == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("robot", "qpos", "fallen"),
    [
        ("hopper", (0, 0.4, 0, 0, 0, 0), True),
        ("hopper", (0, 0.41, 0, 0, 0, 0), False),
        ("hopper", (0, 1, 0, 0, 1.58, 0), True),
        ("halfcheetah", (0, 0, 0.88, 0, 0, 0), True),
        ("halfcheetah", (0, 0, -0.87, 0, 0, 0), False),
        ("walker2d", (0, 0.8, 0, 0, 0, 0), True),
        ("walker2d", (0, 1.9, 0.99, 0, 0, 0), False),
        ("walker2d", (0, 1.2, -1.0, 0, 0, 0), True),
        ("swimmer", (0, 9, 9, 9, 9, 9), False),
        ("ant", (0, 9, 9, 9, 9, 9), False),
    ],
)
def test_ends_by_hand(robot, qpos, fallen):
    assert bool(ROBOTS[robot].fallen(motion(qpos=qpos))[0]) == fallen


@pytest.mark.parametrize("robot", ROBOTS)
def test_a_batch_steps_resumes_and_does_not_depend_on_its_size(robot):
    pytest.importorskip("mujoco", reason="mujoco is in the extra morl")
    config = Config(robot=robot, limit=12)
    many, few = (config.build(num_envs=B, device=CPU) for B in (3, 2))
    ts, other = many.reset(Rng(4)), few.reset(Rng(4))
    box, g = many.spec.action_spaces[0], torch.Generator().manual_seed(0)
    low, high = torch.tensor(box.low), torch.tensor(box.high)
    if robot.startswith("hopper"):
        assert box.high == (2.0, 2.0, 4.0)
    before = many.qpos_BQ.clone()
    assert float(before.sub(torch.from_numpy(many.model.qpos0)).abs().max()) <= 1e-3
    ended = 0
    for k in range(16):
        if k == 6:
            copy = config.build(num_envs=2, device=CPU)
            copy.load_state_dict(few.state_dict())
            few = copy
        actions = low + (high - low) * torch.rand(3, 1, len(box.low), generator=g)
        ts, other = many.step(actions), few.step(actions[:2])
        for name, value in other.state_dict().items():
            assert torch.equal(ts.state_dict()[name][:2], value), name
        assert ts.reward_BK.shape == (3, len(ROBOTS[robot].objectives))
        if k < 3 and not bool(ts.done_B.any()):
            speed = (many.qpos_BQ[:, 0] - before[:, 0]) / (many.robot.frame_skip * many.model.opt.timestep)
            given = ROBOTS[robot].reward(
                Motion(
                    speed_B2=torch.stack(
                        [speed, (many.qpos_BQ[:, 1] - before[:, 1]) / many._step_s], -1
                    ).numpy(),
                    effort_B=actions[:, 0].double().square().sum(-1).numpy(),
                    qpos_BQ=many.qpos_BQ.numpy(),
                    qvel_BV=many.qvel_BV.numpy(),
                )
            )
            assert torch.allclose(ts.reward_BK, torch.from_numpy(given).float(), atol=1e-5)
        before = many.qpos_BQ.clone()
        ended += int(ts.done_B.sum())
    assert ended >= 3
    assert many.render(0).shape == (360, 360, 3)


def test_weights_make_one_reward_of_the_objectives():
    pytest.importorskip("mujoco", reason="mujoco is in the extra morl")
    vector, one = (
        Config(robot="swimmer", weights=w).build(num_envs=2, device=CPU) for w in ((), (0.25, 2.0))
    )
    assert (vector.spec.reward, one.spec.reward, one.spec.objectives) == ("vector", "team", ())
    assert one.spec.name == "d4morl_swimmer_0.25_2"
    vector.reset(Rng(0))
    assert one.reset(Rng(0)).reward_BK is None
    for k in range(3):
        actions = torch.full((2, 1, 2), 0.3 * k)
        both, single = vector.step(actions), one.step(actions)
        assert torch.equal(both.state_BS, single.state_BS)
        assert torch.allclose(single.reward_B, 0.25 * both.reward_BK[:, 0] + 2 * both.reward_BK[:, 1])


def test_without_mujoco_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MarlError, match=r"pip install 'marl-suite\[morl\]'"):
        Config().build(num_envs=1, device=CPU)


def test_bad_settings_are_refused():
    with pytest.raises(FieldError, match="robot='cat'"):
        Config(robot="cat")
    with pytest.raises(FieldError, match="limit=0"):
        Config(limit=0)
    with pytest.raises(FieldError, match=r"weights=.* one number >= 0 for each of speed, height, or none"):
        Config(weights=(1.0,))
