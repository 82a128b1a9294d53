"""Any native world, one copy of it, as a PettingZoo ``ParallelEnv``.

    from marl.envs.battle import Config
    env = marl.pettingzoo.parallel(Config(map="3m"), render_mode="rgb_array")
    observations, infos = env.reset(seed=0)

What PettingZoo leaves open is settled so:

* Observations of worlds with discrete actions are ``{"observation": float32, "action_mask": int8}`` (the
  convention of PettingZoo's classic games); ``infos[agent]["action_mask"]`` is the same mask. Worlds
  with real actions have no mask and give the plain vector.
* Agents stay in ``agents`` until the episode ends for all: a dead one still shares the team's reward,
  and its mask leaves it only the world's no-op. (A list that shrinks would hide that reward.)
* An illegal action is replaced by the agent's first legal one, and ``infos[agent]["illegal_action"]``
  says so, because PettingZoo's own seed test samples without masks.
* ``reset(seed=s)`` starts the same sequence of episodes for the same s; a later ``reset()`` goes on in it.

Reference: Terry et al., "PettingZoo: Gym for Multi-Agent Reinforcement Learning", NeurIPS 2021.
"""

from __future__ import annotations

import secrets
from typing import Any, Literal, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from pettingzoo.utils.env import ParallelEnv  # type: ignore[import-untyped]

from marl.errors import MarlError
from marl.evaluate import EnvConfig, for_evaluation
from marl.rng import Rng
from marl.types import Discrete, Env, EnvSpec, TimeStep

RenderMode = Literal["rgb_array", "human"]
Observation = dict[str, np.ndarray] | np.ndarray
_FPS = 10  # CHOICE: frames per second of the window and of recordings; slow enough to follow a fight


def parallel(env: Env | EnvConfig, *, render_mode: RenderMode | None = None) -> NativeParallelEnv:
    """A native world as a PettingZoo environment.

    Args:
        env: configuration of the world, or the world itself built with num_envs=1. Of a configuration it is
            the world of evaluation (`marl.evaluate.for_evaluation`): a reset would start a curriculum anew.
        render_mode: "rgb_array" makes `render` return a picture, "human" makes it show a window.
    """
    if hasattr(env, "build"):
        env = for_evaluation(cast(EnvConfig, env)).build(num_envs=1, device=torch.device("cpu"), threads=1)
    return NativeParallelEnv(env, render_mode=render_mode)


