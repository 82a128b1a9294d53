"""Which agents to attack: those that the smallest change of what they see turns to another action.

| symbol | name here | meaning |
|---|---|---|
| m_i | lead_BN | score of agent i's best available action less that of its second best |
| eps_i = m_i / |dm_i/do_i|_1 | size_BN | L-infinity change that closes the lead, to first order |

An agent's sensitivity is the mean of min(eps_i, 1) over the steps of clean episodes at which it lives and has
a choice; the least mean is the most sensitive. First-order distances are DeepFool's (Moosavi-Dezfooli et
al., CVPR 2016); c-MBA selects victims by a learned model instead (CHOICE: this needs none).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from marl.config import RunConfig
from marl.errors import MarlError
from marl.evaluate import evaluate
from marl.rng import Rng, Stream
from marl.robust.perturbation import Limits
from marl.types import Act, Carry, Link, TimeStep

EPISODES = 16  # CHOICE


def most_sensitive(agent: Any, cfg: RunConfig, count: int, *, episodes: int, seed: int) -> tuple[int, ...]:
    """Indices of the `count` most sensitive agents, the most sensitive first.

    Args:
        agent: the team.
        cfg: of its run.
        count: 1 or more, at most N.
        episodes: clean ones to look at.
        seed: which.
    """
    probe: Any = _Probe(agent)
    device = torch.device(cfg.device)
    evaluate(
        probe,
        cfg.env,
        episodes=episodes,
        rng=Rng(seed, "sensitivity"),
        device=device,
        threads=cfg.threads,
        channel=cfg.channel,
    )
    order: list[int] = probe.sizes().argsort(stable=True).tolist()
    return tuple(order[:count])


def leads(scores_BNA: Tensor, avail_BNA: Tensor) -> Tensor:
    """m_i (B, N); infinite for agents without a choice."""
    best_BN2 = scores_BNA.masked_fill(~avail_BNA, -torch.inf).topk(2, -1).values
    return best_BN2[..., 0] - best_BN2[..., 1]


class _Probe:
    """The team itself; notes at every step how small a change would turn each agent."""

    def __init__(self, agent: Any) -> None:
        self.agent, self.spec = agent, agent.spec
        if not self.spec.discrete:
            raise MarlError(f"env={self.spec.name} has continuous actions: give attack.agents instead")
        self.extras_spec: dict[str, Any] = {}
        self.limits = Limits.of(self.spec, torch.device(getattr(agent, "device", "cpu")))
        self.sum_N = torch.zeros(self.spec.n_agents, dtype=torch.float64)
        self.count_N = torch.zeros(self.spec.n_agents, dtype=torch.int64)

    def initial_carry(self, rows: int) -> Carry:
        carry: Carry = self.agent.initial_carry(rows)
        return carry

    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        with torch.enable_grad():
            x_BNO = ts.obs_BNO.detach().requires_grad_()
            lead_BN = leads(self.agent.scores(replace(ts, obs_BNO=x_BNO), carry), ts.avail_BNA)
            counts_BN = ts.alive_BN & (ts.avail_BNA.sum(-1) > 1)
            slope_BNO = self._slopes(torch.where(counts_BN, lead_BN, 0.0), x_BNO)
        steep_BN = (slope_BNO.abs() * self.limits.free).sum(-1)
        size_BN = (lead_BN.detach() / steep_BN.clamp(min=1e-12)).clamp(max=1.0)
        self.sum_N += torch.where(counts_BN, size_BN, 0.0).sum(0).double().cpu()
        self.count_N += counts_BN.sum(0).cpu()
        act: Act = self.agent.act(ts, carry, rng=rng, explore=explore, link=link)
        return act

    def _slopes(self, lead_BN: Tensor, x_BNO: Tensor) -> Tensor:
        """dm_i/do_i: of teams that talk agent by agent, as others' views turn an agent there, too."""
        if "delivered" not in self.agent.extras_spec:
            return torch.autograd.grad(lead_BN.sum(), x_BNO)[0]
        N = lead_BN.shape[1]
        each = [torch.autograd.grad(lead_BN[:, n].sum(), x_BNO, retain_graph=True)[0][:, n] for n in range(N)]
        return torch.stack(each, 1)

    def sizes(self) -> Tensor:
        """Mean of min(eps_i, 1); 1 for an agent that never had a choice."""
        mean_N = self.sum_N / self.count_N.clamp(min=1)
        return torch.where(self.count_N > 0, mean_N, 1.0)
