"""A relay of runners who pass on a signal that only the first one saw, and only at the start.

| symbol | name here | meaning |
|---|---|---|
| N | runners | agents; runner i runs leg i |
| K | signals | what may be passed on; drawn uniformly for each episode |
| d_i | leg_BN | steps of leg i, drawn uniformly from 1 .. max_leg; its last step is the handover |

Actions: 0 stays silent, 1 + k shouts signal k. Only the runner of the current leg has a choice: on the
way it may stay silent or shout (a false start), with one randomly drawn shout not available; at the
handover it must shout. The runner of the next leg hears the shout in its first observation, and never
again. A right handover earns 1/N; the last one ends the episode. A wrong one, or a false start, ends it
at once with nothing. Runners who handed over have left: they are not alive and can only stay silent.
At `limit` steps the episode is cut off (truncated).

The best return is known: 1 where the limit allows all legs (the default), else the number of legs
that end by then, divided by N; `info["best_return"]` holds it for each episode. A team that hands over in
time but guesses the signal earns (1/N) sum_{i=1..N} K^-i. One without memory does better: on a leg of one
step it shouts what it sees or hears in that very step. It earns (1/N) sum_{i=1..N} p^i with
p = 1/L + (1 - 1/L)/K, L the longest leg; memory is worth the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from marl.canvas import Canvas
from marl.errors import require
from marl.rng import Rng, Stream
from marl.types import Discrete, EnvSpec, Slice, TimeStep

# Colours of signals and of the picture. CHOICE
_COLOURS = ((200, 80, 70), (70, 120, 200), (90, 165, 95), (205, 160, 60), (150, 95, 175), (80, 170, 175))
_GROUND, _TRACK, _INK, _GONE = (245, 243, 238), (222, 218, 208), (40, 40, 48), (190, 188, 182)
_LANE, _STEP = 40, 36  # pixels of a lane and of a step


@dataclass(kw_only=True)
class Config:
    """Size of the relay."""

    runners: int = 3  # N >= 1; CHOICE
    signals: int = 2  # K >= 2, at most 6 (colours of the picture); CHOICE
    max_leg: int = 3  # steps of the longest leg, >= 1; CHOICE
    limit: int = 0  # steps after which an episode is cut off, >= 0; 0: runners x max_leg, enough for all legs

    def __post_init__(self) -> None:
        require(self.runners >= 1, "runners", self.runners, "give an integer >= 1")
        most = len(_COLOURS)
        require(2 <= self.signals <= most, "signals", self.signals, f"give an integer from 2 to {most}")
        require(self.max_leg >= 1, "max_leg", self.max_leg, "give an integer >= 1")
        require(self.limit >= 0, "limit", self.limit, "give 0 or an integer >= 1")

    @property
    def steps(self) -> int:
        return self.limit or self.runners * self.max_leg

    @property
    def guess_return(self) -> float:
        """Expected return of a team that hands over in time but guesses, where the limit allows all legs."""
        return self._chain(1 / self.signals)

    @property
    def memoryless_return(self) -> float:
        """The most that a team without memory can expect, where the limit allows all legs."""
        short = 1 / self.max_leg  # legs of one step: the signal is there when it is needed
        return self._chain(short + (1 - short) / self.signals)

    def _chain(self, right: float) -> float:
        """Expected return when every handover is right with this probability."""
        return sum(right**i for i in range(1, self.runners + 1)) / self.runners

    def build(self, *, num_envs: int, device: torch.device, threads: int = 1) -> RelayGame:
        """A batch of relays. Args: threads: unused, the game has no native form."""
        return RelayGame(self, num_envs=num_envs, device=torch.device(device))


class RelayGame:
    """B relays.

    Observation of a runner: the signal (runner 0, step 0), what it hears (first step of its leg), whether it
    runs, whether this is its handover, whether it has left. State: signal, runner of the leg, steps left
    in the leg / max_leg, t / limit.
    """

    def __init__(self, config: Config, *, num_envs: int, device: torch.device) -> None:
        self.config, self.num_envs, self.device = config, num_envs, device
        N, K = config.runners, config.signals
        names = ("signal", "heard", "runs", "handover", "left")
        widths = (K, K, 1, 1, 1)
        starts = np.cumsum((0, *widths)).tolist()
        self.spec = EnvSpec(
            name="relay_game",
            agents=tuple(f"runner_{i}" for i in range(N)),
            agent_types=("runner",) * N,
            obs_size=sum(widths),
            state_size=K + N + 2,
            action_spaces=(Discrete(n=K + 1),) * N,
            action_names=("silent", *(f"shout {k}" for k in range(K))),
            obs_slices={
                "runner": tuple(
                    Slice(
                        name=name,
                        start=start,
                        stop=start + width,
                        low=0.0,
                        high=1.0,
                        kind="binary" if width == 1 else "onehot",
                    )
                    for name, start, width in zip(names, starts, widths, strict=False)
                )
            },
            episode_limit=config.steps,
        )
        self._runner_N = torch.arange(N, device=device)
        self._stream: Stream | None = None
        zeros = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self.key_B, self.episode_B, self.t_B = zeros, zeros, zeros
        self.signal_B, self.runner_B = zeros, zeros
        self.left_B = zeros  # steps of the leg after this one
        self.heard_B = zeros  # 0 nothing, 1 + k shout k
        self.leg_BN = torch.zeros(num_envs, N, dtype=torch.int64, device=device)

    def reset(self, rng: Rng) -> TimeStep:
        self.key_B = rng.stream("relay", self.num_envs, self.device).key_B
        self.episode_B = torch.zeros_like(self.key_B)
        everywhere_B = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        self._begin(everywhere_B)
        return self._timestep(~everywhere_B, ~everywhere_B, torch.zeros(self.num_envs, device=self.device))

    def _begin(self, where_B: Tensor) -> None:
        """Draw the episode's signal and legs."""
        N, c = self.config.runners, self.config
        stream = Stream(self.key_B).fold(self.episode_B)
        signal_B = stream.fold("signal").integers(c.signals)
        leg_BN = 1 + stream.fold("legs").integers(c.max_leg, N)
        self.signal_B = torch.where(where_B, signal_B, self.signal_B)
        self.leg_BN = torch.where(where_B[:, None], leg_BN, self.leg_BN)
        self.left_B = torch.where(where_B, leg_BN[:, 0] - 1, self.left_B)
        self.t_B = torch.where(where_B, 0, self.t_B)
        self.runner_B = torch.where(where_B, 0, self.runner_B)
        self.heard_B = torch.where(where_B, 0, self.heard_B)

    def step(self, actions_BN: Tensor) -> TimeStep:
        N, limit = self.config.runners, self.config.steps
        action_B = actions_BN.gather(1, self.runner_B[:, None])[:, 0]
        handover_B = self.left_B == 0
        right_B = handover_B & (action_B == 1 + self.signal_B)
        wrong_B = torch.where(handover_B, ~right_B, action_B != 0)
        self.t_B = self.t_B + 1
        arrived_B = right_B & (self.runner_B == N - 1)
        terminated_B = wrong_B | arrived_B
        truncated_B = ~terminated_B & (self.t_B >= limit)
        legs_done_BN = self.leg_BN.cumsum(1) <= limit
        success_B, best_B = arrived_B, legs_done_BN.sum(1) / N

        next_B = (self.runner_B + 1).clamp(max=N - 1)
        next_leg_B = self.leg_BN.gather(1, next_B[:, None])[:, 0]
        self.left_B = torch.where(right_B & ~arrived_B, next_leg_B - 1, (self.left_B - 1).clamp(min=0))
        self.runner_B = torch.where(right_B & ~arrived_B, next_B, self.runner_B)
        self.heard_B = torch.where(handover_B, action_B, 0)
        final = self._look()
        done_B = terminated_B | truncated_B
        if done_B.any():
            self.episode_B = self.episode_B + done_B
            self._begin(done_B)
        ts = self._timestep(terminated_B, truncated_B, right_B / N)
        ts.final_obs_BNO, ts.final_state_BS, ts.final_avail_BNA = final
        ts.info = {"success": success_B, "best_return": best_B}
        return ts

    def _look(self) -> tuple[Tensor, Tensor, Tensor]:
        """Observation, state and availability as things stand."""
        c, K = self.config, self.config.signals
        runs_BN = self._runner_N == self.runner_B[:, None]
        handover_BN = runs_BN & (self.left_B == 0)[:, None]
        sees_BN = runs_BN & (self.t_B == 0)[:, None]
        signal_BK = F.one_hot(self.signal_B, K)
        heard_BK = F.one_hot(self.heard_B, K + 1)[:, 1:]
        obs_BNO = torch.cat(
            [
                signal_BK[:, None] * sees_BN[..., None],
                heard_BK[:, None] * runs_BN[..., None],
                torch.stack([runs_BN, handover_BN, self._left_BN()], -1),
            ],
            -1,
        ).to(torch.float32)
        clock_B2 = torch.stack([(self.left_B + 1) / c.max_leg, self.t_B / c.steps], -1)
        state_BS = torch.cat([signal_BK, F.one_hot(self.runner_B, c.runners), clock_B2], -1)
        silent_BN1 = ~handover_BN[..., None]
        blocked_B = Stream(self.key_B).fold(self.episode_B, self.t_B).integers(K)
        open_BK = (self.left_B == 0)[:, None] | (F.one_hot(blocked_B, K) == 0)
        shout_BNK = runs_BN[..., None] & open_BK[:, None]
        return obs_BNO, state_BS.to(torch.float32), torch.cat([silent_BN1, shout_BNK], -1)

    def _left_BN(self) -> Tensor:
        return self._runner_N < self.runner_B[:, None]

    def _timestep(self, terminated_B: Tensor, truncated_B: Tensor, reward_B: Tensor) -> TimeStep:
        obs_BNO, state_BS, avail_BNA = self._look()
        return TimeStep(
            obs_BNO=obs_BNO,
            state_BS=state_BS,
            avail_BNA=avail_BNA,
            terminated_B=terminated_B,
            truncated_B=truncated_B,
            present_BN=torch.ones_like(self.leg_BN, dtype=torch.bool),
            alive_BN=~self._left_BN(),
            t_B=self.t_B,
            reward_B=reward_B,
        )

    _STATE = ("key", "episode", "t", "signal", "runner", "left", "heard")

    def state_dict(self) -> dict[str, Tensor]:
        state = {name: getattr(self, f"{name}_B").clone() for name in self._STATE}
        return state | {"leg": self.leg_BN.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name in self._STATE:
            setattr(self, f"{name}_B", state[name].to(self.device).clone())
        self.leg_BN = state["leg"].to(self.device).clone()

    def render(self, index: int = 0) -> np.ndarray:
        """One lane per leg, as long as the leg; the runner in the colour of the signal it carries."""
        c = self.config
        legs = self.leg_BN[index].tolist()
        runner, left = int(self.runner_B[index]), int(self.left_B[index])
        colour = _COLOURS[int(self.signal_B[index])]
        canvas = Canvas(c.runners * _LANE + _LANE, (c.max_leg + 2) * _STEP, _GROUND)
        canvas.text(6, 8, f"STEP {int(self.t_B[index])}", _INK)
        canvas.disc(canvas.width - 16, 12, 7, colour)
        for i, leg in enumerate(legs):
            y = _LANE * (i + 1)
            end, bottom = _STEP * (1 + leg), y + _LANE - 8
            canvas.box(_STEP, y, end, bottom, _TRACK)
            canvas.box(end - 4, y, end, bottom, colour if i < runner else _GONE)
            at = leg - 1 - left if i == runner else -1 if i > runner else leg
            x, middle = _STEP * (1.5 + at), y + (_LANE - 8) / 2
            canvas.disc(x, middle, 11, _GONE if i != runner else colour)
            canvas.text(x, middle - 3, str(i), _INK, anchor=0.5)
        return canvas.image()
