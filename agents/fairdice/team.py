"""FairDICE's learner: nu, mu and the policy, updated together from a fixed data set.

| symbol | name here | meaning |
|---|---|---|
| nu(s) | nu | value-like function of the state |
| mu_i | weights_K | weight of objective i: learned, or given (FairDICE-fixed) |
| theta | theta_K | log mu, or mu itself |
| e, w | e_X, weight_X | advantage under mu, and density ratio d / dD (losses.py) |
| pi | policy | product of the agents' policies |

A world with a reward per agent has the agents as its objectives, a team reward is one objective. nu sees
the state, every agent's policy its own observation, so that a team is trained as one and acts apart.
Targets are not needed.
DEVIATION: the code attaches to every transition the first state of its own episode, so that p0 weighs an
episode by its length. Here first states are drawn from the data set's, and weigh alike by default
(`starts=episode`): p0 is that of the world's episodes, whatever the behaviour made of them.
`starts=transition` has the code's expectation.
CHOICE: the policy's weights use nu and mu from before the update; the code takes nu after its step, which
costs two more passes.

Reference: Kim et al., "FairDICE", NeurIPS 2025.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from marl.agents.fairdice import losses
from marl.agents.fairdice.check import UNBOUNDED, FlowWatch, refuse_data
from marl.agents.fairdice.config import Config
from marl.agents.fairdice.divergence import LEARNED
from marl.agents.fairdice.unit import DataReturn, unit_of
from marl.agents.fairdice.welfare import make_welfare
from marl.errors import FieldError, MarlError
from marl.nets import Optimiser, kernels
from marl.offline import (
    OfflinePolicy,
    OfflineTeam,
    Scaler,
    Summary,
    Transitions,
    Trunk,
    cosine,
    summarise,
    transitions,
)
from marl.rng import Rng, Stream
from marl.types import Act, Batch, Carry, EnvSpec, Link, TimeStep

_log = logging.getLogger(__name__)


class _Weights(nn.Module):
    def __init__(self, objectives: int, *, exp: bool) -> None:
        super().__init__()
        self.exp = exp
        self.theta_K = nn.Parameter(torch.zeros(objectives) if exp else torch.ones(objectives))  # mu = 1

    def forward(self) -> Tensor:
        return self.theta_K.exp() if self.exp else self.theta_K


@dataclass
class _Scaled:
    """What every update on the same batch would make again.

    Args:
        batch: as it came.
        x: its transitions; observations, states and rewards scaled.
        group_X: which share state and actions; None before it was asked for.
    """

    batch: Batch
    x: Transitions
    group_X: Tensor | None = None


class FairDice(OfflineTeam):
    """The learner; made by `Config.build`.

    Args:
        spec: the world.
        config: hyper-parameters.
        rng: source of the initial weights.
        device: where networks live and batches arrive.

    Raises:
        FieldError: `weights` are not one per objective.
    """

    def __init__(self, spec: EnvSpec, config: Config, *, rng: Rng, device: torch.device) -> None:
        super().__init__(spec, device)
        self.config = config
        K, generator = len(self.names), rng.torch("init")
        self.welfare, self.f = make_welfare(config.welfare, config.alpha), LEARNED[config.divergence]
        if config.weights and len(config.weights) != K:
            fix = f"give {K} weights, one for each of {', '.join(self.names)}, or none"
            raise FieldError("agent.weights", config.weights, fix)
        self.fixed_K: Tensor | None = None
        if config.weights or not self.welfare.learns_weights:
            self.fixed_K = torch.tensor(config.weights or (1.0,) * K, device=device)
        sizes: dict[str, Any] = {"hidden": config.hidden, "layers": config.layers, "generator": generator}
        self.nu = Trunk(
            spec.state_size, heads=[(1, math.sqrt(2))], layer_norm=config.layer_norm, fused=True, **sizes
        ).to(device)
        self.policy = OfflinePolicy(spec, layer_norm=config.layer_norm, **sizes).to(device)
        self.weights = _Weights(K, exp=config.mu == "exp").to(device)
        self.scaler = Scaler(spec, K, inputs=config.scale_inputs, rewards=config.scale_rewards).to(device)
        learned = {"nu": self.nu, "policy": self.policy, "weights": self.weights}
        self.parts = {**learned, "scaler": self.scaler}
        self.optimisers = {
            name: Optimiser(
                module,
                kind="adam",
                learning_rate=config.mu_learning_rate if name == "weights" else config.learning_rate,
                eps=1e-8,
                max_grad_norm=config.max_grad_norm or math.inf,
                native=True,
            )
            for name, module in learned.items()
        }
        self._first_ES = torch.zeros(0, spec.state_size, device=device)
        self._first_share_E = torch.zeros(0, device=device)
        self._full: _Scaled | None = None
        self._watch = FlowWatch()

    @property
    def weights_K(self) -> Tensor:
        """mu."""
        return self.weights() if self.fixed_K is None else self.fixed_K

    # The data

    def examine(self, data: Iterable[Batch]) -> Summary:
        """Read the data set: scaling, first states, and what must be refused.

        Raises:
            MarlError: no welfare can be learned from it; names the objective and the remedy.
        """
        c, fixed = self.config, self.fixed_K is not None
        own = None if c.unit is None else DataReturn(gamma=c.gamma, official=c.ends == "official")
        summary = summarise(data if own is None else own.passing(data))
        refuse_data(
            self.welfare,
            summary,
            self.names,
            scaled=c.scale_rewards,
            fixed=fixed,
            official=c.ends == "official",
        )
        self.scaler.fit(summary)
        self._full = None
        if c.welfare == "patched_log" and c.unit is None:
            _log.warning(
                "welfare=patched_log without agent.unit is near the plain sum; agent.unit=0.1 is near Nash"
            )
        share_E = torch.ones_like(summary.length_E) if c.starts == "episode" else summary.length_E
        if c.unit is not None and own is not None:
            k0 = unit_of(c.unit, own.return_K(self.scaler, share_E))
            self.welfare = make_welfare(c.welfare, c.alpha, k0)
        self._first_ES = summary.first_state_ES
        self._first_share_E = (share_E / share_E.sum()).cumsum(0)
        return summary

    def _first_states(self, rows: int, rng: Stream) -> Tensor:
        """So many first states of the data set, or all where there are no more and all weigh alike."""
        if not len(self._first_ES):
            raise MarlError("FairDICE has not seen the data set: call `examine` before `update`")
        if self.config.starts == "episode" and len(self._first_ES) <= rows:
            return self._first_ES
        return self._draw_first(rows, rng)

    def _draw_first(self, rows: int, rng: Stream) -> Tensor:
        u_Y = rng.uniform(rows)[0].to(self._first_share_E.dtype)
        at_Y = torch.searchsorted(self._first_share_E, u_Y).clamp(max=len(self._first_ES) - 1)
        return self._first_ES[at_Y]

    # Acting

    def initial_carry(self, rows: int) -> Carry:
        return {}

    @torch.no_grad()
    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        """The likeliest action (a Gaussian's mean); a sample if explore > 0."""
        obs_BNO = self.scaler.obs(ts.obs_BNO)
        return Act(actions_BN=self.policy.act(obs_BNO, ts.avail_BNA, rng, explore=explore > 0), carry=carry)

    def scores(self, ts: TimeStep, carry: Carry) -> Tensor:
        """Logits, or the Gaussian's means in units of the Box."""
        return self.policy.outputs(self.scaler.obs(ts.obs_BNO))[0]

    # Learning

    def update(self, batch: Batch, *, rng: Stream) -> dict[str, Tensor]:
        """One step of nu, mu and the policy.

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite.
            MarlError: a weight exceeds `mu_limit`.
        """
        with kernels.alone():
            return self._update(batch, rng)

    def _update(self, batch: Batch, rng: Stream) -> dict[str, Tensor]:
        c, seen = self.config, self._scaled(batch)
        x = seen.x
        keep_X = ~(x.terminated_X | x.truncated_X) if c.ends == "official" else torch.ones_like(x.first_X)
        ends_X = torch.zeros_like(x.first_X) if c.ends == "official" else x.terminated_X
        reward_XK, mu_K = x.reward_XK, self.weights_K
        before_K = mu_K.detach().clone()  # a raw mu is moved in place
        first_YS = self.scaler.state(self._first_states(len(reward_XK), rng.fold("first")))
        X, all_ZS = len(reward_XK), torch.cat([x.state_XS, x.next_state_XS, first_YS])  # one pass, not three
        nu_X, next_nu_X, nu0_Y = self.nu(all_ZS)[0].squeeze(-1).split([X, X, len(first_YS)])
        e_X = losses.advantage(reward_XK, mu_K, nu_X, next_nu_X, ends_X, gamma=c.gamma)
        if c.advantage == "mean":
            e_X = losses.group_mean(e_X, _groups_of(seen), keep_X)
        numbers: dict[str, Any] = {"beta": c.beta, "f": self.f}
        learned_K = None if self.fixed_K is not None else mu_K
        dual = losses.dual_loss(e_X, keep_X, nu0_Y, learned_K, gamma=c.gamma, welfare=self.welfare, **numbers)
        penalty = self._penalty(x.next_state_XS, rng) if c.penalty else torch.zeros_like(dual)
        weight_X = losses.policy_weights(e_X, keep_X, shift=c.shift, **numbers)
        clone, log_prob_X = self._clone(x, weight_X, keep_X)
        norms = self._step(dual + c.penalty * penalty, clone)
        self.updates += 1
        self._stop_where_unbounded()
        with torch.no_grad():
            ratio_X = torch.where(keep_X, self.f.weight(e_X / c.beta), 0.0)
            J_K = torch.stack([losses.masked_mean(ratio_X * r_X, keep_X) for r_X in reward_XK.unbind(1)])
            flow = losses.flow(ratio_X, keep_X, ends_X, gamma=c.gamma)
            ess = weight_X.sum().square() / (len(weight_X) * weight_X.square().sum().clamp(min=1e-12))
        self._watch.add(flow, self.updates)
        metrics = {
            "loss": (dual + clone).detach(),
            "dual": dual.detach(),
            "policy_loss": clone.detach(),
            "log_prob": log_prob_X.detach().mean(),
            "penalty": penalty.detach(),
            "effective_share": ess,  # effective sample size of the policy's weights, per sample
            "zero_share": (weight_X <= 0).float().mean(),
            "ratio": losses.masked_mean(ratio_X, keep_X),  # 1 at the optimum without terminated transitions
            "flow": flow,  # 1 at the optimum
            **norms,
        }
        for k, name in enumerate(self.names):
            metrics |= {f"mu.{name}": before_K[k], f"J.{name}": J_K[k]}
        return metrics

    def _scaled(self, batch: Batch) -> _Scaled:
        """Its transitions as the learner sees them; kept while the batch stays the same (loop.full)."""
        if self._full is None or self._full.batch is not batch:
            x, scaler = transitions(batch), self.scaler
            x = replace(
                x,
                obs_XNO=scaler.obs(x.obs_XNO),
                state_XS=scaler.state(x.state_XS),
                next_state_XS=scaler.state(x.next_state_XS),
                reward_XK=scaler.reward(x.reward_XK),
            )
            self._full = _Scaled(batch, x)
        return self._full

    def _penalty(self, next_XS: Tensor, rng: Stream) -> Tensor:
        """Of nu's gradient between first and next states."""
        first_XS = self.scaler.state(self._draw_first(len(next_XS), rng.fold("mixed")))
        shape = (len(next_XS), 1) if self.config.penalty_mix == "sample" else (1, 1)
        u = rng.fold("mix").uniform(*shape)[0]
        at_XS = u * first_XS + (1 - u) * next_XS
        if self.nu.native(at_XS):  # rows within the limit need no second derivative; NaN is none of them
            norm_X = self.nu.slope(at_XS).norm(dim=-1)
            at_XS = at_XS[~(norm_X <= losses.PENALTY_LIMIT)]
            if not len(at_XS):
                return at_XS.new_zeros(())
        with torch.enable_grad():
            at_XS = at_XS.detach().requires_grad_()
            (gradient_XS,) = torch.autograd.grad(self.nu.twice(at_XS).sum(), at_XS, create_graph=True)
        return losses.gradient_penalty(gradient_XS) * (len(at_XS) / len(next_XS))

    def _clone(self, x: Transitions, weight_X: Tensor, keep_X: Tensor) -> tuple[Tensor, Tensor]:
        log_prob_X = self.policy.log_prob(x.obs_XNO, x.avail_XNA, x.actions_XN)
        return losses.policy_loss(weight_X, log_prob_X, keep_X, kind=self.config.policy_loss), log_prob_X

    def _step(self, dual: Tensor, clone: Tensor) -> dict[str, Tensor]:
        """Differentiate and step all; returns the gradients' norms."""
        c, steps = self.config, self.optimisers
        if c.policy_decay:
            steps["policy"].set_learning_rate(cosine(c.learning_rate, self.updates, c.policy_decay))
        for optimiser in steps.values():
            optimiser.flat.grad.zero_()
        if torch.isfinite(dual):  # else `apply` says so
            dual.backward()  # type: ignore[no-untyped-call]
        norms = {"nu_grad_norm": steps["nu"].apply(dual, "dual loss")}
        if self.fixed_K is None:
            steps["weights"].apply(dual, "dual loss")
        norms["policy_grad_norm"] = steps["policy"].step(clone, "policy loss")
        return norms

    def _stop_where_unbounded(self) -> None:
        if self.fixed_K is not None:
            return
        c = self.config
        for k, mu in enumerate(self.weights_K.detach().tolist()):
            if mu > c.mu_limit or mu <= 0:
                what = f"exceeds mu_limit={c.mu_limit:g}" if mu > 0 else "is not positive: use mu=exp"
                raise MarlError(
                    f"the weight of objective {k} ({self.names[k]}) is {mu:.3g} and {what} after "
                    f"{self.updates} updates; the data hardly reward it: {UNBOUNDED}"
                )


def _groups_of(seen: _Scaled) -> Tensor:
    """Which of its transitions share state and actions (int64 X)."""
    if seen.group_X is None:
        as_stored = transitions(seen.batch)
        seen.group_X = losses.alike(as_stored.state_XS, as_stored.actions_XN)
    return seen.group_X
