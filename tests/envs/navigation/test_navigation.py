"""Hand-computed physics, rewards and endings; streams, states, refusals, pictures."""

import math
import warnings

import numpy as np
import pytest
import torch
from pettingzoo.utils.conversions import parallel_to_aec

from marl.envs.navigation import Config
from marl.envs.navigation.torch_form import contact_force
from marl.errors import FieldError, MarlError
from marl.pettingzoo import parallel
from marl.rng import Rng

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PettingZoo's tests import one of its own old games
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, render_test

CPU = torch.device("cpu")
FAR = [[-5.0, -5.0], [0.0, 5.0], [5.0, -5.0]]  # out of each other's reach


def place(env, pos, landmarks=None, vel=None):
    """The same places in every env; t stays."""
    state = env.state_dict()
    for name, value in (("pos_BN2", pos), ("landmark_BN2", landmarks), ("vel_BN2", vel)):
        if value is not None:
            state[name] = torch.tensor(value).expand_as(state[name])
    env.load_state_dict(state)
    return env


def started(build, **options):
    env = build(2, **options)
    env.reset(Rng(0))
    return env


def test_from_rest_under_a_push_to_the_right(build):
    """Positions first, then velocities: p = 0, 0.05, 0.1375 and v = 0.5, 0.875, 1.15625; at most 2."""
    env = place(started(build, limit=100), FAR)
    right = torch.full((2, 3), 2)
    seen = []
    for _ in range(60):
        seen.append(env.step(right).final_obs_BNO[0, 1, :3].tolist())
    speeds, places = [row[0] for row in seen], [row[2] for row in seen]
    assert speeds[:3] == pytest.approx([0.5, 0.875, 1.15625])
    assert places[:3] == pytest.approx([0.0, 0.05, 0.1375])
    assert speeds[-1] == pytest.approx(2.0, abs=1e-4)
    assert all(abs(row[1]) < 1e-30 for row in seen)


@pytest.mark.parametrize("limit", [1, 100])
def test_own_rewards_by_hand(build, limit):
    """Nearest landmarks 0.5, 0.3 and 1 away; the first two agents touch. At an episode's end too."""
    marks = [[0.5, 0.0], [0.0, -1.0], [2.0, 3.0]]
    env = place(started(build, limit=limit, reward="own"), [[0.0, 0.0], [0.2, 0.0], [2.0, 2.0]], marks)
    ts = env.step(torch.zeros(2, 3, dtype=torch.int64))
    assert bool(ts.truncated_B.all()) == (limit == 1)
    assert torch.allclose(ts.agent_reward_BN, torch.tensor([-1.5, -1.3, -1.0]).expand(2, 3), atol=1e-6)
    alone = started(build, n_agents=1, reward="own")
    alone = place(alone, [[0.0, 0.0]], [[0.6, 0.8]])
    assert alone.step(torch.zeros(2, 1, dtype=torch.int64)).agent_reward_BN.tolist() == [[-1.0], [-1.0]]


@pytest.mark.parametrize(
    ("action", "way"),
    [(0, (0, 0)), (1, (-1, 0)), (2, (1, 0)), (3, (0, -1)), (4, (0, 1)), (5, (0, 0)), (-1, (0, 0))],
)
def test_what_the_actions_do(build, action, way):
    ts = place(started(build), FAR).step(torch.full((2, 3), action))
    assert ts.obs_BNO[0, 0, :2].tolist() == pytest.approx([0.5 * way[0], 0.5 * way[1]])


def test_continuous_actions_are_differences_clipped_to_their_box(build):
    env = place(started(build, actions="continuous"), FAR)
    actions = torch.tensor([[9.0, 0.25, 1.0, 0.0, 0.0], [0, 0, 3, 0.5, -2], [1, 1, 1, 1, 1]]).expand(2, 3, 5)
    v = env.step(actions).obs_BNO[0, :, :2]
    torch.testing.assert_close(v, torch.tensor([[0.375, 0.0], [0.5, -0.25], [0.0, 0.0]]))


@pytest.mark.parametrize(
    ("gap", "force"), [(0.30, 0.1 * math.log(2)), (0.25, 5.0), (0.10, 20.0), (0.35, 0.0)]
)
def test_contact_force_by_hand(build, gap, force):
    """100 k log(1 + exp((0.3 - d)/k)) along the line between the two, and nothing on the third."""
    assert force == pytest.approx(0.0693, abs=1e-4) or gap != 0.30
    way = torch.tensor([0.6, 0.8])
    pos = [[0.0, 0.0], (gap * way).tolist(), [5.0, 5.0]]
    ours = contact_force(torch.tensor([pos]))[0]
    want = torch.stack([-force * way, force * way, torch.zeros(2)])
    torch.testing.assert_close(ours, want, rtol=0, atol=2e-5)
    ts = place(started(build), pos).step(torch.zeros(2, 3, dtype=torch.int64))
    torch.testing.assert_close(ts.obs_BNO[1, :, :2], 0.1 * want, rtol=0, atol=2e-6)


