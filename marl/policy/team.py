"""A team of PPO learners: recurrent actors and critics; what the critic sees makes the method.

| symbol | name here | meaning |
|---|---|---|
| pi(u | tau) | actor | policy of an agent given its history |
| V | critic | value, per agent, in normalised units (`ValueNorm`) |
| R = A + V | return_BTN | target of the critic: `marl.returns.lambda_returns` |
| A | advantage_BTN | generalised advantage estimate, normalised over agents that could act |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from marl.errors import MarlError
from marl.masks import masked_mean
from marl.nets import (
    Optimiser,
    agent_inputs,
    kernels,
    linear_decay,
    load_tensors,
    tensors_of,
    undone_if_not_finite,
)
from marl.policy import export
from marl.policy import kernels as native
from marl.policy.chunks import cut, minibatches, states_before
from marl.policy.config import PolicyConfig
from marl.policy.heads import make_head
from marl.policy.losses import value_loss
from marl.policy.network import SequenceNet
from marl.policy.normalise import ValueNorm
from marl.returns import lambda_returns
from marl.rng import Rng, Stream
from marl.robust.extras import FORCED, extra_fields
from marl.robust.regularise import Regulariser, View, regulariser
from marl.sparse import sparsify
from marl.sparse.distil import Teacher, teacher_of
from marl.sparse.export.policy import Policy
from marl.types import Act, Batch, Carry, EnvSpec, FieldSpec, Link, TimeStep

_METRICS = ("policy_loss", "entropy", "kl", "value_loss", "actor_grad_norm", "critic_grad_norm")


class PolicyTeam:
    """PPO with generalised advantages, value normalisation and recurrent or feed-forward networks.

    DEVIATION: a truncated episode's last value is bootstrapped; the code of Yu et al. treats the step limit
    as an end. DEVIATION: log-probabilities, values and states of a rollout are computed again at its first
    epoch instead of stored while acting; they are the same numbers.
    CHOICE: a chunk holds all agents of its env, where the released code shuffles agents apart: the same
    for one minibatch, which it uses nearly everywhere. Without a GRU a chunk is one filled entry.

    Args:
        spec: the world; Discrete or Box actions and a team or per-agent reward.
        config: hyper-parameters.
        central: the critic sees the state beside the agent's observation, or the observation alone.
        rng: source of the initial weights.
        device: where networks live and batches arrive.

    Raises:
        MarlError: the world mixes discrete and continuous actions, or its reward is a vector.
    """

    extras_spec: dict[str, FieldSpec]

    def __init__(
        self, spec: EnvSpec, config: PolicyConfig, *, central: bool, rng: Rng, device: torch.device
    ) -> None:
        if spec.reward == "vector":
            raise MarlError(f"env={spec.name} has a vector reward: this team needs a scalar one")
        self.spec, self.config, self.central, self.device = spec, config, central, device
        self.updates = self.steps = 0  # steps: team steps learned from
        seen = spec.obs_size + spec.state_size * central
        generator = rng.torch("init")
        self.actor = self._network(generator, spec.obs_size, spec.n_actions, head_gain=0.01)
        self.policy = make_head(spec, share=config.share).to(device)
        self.actor.policy = self.policy  # its parameters, if it has any, learn with the actor's
        self.defence = config.defence
        self.extras_spec = self.policy.extras_spec | extra_fields(config.defence, spec, values=False)
        ids = spec.n_agents * config.agent_ids
        self.regulariser = regulariser(config.defence, spec, device, inputs=ids)
        self.critic = self._network(generator, seen, 1, head_gain=1.0)
        self.norm = ValueNorm(enabled=config.normalise_values).to(device)
        networks = ("actor", self.actor), ("critic", self.critic)
        made = {name: sparsify(module, config.sparsity, rng.child(name)) for name, module in networks}
        self.pruners = {name: pruner for name, pruner in made.items() if pruner is not None}
        self.optimisers = {
            name: Optimiser(
                module,
                kind="adam",
                learning_rate=config.learning_rate,
                eps=config.optimiser_eps,
                max_grad_norm=config.max_grad_norm,
                native=True,
                pruner=made[name],
            )
            for name, module in networks
        }

        self.teacher = teacher_of(config.sparsity, self, PolicyTeam)

    def _network(
        self, generator: torch.Generator, inputs: int, outputs: int, *, head_gain: float
    ) -> SequenceNet:
        c, N = self.config, self.spec.n_agents
        return SequenceNet(
            inputs + N * c.agent_ids,
            outputs,
            hidden=c.hidden,
            recurrent=c.recurrent,
            activation=c.activation,
            layer_norm=c.layer_norm,
            copies=None if c.share else N,
            head_gain=head_gain,
            generator=generator,
        ).to(self.device)

    # Acting

    def initial_carry(self, rows: int) -> Carry:
        shape = rows, self.spec.n_agents, self.config.hidden
        return {name: torch.zeros(shape, device=self.device) for name in ("actor_BNH", "critic_BNH")}

    @torch.no_grad()
    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        """Sample from the policy if explore > 0, else take its likeliest action (a Gaussian's mean)."""
        outputs_BNA, actor_BNH = self.actor.step(self._actor_inputs(ts.obs_BNO), carry["actor_BNH"])
        actions_BN, extras = self.policy.act(outputs_BNA, ts, rng, explore=explore > 0)
        critic_BNH = carry["critic_BNH"]
        if self.config.recurrent:  # acting needs no values, but learning the states before its chunks
            seen_BNI = self._critic_inputs(ts.obs_BNO, ts.state_BS, ts.alive_BN)
            critic_BNH = self.critic.step(seen_BNI, critic_BNH)[1]
        carry = {"actor_BNH": actor_BNH, "critic_BNH": critic_BNH}
        return Act(actions_BN=actions_BN, carry=carry, extras=extras)

    def scores(self, ts: TimeStep, carry: Carry) -> Tensor:
        """Logits of all actions, available or not; a Gaussian's means in units of the Box."""
        return self.actor.step(self._actor_inputs(ts.obs_BNO), carry["actor_BNH"])[0]

    def scores_of(self, ts: TimeStep, carry: Carry, agents_K: Tensor) -> Tensor:
        """As `scores`, of these agents alone (B, K, A): K rows of the shared network instead of N."""
        if not self.config.share:
            return self.scores(ts, carry).index_select(1, agents_K)
        inputs = self._actor_inputs(ts.obs_BNO), carry["actor_BNH"]
        return self.actor.step(*(v.index_select(1, agents_K) for v in inputs))[0]

    @property
    def discount(self) -> float:
        """gamma of `values`."""
        return self.config.gamma

    def values(self, ts: TimeStep, carry: Carry) -> Tensor:
        """The critic's values (B, N), in units of returns."""
        seen_BNI = self._critic_inputs(ts.obs_BNO, ts.state_BS, ts.alive_BN)
        return self.norm.restore(self.critic.step(seen_BNI, carry["critic_BNH"])[0].squeeze(-1))

    def export(self) -> Policy:
        """What `marl export` writes: acting alone, with masks resolved."""
        return export.policy(self.spec, self.actor, self.policy, ids=self.config.agent_ids)

    def _actor_inputs(self, obs: Tensor) -> Tensor:
        return agent_inputs(obs, None, actions=self.spec.n_actions, ids=self.config.agent_ids)

    def _critic_inputs(self, obs: Tensor, state: Tensor, alive: Tensor) -> Tensor:
        """Observation, or [state | observation], zeros for agents that cannot act; then the id.

        Args: obs (..., N, O); state (..., S); alive (..., N).
        """
        if self.central:
            state = state[..., None, :].expand(*obs.shape[:-1], -1)
            obs = torch.cat((state, obs), -1) * alive[..., None]
        return self._actor_inputs(obs)

    # Learning

    def update(self, batch: Batch, *, rng: Stream) -> dict[str, Tensor]:
        """All epochs of PPO on one rollout.

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite; everything is as before the update.
        """
        rate = self.config.learning_rate * linear_decay(self.steps, self.config.learning_rate_decay)
        for optimiser in self.optimisers.values():
            optimiser.set_learning_rate(rate)
        with kernels.alone(), undone_if_not_finite(self):
            for pruner in self.pruners.values():
                pruner.observe(batch.mean_reward())
            metrics = self._epochs(batch, rng)
        self.updates, self.steps = self.updates + 1, self.steps + int(batch.filled_BT.sum())
        for part, pruner in self.pruners.items():
            metrics |= {f"{part}_{name}": value for name, value in pruner.metrics().items()}
        return metrics | {"loss": metrics["policy_loss"] + metrics["value_loss"]}

    def _epochs(self, batch: Batch, rng: Stream) -> dict[str, Tensor]:
        """Means of the metrics over all steps."""
        chunks = self._chunks(batch)
        count = len(chunks["mask"])
        steps = []
        for epoch in range(self.config.epochs):
            stream = rng.fold(epoch)
            order_X = stream.bits(count)[0].argsort()
            parts = minibatches(chunks, order_X, self.config.minibatches)
            steps += [self._learn(x, stream, i) for i, x in enumerate(parts)]
        names = _METRICS if self.regulariser is None else (*_METRICS, self.regulariser.name)
        names = names if self.teacher is None else (*names, "distil_loss")
        return dict(zip(names, torch.stack(steps).mean(0).unbind(), strict=True))

    @torch.no_grad()
    def lessons(self, batch: Batch) -> dict[str, Tensor]:
        """What it teaches a student: its policy at every entry, as its head describes it."""
        first_BNH = self.initial_carry(len(batch.start_BT))["actor_BNH"]
        outputs_BTNA, _ = self.actor(self._actor_inputs(batch.obs_BTNO), batch.start_BT, first_BNH)
        return self.policy.lesson(outputs_BTNA)

    @torch.no_grad()
    def _chunks(self, batch: Batch) -> dict[str, Tensor]:
        """Everything that the epochs need, computed once with the policy that acted; (X, L, ...).

        Without a GRU: the filled entries, (X, 1, ...), and no states.
        """
        c, start_BT = self.config, batch.start_BT
        inputs = {"actor": self._actor_inputs(batch.obs_BTNO)}
        if self.central:
            inputs["critic"] = self._critic_inputs(batch.obs_BTNO, batch.state_BTS, batch.alive_BTN)
        seen = inputs.get("critic", inputs["actor"])
        first = {name: batch.extras[f"carry.{name}_BNH"] for name in ("actor", "critic")}
        outputs_BTNA, actor_BTNH = self.actor(inputs["actor"], start_BT, first["actor"])
        value_BTN1, critic_BTNH = self.critic(seen, start_BT, first["critic"])
        value_BTN = self.norm.restore(value_BTN1.squeeze(-1))
        filled_BTN = batch.filled_BT[..., None].expand_as(value_BTN)
        ended_BT = batch.terminated_BT | batch.truncated_BT if c.limit_ends else batch.terminated_BT
        return_BTN = lambda_returns(
            self._reward(batch), value_BTN, ended_BT, batch.filled_BT, gamma=c.gamma, trace=c.trace
        )
        if FORCED in batch.extras:  # decisions that were not the agent's own teach it nothing
            filled_BTN = filled_BTN & ~batch.extras[FORCED]
        live_BTN = filled_BTN & batch.alive_BTN
        stored = self.policy.stored(batch)
        per_entry = {
            **inputs,
            **stored,
            "log_prob": self.policy.log_prob(outputs_BTNA, stored),
            "value": value_BTN1.squeeze(-1),
            "return": return_BTN,
            "advantage": _standardise(return_BTN - value_BTN, live_BTN),
            "mask": filled_BTN,
            "live": live_BTN,
        }
        if self.teacher is not None:
            per_entry |= self.teacher.lessons(batch)
        if not c.recurrent:
            at_X = batch.filled_BT.flatten().nonzero().flatten()
            return {n: v.flatten(0, 1).index_select(0, at_X)[:, None] for n, v in per_entry.items()}
        per_entry["start"] = start_BT
        L = c.chunk or start_BT.shape[1]
        states = {"actor": actor_BTNH, "critic": critic_BTNH}
        chunks = {name: cut(value, L) for name, value in per_entry.items()}
        for name, h_BTNH in states.items():
            chunks[f"{name}_state"] = states_before(h_BTNH, first[name], L)
        return chunks

    def _learn(self, x: dict[str, Tensor], rng: Stream, index: int) -> Tensor:
        """One step of actor and critic on a minibatch of chunks; `_METRICS`, then other terms' values.

        Args:
            x: the minibatch.
            rng, index: of the epoch, and which minibatch of it.
        """
        c, start, steps = self.config, x.get("start"), self.optimisers

        weight = c.entropy * linear_decay(self.steps, c.entropy_decay)

        taught: list[Tensor] = []  # the teacher's term

        def of_policy(outputs: Tensor) -> tuple[Tensor, Tensor]:
            values, gradient = self.policy.loss(outputs, x, clip=c.clip, weight=weight)
            if self.teacher is not None:
                term, slope = self._taught(self.teacher, outputs, x)
                taught.append(term)
                gradient = gradient + slope
            return values, gradient

        policy_3 = self.actor.learn(x["actor"], start, x.get("actor_state"), of_policy)
        terms = []
        if self.regulariser is not None:
            terms.append(self._robust_loss(self.regulariser, x, rng.fold("defence", index)))
        terms += taught
        norms = [steps["actor"].apply(sum(terms, policy_3.sum()), "policy loss")]
        self.norm.update(x["return"], x["mask"])
        seen = x.get("critic", x["actor"])
        value = self.critic.learn(seen, start, x.get("critic_state"), lambda v: self._value_loss(v, x))
        norms.append(steps["critic"].apply(value, "value loss"))
        return torch.cat((policy_3, torch.stack((value, *norms, *terms))))

    def _robust_loss(self, regulariser: Regulariser, x: dict[str, Tensor], rng: Stream) -> Tensor:
        """Add the gradient of the defence's term to the actor's; the term."""

        def view(inputs: Tensor) -> View:
            return View(*self.actor.view(inputs, x.get("start"), x.get("actor_state")))

        clean = view(x["actor"])
        term = regulariser.term(
            view,
            x["actor"],
            clean,
            distance=lambda a, b: self.policy.distance(a, b, x),
            decision=self.policy.decision(clean.scores, x),
            mask=x["live"],
            rng=rng,
        )
        (regulariser.weight * term).backward()  # type: ignore[no-untyped-call]
        return term.detach()

    def _taught(self, teacher: Teacher, outputs: Tensor, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The teacher's term, and its weighted gradient; that of the head's parameters is added to theirs."""
        with torch.enable_grad():
            outputs = outputs.detach().requires_grad_()
            term = self.policy.divergence(outputs, x, temperature=teacher.config.distil_temperature)
            weight = teacher.weight(self.optimisers["actor"].steps)
            (weight * term).backward()  # type: ignore[no-untyped-call]
        assert outputs.grad is not None
        return term.detach(), outputs.grad

    def _value_loss(self, value_BTN1: Tensor, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The critic's loss and its gradient, (..., 1)."""
        c, value = self.config, value_BTN1.squeeze(-1)
        if kernels.usable(value):
            rest, moments = (x["value"], x["return"], x["mask"]), self.norm.moments()
            loss, gradient = native.value_loss(value, *rest, moments=moments, clip=c.clip, huber=c.huber)
            return loss, gradient[..., None]
        with torch.enable_grad():
            value = value.detach().requires_grad_()
            target = self.norm.normalise(x["return"])
            loss = value_loss(value, x["value"], target, x["mask"], clip=c.clip, huber=c.huber)
        (gradient,) = torch.autograd.grad(loss, value)
        return loss.detach(), gradient[..., None]

    def _reward(self, batch: Batch) -> Tensor:
        """Rewards (B, T, N): every agent's own, or the team's for all."""
        if batch.agent_reward_BTN is not None:
            return batch.agent_reward_BTN
        assert batch.reward_BT is not None
        return batch.reward_BT[..., None].expand(-1, -1, self.spec.n_agents)

    # Persistence

    def _modules(self) -> dict[str, nn.Module]:
        return {"actor": self.actor, "critic": self.critic, "norm": self.norm}

    def state_dict(self) -> dict[str, Any]:
        """Networks, statistics, optimisers and counters: all that `update` and `act` depend on."""
        return {
            "networks": {
                f"{part}.{name}": value
                for part, module in self._modules().items()
                for name, value in tensors_of(module).items()
            },
            "targets": {},
            "optimisers": {name: o.state_dict() for name, o in self.optimisers.items()},
            "counters": {"updates": self.updates, "steps": self.steps}
            | ({} if self.teacher is None else self.teacher.counters),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore, after which acting and learning go on bit for bit.

        Raises:
            MarlError: a tensor is missing, unknown or of another shape.
        """
        for part, module in self._modules().items():
            prefix = f"{part}."
            own = {n.removeprefix(prefix): v for n, v in state["networks"].items() if n.startswith(prefix)}
            load_tensors(module, own, part)
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.updates, self.steps = (int(state["counters"][name]) for name in ("updates", "steps"))
        if self.teacher is not None:
            self.teacher.restore(state["counters"])


def _standardise(x: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the entries where mask is True; 0 elsewhere."""
    mean = masked_mean(x, mask)
    deviation = masked_mean((x - mean).square(), mask).sqrt()
    return torch.where(mask, (x - mean) / (deviation + 1e-5), 0.0)  # 1e-5: Yu et al.
