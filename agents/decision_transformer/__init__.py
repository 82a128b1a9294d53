"""A small decision transformer with several objectives, MODT(P): actions from wished returns and the past.

| symbol | name here | meaning |
|---|---|---|
| R^_t | to_go | what shall still be earned, by objective, in [0, 1] of the limit; beside it the preference |
| s_t, a_t | obs, action | of one agent |
| C | context | steps of the past that are seen |

A step is three tokens, (R^_t, s_t, a_t); a causal transformer reads the last C steps and the head at s_t
says a_t. While learning, R^_t and the preference are those of the episode itself; while acting, they start
at the best return of the data for `preference` (marl/offline/outcomes.py) and R^_t falls by what is earned.
Agents share one network, each with its own past and its id.
CHOICE: discrete actions are learned by cross-entropy, real ones by squared error in units of the Box, as in
the paper; 2 layers of 64 features and 20 steps, small enough for a CPU.

Reference: Chen et al., "Decision Transformer: Reinforcement Learning via Sequence Modeling", NeurIPS 2021;
Zhu, Dang, Grover (PEDA), ICLR 2023, for the preference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from marl.errors import require
from marl.nets import Optimiser
from marl.offline import WishingTeam, check_preference, one_kind, unit_box
from marl.policy.heads import sample
from marl.rng import Rng, Stream
from marl.types import Act, Batch, Carry, EnvSpec, Link, TimeStep

_NEVER = -1e10  # logit of an unavailable action


@dataclass(kw_only=True)
class Config:
    """Sources: Chen et al. 2021 unless CHOICE."""

    preference: tuple[float, ...] = ()  # wanted while acting, >= 0, any sum above 0; empty: all alike
    context: int = 20  # C >= 1
    features: int = 64  # of a token, a multiple of heads; paper: 128; CHOICE
    blocks: int = 2  # >= 1; paper: 3; CHOICE
    heads: int = 2  # >= 1; paper: 1; CHOICE
    learning_rate: float = 1e-3  # Adam, > 0; paper: 1e-4 with warm-up; CHOICE
    max_grad_norm: float = 0.25  # > 0; paper

    def __post_init__(self) -> None:
        check_preference(self.preference)
        for name in ("context", "features", "blocks", "heads"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give an integer >= 1")
        split = self.features % self.heads == 0
        require(split, "features", self.features, f"give a multiple of heads={self.heads}")
        for name in ("learning_rate", "max_grad_norm"):
            require(getattr(self, name) > 0, name, getattr(self, name), "give a number above 0")

    def build(self, *, spec: EnvSpec, rng: Rng, device: torch.device) -> DecisionTransformer:
        return DecisionTransformer(spec, self, rng=rng, device=device)


class _Block(nn.Module):
    """Attention and a two-layer network, each after a LayerNorm and added to its input."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(features), nn.LayerNorm(features)
        self.qkv, self.out = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.up, self.down = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)

    def forward(self, x_XLD: Tensor, mask_XLL: Tensor) -> Tensor:
        """Args: mask_XLL: bool; True where a token (row) may look at another (column)."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.first(x_XLD)).chunk(3, -1)
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_XLL[:, None])
        x_XLD = x_XLD + self.out(seen.transpose(1, 2).flatten(-2))
        return x_XLD + self.down(F.gelu(self.up(self.second(x_XLD))))


class _Network(nn.Module):
    """From C steps to the action at each of them."""

    def __init__(self, spec: EnvSpec, config: Config, objectives: int, generator: torch.Generator) -> None:
        super().__init__()
        D, N, A = config.features, spec.n_agents, spec.n_actions
        self.wish, self.look = nn.Linear(2 * objectives, D), nn.Linear(spec.obs_size + N, D)
        self.did, self.place = nn.Linear(A, D), nn.Embedding(config.context, D)
        self.blocks = nn.ModuleList(_Block(D, config.heads) for _ in range(config.blocks))
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, A)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, wish_XCK: Tensor, obs_XCO: Tensor, action_XCA: Tensor, real_XC: Tensor) -> Tensor:
        """(X, C, A). Args: real_XC: bool; False on steps before the episode began."""
        X, C, _ = obs_XCO.shape
        tokens = torch.stack([self.wish(wish_XCK), self.look(obs_XCO), self.did(action_XCA)], 2)
        x_XLD = (tokens + self.place.weight[:C, None]).flatten(1, 2)
        real_XL = real_XC.repeat_interleave(3, 1)
        index_L = torch.arange(3 * C, device=x_XLD.device)
        causal_LL = index_L[:, None] >= index_L
        itself_LL = index_L[:, None] == index_L  # padding looks at itself, so that no row is empty
        mask_XLL = (causal_LL & real_XL[:, None]) | itself_LL
        for block in self.blocks:
            x_XLD = block(x_XLD, mask_XLL)
        return self.head(self.norm(x_XLD).view(X, C, 3, -1)[:, :, 1])


class DecisionTransformer(WishingTeam):
    """See the module's text.

    Args:
        spec: the world; all actions discrete, or in finite Boxes of one size.
        config: hyper-parameters.
        rng: source of the initial weights.
        device: where the network lives and batches arrive.

    Raises:
        FieldError: `preference` has not one number per objective.
        MarlError: the world's actions are of several kinds, or a Box is unbounded.
    """

    def __init__(self, spec: EnvSpec, config: Config, *, rng: Rng, device: torch.device) -> None:
        super().__init__(spec, config.preference, scale_inputs=True, device=device)
        self.config, self.K = config, len(self.names)
        one_kind(spec)
        if not spec.discrete:
            self.middle_NA, self.half_NA = (value.to(device) for value in unit_box(spec))
        self.net = _Network(spec, config, self.K, rng.torch("init")).to(device)
        self.parts = {"net": self.net, **self.parts}
        optimiser = Optimiser(
            self.net,
            kind="adam",
            learning_rate=config.learning_rate,
            eps=1e-8,
            max_grad_norm=config.max_grad_norm,
        )
        self.optimisers = {"net": optimiser}

    # Inputs

    def _obs(self, obs: Tensor) -> Tensor:
        """Scaled observations with agent ids (..., N, O + N)."""
        N = self.spec.n_agents
        eye = torch.eye(N, device=obs.device).expand(*obs.shape[:-1], N)
        return torch.cat([self.scaler.obs(obs), eye], -1)

    def _action(self, actions: Tensor) -> Tensor:
        """One-hot, or in units of the Box (..., N, A)."""
        if self.spec.discrete:
            return F.one_hot(actions.clamp(min=0), self.spec.n_actions).to(torch.float32)
        return (actions - self.middle_NA) / self.half_NA

    def _wish(self, to_go: Tensor, preference: Tensor) -> Tensor:
        return torch.cat([to_go / self.spec.episode_limit, preference.expand_as(to_go)], -1)

    # Acting

    def initial_carry(self, rows: int) -> Carry:
        """The last C steps of every agent, newest last, and what is still to be earned."""
        N, C, A = self.spec.n_agents, self.config.context, self.spec.n_actions
        sizes = {"obs": (N, C, self.spec.obs_size + N), "action": (N, C, A), "wish": (C, 2 * self.K)}
        out = {name: torch.zeros(rows, *size, device=self.device) for name, size in sizes.items()}
        real = torch.zeros(rows, C, dtype=torch.bool, device=self.device)
        return {**out, "real": real, "to_go": self.goal(rows)}

    @torch.no_grad()
    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        """The likeliest action; with explore > 0 a sample, or the mean plus noise of that deviation in the
        Box."""
        out_BNA, carry = self._look(ts, carry)
        if self.spec.discrete:
            actions_BN = sample(out_BNA, rng) if explore > 0 else out_BNA.argmax(-1)
        else:
            unit = out_BNA + explore * rng.normal(*out_BNA.shape[1:]) if explore > 0 else out_BNA
            actions_BN = self.middle_NA + self.half_NA * unit.clamp(-1, 1)
        last = carry["action"].clone()
        last[:, :, -1] = self._action(actions_BN)
        return Act(actions_BN=actions_BN, carry={**carry, "action": last})

    def scores(self, ts: TimeStep, carry: Carry) -> Tensor:
        """Logits, or means in units of the Box."""
        return self._look(ts, carry)[0]

    def _look(self, ts: TimeStep, carry: Carry) -> tuple[Tensor, Carry]:
        """Outputs (B, N, A) at the newest step, and the carry that holds it (its action still zero)."""
        to_go = self.still_to_earn(ts, carry["to_go"])
        new = {
            "obs": self._obs(ts.obs_BNO),
            "action": torch.zeros_like(carry["action"][:, :, 0]),
            "wish": self._wish(to_go.clamp(min=0), self.preference_K),
            "real": torch.ones_like(carry["real"][:, 0]),
        }
        axis = {"obs": 2, "action": 2, "wish": 1, "real": 1}
        now = {
            name: torch.cat([carry[name].narrow(at, 1, self.config.context - 1), new[name].unsqueeze(at)], at)
            for name, at in axis.items()
        }
        N = self.spec.n_agents
        out = self.net(
            now["wish"].repeat_interleave(N, 0),
            now["obs"].flatten(0, 1),
            now["action"].flatten(0, 1),
            now["real"].repeat_interleave(N, 0),
        )[:, -1].unflatten(0, (-1, N))
        out = out.masked_fill(~ts.avail_BNA, _NEVER) if self.spec.discrete else out.tanh()
        return out, {**now, "to_go": to_go}

    # Learning

    def update(self, batch: Batch, *, rng: Stream) -> dict[str, Tensor]:
        """One step on one window of C steps of every episode of the batch.

        Raises:
            MarlError: the batch does not hold whole episodes.
            NonFiniteError: loss or gradient is NaN or infinite; nothing was changed.
        """
        N, C = self.spec.n_agents, self.config.context
        preference, to_go, _ = self.hindsight(batch)
        length_B = batch.filled_BT.sum(1)
        # The window ends at a random step of the episode; what lies before its start is padding.
        last_B = (rng.uniform(len(length_B))[0] * length_B).long()
        at_BC = last_B[:, None] + torch.arange(1 - C, 1, device=last_B.device)
        real_BC = at_BC >= 0
        rows_B1, at_BC = torch.arange(len(length_B), device=last_B.device)[:, None], at_BC.clamp(min=0)

        def window(value: Tensor) -> Tensor:
            return value[rows_B1, at_BC]

        actions_BCN = window(batch.actions_BTN)
        wish_BCK = self._wish(window(to_go), window(preference))
        out_XCA = self.net(
            wish_BCK.repeat_interleave(N, 0),
            self._obs(window(batch.obs_BTNO)).transpose(1, 2).flatten(0, 1),
            self._action(actions_BCN).transpose(1, 2).flatten(0, 1),
            real_BC.repeat_interleave(N, 0),
        )
        out_BCNA = out_XCA.unflatten(0, (-1, N)).transpose(1, 2)
        if self.spec.discrete:
            logits = out_BCNA.masked_fill(~window(batch.avail_BTNA), _NEVER).log_softmax(-1)
            error = -logits.gather(-1, actions_BCN.clamp(min=0)[..., None]).squeeze(-1)
        else:
            error = (out_BCNA.tanh() - self._action(actions_BCN)).square().mean(-1)
        loss = error[real_BC].mean()
        norm = self.optimisers["net"].step(loss)
        self.updates += 1
        return {"loss": loss.detach(), "grad_norm": norm}
