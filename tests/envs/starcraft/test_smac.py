"""SMAC's own environment behind the same contract, with a small module of the same interface."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from marl.envs.starcraft import Config, StarCraft, check, imports
from marl.envs.starcraft.env import players
from marl.envs.starcraft.smac_game import SmacGame
from marl.errors import FieldError, MarlError
from marl.rng import Rng

CPU = torch.device("cpu")


class StarCraft2Env:
    """As smac.env.StarCraft2Env: three marines walk; agent 0 dies at step 2, the fight ends at step `end`."""

    made: list = []  # noqa: RUF012
    end, won, crash_at = 4, True, None

    def __init__(self, **options):
        self.options, self.actions, self.closed, self.episode = options, [], False, 0
        self.map_x, self.map_y = 32, 48
        self.made.append(self)

    def get_env_info(self):
        return {"n_agents": 3, "n_actions": 9, "obs_shape": 30, "state_shape": 48, "episode_limit": 60}

    def reset(self):
        self.t, self.episode = 0, self.episode + 1
        units = [
            SimpleNamespace(pos=SimpleNamespace(x=8.0 + u, y=9.0), health=45, health_max=45) for u in range(6)
        ]
        self.agents, self.enemies = dict(enumerate(units[:3])), dict(enumerate(units[3:]))
        return self.get_obs(), self.get_state()

    def get_obs(self):
        return [np.full(30, 100 * self.episode + 10 * i + self.t, np.float32) for i in range(3)]

    def get_state(self):
        return np.full(48, 1000 * self.episode + self.t, np.float32)

    def get_avail_actions(self):
        dead = [1] + [0] * 8
        return [dead if i == 0 and self.t >= 2 else [0, 1, 1, 1, 1, 1, 0, 0, 1] for i in range(3)]

    def step(self, actions):
        for able, action in zip(self.get_avail_actions(), actions, strict=True):
            assert able[action]  # as SMAC
        self.actions.append(list(actions))
        self.t += 1
        if self.t == self.crash_at:
            return 0, True, {}
        over = self.t == self.end
        info = {"battle_won": over and self.won, "dead_allies": int(self.t >= 2), "dead_enemies": 3 * over}
        if over and not self.won and self.options["continuing_episode"]:
            info["episode_limit"] = True
        return 0.5 * self.t, over, info

    def close(self):
        self.closed = True


@pytest.fixture
def smac(modules, monkeypatch, tmp_path):
    """The module where SMAC would be; the installed game is a folder."""
    package, module = ModuleType("smac"), ModuleType("smac.env")
    fake = type("StarCraft2Env", (StarCraft2Env,), {"made": []})
    package.env, module.StarCraft2Env = module, fake
    monkeypatch.setitem(sys.modules, "smac", package)
    monkeypatch.setitem(sys.modules, "smac.env", module)
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    (tmp_path / "Versions" / "Base75689").mkdir(parents=True)
    maps = tmp_path / "Maps" / "SMAC_Maps"
    maps.mkdir(parents=True)
    (maps / "3m.SC2Map").write_bytes(b"")
    return fake


def test_it_is_used_where_it_is_installed(smac):
    env = Config().build(num_envs=2, device=CPU)
    assert all(isinstance(player, SmacGame) for player in env.players)
    assert "through SMAC's own environment" in check().sentence
    raw = players(Config(engine="pysc2"), 1)
    assert not isinstance(raw[0], SmacGame)


def test_the_package_smac_of_the_index_is_another_one(modules, monkeypatch):
    for module in (
        None,
        ModuleType("smac.env"),
    ):  # SMAC3 has no smac.env; one without the class is none either
        monkeypatch.setitem(sys.modules, "smac", ModuleType("smac"))
        monkeypatch.setitem(sys.modules, "smac.env", module)
        assert imports.find_smac() is None


def test_an_episode(smac):
    env = Config(difficulty="3", game_version="4.10.0").build(num_envs=2, device=CPU)
    ts = env.reset(Rng(0))
    made = smac.made
    assert len(made) == 2
    options = made[0].options
    assert options["seed"] != made[1].options["seed"]
    picked = {k: options[k] for k in ("map_name", "difficulty", "game_version", "step_mul", "reward_sparse")}
    assert picked == {
        "map_name": "3m", "difficulty": "3", "game_version": "4.10.0", "step_mul": 8, "reward_sparse": False,
    }  # fmt: skip
    assert ts.obs_BNO.shape == (2, 3, 30)
    assert ts.obs_BNO.dtype == ts.state_BS.dtype == torch.float32
    assert ts.obs_BNO[0, :, 0].tolist() == [100, 110, 120]
    assert ts.state_BS[1, 0] == 1000
    assert ts.avail_BNA[0, 1].tolist() == [False, True, True, True, True, True, False, False, True]

    go = torch.full((2, 3), 4)
    rewards = []
    for t in range(1, 4):
        ts = env.step(go)
        rewards.append(ts.reward_B.tolist())
        assert ts.alive_BN.tolist() == [[t < 2, True, True]] * 2
        assert not ts.done_B.any()
    assert rewards == [[0.5] * 2, [1.0] * 2, [1.5] * 2]
    assert made[0].actions[2] == [0, 4, 4]  # the dead do nothing
    ts = env.step(torch.tensor([[0, 6, 1], [0, 1, 2]]))  # 6 is not available: stop
    assert made[0].actions[3] == [0, 1, 1]
    assert ts.terminated_B.all()
    assert not ts.truncated_B.any()
    assert ts.info["success"].all()
    assert ts.info["dead_enemies"].tolist() == [3, 3]
    assert ts.reward_B.tolist() == [2.0, 2.0]
    assert ts.final_obs_BNO[0, :, 0].tolist() == [104, 114, 124]  # of the old episode
    assert ts.obs_BNO[0, :, 0].tolist() == [200, 210, 220]  # of the next
    assert ts.t_B.tolist() == [0, 0]
    assert ts.alive_BN.all()
    assert env.render().shape[2] == 3
    env.close()
    assert all(each.closed for each in made)


def test_the_limit_and_a_crash_truncate(smac):
    smac.won, smac.crash_at = False, None
    env = Config(continuing_episode=True).build(num_envs=1, device=CPU)
    env.reset(Rng(0))
    ends = [env.step(torch.full((1, 3), 4)) for _ in range(4)]
    assert bool(ends[-1].truncated_B)
    assert not ends[-1].terminated_B
    assert not ends[-1].info["success"]
    smac.crash_at = 3
    env.reset(Rng(0))
    ends = [env.step(torch.full((1, 3), 4)) for _ in range(3)]
    assert bool(ends[-1].truncated_B)
    assert float(ends[-1].reward_B) == 0
    assert ends[-1].final_obs_BNO[0, 1, 0] == 112  # what was seen last
    env.close()


def test_rewards_that_smac_has(smac):
    kinds = {"abs": (False, True, True), "signed": (False, False, True), "sparse": (True, True, False)}
    for kind, expected in kinds.items():
        env = Config(reward=kind).build(num_envs=1, device=CPU)
        env.reset(Rng(0))
        given = smac.made[-1].options
        assert (given["reward_sparse"], given["reward_only_positive"], given["reward_scale"]) == expected
        env.close()
    with pytest.raises(FieldError, match=r"^reward='clamp' .*engine=pysc2"):
        Config(reward="clamp").build(num_envs=1, device=CPU)


def test_another_layout_is_refused(smac):
    smac.get_env_info = lambda self: StarCraft2Env.get_env_info(self) | {"obs_shape": 42}
    env = StarCraft(Config(), players=[SmacGame(Config(), smac, name="env 0")], device=CPU)
    with pytest.raises(MarlError, match="env 0: SMAC's 3m has obs_shape 42, ours 30"):
        env.reset(Rng(0))
    env.close()
