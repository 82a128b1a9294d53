"""A team whose members talk: acts through a link, learns by replaying which messages arrived.

| symbol | name here | meaning |
|---|---|---|
| h, c | h_BNH, c_BNH | state of every agent's LSTM |
| g_t | gate | sampled at entry t; lets the agent talk at entry t + 1; 0 before an episode's first |
| p_ij | delivered | j's message reached i (receiver first), per round; stored while acting |
| pi(a, g), V | log_prob, value | joint probability of action and gate; value; both per agent |
| G | return | target of the value: marl/comm/losses.py |
| A | gain | G - V, or the central critic's Q of what was done |

A silent agent still receives: the gate belongs to the sender alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from marl.channel import PerfectLink
from marl.comm import export
from marl.comm.config import CommConfig
from marl.comm.losses import departures, own_returns, reinforce_loss, team_values
from marl.comm.network import Outputs, State, TalkingNetwork
from marl.errors import MarlError
from marl.masks import masked_mean
from marl.nets import Optimiser, kernels, linear_decay, load_tensors, tensors_of, undone_if_not_finite
from marl.policy.chunks import cut, minibatches, states_before
from marl.policy.heads import sample
from marl.policy.losses import entropy, policy_loss, value_loss
from marl.policy.normalise import ValueNorm
from marl.returns import lambda_returns
from marl.rng import Rng, Stream
from marl.robust.extras import FORCED, extra_fields
from marl.robust.losses import categorical_kl
from marl.robust.messages import (
    defended,
    heard_at_ends,
    message_defence,
    refuse_export,
    scores_in_use,
    values_in_use,
)
from marl.robust.regularise import View, regulariser
from marl.sparse import sparsify
from marl.sparse.distil import teacher_of
from marl.sparse.export.policy import Policy
from marl.types import Act, Batch, Carry, EnvSpec, FieldSpec, Link, TimeStep

_NEVER = -1e10  # logit of an unavailable action, as in marl/policy


class CommTeam:
    """Agents that share one network and exchange messages at every step.

    CHOICE: a rollout that ends in mid-episode is bootstrapped by the value; IC3Net's hold whole episodes.
    CHOICE: at an entry without an action (an episode's last observation), where nothing was sent, values take
    every message that would have been sent as delivered.

    Args:
        spec: the world; Discrete actions and a team or per-agent reward.
        config: hyper-parameters.
        gated: agents learn when to talk; else they always do.
        make_network: makes the network, from a generator of weights; its gate is there if `gated`.
        rng: source of the initial weights.
        device: where the network lives and batches arrive.

    Raises:
        MarlError: the world's actions are not discrete, or its reward is a vector.
    """

    def __init__(
        self,
        spec: EnvSpec,
        config: CommConfig,
        *,
        gated: bool,
        make_network: Callable[[torch.Generator], TalkingNetwork],
        rng: Rng,
        device: torch.device,
    ) -> None:
        if not spec.discrete:
            raise MarlError(f"env={spec.name} has continuous actions: this team needs discrete ones")
        if spec.reward == "vector":
            raise MarlError(f"env={spec.name} has a vector reward: this team needs a scalar one")
        self.spec, self.config, self.gated, self.device = spec, config, gated, device
        self.chosen, self.updates, self.steps = config.chosen, 0, 0  # steps: team steps learned from
        self.defence = config.defence
        self.regulariser = regulariser(config.defence, spec, device)
        self.network = make_network(rng.torch("init")).to(device)
        self.pruner = sparsify(self.network, config.sparsity, rng)
        self.pruners = {} if self.pruner is None else {"": self.pruner}
        ppo = config.learner == "ppo"
        self.norm = ValueNorm(enabled=ppo and config.normalise_values).to(device)
        self.optimiser = Optimiser(
            self.network,
            kind=self.chosen["optimiser"],
            learning_rate=self.chosen["learning_rate"],
            eps=self.chosen["optimiser_eps"],
            alpha=config.rmsprop_alpha,
            max_grad_norm=self.chosen["max_grad_norm"],
            pruner=self.pruner,
        )
        N = spec.n_agents
        self.extras_spec = {
            "delivered": FieldSpec(shape=(config.rounds, N, N), dtype=torch.bool),
            "left": FieldSpec(shape=(N,), dtype=torch.bool),  # whoever was in this slot before is gone
        }
        if gated:
            self.extras_spec["gate"] = FieldSpec(shape=(N,), dtype=torch.bool)
        self.extras_spec |= extra_fields(config.defence, spec, values=False)
        sums = self.network.aggregate.sums
        self.message_defence = message_defence(config.defence, spec, rng=rng, device=device, sums=sums)
        self.teacher = teacher_of(config.sparsity, self, CommTeam)

    # Acting

    def initial_carry(self, rows: int) -> Carry:
        N, H = self.spec.n_agents, self.config.hidden
        states = self.network.states
        carry = {f"{name}_BNH": torch.zeros(rows, N, H, device=self.device) for name in states}
        if self.gated:
            carry["gate_BN"] = torch.zeros(rows, N, dtype=torch.bool, device=self.device)
        return carry

    @torch.no_grad()
    @defended
    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        """Sample action and gate if explore > 0, else take the likeliest."""
        state, delivered, carry = self._listen(ts, carry, link or PerfectLink(self.device))
        out = self.network.outputs(state[0])
        logits_BNA = out.logits.masked_fill(~ts.avail_BNA, _NEVER)
        actions_BN = sample(logits_BNA, rng) if explore > 0 else logits_BNA.argmax(-1)
        left_BN = ts.info.get("left", torch.zeros_like(ts.alive_BN))
        extras = {"delivered": torch.stack(delivered, 1), "left": left_BN}
        names = self.network.states
        carry = carry | {f"{name}_BNH": x_BNH for name, x_BNH in zip(names, state, strict=False)}
        if out.gate is not None:
            gate_BN = sample(out.gate, rng.fold("gate")) if explore > 0 else out.gate.argmax(-1)
            carry = carry | {"gate_BN": gate_BN.bool()}
            extras["gate"] = gate_BN.bool()
        return Act(actions_BN=actions_BN, carry=carry, extras=extras)

    def scores(self, ts: TimeStep, carry: Carry) -> Tensor:
        """Logits of all actions, available or not, with every message delivered."""
        return scores_in_use(self.message_defence, self._logits, ts, carry, PerfectLink(self.device))

    def _logits(self, ts: TimeStep, carry: Carry, link: Link) -> Tensor:
        return self.network.outputs(self._listen(ts, carry, link)[0][0]).logits

    @property
    def discount(self) -> float:
        """gamma of `values`."""
        return float(self.chosen["gamma"])

    def values(self, ts: TimeStep, carry: Carry) -> Tensor:
        """The value heads', or the critic's of the policy's own choices, in units of returns; (B, N)."""
        return values_in_use(self.message_defence, self._values, ts, carry, PerfectLink(self.device))

    def _values(self, ts: TimeStep, carry: Carry, link: Link) -> Tensor:
        state, _, _ = self._listen(ts, carry, link)
        out = self.network.outputs(state[0])
        if out.value is not None:
            return self.norm.restore(out.value)
        p_BNA = out.logits.masked_fill(~ts.avail_BNA, _NEVER).softmax(-1)
        return self.norm.restore(self.network.joint_value(state[0], ts.alive_BN, p_BNA))

    def export(self) -> Policy:
        """What `marl export` writes: acting alone, every message delivered, with masks resolved."""
        refuse_export(self.message_defence)
        return export.policy(self.spec, self.network, messages=self.config.messages)

    def _listen(self, ts: TimeStep, carry: Carry, link: Link) -> tuple[State, list[Tensor], Carry]:
        """One entry of the network through the link: its state, what arrived per round, the link's carry."""
        wanted_BNN = self._wanted(ts.alive_BN, carry.get("gate_BN"))
        delivered: list[Tensor] = []

        def exchange(message_BNM: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal carry
            received_BNNM, delivered_BNN, carry = link.send(message_BNM, wanted_BNN, carry)
            delivered.append(delivered_BNN)
            return received_BNNM, delivered_BNN

        e_BNH = self.network.encode(ts.obs_BNO)
        state = tuple(carry[f"{name}_BNH"] for name in self.network.states)
        return self.network.step(e_BNH, state, ts.alive_BN, exchange), delivered, carry

    def _wanted(self, alive: Tensor, gate: Tensor | None) -> Tensor:
        """Who would talk to whom, bool (..., receiver, sender): the living, if the sender's gate is open."""
        if not self.config.messages:
            return torch.zeros_like(alive)[..., None].expand(*alive.shape, alive.shape[-1])
        talks = alive if gate is None else alive & gate
        other_NN = ~torch.eye(alive.shape[-1], dtype=torch.bool, device=alive.device)
        return talks[..., None, :] & alive[..., None] & other_NN

    # Learning

    def update(self, batch: Batch, *, rng: Stream) -> dict[str, Tensor]:
        """One step of REINFORCE, or all epochs of PPO, on one rollout.

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite; everything is as before the update.
        """
        c, steps = self.config, 0
        sums: dict[str, Tensor] = {}
        ppo = c.learner == "ppo"
        rate = self.chosen["learning_rate"] * linear_decay(self.steps, c.learning_rate_decay)
        self.optimiser.set_learning_rate(rate)
        with kernels.alone(), undone_if_not_finite(self):
            if self.pruner is not None:
                self.pruner.observe(batch.mean_reward())
            chunks = self._chunks(batch)
            for epoch in range(c.epochs if ppo else 1):
                stream = rng.fold(epoch)
                order_X = stream.bits(len(chunks["live"]))[0].argsort()
                parts = minibatches(chunks, order_X, c.minibatches) if ppo else [chunks]
                for i, part in enumerate(parts):
                    part_rng = stream if self.regulariser is None else stream.fold("defence", i)
                    learned = self._ppo(part, part_rng) if ppo else self._reinforce(part, part_rng)
                    for name, value in learned.items():
                        sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach()
                    steps += 1
        self.updates, self.steps = self.updates + 1, self.steps + int(batch.filled_BT.sum())
        pairs = (self._wanted(batch.alive_BTN, None) & batch.filled_BT[..., None, None]).sum()
        arrived = batch.extras["delivered"].float().mean(2).sum() / pairs.clamp(min=1)  # link.talk: sent
        metrics = {name: value / steps for name, value in sums.items()} | {"arrived": arrived}
        return metrics if self.pruner is None else metrics | self.pruner.metrics()

    @torch.no_grad()
    def _chunks(self, batch: Batch) -> dict[str, Tensor]:
        """Everything that learning needs, computed once with the network that acted; (X, L, ...)."""
        net, delivered_BTRNN = self.network, self._delivered(batch)
        e_BTNH = net.encode(batch.obs_BTNO)
        first = {name: batch.extras[f"carry.{name}_BNH"] for name in net.states}
        states = net(e_BTNH, batch.start_BT, batch.alive_BTN, delivered_BTRNN, tuple(first.values()))
        out = net.outputs(states[0])
        live_BTN = batch.alive_BTN & batch.filled_BT[..., None]
        if FORCED in batch.extras:  # decisions that were not the agent's own teach it nothing
            live_BTN = live_BTN & ~batch.extras[FORCED]
        per_entry = {
            "obs": batch.obs_BTNO,
            "start": batch.start_BT,
            "alive": batch.alive_BTN,
            "delivered": delivered_BTRNN,
            "avail": batch.avail_BTNA,
            "actions": batch.actions_BTN,
            "filled": batch.filled_BT,
            "live": live_BTN,
        }
        value_BTN = self._value(out, states[0], per_entry)
        restored_BTN = self.norm.restore(value_BTN)
        return_BTN = self._returns(batch, restored_BTN)
        gain_BTN = restored_BTN if net.central else return_BTN - restored_BTN
        per_entry |= {
            "value": value_BTN,
            "return": return_BTN,
            "gain": gain_BTN,
            "advantage": _standardise(gain_BTN, live_BTN),
        }
        if "gate" in batch.extras:
            per_entry["gate"] = batch.extras["gate"]
        per_entry["log_prob"], _ = self._log_prob(out, per_entry)
        if self.teacher is not None:
            per_entry |= self.teacher.lessons(batch)
        L = self.config.chunk or batch.start_BT.shape[1]
        chunks = {name: cut(value, L) for name, value in per_entry.items()}
        for (name, first_BNH), x_BTNH in zip(first.items(), states, strict=False):
            chunks[name] = states_before(x_BTNH, first_BNH, L)
        return chunks

    @torch.no_grad()
    def lessons(self, batch: Batch) -> dict[str, Tensor]:
        """What it teaches a student: its logits of actions and of the gate, (B, T, N, .)."""
        carry, net = self.initial_carry(len(batch.start_BT)), self.network
        state = tuple(carry[f"{name}_BNH"] for name in net.states)
        e_BTNH = net.encode(batch.obs_BTNO)
        h_BTNH = net(e_BTNH, batch.start_BT, batch.alive_BTN, self._delivered(batch), state)[0]
        out = net.outputs(h_BTNH)
        return {"taught": out.logits} | ({} if out.gate is None else {"taught_gate": out.gate})

    def _value(self, out: Outputs, h: Tensor, x: dict[str, Tensor]) -> Tensor:
        """Every agent's own value, or the central critic's of the actions taken, (..., N)."""
        if out.value is not None:
            return out.value
        logits = out.logits.masked_fill(~x["avail"], _NEVER)
        taken = F.one_hot(x["actions"], logits.shape[-1]).to(logits.dtype)
        action = torch.where(x["filled"][..., None, None], taken, logits.softmax(-1).detach())
        return self.network.joint_value(h, x["alive"], action)

    def _delivered(self, batch: Batch) -> Tensor:
        """Which messages arrived (B, T, R, N, N): as acting stored them; wanted ones where nobody acted."""
        gate_BTN = batch.extras.get("gate")
        if gate_BTN is not None:  # the one that the entry before sampled
            before_BTN = torch.cat([batch.extras["carry.gate_BN"][:, None], gate_BTN[:, :-1]], 1)
            gate_BTN = before_BTN & ~batch.start_BT[..., None]
        wanted_BTNN = heard_at_ends(self.message_defence, self._wanted(batch.alive_BTN, gate_BTN))
        stored_BTRNN = batch.extras["delivered"]
        filled_BT111 = batch.filled_BT[..., None, None, None]
        return torch.where(filled_BT111, stored_BTRNN, wanted_BTNN[:, :, None])

    def _returns(self, batch: Batch, value_BTN: Tensor) -> Tensor:
        """G of every agent, from its own reward and up to its own end, or from the team's."""
        c, rest = self.chosen, {"gamma": self.chosen["gamma"], "trace": self.chosen["trace"]}
        ended_BT = batch.terminated_BT | batch.truncated_BT if c["limit_ends"] else batch.terminated_BT
        reward_BTN = batch.agent_reward_BTN
        if reward_BTN is not None and self.config.own_rewards:
            gone_BTN = departures(batch.alive_BTN, batch.extras["left"], batch.filled_BT)
            return own_returns(reward_BTN, value_BTN, ended_BT[..., None] | gone_BTN, batch.filled_BT, **rest)
        reward_BT = batch.reward_BT if reward_BTN is None else reward_BTN.mean(-1)
        assert reward_BT is not None
        value_BTN = team_values(value_BTN, batch.alive_BTN)
        return lambda_returns(
            reward_BT[..., None].expand_as(value_BTN), value_BTN, ended_BT, batch.filled_BT, **rest
        )

    def _look(self, obs: Tensor, x: dict[str, Tensor]) -> tuple[Outputs, Tensor]:
        """Heads and states of chunks in which this was observed, differentiable."""
        e, state = self.network.encode(obs), tuple(x[name] for name in self.network.states)
        h = self.network(e, x["start"], x["alive"], x["delivered"], state)[0]
        return self.network.outputs(h), h

    def _robust_loss(self, x: dict[str, Tensor], out: Outputs, h: Tensor, rng: Stream) -> dict[str, Tensor]:
        """The defence's term by its name, if there is one. CHOICE: of actions alone, not of gates."""
        if self.regulariser is None:
            return {}

        def view(obs: Tensor) -> View:
            other, state = self._look(obs, x)
            return View(other.logits, state)

        term = self.regulariser.term(
            view,
            x["obs"],
            View(out.logits, h),
            distance=lambda clean, other: categorical_kl(clean, other, x["avail"]),
            decision=out.logits.masked_fill(~x["avail"], _NEVER).argmax(-1),
            mask=x["live"],
            rng=rng,
        )
        return {self.regulariser.name: term}

    def _log_prob(self, out: Outputs, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """log pi of the stored action and gate together, and the policy's entropy; (..., N)."""
        log_probs = out.logits.masked_fill(~x["avail"], _NEVER).log_softmax(-1)
        taken, spread = _taken(log_probs, x["actions"]), entropy(log_probs)
        if out.gate is not None and self.config.messages:  # the mute twin's gate decides nothing
            gates = out.gate.log_softmax(-1)
            taken, spread = taken + _taken(gates, x["gate"].long()), spread + entropy(gates)
        return taken, spread

    def _reinforce(self, x: dict[str, Tensor], rng: Stream) -> dict[str, Tensor]:
        """One optimiser step on a whole rollout."""
        (out, h), live = self._look(x["obs"], x), x["live"]
        value = self._value(out, h, x)
        log_prob, spread = self._log_prob(out, x)
        steps = x["filled"].sum().clamp(min=1)
        gain, error = reinforce_loss(log_prob, value, x["return"], x["gain"], live, steps)
        bonus = torch.where(live, spread, 0.0).sum() / steps
        extra = self._robust_loss(x, out, h, rng) | self._taught(out, x)
        return self._step(gain, error, bonus, masked_mean(spread, live), extra)

    def _ppo(self, x: dict[str, Tensor], rng: Stream) -> dict[str, Tensor]:
        """One optimiser step on a minibatch of chunks."""
        c, (out, h), live = self.config, self._look(x["obs"], x), x["live"]
        value = self._value(out, h, x)
        log_prob, spread = self._log_prob(out, x)
        gain = policy_loss(log_prob, x["log_prob"], x["advantage"], live, clip=c.clip)
        self.norm.update(x["return"], live)
        target = self.norm.normalise(x["return"])
        error = value_loss(value, x["value"], target, live, clip=c.clip, huber=c.huber)
        mean_entropy = masked_mean(spread, live)
        extra = self._robust_loss(x, out, h, rng) | self._taught(out, x)
        metrics = self._step(gain, error, mean_entropy, mean_entropy, extra)
        return metrics | {"kl": masked_mean(x["log_prob"] - log_prob, live)}

    def _taught(self, out: Outputs, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """The teacher's term of the loss, before its weight, where there is a teacher."""
        if self.teacher is None:
            return {}
        term = self.teacher.divergence(out.logits, x["taught"], x["live"], x["avail"])
        if out.gate is not None and "taught_gate" in x and self.config.messages:
            term = term + self.teacher.divergence(out.gate, x["taught_gate"], x["live"])
        return {"distil_loss": term}

    def _step(
        self, gain: Tensor, error: Tensor, bonus: Tensor, spread: Tensor, extra: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        weight = self.chosen["entropy"] * linear_decay(self.steps, self.config.entropy_decay)
        loss = gain + self.chosen["value_weight"] * error - weight * bonus
        if self.regulariser is not None:
            loss = loss + self.regulariser.weight * extra[self.regulariser.name]
        if self.teacher is not None:
            loss = loss + self.teacher.weight(self.optimiser.steps) * extra["distil_loss"]
        norm = self.optimiser.step(loss)
        losses = {"loss": loss, "policy_loss": gain, "value_loss": error}
        return losses | {"entropy": spread, "grad_norm": norm} | extra

    # Persistence

    def state_dict(self) -> dict[str, Any]:
        """Network, statistics, optimiser and counters: all that `update` and `act` depend on."""
        return {
            "networks": tensors_of(self.network),
            "targets": tensors_of(self.norm),
            "optimisers": {"network": self.optimiser.state_dict()},
            "counters": {"updates": self.updates, "steps": self.steps}
            | ({} if self.teacher is None else self.teacher.counters),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore, after which acting and learning go on bit for bit.

        Raises:
            MarlError: a tensor is missing, unknown or of another shape.
        """
        load_tensors(self.network, state["networks"], "networks")
        load_tensors(self.norm, state["targets"], "value statistics")
        self.optimiser.load_state_dict(state["optimisers"]["network"])
        self.updates, self.steps = (int(state["counters"][name]) for name in ("updates", "steps"))
        if self.teacher is not None:
            self.teacher.restore(state["counters"])


def _taken(log_probs: Tensor, actions: Tensor) -> Tensor:
    return log_probs.gather(-1, actions[..., None]).squeeze(-1)


def _standardise(x: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the entries where mask is True; 0 elsewhere."""
    mean = masked_mean(x, mask)
    deviation = masked_mean((x - mean).square(), mask).sqrt()
    return torch.where(mask, (x - mean) / (deviation + 1e-5), 0.0)  # 1e-5: as marl/policy
