"""The junctions: roads by hand, a plain-Python twin beside the batch, the curriculum, the contract."""

import json
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from pettingzoo.utils.conversions import parallel_to_aec

from marl import report, train
from marl.compose import compose
from marl.envs.traffic_junction import LEVELS, Config, roads
from marl.errors import FieldError
from marl.evaluate import for_evaluation
from marl.pettingzoo import parallel
from marl.rng import Rng

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PettingZoo's tests import one of its own old games
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, render_test

CPU = torch.device("cpu")
NOW = {"curriculum_start": 0, "curriculum_end": 0}


def make(B=3, **settings):
    env = Config(**settings).build(num_envs=B, device=CPU)
    return env, env.reset(Rng(0))


def random_actions(env, k):
    generator = torch.Generator().manual_seed(k)
    return (torch.rand(env.num_envs, env.spec.n_agents, generator=generator) < 0.3).long()


# Roads


def test_lengths_of_all_routes():
    one, other = [18, 17, 27, 9, 19, 26, 20], [18, 25, 19, 17, 16, 26, 11]
    assert [len(p) for p in roads("easy").routes] == [7, 7]
    assert [len(p) for p in roads("medium").routes] == 4 * [14, 13, 15]
    lengths = [len(p) for p in roads("hard").routes]
    # Seen from where it comes in, a driver meets either the far crossing's turns or the near one's.
    assert [lengths[7 * p : 7 * p + 7] for p in range(8)] == [
        one, other, other, one, other, one, one, other
    ]  # fmt: skip


def test_routes_by_hand():
    down, right = [(r, 3) for r in range(7)], [(3, c) for c in range(7)]
    assert list(map(list, roads("easy").routes)) == [down, right]
    medium = roads("medium").routes
    assert list(medium[1]) == [(r, 6) for r in range(7)] + [
        (6, c) for c in range(5, -1, -1)
    ]  # top, right turn
    assert list(medium[2]) == [(r, 6) for r in range(8)] + [(7, c) for c in range(7, 14)]  # top, left turn
    assert list(medium[3]) == [(r, 7) for r in range(13, -1, -1)]  # bottom, straight
    assert list(medium[8]) == [(7, c) for c in range(8)] + [(r, 7) for r in range(6, -1, -1)]  # left, left
    hard = roads("hard").routes  # from (0, 4): straight on, then left
    assert list(hard[2]) == [(r, 4) for r in range(14)] + [(13, c) for c in range(5, 18)]
    # from (0, 12): right, then right again
    assert list(hard[11]) == [(r, 12) for r in range(5)] + [(4, c) for c in range(11, 4, -1)] + [
        (r, 5) for r in range(3, -1, -1)
    ]


