"""agent=sb3 where stable-baselines3 is not installed."""

import sys

import pytest
import torch

from marl.agents.sb3 import Config, LoopConfig
from marl.envs import matrix_game
from marl.errors import MarlError
from marl.rng import Rng

CPU = torch.device("cpu")


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    env = matrix_game.Config().build(num_envs=1, device=CPU)
    config = Config()  # a stored config can be read
    with pytest.raises(MarlError, match=r"pip install 'marl-suite\[sb3\]'"):
        config.build(spec=env.spec, rng=Rng(0), device=CPU)
    with pytest.raises(MarlError, match=r"pip install 'marl-suite\[sb3\]'"):
        LoopConfig(total_steps=1).build(env=env, agent=None, rng=Rng(0))