class NativeParallelEnv(ParallelEnv[str, Any, Any]):
    """See the module's text; made by `parallel`.

    Args:
        env: a world with num_envs 1.
        render_mode: None, "rgb_array" or "human".

    Raises:
        MarlError: the world holds more than one env, or the render mode is unknown.
    """

    def __init__(self, env: Env, *, render_mode: RenderMode | None = None) -> None:
        if env.num_envs != 1:
            raise MarlError(f"num_envs={env.num_envs}: a PettingZoo environment holds one; build it with 1")
        self.metadata: dict[str, Any] = {
            "name": env.spec.name,
            "render_modes": ["rgb_array", "human"],
            "render_fps": _FPS,
            "is_parallelizable": True,
        }
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise MarlError(f"render_mode is {render_mode!r}: use 'rgb_array', 'human' or None")
        self.env, self.spec, self.render_mode = env, env.spec, render_mode
        self.possible_agents = list(env.spec.agents)
        self.agents: list[str] = []
        self.observation_spaces = {a: _observation_space(env.spec, i) for i, a in enumerate(env.spec.agents)}
        self.action_spaces = {a: _action_space(env.spec, i) for i, a in enumerate(env.spec.agents)}
        self.state_space = spaces.Box(-np.inf, np.inf, (env.spec.state_size,), np.float32)
        self._seed: int | None = None
        self._episode = 0
        self._avail_NA = np.zeros((env.spec.n_agents, env.spec.n_actions), bool)
        self._state_S = np.zeros(env.spec.state_size, np.float32)
        self._figure: Any = None

    def observation_space(self, agent: str) -> gymnasium.Space[Any]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        """Start an episode; `options` is accepted as PettingZoo asks and has no effect."""
        if seed is not None or self._seed is None:
            self._seed = secrets.randbits(32) if seed is None else int(seed)
            self._episode = 0
        ts = self.env.reset(Rng(self._seed, "pettingzoo", str(self._episode)))
        self._episode += 1
        self.agents = list(self.possible_agents)
        observations = self._observe(ts.obs_BNO, ts.avail_BNA, ts.state_BS)
        return observations, self._infos(ts, np.zeros(len(self.agents), bool))

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[
        dict[str, Observation], dict[str, Any], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]
    ]:
        """One step of all agents; `actions` names every agent of `agents`.

        Raises:
            MarlError: the episode is over, or an agent's action is missing or out of its space.
        """
        if not self.agents:
            raise MarlError("the episode is over: call reset() before step()")
        agents = self.agents
        actions_N, illegal_N = self._legal(actions)
        ts = self.env.step(torch.from_numpy(actions_N)[None])
        done = bool(ts.done_B[0])
        if done:
            assert ts.final_obs_BNO is not None  # filled after every step (marl.types.TimeStep)
            assert ts.final_state_BS is not None
            assert ts.final_avail_BNA is not None
            observations = self._observe(ts.final_obs_BNO, ts.final_avail_BNA, ts.final_state_BS)
            self.agents = []
        else:
            observations = self._observe(ts.obs_BNO, ts.avail_BNA, ts.state_BS)
        terminated, truncated = bool(ts.terminated_B[0]), bool(ts.truncated_B[0])
        return (
            observations,
            self._rewards(ts),
            dict.fromkeys(agents, terminated),
            dict.fromkeys(agents, truncated),
            self._infos(ts, illegal_N),
        )

    def state(self) -> np.ndarray:
        """Global state for centralised training, float32 (S,); the last one once the episode is over."""
        return self._state_S.copy()

    def render(self) -> np.ndarray | None:
        """The picture (H, W, 3) uint8 in mode "rgb_array"; None, and a window, in mode "human".

        After an episode's last step it shows the start of the next one, which the world has begun by then.
        """
        if self.render_mode is None:
            raise MarlError("render_mode is None: pass render_mode='rgb_array' or 'human' to parallel()")
        frame = self.env.render(0)
        if self.render_mode == "rgb_array":
            return frame
        self._show(frame)
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._figure is not None:
            from matplotlib import pyplot

            pyplot.close(self._figure)
            self._figure = None

    def _legal(self, actions: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Actions as one array, illegal ones replaced; and which were: bool (N,)."""
        spec = self.spec
        illegal_N = np.zeros(spec.n_agents, bool)
        if spec.discrete:
            out = np.zeros(spec.n_agents, np.int64)
        else:
            out = np.zeros((spec.n_agents, spec.n_actions), np.float32)
        for i, agent in enumerate(self.possible_agents):
            if agent not in actions:
                raise MarlError(f"actions lacks {agent!r}: give one action to each of {self.agents}")
            space = self.action_spaces[agent]
            if isinstance(space, spaces.Box):
                value = np.asarray(actions[agent], np.float32)
                if value.shape != space.shape:
                    raise MarlError(f"action of {agent!r} has shape {value.shape}: it needs {space.shape}")
                if np.isnan(value).any():  # nothing to cut to the Box: it would spread through the world
                    raise MarlError(f"action of {agent!r} is {value.tolist()}: give numbers")
                out[i, : value.size] = np.clip(value, space.low, space.high)
                illegal_N[i] = not space.contains(value)
                continue
            if not space.contains(actions[agent]):
                raise MarlError(f"action of {agent!r} is {actions[agent]!r}: it must be in {space}")
            illegal_N[i] = not self._avail_NA[i, int(actions[agent])]
            out[i] = int(self._avail_NA[i].argmax()) if illegal_N[i] else int(actions[agent])
        return out, illegal_N

    def _observe(
        self, obs_BNO: torch.Tensor, avail_BNA: torch.Tensor, state_BS: torch.Tensor
    ) -> dict[str, Observation]:
        obs_NO = obs_BNO[0].cpu().numpy()
        self._avail_NA = avail_BNA[0].cpu().numpy().copy()
        self._state_S = state_BS[0].cpu().numpy().copy()
        out: dict[str, Observation] = {}
        for i, agent in enumerate(self.possible_agents):
            space = self.observation_spaces[agent]
            if isinstance(space, spaces.Dict):
                size = space["observation"].shape[0]  # type: ignore[index]
                out[agent] = {"observation": obs_NO[i, :size].copy(), "action_mask": self._mask(i)}
            else:
                out[agent] = obs_NO[i, : space.shape[0]].copy()  # type: ignore[index]
        return out

    def _mask(self, i: int) -> np.ndarray:
        """Legal actions of agent i, int8 (its own number of actions,)."""
        space = self.action_spaces[self.possible_agents[i]]
        assert isinstance(space, spaces.Discrete)
        return self._avail_NA[i, : space.n].astype(np.int8)

    def _rewards(self, ts: TimeStep) -> dict[str, Any]:
        """The team's number for everyone, or each agent's own; a vector (K,) where there are objectives."""
        if ts.agent_reward_BN is not None:
            return dict(zip(self.possible_agents, ts.agent_reward_BN[0].tolist(), strict=True))
        if ts.reward_BK is not None:
            return {a: ts.reward_BK[0].cpu().numpy().copy() for a in self.possible_agents}
        assert ts.reward_B is not None  # one of the three is always filled (marl.types.EnvSpec)
        return dict.fromkeys(self.possible_agents, float(ts.reward_B[0]))

    def _infos(self, ts: TimeStep, illegal_N: np.ndarray) -> dict[str, dict[str, Any]]:
        """Per agent: mask, whether its action was replaced, and the world's own entries."""
        shared = {k: v[0].tolist() for k, v in ts.info.items()}
        infos: dict[str, dict[str, Any]] = {}
        for i, agent in enumerate(self.possible_agents):
            infos[agent] = dict(shared)
            if self.spec.discrete:
                infos[agent]["action_mask"] = self._mask(i)
            infos[agent]["illegal_action"] = bool(illegal_N[i])
        return infos

    def _show(self, frame: np.ndarray) -> None:
        from matplotlib import pyplot

        if self._figure is None:
            pyplot.ion()
            height, width = frame.shape[:2]
            self._figure = pyplot.figure(self.metadata["name"], figsize=(width / 100, height / 100), dpi=100)
        self._figure.clear()
        self._figure.figimage(frame)
        self._figure.canvas.draw_idle()
        self._figure.canvas.flush_events()


def _observation_space(spec: EnvSpec, i: int) -> gymnasium.Space[Any]:
    """Box of agent i's own size with the limits its slices declare, with the mask beside it."""
    slices = spec.obs_slices.get(spec.agent_types[i], ())
    size = max((s.stop for s in slices), default=spec.obs_size)
    low, high = np.full(size, -np.inf, np.float32), np.full(size, np.inf, np.float32)
    for s in slices:
        low[s.start : s.stop], high[s.start : s.stop] = s.low, s.high
    box = spaces.Box(low, high, dtype=np.float32)
    own = spec.action_spaces[i]
    if isinstance(own, Discrete):
        return spaces.Dict({"observation": box, "action_mask": spaces.Box(0, 1, (own.n,), np.int8)})
    return box


def _action_space(spec: EnvSpec, i: int) -> gymnasium.Space[Any]:
    own = spec.action_spaces[i]
    if isinstance(own, Discrete):
        return spaces.Discrete(own.n)
    return spaces.Box(np.asarray(own.low, np.float32), np.asarray(own.high, np.float32), dtype=np.float32)