def test_contacts_conserve_momentum(build):
    """Without pushes the sum of velocities shrinks by a quarter a step, whatever the contacts do."""
    env = build(64, n_agents=5)
    env.reset(Rng(0))
    state = env.state_dict()
    state["pos_BN2"] = 0.3 * state["pos_BN2"]
    state["vel_BN2"] = state["landmark_BN2"].clone()
    env.load_state_dict(state)
    stay = torch.zeros(64, 5, dtype=torch.int64)
    moved = 0.0
    for k in range(1, 8):
        ts = env.step(stay)
        total = ts.final_obs_BNO[..., :2].sum(1)
        torch.testing.assert_close(total, 0.75**k * state["vel_BN2"].sum(1), rtol=1e-5, atol=1e-4)
        moved += float((ts.final_obs_BNO[..., :2] - 0.75**k * state["vel_BN2"]).abs().max())
    assert moved > 10  # there were contacts


def test_agents_in_the_same_place_do_not_become_nan(build):
    ts = place(started(build), [[0.5, 0.5]] * 3).step(torch.zeros(2, 3, dtype=torch.int64))
    assert ts.obs_BNO.isfinite().all()
    assert ts.info["collisions"].tolist() == [3, 3]


def test_reward_by_hand(build):
    """D = 0.5 + 1 + 2: each landmark to its nearest agent; agents 0 and 1 touch, 2 is alone."""
    pos = [[0.0, 0.0], [0.2, 0.0], [10.0, 0.0]]
    landmarks = [[0.0, 0.5], [0.2, -1.0], [10.0, 2.0]]
    env = place(started(build, local_ratio=0.25), pos, landmarks)
    ts = env.step(torch.zeros(2, 3, dtype=torch.int64))  # from rest: positions as they were
    assert ts.agent_reward_BN[0].tolist() == pytest.approx([-0.75 * 3.5 - 0.25] * 2 + [-0.75 * 3.5])
    assert ts.reward_B is None
    assert ts.info["collisions"].tolist() == [1, 1]
    ts = env.step(torch.zeros(2, 3, dtype=torch.int64))  # the contact has parted them, the count stays
    assert ts.info["collisions"].tolist() == [1, 1]
    assert ts.agent_reward_BN[0, 0] == ts.agent_reward_BN[0, 2]


def test_observation_entry_by_entry(build):
    pos, landmarks = [[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]], [[0.5, 0.25], [-1.0, -2.0], [3.0, 5.0]]
    vel = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
    ts = place(started(build), pos, landmarks, vel).observe()
    want = [0.3, 0.4, 4, 8, -3.5, -7.75, -5, -10, -1, -3, -3, -6, 12, 24, 0, 0, 0, 0]
    assert ts.obs_BNO[1, 1].tolist() == pytest.approx(want)
    assert ts.state_BS[1].tolist() == ts.obs_BNO[1].flatten().tolist()
    assert ts.avail_BNA.all()


def test_one_agent_has_nobody_to_see(build):
    ts = started(build, n_agents=1).step(torch.ones(2, 1, dtype=torch.int64))
    assert ts.obs_BNO.shape == (2, 1, 6)
    assert ts.state_BS.shape == (2, 6)


def covering(build, **options):
    """Env 0 covers all landmarks when its agents stay, env 1 all but one: 0.11 from it."""
    env = place(started(build, **options), FAR, FAR)
    state = env.state_dict()
    state["pos_BN2"] = state["pos_BN2"].clone()
    state["pos_BN2"][0, 1, 0] += 0.09
    state["pos_BN2"][1, 1, 0] += 0.11
    env.load_state_dict(state)
    return env


def test_success_is_every_landmark_covered_at_the_end(build):
    env = covering(build, limit=2)
    stay = torch.zeros(2, 3, dtype=torch.int64)
    ts = env.step(stay)
    assert ts.info["covered"].tolist() == [3, 2]
    assert not ts.done_B.any()
    ts = env.step(stay)
    assert ts.truncated_B.tolist() == [True, True]
    assert not ts.terminated_B.any()
    assert ts.info["success"].tolist() == [True, False]
    assert ts.info["collisions"].tolist() == [0, 0]


def test_terminate_on_success_ends_only_covered_worlds_and_the_limit_comes_first(build):
    stay = torch.zeros(2, 3, dtype=torch.int64)
    env = covering(build, terminate_on_success=True)
    ts = env.step(stay)
    assert ts.terminated_B.tolist() == [True, False]
    assert not ts.truncated_B.any()
    assert ts.t_B.tolist() == [0, 1]
    assert env.state["episode_B"].tolist() == [1, 0]
    assert not torch.equal(ts.final_obs_BNO[0], ts.obs_BNO[0])  # the next episode has begun
    assert torch.equal(ts.final_obs_BNO[1], ts.obs_BNO[1])
    assert ts.obs_BNO[0, :, :2].eq(0).all()
    ts = covering(build, terminate_on_success=True, limit=1).step(stay)
    assert ts.truncated_B.all()
    assert not ts.terminated_B.any()


