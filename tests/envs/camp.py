"""A PettingZoo environment as somebody else may have written it, and how it may go wrong. Not a test.

Three agents of unequal spaces; the scout dies at step 3, the late one joins at step 2 with actions 1 .. 3.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
from gymnasium import Env, spaces
from pettingzoo.utils.env import AECEnv, ParallelEnv

OBS = {
    "scout": spaces.Box(-1, 1, (3,), np.float32),
    "guard": spaces.Dict(
        {"observation": spaces.Box(-1, 1, (5,), np.float32), "action_mask": spaces.MultiBinary(4)}
    ),
    "late": spaces.Dict({"place": spaces.Discrete(3), "image": spaces.Box(0, 255, (2, 2), np.uint8)}),
}
ACTIONS = {"scout": spaces.Discrete(2), "guard": spaces.Discrete(4), "late": spaces.Discrete(3, start=1)}


class Camp(ParallelEnv):
    metadata = {"name": "camp", "render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, steps=6, fault="", at=2, render_mode=None):
        self.possible_agents, self.agents = ["scout", "guard", "late"], []
        self.steps, self.fault, self.at, self.render_mode = steps, fault, at, render_mode
        self.episodes = 0

    def observation_space(self, agent):
        if self.fault == "space" and self.episodes > 2 and agent == "scout":
            return spaces.Box(-1, 1, (4,), np.float32)
        return OBS[agent]

    def action_space(self, agent):
        if self.fault == "undeclared" and agent == "late":
            raise RuntimeError("not yet")
        return ACTIONS[agent]

    def _observe(self, agents):
        out = {
            a: OBS[a].sample() for a in OBS
        }  # overwritten: nothing here is left to a space's own generator
        out["scout"] = self.rng.uniform(-1, 1, 3).astype(np.float32)
        mask = self.rng.random(4) < 0.5
        mask[self.t % 4] = True
        out["guard"] = {"observation": self.rng.uniform(-1, 1, 5), "action_mask": mask.astype(np.int8)}
        image = self.rng.integers(0, 256, (2, 2)).astype(np.uint8)
        out["late"] = {"place": int(self.rng.integers(3)), "image": image}
        if self.t == self.at and self.episodes > 1:
            out["scout"] = {
                "nan": np.array([0, np.nan, 0], np.float32),
                "shape": np.zeros(2, np.float32),
                "dtype": np.array(["a", "b", "c"]),
            }.get(self.fault, out["scout"])
            if self.fault == "mask":
                out["guard"]["action_mask"] = np.zeros(4, np.int8)
            if self.fault == "mask of nan":
                out["guard"]["action_mask"] = np.array([np.nan, 1, 0, 0])
        return {a: out[a] for a in agents}

    def reset(self, seed=None, options=None):
        self.rng, self.t = np.random.default_rng(seed), 0
        self.episodes += 1
        self.agents = ["scout", "guard"]
        self.length = self.steps + int(self.rng.integers(3))
        self.cut = bool(self.rng.integers(2))  # this episode ends by truncation
        return self._observe(self.agents), {a: {} for a in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents), (actions, self.agents)
        for agent, action in actions.items():
            assert ACTIONS[agent].contains(action), (agent, action)
        self.t += 1
        if self.t == self.at:
            self._go_wrong(actions)
        acted, over = list(self.agents), self.t >= self.length
        rewards = {a: float(actions[a]) + 10 * i for i, a in enumerate(acted)}
        if self.fault == "reward" and self.t == self.at:
            rewards["guard"] = float("inf")
        terminated = {a: (over and not self.cut) or (a == "scout" and self.t == 3) for a in acted}
        truncated = {a: over and self.cut for a in acted}
        observations = self._observe(acted)
        self.agents = [a for a in acted if not (terminated[a] or truncated[a])]
        if self.t == 2:
            self.agents.append("late")
            observations |= self._observe(["late"])
        if self.fault == "leaves" and self.t == self.at:
            self.agents.remove("guard")
        if self.fault == "stranger" and self.t == self.at:
            self.agents.append("nobody")
        if self.fault == "twice" and self.t == self.at:
            self.agents.append("scout")
        if self.fault == "no list" and self.t == self.at:
            self.agents = None
        if self.fault == "seen" and self.t == self.at:
            observations["nobody"] = np.zeros(3, np.float32)
        if self.fault == "ends" and self.t == self.at:
            truncated["guard"] = np.array([False, True])
        return observations, rewards, terminated, truncated, {a: {} for a in observations}

    def _go_wrong(self, actions):
        if self.fault == "crash":
            raise ZeroDivisionError("the camp is on fire")
        if self.fault == "exit":
            sys.exit("the camp is closed")
        for who in actions:
            self._feed(who)

    def _feed(self, who):
        agent = "a tent"  # no agent, whatever it is called
        if self.fault == "stumble" and who == "guard":
            raise LookupError(f"{agent} has no food")
        if self.fault == "kill":
            os.kill(os.getpid(), 9)
        if self.fault == "hang":
            time.sleep(600)

    def render(self):
        return np.full((4, 6, 3), self.t, np.uint8)


def make(**kwargs):
    return Camp(**kwargs)


def leave():
    sys.exit(2)  # as argparse does with words it does not know


class Arms(ParallelEnv):
    """Real actions of unequal size; it has a state, and declares its spaces as attributes."""

    metadata = {"name": "arms", "max_cycles": 4}  # noqa: RUF012

    def __init__(self, discrete=False):
        self.possible_agents = ["arm_0", "arm_1", "crane"]
        self.observation_spaces = {a: spaces.Box(-1, 1, (2,), np.float32) for a in self.possible_agents}
        self.action_spaces = {a: spaces.Box(-1, 1, (2,), np.float32) for a in self.possible_agents}
        self.action_spaces["crane"] = spaces.Discrete(2) if discrete else spaces.Box(0, 3, (1,), np.float32)

    def reset(self, seed=None, options=None):
        self.agents, self.t = list(self.possible_agents), 0
        return {a: np.zeros(2, np.float32) for a in self.agents}, {}

    def step(self, actions):
        self.t += 1
        observations = {a: np.resize(actions[a], 2) for a in self.agents}
        rewards = {a: float(actions[a].sum()) for a in self.agents}
        no = dict.fromkeys(self.agents, False)
        return observations, rewards, no, no, {}

    def state(self):
        return np.array([self.t, 7.0])


class Turns(AECEnv):
    pass


class Combination(Arms):
    def action_space(self, agent):
        return spaces.MultiDiscrete([2, 3])


class Single(Env):
    observation_space, action_space = spaces.Discrete(4), spaces.Discrete(3, start=-1)

    def reset(self, *, seed=None, options=None):
        self.rng, self.t = np.random.default_rng(seed), 0
        return int(self.rng.integers(4)), {"action_mask": np.array([1, 0, 1])}

    def step(self, action):
        self.t += 1
        obs, done = int(self.rng.integers(4)), self.t == 3
        return obs, float(action), done, False, {"action_mask": np.array([0, 1, 1])}


class Treasure(Single):
    """Two objectives: what the action is worth, and time; cut off after five steps."""

    reward_space = spaces.Box(-1, 2, (2,), np.float32)

    def __init__(self, fault=None):
        self.fault = fault

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        pay = {None: np.array([reward, -1.0]), "shape": np.zeros(3), "nan": np.array([0, np.nan])}
        return obs, pay[self.fault], False, self.t == 5, info


class WithoutAgents(ParallelEnv):
    possible_agents = []  # noqa: RUF012


number = 3
