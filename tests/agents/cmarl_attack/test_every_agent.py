"""Every shipped agent on every native world is attacked for a few steps, or refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from marl import compose, config
from marl.agents.cmarl_attack import Config
from marl.agents.cmarl_attack.choose import has_critic, has_mixer
from marl.agents.cmarl_attack.team import Attacked
from marl.config import RunConfig
from marl.errors import MarlError
from marl.evaluate import measuring_link
from marl.rng import Rng
from marl.robust.perturbation import Budget
from marl.rollout import Rollout

CPU = torch.device("cpu")
WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "battle": ("battle", {"map": "3m"}),
    "matrix_game": ("matrix_game", {}),
    "relay_game": ("relay_game", {}),
    "predator_prey": ("predator_prey", {"level": "easy"}),
    "predator_prey_continuous": ("predator_prey_continuous", {}),
    "traffic_junction": ("traffic_junction", {"level": "easy"}),
    "navigation": ("navigation", {}),
    "navigation, continuous actions": ("navigation", {"actions": "continuous"}),
    "momdp": ("momdp", {"world": "four_rooms"}),
}
OFFLINE = ("bc", "decision_transformer", "fairdice")
STEPS = {"traffic_junction": 6}  # no car is there before
CONTINUOUS = "has continuous actions: this attack forces one of several discrete ones"
SMALL = {
    "sb3": {"hidden": [8, 8]},
    "decision_transformer": {},
    "fairdice": {"hidden": 8},
    "bc": {"hidden": 8},
}


def expected(agent: str, world: str) -> str:
    """Words of the sentence that refuses, or nothing."""
    if world == "momdp":
        return "" if agent in OFFLINE else "has a vector reward"
    if world == "navigation, continuous actions":
        talks_or_values = agent not in ("ippo", "mappo", "sb3", *OFFLINE)
        return "has continuous actions" if talks_or_values else CONTINUOUS
    return ""


def part(group: str, name: str, settings: dict[str, Any]) -> Any:
    """One component by the name of its file."""
    return config.make(compose.read_option(group, name) | settings, where=group)


class _Cfg:
    """What an attack reads of a run's config."""

    def __init__(self, env: Any, agent: Any) -> None:
        self.env, self.agent, self.threads, self.trust = env, agent, 1, ()


def play(agent: str, world: str) -> float:
    """Two steps of every way to attack; the number of attacked steps."""
    env_config = part("env", *WORLDS[world])
    env = env_config.build(num_envs=2, device=CPU, threads=1)
    made = part("agent", agent, SMALL.get(agent, {"hidden": 8}))
    team = made.build(spec=env.spec, rng=Rng(0).child("agent"), device=CPU)
    cfg: RunConfig = _Cfg(env_config, made)  # type: ignore[assignment]
    ways = [("random", force) for force in ("control", "fgsm", "itfgsm", "pgd", "jsma", "djsma")]
    ways.append(("local_worst", "pgd"))
    if has_mixer(team) or has_critic(team):
        ways.append(("mixer_worst", "control"))
    attacked = 0.0
    for choose, force in ways:
        settings: dict[str, Any] = {"agents": tuple(range(env.spec.n_agents))}
        settings |= {"budget": Budget(linf=0.2)} if force != "control" else {}
        settings |= {"iterations": 2} if force not in ("control", "fgsm") else {}
        settings |= {"thetas": (0.2,)} if force == "djsma" else {}
        attack = Attacked(Config(choose=choose, force=force, **settings), team, cfg)  # type: ignore[arg-type]
        rollout = Rollout(env, attack, Rng(1), link=measuring_link(None, CPU))
        attack.attach(env)
        for _ in range(STEPS.get(world, 2)):
            act, _ = rollout.step(0.0)
            attacked += float(act.extras["attack.attacked"].sum())
            most_B = 0.2 * act.extras["attack.attacked"] + 1e-5
            assert bool((act.extras["attack.linf"] <= most_B).all())
            assert (force == "control") <= (float(act.extras["attack.l1"].sum()) == 0)
    return attacked


@pytest.mark.parametrize("agent", compose.options("agent"))
def test_every_agent_is_attacked_on_every_native_world(agent: str) -> None:
    if agent == "sb3":
        pytest.importorskip("stable_baselines3")
    for world in WORLDS:
        words = expected(agent, world)
        if words:
            with pytest.raises(MarlError) as error:
                play(agent, world)
            assert words in str(error.value), world
            assert "\n" not in str(error.value)
        else:
            assert play(agent, world) > 0, world
