"""From the words `env.target` and `env.kwargs` to one environment, always as a PettingZoo ParallelEnv."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

import gymnasium
import pettingzoo  # type: ignore[import-untyped]
from pettingzoo.utils.env import AECEnv, ParallelEnv  # type: ignore[import-untyped]

from marl.errors import FieldError

Kind = Literal["pettingzoo", "gymnasium", "mo_gymnasium"]
_FACTORY = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
_MODULE_AND_ID = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(.+)")
_TWO_WAYS = {
    "pettingzoo": "write package.module:factory, where factory() returns a pettingzoo.ParallelEnv, or a "
    "registered id such as butterfly/knights_archers_zombies-v11",
    "gymnasium": "write a registered id such as CartPole-v1, or package.module:factory",
    "mo_gymnasium": "write a registered id such as deep-sea-treasure-v0, or package.module:factory",
}


def check_target(kind: Kind, target: str) -> None:
    """Refuse what cannot be a target, before anything is imported."""
    if not re.fullmatch(r"[^\s:]+(:[^\s:]+)?", target):
        raise FieldError("target", target, _TWO_WAYS[kind])


def open_env(kind: Kind, target: str, kwargs: Mapping[str, Any]) -> ParallelEnv[Any, Any, Any]:
    """Build one environment.

    Raises:
        FieldError: the target does not import, is missing, or makes something else.
        Exception: whatever the factory itself raises.
    """
    made = _factory(target)(**kwargs) if _FACTORY.fullmatch(target) else _registered(kind, target, kwargs)
    if kind == "pettingzoo":
        return _checked_parallel(made, target)
    single = _checked_single(made, target)
    return Single(single) if kind == "gymnasium" else Vector(single, _objectives(single, target))


def _registered(kind: Kind, target: str, kwargs: Mapping[str, Any]) -> Any:
    """An environment by its id; of "module:id" the module, which registers it, is imported first."""
    plugin = _MODULE_AND_ID.fullmatch(target)
    if plugin:
        _module(plugin[1], target)
    name = plugin[2] if plugin else target
    if kind == "mo_gymnasium":
        _import_mo_gymnasium(target)
    try:
        if kind != "pettingzoo":
            return gymnasium.make(name, disable_env_checker=True, **kwargs)
        return pettingzoo.make("parallel", name, **kwargs)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("gymnasium", "pettingzoo"):
            raise
        raise FieldError("env.target", target, f"{_sentence(error)}; {_TWO_WAYS[kind]}") from error


def _import_mo_gymnasium(target: str) -> None:
    """Register MO-Gymnasium's environments."""
    try:
        import mo_gymnasium  # noqa: F401
    except ImportError as error:
        fix = f"MO-Gymnasium cannot be imported ({error}): install it with pip install 'marl-suite[morl]'"
        raise FieldError("env.target", target, fix) from error


def _factory(target: str) -> Callable[..., Any]:
    match = _FACTORY.fullmatch(target)
    assert match is not None  # check_target
    factory = getattr(_module(match[1], target), match[2], None)
    if not callable(factory):
        raise FieldError("env.target", target, f"{match[1]} has no function or class {match[2]}")
    # A trusted module has imported others: os.system would be in reach of a stored config.
    home = str(getattr(factory, "__module__", None) or "").split(".")[0]
    if home in sys.stdlib_module_names and not isinstance(factory, functools.partial):
        raise FieldError("env.target", target, f"{match[2]} belongs to Python's own {home}: name a factory")
    return factory


def _module(name: str, target: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            fix = f"there is no module {error.name}; install its package or put its folder into PYTHONPATH"
            raise FieldError("env.target", target, fix) from error
        raise FieldError("env.target", target, f"importing {name} failed: {_sentence(error)}") from error
    except Exception as error:
        failed = f"importing {name} failed: {type(error).__name__}: {_sentence(error)}"
        raise FieldError("env.target", target, failed) from error


def _sentence(error: Exception) -> str:
    """What it says, without the list of everything that is registered."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first.partition(". Available")[0].rstrip(".")[:200]


def _checked_parallel(made: Any, target: str) -> ParallelEnv[Any, Any, Any]:
    if isinstance(made, ParallelEnv):
        return made
    if isinstance(made, AECEnv):
        fix = (
            "it makes an AECEnv, whose agents move in turn; let a factory of yours return "
            "pettingzoo.utils.conversions.aec_to_parallel(env)"
        )
    elif isinstance(made, gymnasium.Env):
        fix = "it makes a gymnasium.Env; use env=gymnasium"
    else:
        fix = f"it makes a {type(made).__name__}, not a pettingzoo.ParallelEnv"
    raise FieldError("env.target", target, fix)


def _checked_single(made: Any, target: str) -> gymnasium.Env[Any, Any]:
    if isinstance(made, gymnasium.Env):
        return made
    fix = f"it makes a {type(made).__name__}, not a gymnasium.Env"
    if isinstance(made, ParallelEnv):
        fix = "it makes a pettingzoo.ParallelEnv; use env=pettingzoo"
    raise FieldError("env.target", target, fix)


def _objectives(env: gymnasium.Env[Any, Any], target: str) -> int:
    """Length of the rewards, which MO-Gymnasium's environments tell by `reward_space`."""
    space = getattr(env.unwrapped, "reward_space", None)
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1 or not space.shape[0]:
        fix = f"its reward_space is {space}, not a Box of one dimension; use env=gymnasium for one reward"
        raise FieldError("env.target", target, fix)
    return int(space.shape[0])


class Single(ParallelEnv[str, Any, Any]):
    """A single-agent environment as a team of one, called "agent"."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self.env, self.metadata, self.render_mode = env, env.metadata, env.render_mode
        self.possible_agents = ["agent"]
        self.agents: list[str] = []
        self.spec = env.spec

    @property
    def unwrapped(self) -> Any:
        return self.env.unwrapped

    def observation_space(self, agent: str) -> gymnasium.Space[Any]:
        return self.env.observation_space

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        return self.env.action_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        obs, info = self.env.reset(seed=seed, options=options)
        self.agents = ["agent"]
        return {"agent": obs}, {"agent": info}

    def step(self, actions: dict[str, Any]) -> Any:
        obs, *rest = self.env.step(actions["agent"])
        reward, terminated, truncated, info = rest
        if terminated or truncated:
            self.agents = []
        return tuple({"agent": value} for value in (obs, reward, terminated, truncated, info))

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()


class Vector(Single):
    """The same with a vector of rewards, `objectives` of them."""

    def __init__(self, env: gymnasium.Env[Any, Any], objectives: int) -> None:
        super().__init__(env)
        self.objectives = objectives
