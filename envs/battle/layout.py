"""Sizes and names of observation, state and actions: SMAC's layout, feature by feature.

Observation of an agent: moves | enemies | allies | own; state: allies | enemies | last actions.
The order of features is the one of oxwhirl/smac d6aab33 (SMACv2 577ab5a for own position and cone).
An agent's `enemy_k.attackable` is its availability of action attack_base + k: on a medivac that is
the healing of ally k, as in SMAC.
"""

from __future__ import annotations

from marl.envs.battle.config import Config
from marl.envs.battle.tables import LOOKS, Tables
from marl.types import Discrete, EnvSpec, Slice

_MOVES = ("north", "south", "east", "west")
PATHING, HEIGHTS = 8, 9  # sample points around an agent


def own_position(config: Config, tables: Tables) -> bool:
    """Whether the observation holds the agent's own place."""
    if config.obs_own_position is None:
        # CHOICE on scouted maps, which nobody could tell each other about otherwise
        return tables.map.random_teams or tables.map.scouts > 0
    return config.obs_own_position


class _Writer:
    """Collects slices one after the other."""

    def __init__(self) -> None:
        self.slices: list[Slice] = []
        self.size = 0

    def add(self, name: str, width: int, kind: str, low: float = 0.0, high: float = 1.0) -> None:
        if width:
            piece = Slice(name=name, start=self.size, stop=self.size + width, low=low, high=high, kind=kind)  # type: ignore[arg-type]
            self.slices.append(piece)
            self.size += width


def _unit(out: _Writer, name: str, first: str, shields: int, type_bits: int) -> None:
    out.add(f"{name}.{first}", 1, "binary")
    out.add(f"{name}.distance", 1, "real")
    out.add(f"{name}.dx", 1, "real", low=-1.0)
    out.add(f"{name}.dy", 1, "real", low=-1.0)
    out.add(f"{name}.health", 1, "real")
    out.add(f"{name}.shield", shields, "real")
    out.add(f"{name}.type", type_bits, "onehot")


def obs_slices(config: Config, tables: Tables) -> tuple[Slice, ...]:
    """Every observation feature by name, in order; the same for all unit types."""
    scenario, out = tables.map, _Writer()
    for name in _MOVES:
        out.add(f"move.{name}", 1, "binary")
    out.add("pathing", PATHING if config.obs_pathing else 0, "binary")
    out.add("height", HEIGHTS if config.obs_height else 0, "real")
    for k in range(scenario.n_enemies):
        _unit(out, f"enemy_{k}", "attackable", scenario.enemy_shields, scenario.type_bits)
    for k in range(scenario.n_allies - 1):
        _unit(out, f"ally_{k}", "visible", scenario.ally_shields, scenario.type_bits)
        out.add(f"ally_{k}.last_action", tables.n_actions if config.obs_last_action else 0, "onehot")
    out.add("own.health", 1, "real")
    out.add("own.shield", scenario.ally_shields, "real")
    if own_position(config, tables):
        out.add("own.x", 1, "real")
        out.add("own.y", 1, "real")
    out.add("own.facing", 2 if config.cone else 0, "real", low=-1.0)
    out.add("own.type", scenario.type_bits, "onehot")
    out.add("timestep", int(config.obs_timestep), "real")
    return tuple(out.slices)


def state_size(config: Config, tables: Tables) -> int:
    """Features of the global state."""
    scenario = tables.map
    ally = 4 + scenario.ally_shields + scenario.type_bits + (2 if config.cone else 0)
    enemy = 3 + scenario.enemy_shields + scenario.type_bits
    last = scenario.n_allies * tables.n_actions if config.state_last_action else 0
    return scenario.n_allies * ally + scenario.n_enemies * enemy + last + int(config.state_timestep)


def action_names(tables: Tables) -> tuple[str, ...]:
    """Names of the actions; a medivac's `attack_k` heals ally k."""
    looks = tuple(f"look_{k * 360 // LOOKS}" for k in range(LOOKS)) if tables.cone else ()
    attacks = tuple(f"attack_{k}" for k in range(tables.map.n_enemies))
    return ("no_op", "stop", *_MOVES, *looks, *attacks)


def spec(config: Config, tables: Tables) -> EnvSpec:
    """What the world promises an agent. On random teams every agent's type is "unit"."""
    scenario = tables.map
    if scenario.random_teams:
        types = ("unit",) * scenario.n_allies
    else:
        types = tuple(name for name, count in scenario.allies for _ in range(count))
    slices = obs_slices(config, tables)
    return EnvSpec(
        name=f"battle/{scenario.name}",
        agents=tuple(f"agent_{i}" for i in range(scenario.n_allies)),
        agent_types=types,
        obs_size=slices[-1].stop,
        state_size=state_size(config, tables),
        action_spaces=(Discrete(n=tables.n_actions),) * scenario.n_allies,
        action_names=action_names(tables),
        obs_slices={name: slices for name in dict.fromkeys(types)},
        reward="team",
        episode_limit=scenario.limit,
    )
