"""Batched acting: one team in B worlds on one device.

| symbol | name here | meaning |
|---|---|---|
| R | columns | return, then the return per objective and the sum per cost where the world has them |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from marl.channel import PerfectLink
from marl.rng import Rng, Stream
from marl.types import Act, Agent, Env, EnvSpec, TimeStep


class Tally:
    """Sums of running episodes, and the results of finished ones.

    CHOICE: the return of a world with rewards per agent, or with a vector of rewards, is their sum.

    Args:
        spec: which rewards and costs there are.
        num_envs: B.
        device: where the env's tensors live.
    """

    def __init__(self, spec: EnvSpec, num_envs: int, device: torch.device) -> None:
        self.columns = (
            "return",
            *(f"return.{name}" for name in spec.objectives),
            *(f"cost.{name}" for name in spec.costs),
        )
        K = len(spec.objectives)
        # float64: sums of thousands of float32 rewards stay exact to their own precision
        self.sum_BR = torch.zeros(num_envs, len(self.columns), dtype=torch.float64, device=device)
        self._return_B = self.sum_BR[:, 0]
        self._objectives_BK, self._costs_BC = self.sum_BR[:, 1 : 1 + K], self.sum_BR[:, 1 + K :]
        self.length_B = torch.zeros(num_envs, dtype=torch.int64, device=device)

    def add(self, ts: TimeStep) -> dict[str, Tensor] | None:
        """Count one step; where episodes ended, their results.

        Returns:
            None, or tensors of F finished episodes: "env" (int64, their env), "length" (int64), the
            columns (float64), and every entry of `ts.info` that has one number per env.
        """
        if ts.reward_B is not None:
            self._return_B += ts.reward_B
        if ts.agent_reward_BN is not None:
            self._return_B += ts.agent_reward_BN.sum(-1)
        if ts.reward_BK is not None:
            self._return_B += ts.reward_BK.sum(-1)
            self._objectives_BK += ts.reward_BK
        if ts.cost_BC is not None:
            self._costs_BC += ts.cost_BC
        self.length_B += 1
        done_B = ts.done_B
        if not done_B.any():
            return None
        env_F = done_B.nonzero().flatten()
        out = {"env": env_F, "length": self.length_B[env_F]}
        out |= dict(zip(self.columns, self.sum_BR[env_F].unbind(-1), strict=True))
        out |= {name: v[env_F] for name, v in ts.info.items() if v.shape == done_B.shape}
        self.sum_BR.masked_fill_(done_B[:, None], 0.0)
        self.length_B.masked_fill_(done_B, 0)
        return out

    def state_dict(self) -> dict[str, Tensor]:
        return {"sum": self.sum_BR.clone(), "length": self.length_B.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.sum_BR.copy_(state["sum"])
        self.length_B.copy_(state["length"])


class Rollout:
    """Env, agent and everything between two steps of theirs.

    Acting at step t of episode k in env b draws from the stream keyed (rng, "act", b, k, t), so that
    a decision does not depend on how many envs run.

    Args:
        env: reset here, with the streams of ``rng.child("env")``.
        agent: acts on the env's device.
        rng: of the run, or of the evaluation.
        link: passed to `agent.act`; by default a perfect one. Its state lies in the carry, 0 at the start.
    """

    def __init__(self, env: Env, agent: Agent, rng: Rng, *, link: PerfectLink | None = None) -> None:
        self.env, self.agent = env, agent
        self.link = PerfectLink(env.device) if link is None else link
        B = env.num_envs
        self.ts = env.reset(rng.child("env"))
        self.carry = agent.initial_carry(B)
        self.episode_B = torch.zeros(B, dtype=torch.int64, device=env.device)  # finished before this one
        self.tally = Tally(env.spec, B, env.device)
        self._run_stream = rng.stream("act", B, env.device)
        self._stream = self._run_stream.fold(self.episode_B)

    def step(self, explore: float) -> tuple[Act, dict[str, Tensor] | None]:
        """Act once in every env; `ts` and `carry` are then those of the next decision.

        Args:
            explore: as in `Agent.act`.

        Returns:
            The act, and the results of episodes that it ended (see `Tally.add`); where agents sent, also the
            counts of the link as `link.<name>`.
        """
        stream = self._stream.fold(self.ts.t_B)
        self.link.begin(stream)
        act = self._decide(stream, explore)
        self.ts, self.carry = self.env.step(act.actions_BN), act.carry
        finished = self.tally.add(self.ts)
        if finished is not None:
            done_B = self.ts.done_B
            finished |= {f"link.{name}": count for name, count in self.link.finish(done_B).items()}
            self.episode_B = self.episode_B + done_B
            self._stream = self._run_stream.fold(self.episode_B)
            self.carry = self._reset_rows(done_B)
        return act, finished

    def _decide(self, stream: Stream, explore: float) -> Act:
        """What is done at this step. Args: stream: of the step."""
        return self.agent.act(self.ts, self.carry, rng=stream, explore=explore, link=self.link)

    def _reset_rows(self, done_B: Tensor) -> dict[str, Tensor]:
        """The carry with rows of finished episodes as before a first step.

        New tensors, because an agent may return one tensor as carry and as actions.
        """
        fresh = self.agent.initial_carry(self.env.num_envs)
        return {
            name: torch.where(
                done_B.view(-1, *[1] * (value.dim() - 1)), fresh.get(name, value.new_zeros(())), value
            )
            for name, value in self.carry.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything but env and agent."""
        return {
            "timestep": {name: value.clone() for name, value in self.ts.state_dict().items()},
            "carry": {name: value.clone() for name, value in self.carry.items()},
            "episode": self.episode_B.clone(),
            "tally": self.tally.state_dict(),
            "link": self.link.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore; env and agent are restored by the caller."""
        device = self.env.device
        self.ts = TimeStep.from_state_dict({k: v.to(device).clone() for k, v in state["timestep"].items()})
        self.carry = {name: value.to(device).clone() for name, value in state["carry"].items()}
        self.episode_B = state["episode"].to(device).clone()
        self._stream = self._run_stream.fold(self.episode_B)
        self.tally.load_state_dict(state["tally"])
        self.link.load_state_dict(state["link"])