def test_places_are_uniform_in_the_square(build):
    ts = build(4000).reset(Rng(1))
    places = torch.cat([ts.obs_BNO[:, 0, 2:4], ts.obs_BNO[:, 0, 2:4] + ts.obs_BNO[:, 0, 4:6]])
    assert -1 <= float(places.min()) < -0.99
    assert 0.99 < float(places.max()) < 1.001
    assert places.mean(0).abs().max() < 0.05
    assert float(places.var()) == pytest.approx(1 / 3, abs=0.02)


def test_rows_do_not_depend_on_the_batch_and_states_go_on(build):
    many, few = build(19, limit=5), build(3, limit=5)
    many.reset(Rng(4))
    few.reset(Rng(4))
    generator = torch.Generator().manual_seed(0)
    for k in range(23):
        if k == 12:
            copy = build(3, limit=5)
            copy.load_state_dict(few.state_dict())
            few = copy
        actions = torch.randint(5, (19, 3), generator=generator)
        ts, other = many.step(actions), few.step(actions[:3])
        for name, value in other.state_dict().items():
            assert torch.equal(ts.state_dict()[name][:3], value), name
    first = many.state["pos_BN2"][:, 0]
    assert len(first.unique(dim=0)) == 19  # envs differ from each other


def test_a_timestep_is_not_changed_by_later_steps(build):
    env = build(4, limit=3)
    env.reset(Rng(0))
    kept = []
    for k in range(8):
        ts = env.step(torch.full((4, 3), k % 5))
        kept.append((ts, {name: value.clone() for name, value in ts.state_dict().items()}))
    for ts, copy in kept:
        assert all(torch.equal(value, copy[name]) for name, value in ts.state_dict().items())


def test_no_operation_leaves_the_device():
    """The meta device refuses to mix with the CPU, as a GPU would."""
    meta = torch.device("meta")
    for actions in (torch.ones(4, 3, dtype=torch.int64, device=meta), torch.ones(4, 3, 5, device=meta)):
        kind = "continuous" if actions.is_floating_point() else "discrete"
        env = Config(actions=kind, terminate_on_success=True).build(num_envs=4, device=meta)
        outputs = env.reset(Rng(0)).state_dict() | env.step(actions).state_dict() | env.state
        assert {tensor.device.type for tensor in outputs.values()} == {"meta"}
    with pytest.raises(MarlError, match="form='native' cannot run on meta"):
        Config(form="native").build(num_envs=4, device=meta)


def test_without_a_compiler_auto_falls_back_with_one_line(monkeypatch, caplog):
    from marl.envs.navigation import env as module
    from marl.native import NoCompiler

    def missing(*args):
        raise NoCompiler("no C++ compiler found")

    monkeypatch.setattr(module, "Native", missing)
    env = Config().build(num_envs=2, device=CPU)
    assert [record.message for record in caplog.records] == ["no C++ compiler found"]
    assert env.reset(Rng(0)).obs_BNO.shape == (2, 3, 18)
    with pytest.raises(MarlError, match="form='native'"):
        Config(form="native").build(num_envs=2, device=CPU)


def test_actions_of_the_wrong_kind_are_refused(build):
    env = started(build)
    for wrong in (torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 3), torch.zeros(2, 3, 5)):
        with pytest.raises(MarlError, match="actions of shape"):
            env.step(wrong)
    with pytest.raises(MarlError, match="navigation state: vel_BN2"):
        env.load_state_dict({k: v for k, v in env.state_dict().items() if k != "vel_BN2"})


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_agents", 0), ("local_ratio", 1.5), ("limit", 0), ("actions", "real"), ("form", "fast")],
)
def test_bad_settings_name_the_field(field, value):
    with pytest.raises(FieldError, match=rf"^{field}={value!r} "):
        Config(**{field: value})


def test_can_be_drawn():
    env = Config(n_agents=4).build(num_envs=2, device=CPU)
    env.reset(Rng(0))
    first = env.render(1)
    assert first.dtype == np.uint8
    assert first.shape[0] % 2 == first.shape[1] % 2 == 0
    env.step(torch.full((2, 4), 2))
    env.step(torch.full((2, 4), 2))
    assert first.shape == env.render(1).shape
    assert not np.array_equal(first, env.render(1))
    place(env, [[50.0, 0.0], [0.0, 0.0], [0.1, 0.0], [0.0, -9.0]])  # far away, and in contact
    assert env.render(0).shape == first.shape


WORLDS = {"discrete": Config(), "continuous": Config(actions="continuous", n_agents=2)}


@pytest.mark.parametrize("name", WORLDS)
def test_pettingzoo(name):
    parallel_api_test(parallel(WORLDS[name]), num_cycles=100)
    parallel_seed_test(lambda: parallel(WORLDS[name]), num_cycles=20)
    render_test(lambda render_mode: parallel_to_aec(parallel(WORLDS[name], render_mode=render_mode)))


# Its warnings are advice (unbounded observations, numbered names); what it asserts must hold.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", WORLDS)
def test_pettingzoo_turn_based_api(name):
    api_test(parallel_to_aec(parallel(WORLDS[name])), num_cycles=60)
