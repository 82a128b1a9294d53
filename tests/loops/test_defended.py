"""Every defence resumes bit for bit: what it draws, counts and has learned is part of a checkpoint."""

import pytest

from marl.agents import ic3net, ippo, iql, tmc
from marl.envs.navigation import Config as Navigation
from marl.loops import BatchConfig, ExploreConfig, OffPolicyConfig, OnPolicyConfig, UpdatesConfig
from marl.replay import MemoryConfig
from marl.robust.config import Ablation, Adversarial, Align, Byzantine, MessageDropout, Smooth

DEFENCES = {
    "adversarial": Adversarial(epsilon=0.3, ramp=100, probability=0.7),
    "random": Byzantine(action="random"),
    "worst": Byzantine(action="worst"),
    "learned": Byzantine(action="learned", probability=0.8, budget=2, batch=8, memory=20, hidden=8),
    "smooth": Smooth(iterations=1),
    "align": Align(iterations=1, rows=16),
    "message_dropout": MessageDropout(probability=0.4),
    "ablation": Ablation(),
}
WORLD = Navigation(n_agents=3, limit=8)
MESSAGES = ("message_dropout", "ablation")
OFF_POLICY = OffPolicyConfig(
    memory=MemoryConfig(capacity=40),
    batch=BatchConfig(sequences=3),
    updates=UpdatesConfig(ratio=0.5, per="step"),
    explore=ExploreConfig(steps=200),
)


@pytest.mark.parametrize("name", DEFENCES)
@pytest.mark.parametrize("family", ["values", "policies", "talkers"])
def test_a_defended_team_resumes_bit_for_bit(family, name, check_resume):
    defence = DEFENCES[name]
    if family == "values":
        module, loop, k = (tmc if name in MESSAGES else iql), OFF_POLICY, 20
    else:
        if family == "policies" and name in MESSAGES:
            pytest.skip("policies of agents that do not talk")
        module, loop, k = (ippo if family == "policies" else ic3net), OnPolicyConfig(rollout_steps=7), 3
    extra = {"epochs": 1} if family == "policies" else {}
    state, whole = check_resume(loop, WORLD, module.Config(hidden=8, defence=defence, **extra), k)
    assert whole.updates > 0
    assert int(state["rollout"]["timestep"]["t_B"].max()) > 0, "the break must fall mid-episode"
    if name == "learned":
        assert state["rollout"]["defence"]["written"] > 20, "the attacker's memory must have wrapped"
        assert state["rollout"]["defence"]["updates"] > 0
