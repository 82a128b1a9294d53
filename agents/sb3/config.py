"""Settings of the bridge, and which of Stable-Baselines3's own may be given."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Union

import torch

from marl.config import convert
from marl.errors import FieldError, MarlError, require
from marl.rng import Rng
from marl.types import Agent, Env, EnvSpec

if TYPE_CHECKING:
    from marl.agents.sb3.loop import Sb3Loop
    from marl.agents.sb3.team import Sb3Team

# Not the user's to give: what the run sets itself, a memory without time-outs, and noise that depends on the
# state (its samples would not be the policy's when the team acts outside SB3's own rollouts).
_OURS = {"seed", "verbose", "stats_window_size", "_init_setup_model"}
_OURS |= {"optimize_memory_usage", "use_sde", "sde_sample_freq"}
_SHARES = {"gamma", "gae_lambda", "tau", "exploration_fraction"}
_SHARES |= {"exploration_initial_eps", "exploration_final_eps"}
_LOWEST = {"learning_starts": 0, "gradient_steps": -1}  # of other whole numbers: 1


def import_sb3() -> ModuleType:
    """The package.

    Raises:
        MarlError: it is missing or does not import; one sentence with the command that installs it.
    """
    try:
        import stable_baselines3
    except ImportError as error:
        raise MarlError(
            f"agent=sb3 needs stable-baselines3, which cannot be imported ({error}): "
            "install it with pip install 'marl-suite[sb3]'"
        ) from error
    return stable_baselines3


@dataclass(kw_only=True)
class Config:
    """The bridge. Fields of SB3's constructors go into `kwargs`."""

    algorithm: Literal["PPO", "DQN", "A2C"] = "PPO"  # SB3's class
    hidden: tuple[int, ...] = (64, 64)  # features of the policy's (and critic's) layers, each >= 1; SB3
    agent_ids: bool = True  # one-hot agent id appended to the observation; as our own learners
    # SB3's hyper-parameters by its own names, numbers and booleans. Others keep SB3's defaults, but
    # agents/sb3/team.py adapts n_steps and batch_size of PPO and gradient_steps of DQN to the number of rows.
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for size in self.hidden:
            require(size >= 1, "hidden", self.hidden, "give integers >= 1")
        if self.kwargs:  # a config without them can be read where SB3 is not installed
            self.kwargs = check_kwargs(self.algorithm, self.kwargs)

    @property
    def label(self) -> str:
        return f"sb3_{self.algorithm.lower()}"

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> Sb3Team:
        import_sb3()
        from marl.agents.sb3.team import Sb3Team

        return Sb3Team(spec, self, rng=rng, device=device)


def options(algorithm: str) -> dict[str, Any]:
    """Names and types of the scalar hyper-parameters of one of SB3's classes."""
    out = {}
    for name, parameter in inspect.signature(getattr(import_sb3(), algorithm)).parameters.items():
        hint = parameter.annotation
        kinds = [k for k in typing.get_args(hint) or (hint,) if k in (bool, int, float)]
        if kinds and name not in _OURS:
            out[name] = Union[(*kinds, type(None))] if parameter.default is None else kinds[0]
    return out


def check_kwargs(algorithm: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """SB3's hyper-parameters, with names, types and the ranges that SB3 does not look at checked.

    Raises:
        MarlError: a name that the class does not have, or a value that it cannot use.
    """
    hints = options(algorithm)
    out = {}
    for name, value in given.items():
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(hints))}"
            fix = f"stable-baselines3's {algorithm} has no such setting here; {hint}"
            raise FieldError(f"kwargs.{name}", value, fix)
        out[name] = value = convert(value, hints[name], f"kwargs.{name}")
        if value is None or isinstance(value, bool):
            continue
        low = _LOWEST.get(name, 1 if isinstance(value, int) else 0)
        most = 1 if name in _SHARES else None
        fix = f"give {low} or more" if most is None else "give a number in [0, 1]"
        require(low <= value and (most is None or value <= most), f"kwargs.{name}", value, fix)
    return out


@dataclass(kw_only=True)
class LoopConfig:
    """The loop that agent=sb3 brings; its rollout and update sizes are SB3's own (`agent.kwargs`)."""

    total_steps: int  # team steps over which SB3's schedules (DQN's exploration) run, >= 1; the run's

    def __post_init__(self) -> None:
        require(self.total_steps >= 1, "total_steps", self.total_steps, "give an integer >= 1")

    def build(self, *, env: Env, agent: Agent, rng: Rng) -> Sb3Loop:
        import_sb3()
        from marl.agents.sb3.loop import Sb3Loop
        from marl.agents.sb3.team import Sb3Team

        if not isinstance(agent, Sb3Team):
            raise FieldError("loop", "sb3", "it is for agent=sb3 only; leave loop out to get the agent's own")
        return Sb3Loop(self, env=env, agent=agent, rng=rng)
