"""The attacker of `defence=byzantine defence.action=learned`: when to force whom to do its worst.

| symbol | name here | meaning |
|---|---|---|
| s, k / K | look_BX | state of the world and share of the budget that is left: what the attacker sees |
| v | choice_B | victim 0 .. N - 1, or N: nobody |
| r_adv | reward_B | minus the team's reward |
| Q_adv, Q_adv^- | online, target | its action values, and their delayed copy |

Q_adv(s, k, v) <- r_adv + gamma max_v' Q_adv^-(s', k', v'), the maximum at the online network's choice
(double Q), over the choices there are: the living, and nobody; nobody alone where the budget is spent.

What is here of ROMANCE: an attacker that sees state and budget and picks one victim or none per step, at
most K times per episode; the victim does what its own values like least; the team learns against it while it
learns. What is not: its population and evolution, the quality and diversity that select it, the regulariser
towards sparse attacks, and alternating phases (attacker and team learn side by side).

Reference: Yuan et al., "Robust Multi-agent Coordination via Evolutionary Generation of Auxiliary Adversarial
Attackers" (ROMANCE), AAAI 2023, arXiv 2305.05909, and its released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from marl.nets import MLP, FlatParameters, Optimiser, load_tensors, tensors_of
from marl.rng import Rng, Stream
from marl.robust.config import Byzantine
from marl.types import EnvSpec

_MAX_GRAD_NORM = 10.0  # CHOICE: as the Q-learning teams


class Attacker:
    """A double DQN with a memory of its own.

    Args:
        spec: the team's world.
        config: hyper-parameters.
        num_envs: B.
        rng: source of its initial weights and of its batches.
        device: where it lives.
    """

    def __init__(
        self, spec: EnvSpec, config: Byzantine, num_envs: int, rng: Rng, device: torch.device
    ) -> None:
        self.config, self.spec, self.updates, self.written = config, spec, 0, 0
        S, N, D, C = spec.state_size, spec.n_agents, config.hidden, config.memory
        sizes = (S + 1, D, D, N + 1)
        self.online = MLP(sizes, generator=rng.torch("attacker")).to(device)
        self.target = MLP(sizes, generator=torch.Generator()).to(device).requires_grad_(False)
        self.optimiser = Optimiser(
            self.online,
            kind="adam",
            learning_rate=config.learning_rate,
            eps=1e-8,
            max_grad_norm=_MAX_GRAD_NORM,
        )
        self._target = FlatParameters(self.target)
        self._target.vector.data.copy_(self.optimiser.flat.vector.data)
        self._sample = rng.stream("attacker", 1, device)
        self.left_B = torch.full((num_envs,), config.budget, device=device)
        self.memory = {
            "look": torch.zeros(C, S + 1, device=device),
            "choice": torch.zeros(C, dtype=torch.int64, device=device),
            "reward": torch.zeros(C, device=device),
            "next": torch.zeros(C, S + 1, device=device),
            "may": torch.zeros(C, N + 1, dtype=torch.bool, device=device),  # choices at next
            "ended": torch.zeros(C, dtype=torch.bool, device=device),
        }

    def look(self, state_BS: Tensor) -> Tensor:
        """What it sees, (B, S + 1)."""
        return torch.cat([state_BS, self.left_B[:, None] / self.config.budget], -1)

    def may(self, alive_BN: Tensor) -> Tensor:
        """Choices that there are, bool (B, N + 1)."""
        return F.pad(alive_BN & (self.left_B > 0)[:, None], (0, 1), value=True)

    @torch.no_grad()
    def choose(self, state_BS: Tensor, alive_BN: Tensor, attacked_B: Tensor, rng: Stream) -> Tensor:
        """v, int64 (B,), and the budget less what it costs.

        Args:
            state_BS: state of the world.
            alive_BN: bool; who can be a victim.
            attacked_B: bool; elsewhere nobody is chosen.
            rng: a row per env.
        """
        may_BV = self.may(alive_BN)
        greedy_B = self.online(self.look(state_BS)).masked_fill(~may_BV, -torch.inf).argmax(-1)
        coin_B, lot_BV = rng.uniform(1)[:, 0], rng.fold("lot").uniform(may_BV.shape[1])
        random_B = torch.where(may_BV, lot_BV, -1.0).argmax(-1)
        choice_B = torch.where(coin_B < self.config.explore, random_B, greedy_B)
        choice_B = torch.where(attacked_B, choice_B, self.spec.n_agents)
        self.left_B = self.left_B - (choice_B < self.spec.n_agents).long()
        return choice_B

    def remember(self, rows: Mapping[str, Tensor]) -> None:
        """Take in F transitions, the oldest ones making room. Args: rows: as `memory`, each (F, ...)."""
        count = len(rows["choice"])
        at_F = (self.written + torch.arange(count, device=self.left_B.device)) % self.config.memory
        for name, value in rows.items():
            self.memory[name].index_copy_(0, at_F, value)
        self.written += count

    def learn(self) -> None:
        """One update, once there is a batch to learn from."""
        c, stored = self.config, min(self.written, self.config.memory)
        if stored < c.batch:
            return
        at_X = self._sample.fold(self.updates).integers(stored, c.batch)[0]
        x = {name: value.index_select(0, at_X) for name, value in self.memory.items()}
        with torch.no_grad():
            best_X1 = self.online(x["next"]).masked_fill(~x["may"], -torch.inf).argmax(-1, keepdim=True)
            future_X = self.target(x["next"]).gather(-1, best_X1).squeeze(-1)
            goal_X = x["reward"] + c.gamma * torch.where(x["ended"], 0.0, future_X)
        value_X = self.online(x["look"]).gather(-1, x["choice"][:, None]).squeeze(-1)
        self.optimiser.step(F.mse_loss(value_X, goal_X), "attacker's loss")
        self._target.vector.data.lerp_(self.optimiser.flat.vector.data, c.tau)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        stored = min(self.written, self.config.memory)
        return {
            "online": tensors_of(self.online),
            "target": tensors_of(self.target),
            "optimiser": self.optimiser.state_dict(),
            "memory": {name: value[:stored].clone() for name, value in self.memory.items()},
            "left": self.left_B.clone(),
            "written": self.written,
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_tensors(self.online, state["online"], "attacker")
        load_tensors(self.target, state["target"], "attacker's target")
        self.optimiser.load_state_dict(state["optimiser"])
        for name, value in state["memory"].items():
            self.memory[name][: len(value)].copy_(value)
        self.left_B = state["left"].to(self.left_B.device).clone()
        self.written, self.updates = int(state["written"]), int(state["updates"])
