"""Pictures of battles: what stands where has the colours it should have."""

import numpy as np
import pytest
import torch

from marl.canvas import Canvas, caption
from marl.envs.battle import Config, render
from marl.evaluate import record
from marl.rng import Rng
from marl.types import Act


def units(second_hp=20, **first):
    """3m: two living agents, a fallen one, three enemies, one of them fallen."""
    return [
        ("marine", 10, 16, {"hp": 45, **first}),
        ("marine", 10, 20, {"hp": second_hp}),
        ("marine", 9, 13, {"hp": 0}),
        ("marine", 15, 16, {"hp": 45}),
        ("marine", 15, 20, {"hp": 45}),
        ("marine", 17, 13, {"hp": 0}),
    ]


def pixel(picture, env, x, y, dx=0, dy=0):
    """Colour at a map position (plus pixels), through the picture's own camera."""
    view = render._view(env, 1)
    column = (x - view.west) * view.scale + dx
    row = render._HEAD + render._FIELD - (y - view.south) * view.scale + dy
    return tuple(picture[int(row), int(column)].tolist())


def test_discs_have_their_team_and_the_fallen_a_cross(place):
    env, _ = place("3m", "auto", units(), [-1] * 3)
    picture = env.render(1)
    assert picture.dtype == np.uint8
    assert picture.shape == (640, 768, 3)
    ground = pixel(picture, env, 12.5, 14)
    for x, y, colour in ((10, 16, 0), (10, 20, 0), (15, 16, 1), (15, 20, 1)):
        assert pixel(picture, env, x, y, dy=10) == render._TEAM[colour]  # below the letter
    for x, team in ((9, 0), (17, 1)):
        assert pixel(picture, env, x, 13, dy=10) == ground  # no disc
        blue, red = pixel(picture, env, x, 13)[2], pixel(picture, env, x, 13)[0]
        assert (blue > red) == (team == 0)  # the middle of the cross
        assert max(blue, red) > max(ground)


def test_bars_show_the_fraction(place):
    env, _ = place("3m", "auto", units(second_hp=22.5), [-1] * 3)
    picture = env.render(1)
    top = -int(0.375 * render._view(env, 1).scale) - 4
    full = [pixel(picture, env, 10, 16, dx, top) for dx in (-9, 9)]
    half = [pixel(picture, env, 10, 20, dx, top) for dx in (-9, 9)]
    assert full[0] == full[1] == (0, 205, 60)
    assert half[0][:2] == (230, 205)  # yellow at one half
    assert max(half[1]) < 40  # the rest is dark


def test_a_shot_is_brighter_than_an_aim(place):
    def line(cooldown, target):
        env, _ = place("3m", "auto", units(cooldown=cooldown), [8, 1, 0])
        env.state["t_B"][1] = 5
        env.state["target_BU"][1] = -1
        env.state["target_BU"][1, 0] = target
        return pixel(env.render(1), env, 12.5, 16)

    nothing, aim, shot = line(0.0, -1), line(3.0, 3), line(12.0, 3)
    assert sum(nothing) < sum(aim) < sum(shot)
    assert shot[2] > shot[0]  # of the agents' colour


def test_healing_is_green(place):
    allies = [("marauder", 12, 16, {"hp": 60}), ("marauder", 3, 3, {"hp": 0})]
    allies += [("marine", 3, 3, {"hp": 0})] * 7 + [("medivac", 8, 16, {"hp": 150, "energy": 100})]
    enemies = [("marauder", 20, 16, {"hp": 125}), ("marauder", 3, 3, {"hp": 0})]
    enemies += [("marine", 3, 3, {"hp": 0})] * 7 + [("medivac", 24, 16, {"hp": 0})]
    env, _ = place("MMM", "auto", [*allies, *enemies], [-1] * 10)
    env.state["target_BU"][1] = -1
    env.state["target_BU"][1, 9] = 0
    red, green, blue = pixel(env.render(1), env, 10, 16)
    assert green > red + 50
    assert green > blue + 50


def test_terrain_is_seen(place):
    rows = [("zealot", 10, 16, {"hp": 100})] * 6 + [("zergling", 22, 16, {"hp": 35})] * 24
    env, _ = place("corridor", "auto", rows, [-1] * 6)
    picture = env.render(1)
    assert pixel(picture, env, 16.5, 20.5) == render._ROCK
    assert pixel(picture, env, 16.5, 11.5) == render._ROCK
    passage = pixel(picture, env, 16.5, 16.3)
    assert passage == pixel(picture, env, 12.3, 14.3) != render._ROCK


def test_camera_holds_all_units_and_moves_smoothly():
    rng = np.random.default_rng(0)
    for spread in (0.5, 3.0, 12.0, 32.0):
        pos = (16 + rng.uniform(-spread, spread, (20, 2))).clip(0.4, 31.6).astype(np.float32)
        scale, west, south = render._camera(pos)
        assert render._FIELD / 32 - 1e-6 <= scale <= render._NEAR
        x, y = (pos[:, 0] - west) * scale, (pos[:, 1] - south) * scale
        assert 0 <= x.min() <= x.max() <= render._WIDTH
        assert 0 <= y.min() <= y.max() <= render._FIELD
        moved = np.array(render._camera(pos + rng.uniform(-0.01, 0.01, pos.shape).astype(np.float32)))
        assert np.abs(moved - (scale, west, south)).max() < 0.1
    assert render._camera(np.array([[0.4, 0.4], [31.6, 31.6]], np.float32)) == pytest.approx((18, -16 / 3, 0))


@pytest.mark.parametrize("name", ["2c_vs_64zg", "bane_vs_bane", "2s_vs_1sc", "6h_vs_8z", "v2/protoss_20v23"])
def test_every_unit_can_be_drawn(name):
    env = Config(map=name).build(num_envs=1, device=torch.device("cpu"), threads=1)
    env.reset(Rng(0))
    first = env.render()
    assert np.array_equal(first, env.render())  # drawing changes nothing
    env.step(torch.ones(1, env.spec.n_agents, dtype=torch.int64))
    assert not np.array_equal(first, env.render())


class Stopping:
    """An agent that always stops."""

    def initial_carry(self, rows):
        return {}

    def act(self, ts, carry, *, rng, explore, link=None):
        return Act(actions_BN=ts.avail_BNA.to(torch.int8).argmax(-1), carry=carry)


def test_a_recorded_episode_ends_with_its_outcome():
    env = Config(map="3m").build(num_envs=1, device=torch.device("cpu"), threads=1)
    frames = record(Stopping(), env, episodes=1, rng=Rng(0))
    assert {f.shape for f in frames} == {(640, 768, 3)}
    last = [f for f in frames if np.array_equal(f, frames[-1])]
    before = frames[-len(last) - 1]
    assert len(last) == 8
    assert last[0].mean() < 0.75 * before.mean()  # darker, with text
    assert (last[0] == 255).all(-1).sum() > 1000


def test_caption_fits_small_pictures():
    grey = Canvas(64, 64, (100, 100, 100)).image()
    out = caption(grey, "WON")
    assert out.shape == grey.shape
    assert out[0, 0].tolist() == [50, 50, 50]
    white = np.argwhere((out == 255).all(-1))
    assert white.min() >= 20  # in the middle
    assert white.max() <= 44
