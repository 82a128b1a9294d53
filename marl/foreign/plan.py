"""What an environment is, read once from one copy of it: the plan that every other copy must share."""

from __future__ import annotations

import dataclasses
import json
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from marl.errors import EnvError
from marl.foreign.load import Vector
from marl.foreign.spaces import Part, parts, size, without_mask

# Where environments say how long an episode may last: metadata or spec, then the environment itself.
_LIMITS = ("max_episode_steps", "max_cycles", "episode_limit")


@dataclass(frozen=True, kw_only=True)
class AgentPlan:
    """One agent: its features and its actions (0 .. actions - 1, or a Box of low and high)."""

    name: str
    parts: tuple[Part, ...]
    actions: int = 0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def features(self) -> int:
        return self.parts[-1].stop if self.parts else 0

    @property
    def width(self) -> int:
        """Number of actions, or dimensions of the Box."""
        return self.actions or len(self.low)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All agents, and the state's size: 0 where the environment has none."""

    agents: tuple[AgentPlan, ...]
    state: int
    limit: int  # the environment's own longest episode; 0: it does not say
    renders: bool  # render() gives RGB pictures
    objectives: int = 0  # length of the reward; 0: it is one number per agent

    @property
    def discrete(self) -> bool:
        return self.agents[0].actions > 0

    @property
    def obs_size(self) -> int:
        return max(a.features for a in self.agents)

    @property
    def n_actions(self) -> int:
        return max(a.width for a in self.agents)

    @property
    def state_size(self) -> int:
        """Features of state(), or of all observations side by side."""
        return self.state or sum(a.features for a in self.agents)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        data = json.loads(text)
        for agent in data["agents"]:
            agent["parts"] = tuple(Part(**part) for part in agent["parts"])
            agent["low"], agent["high"] = tuple(agent["low"]), tuple(agent["high"])
        return cls(**data | {"agents": tuple(AgentPlan(**agent) for agent in data["agents"])})


def space_of(env: Any, kind: str, agent: Any) -> spaces.Space[Any]:
    """The "observation" or "action" space of an agent, by method or by attribute.

    Raises:
        EnvError: there is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PettingZoo warns where the attribute is used
        try:
            space = getattr(env, f"{kind}_space")(agent)
        except (KeyError, AttributeError) as error:
            raise EnvError(f"agent {str(agent)!r} has no {kind}_space") from error
    if not isinstance(space, spaces.Space):
        raise EnvError(f"the {kind}_space of agent {str(agent)!r} is {space!r}: give a gymnasium space")
    return space


def agents_of(env: Any) -> tuple[AgentPlan, ...]:
    """Every possible agent's features and actions.

    Raises:
        EnvError: no agents, a space that cannot be used, or agents of different kinds of actions.
    """
    possible = list(getattr(env, "possible_agents", None) or [])
    if not possible:
        raise EnvError("possible_agents is empty or missing: list every agent that may ever take part")
    names = [str(a) for a in possible]
    if len(set(names)) < len(names):
        raise EnvError(f"possible_agents names an agent twice: {names}")
    agents = tuple(_agent(env, a) for a in possible)
    if len({a.actions > 0 for a in agents}) > 1:
        kinds = ", ".join(f"{a.name}: {'Discrete' if a.actions else 'Box'}" for a in agents)
        raise EnvError(f"agents have different kinds of actions ({kinds}): all must be Discrete or all Box")
    return agents


def _agent(env: Any, agent: Any) -> AgentPlan:
    name, who = str(agent), f"agent {str(agent)!r}"
    seen = without_mask(space_of(env, "observation", agent))
    if size(seen, who) < 1:
        raise EnvError(f"the observation space of {who} is {seen}, which holds no number")
    action = space_of(env, "action", agent)
    if isinstance(action, spaces.Discrete):
        return AgentPlan(name=name, parts=tuple(parts(seen)), actions=int(action.n))
    if (
        not isinstance(action, spaces.Box)
        or not np.issubdtype(action.dtype, np.floating)
        or not action.low.size
    ):
        raise EnvError(
            f"the action space of {who} is {action}: only Discrete and a Box of real numbers can be used; "
            "number the combinations of a MultiDiscrete or Tuple in a wrapper of yours"
        )
    low, high = (tuple(bound.reshape(-1).astype(float).tolist()) for bound in (action.low, action.high))
    return AgentPlan(name=name, parts=tuple(parts(seen)), low=low, high=high)


def read_plan(env: Any) -> Plan:
    """The whole plan; resets the environment, because many have a state only then."""
    agents = agents_of(env)
    env.reset(seed=0)
    return Plan(
        agents=agents,
        state=state_of(env).size,
        limit=_limit(env),
        renders=getattr(env, "render_mode", None) == "rgb_array",
        objectives=env.objectives if isinstance(env, Vector) else 0,
    )


def state_of(env: Any) -> np.ndarray:
    """env.state() as a flat array; empty where the environment has none."""
    try:
        return np.asarray(env.state()).reshape(-1)
    except (NotImplementedError, AttributeError):
        return np.zeros(0, np.float32)


def _limit(env: Any) -> int:
    inner = getattr(env, "unwrapped", env)
    metadata = getattr(env, "metadata", None) or {}
    said = [getattr(getattr(env, "spec", None), "max_episode_steps", None)]
    said += [metadata.get(name) for name in _LIMITS] + [getattr(inner, name, None) for name in _LIMITS]
    whole = (value for value in said if isinstance(value, int | np.integer) and not isinstance(value, bool))
    return next((int(value) for value in whole if value >= 1), 0)