@pytest.mark.parametrize("level", ["medium", "hard"])
def test_all_drive_on_the_right_and_out(level):
    """Every step keeps to its lane's direction; routes start at their point and end on the edge."""
    net, D = roads(level), LEVELS[level].size
    lanes = {6: -1, 7: 1} if level == "medium" else {4: -1, 5: 1, 12: -1, 13: 1}  # rows: +1 is eastwards
    for r, path in enumerate(net.routes):
        assert path[0] == LEVELS[level].points[r // net.per_point]
        assert {0, D - 1} & set(path[-1])
        assert len(set(path)) == len(path)
        for (r0, c0), (r1, c1) in pairwise(path):
            if r0 == r1:
                assert c1 - c0 == lanes[r0]
            else:
                assert (c0, r1 - r0) == (c1, -lanes[c0])
    assert len(set(net.routes)) == len(net.routes)


def one_hot_numbers(level):
    """Numbers of the road cells, painted road by road onto a grid."""
    spans = {"easy": [3], "medium": [6], "hard": [4, 12]}[level]
    D, width = LEVELS[level].size, 1 if level == "easy" else 2
    grid, start = np.full((D, D), -1), 0
    for axis in (0, 1):
        for span in spans:
            part = grid[span : span + width] if axis == 0 else grid[:, span : span + width]
            part[:] = np.arange(start, start + part.size).reshape(part.shape)
            start += part.size
    return grid


@pytest.mark.parametrize(("level", "B", "cells"), [("easy", 12, 13), ("medium", 56, 52), ("hard", 144, 128)])
def test_every_place_has_its_own_one_hot(level, B, cells):
    net, grid = roads(level), one_hot_numbers(level)
    assert (net.codes, len(net.cells)) == (B, cells)
    assert {cell: grid[cell] for cell in net.cells} == dict(zip(net.cells, net.numbers, strict=True))
    assert (grid >= 0).sum() == cells
    assert len({*net.numbers, net.outside}) == cells + 1  # the outside is no road cell's number
    assert max(*net.numbers, net.outside) < B + 2  # the last feature is the count of cars


@pytest.mark.parametrize(
    ("level", "vision", "size"),
    [
        ("easy", 0, 17), ("medium", 0, 61), ("hard", 0, 149),
        ("easy", 1, 137), ("medium", 1, 533), ("hard", 1, 1325),
    ],
)  # fmt: skip
def test_sizes_of_observations(level, vision, size):
    env, ts = make(2, level=level, vision=vision)
    assert ts.obs_BNO.shape == (2, env.spec.n_agents, size)
    assert ts.state_BS.shape == (2, env.spec.state_size)
    slices = env.spec.obs_slices["car"]
    assert slices[0].start == 0
    assert slices[-1].stop == size
    assert all(a.stop == b.start for a, b in pairwise(slices))
    assert len({s.name for s in slices}) == len(slices)


# Rules: one env in plain Python


class Twin:
    """One junction with a dict per car; fed with the same random bits as row b of a batch."""

    def __init__(self, config, b, B):
        self.c, self.net, self.level = config, roads(config.level), LEVELS[config.level]
        self.row, self.B, self.age, self.episode = b, B, 0, 0
        self.key = Rng(0).stream("traffic", B)
        self.grid = one_hot_numbers(config.level)
        self.begin()

    def begin(self):
        self.cars, self.t, self.crashes, self.through = {}, 0, 0, 0

    def draws(self):
        P, N = len(self.level.points), self.level.cars
        episode, t = (torch.full((self.B,), x) for x in (self.episode, self.t))
        bits = self.key.fold(episode).fold(t).bits(P + 2 * N)[self.row].tolist()
        unit = [((x % 2**64) >> 11) / 2**53 for x in bits]
        return unit[:P], bits[P : P + N], unit[P + N :]

    def rate(self):
        start, end = self.c.curriculum_start, self.c.curriculum_end
        part = min(1, max(0, (self.age * self.B - start) / (end - start))) if end else 1
        return self.c.rates[0] + part * (self.c.rates[1] - self.c.rates[0])

    def cell(self, car):
        return self.net.routes[car["route"]][car["way"]]

    def step(self, actions):
        left = set()
        for n, car in list(self.cars.items()):
            car["wait"] += 1
            car["last"] = actions[n]
            car["way"] += actions[n] == 0
            if car["way"] == len(self.net.routes[car["route"]]) - (self.c.rules == "commnet"):
                del self.cars[n]
                left.add(n)
        come, keys, choices = self.draws()
        free = sorted((n for n in range(self.level.cars) if n not in self.cars), key=keys.__getitem__)
        for point, u in enumerate(come):
            if not free:
                break
            if u < self.rate():
                n = free.pop(0)
                route = point * self.net.per_point + int(choices[n] * self.net.per_point)
                self.cars[n] = {"route": route, "way": 0, "wait": 0, "last": 0}
        self.t, self.age = self.t + 1, self.age + 1
        cells = [self.cell(car) for car in self.cars.values()]
        hit = {n for n, car in self.cars.items() if cells.count(self.cell(car)) > 1}
        self.crashes, self.through = self.crashes + len(hit), self.through + len(left)
        price = {"ic3net": 10, "commnet": 5}[self.c.rules]
        rewards = [0.0] * len(keys)
        for n, car in self.cars.items():
            rewards[n] = -0.01 * car["wait"] - price * (n in hit)
        done = self.t == self.c.steps
        seen = self.observe()
        out = rewards, done, left, (self.crashes, self.through), seen
        if done:
            self.episode += 1
            self.begin()
        return out

    def observe(self):
        v, V = self.c.vision, self.net.codes + 3
        obs = np.zeros((self.level.cars, 2 + (2 * v + 1) ** 2 * V), np.float32)
        cells = [self.cell(car) for car in self.cars.values()]
        for n, car in self.cars.items():
            obs[n, :2] = car["last"], np.float32(car["route"]) / np.float32(len(self.net.routes) - 1)
            row, column = self.cell(car)
            at = 2
            for r in range(row - v, row + v + 1):
                for c in range(column - v, column + v + 1):
                    road = 0 <= r < len(self.grid) and 0 <= c < len(self.grid) and self.grid[r, c] >= 0
                    obs[n, at + (self.grid[r, c] if road else self.net.outside)] = 1
                    obs[n, at + V - 1] = cells.count((r, c))
                    at += V
        return obs


@pytest.mark.parametrize(
    "settings",
    [
        {"level": "easy"},
        {"level": "easy", "vision": 1, "p_start": 0.0, "p_end": 1.0},
        {"level": "medium", "rules": "commnet", "limit": 25, **NOW},
        {"level": "medium", "vision": 1, "p_end": 0.5, "curriculum_start": 20, "curriculum_end": 90},
        {"level": "hard", "p_end": 0.4, "vision": 1, "limit": 30, **NOW},
    ],
)
def test_a_plain_python_twin_says_the_same(settings):
    B, config = 3, Config(**settings)
    env, ts = make(B, **settings)
    twins = [Twin(config, b, B) for b in range(B)]
    counted = torch.zeros(2)
    for k in range(2 * config.steps + 7):
        actions_BN = random_actions(env, k)
        ts = env.step(actions_BN)
        for b, twin in enumerate(twins):
            rewards, done, left, counts, seen = twin.step(actions_BN[b].tolist())
            assert ts.agent_reward_BN[b].tolist() == pytest.approx(rewards, abs=1e-5)
            assert (bool(ts.truncated_B[b]), bool(ts.terminated_B[b])) == (done, False)
            assert set(ts.info["left"][b].nonzero().flatten().tolist()) == left
            assert (int(ts.info["crashes"][b]), int(ts.info["throughput"][b])) == counts
            assert bool(ts.info["success"][b]) == (counts[0] == 0)
            assert np.array_equal(ts.final_obs_BNO[b].numpy(), seen)
            assert np.array_equal(ts.obs_BNO[b].numpy(), twin.observe())
            assert set(ts.alive_BN[b].nonzero().flatten().tolist()) == set(twin.cars)
            assert int(ts.t_B[b]) == twin.t
            counted += torch.tensor(counts)
    assert (counted > 0).all() or settings.get("p_start") == 0.0


def one_car(level="easy", route=0, way=0, slot=2, **settings):
    """A world of one env without arrivals that holds one car."""
    env, _ = make(1, level=level, p_start=0.0, p_end=0.0, **NOW, **settings)
    place(env, slot, route, way)
    return env


def place(env, slot, route, way):
    env.alive_BN[0, slot], env.route_BN[0, slot], env.way_BN[0, slot] = True, route, way


def act(env, **brakes):
    """Everyone gasses but the slots in `brakes`."""
    return env.step(torch.tensor([[int(f"n{n}" in brakes) for n in range(env.spec.n_agents)]]))


def test_one_car_by_hand():
    """Row 3 of the easy grid: two steps from the edge; waits 1, 2, 3; leaves for nothing."""
    env = one_car(route=1, way=5)
    ts = act(env, n2=1)
    assert ts.agent_reward_BN[0].tolist() == pytest.approx([0, 0, -0.01, 0, 0])
    assert ts.obs_BNO[0, 2].nonzero().flatten().tolist() == [
        0,
        1,
        2 + 5,
        16,
    ]  # braked, route 1 of 0..1, cell 5
    assert ts.obs_BNO[0, 2, 16] == 1  # it counts itself
    ts = act(env)
    assert ts.agent_reward_BN[0, 2] == pytest.approx(-0.02)
    assert ts.obs_BNO[0, 2].nonzero().flatten().tolist() == [1, 2 + 6, 16]
    assert ts.alive_BN[0].tolist() == [False, False, True, False, False]
    assert ts.avail_BNA[0].tolist() == [[True, False]] * 2 + [[True, True]] + [[True, False]] * 2
    ts = act(env)  # gas on the last cell
    assert not ts.alive_BN.any()
    assert ts.info["left"][0].tolist() == [False, False, True, False, False]
    assert (ts.agent_reward_BN == 0).all()
    assert (ts.obs_BNO == 0).all()
    assert (ts.state_BS == 0).all()
    assert int(ts.info["throughput"]) == 1


def test_commnet_cars_vanish_on_their_last_cell():
    env = one_car(route=1, way=5, rules="commnet")
    assert act(env).info["left"][0, 2]


def test_a_crash_by_hand():
    """Two cars meet on the easy crossing, stay, and go on: 10 each for each step on one cell."""
    env = one_car(route=0, way=2, slot=0)
    place(env, 4, 1, 2)
    ts = act(env)
    assert ts.agent_reward_BN[0].tolist() == pytest.approx([-10.01, 0, 0, 0, -10.01])
    assert ts.obs_BNO[0, 0, 2 + 10] == 1  # the crossing keeps the later number
    assert ts.obs_BNO[0, 0, 16] == 2
    ts = act(env, n0=1)  # one goes on
    assert ts.agent_reward_BN[0].tolist() == pytest.approx([-0.02, 0, 0, 0, -0.02])
    assert (int(ts.info["crashes"]), bool(ts.info["success"])) == (2, False)


def test_state_by_hand():
    env = one_car(level="medium", route=3, way=13, slot=9)  # bottom to top, on its last cell (0, 7)
    ts = act(env, n9=1)
    cars = ts.state_BS[0, :70].view(10, 7)
    assert cars[:9].eq(0).all()
    assert cars[9].tolist() == pytest.approx([1, 0, 7 / 13, 3 / 11, 13 / 14, 1 / 40, 1])
    assert ts.state_BS[0, 70:].nonzero().flatten().tolist() == [1]  # the second road cell of row 0


def test_a_slot_that_is_taken_again_starts_afresh():
    """p = 1 on one route length: cars that leave are replaced in the same step."""
    env, ts = make(50, level="easy", p_end=1.0, **NOW)
    again = 0
    for k in range(19):
        ts = env.step(torch.zeros(50, 5, dtype=torch.int64) if k % 3 else random_actions(env, k))
        new = ts.info["left"] & ts.alive_BN
        assert (env.way_BN[new] == 0).all()
        assert (env.wait_BN[new] == 0).all()
        assert (ts.obs_BNO[new][:, 0] == 0).all()  # last action: gas
        again += int(new.sum())
    assert again > 20


def test_always_brake_crashes_at_entries_alone():
    env, ts = make(40, level="medium", **NOW)
    entries = {path[0] for path in env.roads.routes}
    for _ in range(env.config.steps - 1):
        ts = env.step(torch.ones(40, 10, dtype=torch.int64))
        assert (env.way_BN == 0).all()
    there = {env.roads.routes[r][0] for r in env.route_BN[env.alive_BN].tolist()}
    assert there == entries
    assert not ts.info["success"].any()
    assert (ts.info["throughput"] == 0).all()


def test_arrivals_are_as_often_as_p_says_and_slots_and_routes_are_uniform():
    B, p = 4000, 0.3
    env, _ = make(B, level="medium", p_end=p, **NOW)
    ts = env.step(torch.zeros(B, 10, dtype=torch.int64))
    arrived = ts.alive_BN.sum(1).double()
    assert abs(float(arrived.mean()) - 4 * p) < 4 * (4 * p * (1 - p) / B) ** 0.5
    n = int(arrived.sum())
    for counts, cases in ((ts.alive_BN.sum(0), 10), (env.route_BN[env.alive_BN].bincount(minlength=12), 12)):
        sigma = (n / cases * (1 - 1 / cases)) ** 0.5
        assert len(counts) == cases
        assert ((counts - n / cases).abs() < 4.5 * sigma).all()


# Curriculum


def test_the_rate_is_exact_at_both_ends():
    for level, (low, high) in {"easy": (0.1, 0.3), "medium": (0.05, 0.2), "hard": (0.02, 0.05)}.items():
        config = Config(level=level, curriculum_start=100, curriculum_end=300)
        rate = config.rate(torch.tensor([0, 100, 150, 200, 300, 10**12])).tolist()
        assert (rate[0], rate[1], rate[4], rate[5]) == (low, low, high, high)
        assert rate[2:4] == pytest.approx([low + (high - low) / 4, (low + high) / 2])
        assert for_evaluation(config).rate(torch.tensor([0, 150])).tolist() == [high, high]


def test_the_world_counts_team_steps_over_episodes_and_through_a_state():
    settings = {"level": "easy", "curriculum_start": 40, "curriculum_end": 440}
    env, _ = make(4, **settings)
    rates = [env.step(random_actions(env, k)).info["arrival_rate"] for k in range(60)]
    copy, _ = make(4, **settings)
    copy.load_state_dict(env.state_dict())
    rates += [copy.step(random_actions(env, k)).info["arrival_rate"] for k in range(60, 120)]
    expected = [0.1 + 0.2 * min(1, max(0, (4 * k - 40) / 400)) for k in range(120)]
    assert torch.stack(rates)[:, 0].tolist() == pytest.approx(expected)
    assert (torch.stack(rates).diff(dim=1) == 0).all()


def test_runs_are_measured_and_filmed_at_the_final_rate(tmp_path, monkeypatch):
    filmed = []
    monkeypatch.setattr(report, "record", lambda agent, env, **_: filmed.append(env.config) or [env.render()])
    words = ["agent=ippo", "env=traffic_junction/easy", "logger=none", "total_steps=320", "num_envs=4"]
    words += [
        "threads=1",
        "evaluation.every_steps=160",
        "evaluation.episodes=4",
        "evaluation.final_episodes=4",
    ]
    cfg = compose([*words, f"runs_dir={tmp_path}"])
    assert cfg.run_id.startswith("ippo-traffic_junction_easy-s0-")
    out = train.run(cfg)
    assert out["final"]["arrival_rate"] == [[0.3] * 4]
    curve = [json.loads(x) for x in (cfg.folder / "evaluations.jsonl").read_text().splitlines()]
    assert all(row["arrival_rate"] == [0.3] * 4 for row in curve)
    assert [c.rates for c in filmed] == [(0.1, 0.3)]
    assert (filmed[0].curriculum_start, filmed[0].curriculum_end) == (0, 0)
    assert cfg.env.curriculum_end == 1_250_000  # the run itself trains with it
    assert parallel(cfg.env).env.config.curriculum_end == 0


# The contract


def test_rows_do_not_depend_on_the_batch():
    many, few = make(7, **NOW)[0], make(3, **NOW)[0]
    for k in range(45):
        actions = random_actions(many, k)
        ts, other = many.step(actions), few.step(actions[:3])
        for name, value in other.state_dict().items():
            assert torch.equal(ts.state_dict()[name][:3], value), name


def test_a_state_goes_on_bit_for_bit():
    env, _ = make(5, level="medium", vision=1)
    for k in range(50):
        env.step(random_actions(env, k))
    copy = Config(level="medium", vision=1).build(num_envs=5, device=CPU)
    copy.load_state_dict(env.state_dict())
    for k in range(50, 100):
        ts, other = env.step(random_actions(env, k)), copy.step(random_actions(env, k))
        for name, value in other.state_dict().items():
            assert torch.equal(ts.state_dict()[name], value), name


def test_an_end_is_shown_and_the_next_episode_has_no_cars():
    """Same-step reset; the final entries are what a longer episode goes on from."""
    short, long = make(6, limit=9, p_end=0.6, **NOW)[0], make(6, limit=20, p_end=0.6, **NOW)[0]
    for k in range(9):
        actions = random_actions(short, k)
        ts, other = short.step(actions), long.step(actions)
    assert ts.truncated_B.all()
    assert torch.equal(ts.final_obs_BNO, other.obs_BNO)
    assert torch.equal(ts.final_avail_BNA, other.avail_BNA)
    assert torch.equal(ts.agent_reward_BN, other.agent_reward_BN)
    assert ts.final_obs_BNO.any()
    assert not ts.obs_BNO.any()
    assert not ts.state_BS.any()
    assert not ts.alive_BN.any()
    assert ts.avail_BNA[..., 0].all()
    assert not ts.avail_BNA[..., 1].any()
    assert (ts.t_B == 0).all()
    for k in range(11):
        other = long.step(random_actions(long, k))
    assert other.truncated_B.all()


def test_it_runs_where_its_device_is():
    """The meta device refuses to mix with the CPU, as a GPU would."""
    env = Config(level="medium", vision=1).build(num_envs=4, device=torch.device("meta"))
    actions_BN = torch.zeros(4, 10, dtype=torch.int64, device="meta")
    left_BN = env._move(actions_BN)
    env._arrive(env.config.rate(env.steps_B))
    view = env._look()
    assert {t.device.type for t in (left_BN, env.alive_BN, env.route_BN, *view)} == {"meta"}


def test_pettingzoo_api():
    parallel_api_test(parallel(Config(level="easy")), num_cycles=60)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # advice: masks, numbered names, zeros of who is not there
        api_test(parallel_to_aec(parallel(Config(level="easy"))), num_cycles=60)


def test_pettingzoo_seed_and_render():
    parallel_seed_test(lambda: parallel(Config(level="medium")), num_cycles=20)
    render_test(lambda render_mode: parallel_to_aec(parallel(Config(), render_mode=render_mode)))


def test_pettingzoo_observations_lie_in_their_spaces():
    env = parallel(Config(level="medium", vision=1, p_end=1.0))
    env.reset(seed=3)
    rng = np.random.default_rng(0)
    while env.agents:
        actions = {a: int(env._avail_NA[i, 1] and rng.random() < 0.3) for i, a in enumerate(env.agents)}
        observations, *_ = env.step(actions)
        for agent, seen in observations.items():
            assert env.observation_space(agent).contains(seen), agent


@pytest.mark.parametrize("level", LEVELS)
def test_can_be_drawn(level):
    env, _ = make(2, level=level, p_end=1.0, **NOW)
    empty = env.render(1)
    assert empty.dtype == np.uint8
    assert all(side % 2 == 0 for side in empty.shape[:2])
    env.step(random_actions(env, 0))
    first = env.render(1)
    env.step(random_actions(env, 1))
    assert first.shape == empty.shape
    assert not np.array_equal(empty, first)
    assert not np.array_equal(first, env.render(1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("level", "huge"), ("vision", -1), ("vision", 7), ("rules", "mine"), ("limit", 0), ("p_start", 1.5),
        ("p_end", -0.1), ("curriculum_start", -1), ("curriculum_end", 250_000), ("curriculum_end", 0),
    ],
)  # fmt: skip
def test_bad_settings_name_the_field(field, value):
    with pytest.raises(FieldError, match=rf"^{field}="):
        Config(**{field: value})
