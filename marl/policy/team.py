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
from marl.nets import Optimiser, agent_inputs, kernels, load_tensors, tensors_of
from marl.policy.chunks import cut, minibatches, states_before
from marl.policy.config import PolicyConfig
from marl.policy.losses import entropy, masked_mean, policy_loss, value_loss
from marl.policy.network import SequenceNet
from marl.policy.normalise import ValueNorm
from marl.returns import lambda_returns
from marl.rng import Rng, Stream
from marl.types import Act, Batch, Carry, EnvSpec, FieldSpec, Link, TimeStep

_NEVER = -1e10  # logit of an unavailable action; Yu et al.


class PolicyTeam:
    """PPO with generalised advantages, value normalisation and recurrent networks.

    DEVIATION: a truncated episode's last value is bootstrapped; the code of Yu et al. treats the step limit
    as an end. DEVIATION: log-probabilities, values and states of a rollout are computed again at its first
    epoch instead of stored while acting; they are the same numbers.
    CHOICE: a chunk holds all agents of its env, where the released code shuffles agents apart: the same
    for one minibatch, which it uses nearly everywhere.

    Args:
        spec: the world; Discrete actions and a team or per-agent reward.
        config: hyper-parameters.
        central: the critic sees the state beside the agent's observation, or the observation alone.
        rng: source of the initial weights.
        device: where networks live and batches arrive.

    Raises:
        MarlError: the world's actions are not discrete, or its reward is a vector.
    """

    extras_spec: dict[str, FieldSpec] = {}  # noqa: RUF012 - nothing is stored beside actions

    def __init__(
        self, spec: EnvSpec, config: PolicyConfig, *, central: bool, rng: Rng, device: torch.device
    ) -> None:
        if not spec.discrete:
            raise MarlError(f"env={spec.name} has continuous actions: this team needs discrete ones")
        if spec.reward == "vector":
            raise MarlError(f"env={spec.name} has a vector reward: this team needs a scalar one")
        self.spec, self.config, self.central, self.device = spec, config, central, device
        self.updates = 0
        seen = spec.obs_size + spec.state_size * central
        generator = rng.torch("init")
        self.actor = self._network(generator, spec.obs_size, spec.n_actions, head_gain=0.01)
        self.critic = self._network(generator, seen, 1, head_gain=1.0)
        self.norm = ValueNorm(enabled=config.normalise_values).to(device)
        self.optimisers = {
            name: Optimiser(
                module,
                kind="adam",
                learning_rate=config.learning_rate,
                eps=config.optimiser_eps,
                max_grad_norm=config.max_grad_norm,
            )
            for name, module in (("actor", self.actor), ("critic", self.critic))
        }

    def _network(
        self, generator: torch.Generator, inputs: int, outputs: int, *, head_gain: float
    ) -> SequenceNet:
        c, N = self.config, self.spec.n_agents
        return SequenceNet(
            inputs + N * c.agent_ids,
            outputs,
            hidden=c.hidden,
            recurrent=c.recurrent,
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
        """Sample from the policy if explore > 0, else take its likeliest action."""
        logits_BNA, actor_BNH = self.actor.step(self._actor_inputs(ts.obs_BNO), carry["actor_BNH"])
        logits_BNA = logits_BNA.masked_fill(~ts.avail_BNA, _NEVER)
        actions_BN = sample(logits_BNA, rng) if explore > 0 else logits_BNA.argmax(-1)
        critic_BNH = carry["critic_BNH"]
        if self.config.recurrent:  # acting needs no values, but learning the states before its chunks
            seen_BNI = self._critic_inputs(ts.obs_BNO, ts.state_BS, ts.alive_BN)
            critic_BNH = self.critic.step(seen_BNI, critic_BNH)[1]
        return Act(actions_BN=actions_BN, carry={"actor_BNH": actor_BNH, "critic_BNH": critic_BNH})

    def scores(self, ts: TimeStep, carry: Carry) -> Tensor:
        """Logits of all actions, available or not."""
        return self.actor.step(self._actor_inputs(ts.obs_BNO), carry["actor_BNH"])[0]

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
            NonFiniteError: a loss or gradient is NaN or infinite; the steps before it were made.
        """
        sums: dict[str, Tensor] = {}
        with kernels.alone():
            chunks = self._chunks(batch)
            count = len(chunks["mask"])
            steps = 0
            for epoch in range(self.config.epochs):
                order_X = rng.fold(epoch).bits(count)[0].argsort()
                for part in minibatches(chunks, order_X, self.config.minibatches):
                    for name, value in self._learn(part).items():
                        sums[name] = sums.get(name, torch.zeros(())) + value.detach()
                    steps += 1
        self.updates += 1
        metrics = {name: value / steps for name, value in sums.items()}
        return metrics | {"loss": metrics["policy_loss"] + metrics["value_loss"]}

    @torch.no_grad()
    def _chunks(self, batch: Batch) -> dict[str, Tensor]:
        """Everything that the epochs need, computed once with the policy that acted; (X, L, ...)."""
        c, start_BT = self.config, batch.start_BT
        inputs = {
            "actor": self._actor_inputs(batch.obs_BTNO),
            "critic": self._critic_inputs(batch.obs_BTNO, batch.state_BTS, batch.alive_BTN),
        }
        first = {name: batch.extras[f"carry.{name}_BNH"] for name in inputs}
        logits_BTNA, actor_BTNH = self.actor(inputs["actor"], start_BT, first["actor"])
        value_BTN1, critic_BTNH = self.critic(inputs["critic"], start_BT, first["critic"])
        value_BTN = self.norm.restore(value_BTN1.squeeze(-1))
        filled_BTN = batch.filled_BT[..., None].expand_as(value_BTN)
        return_BTN = lambda_returns(
            self._reward(batch), value_BTN, batch.terminated_BT, batch.filled_BT, gamma=c.gamma, trace=c.trace
        )
        live_BTN = filled_BTN & batch.alive_BTN
        advantage_BTN = _standardise(return_BTN - value_BTN, live_BTN)
        per_entry = {
            "actor": inputs["actor"],
            "critic": inputs["critic"],
            "start": start_BT,
            "avail": batch.avail_BTNA,
            "actions": batch.actions_BTN,
            "log_prob": _taken(_log_probs(logits_BTNA, batch.avail_BTNA), batch.actions_BTN),
            "value": value_BTN1.squeeze(-1),
            "return": return_BTN,
            "advantage": advantage_BTN,
            "mask": filled_BTN,
            "live": live_BTN,
        }
        L = c.chunk or start_BT.shape[1]
        states = {"actor": actor_BTNH, "critic": critic_BTNH}
        chunks = {name: cut(value, L) for name, value in per_entry.items()}
        for name, h_BTNH in states.items():
            chunks[f"{name}_state"] = states_before(h_BTNH, first[name], L)
        return chunks

    def _learn(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step of actor and critic on a minibatch of chunks."""
        c = self.config
        logits = self.actor(x["actor"], x["start"], x["actor_state"])[0]
        log_probs = _log_probs(logits, x["avail"])
        taken = _taken(log_probs, x["actions"])
        spread = masked_mean(entropy(log_probs), x["live"])
        gain = policy_loss(taken, x["log_prob"], x["advantage"], x["live"], clip=c.clip)
        actor_norm = self.optimisers["actor"].step(gain - c.entropy * spread, "policy loss")
        self.norm.update(x["return"], x["mask"])
        target = self.norm.normalise(x["return"])
        value = self.critic(x["critic"], x["start"], x["critic_state"])[0].squeeze(-1)
        error = value_loss(value, x["value"], target, x["mask"], clip=c.clip, huber=c.huber)
        critic_norm = self.optimisers["critic"].step(error, "value loss")
        change = masked_mean(x["log_prob"] - taken, x["live"])
        return {
            "policy_loss": gain,
            "value_loss": error,
            "entropy": spread,
            "kl": change,
            "actor_grad_norm": actor_norm,
            "critic_grad_norm": critic_norm,
        }

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
            "counters": {"updates": self.updates},
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
        self.updates = int(state["counters"]["updates"])


def sample(logits_BNA: Tensor, rng: Stream) -> Tensor:
    """Actions (B, N) drawn from softmax(logits): the largest of logits plus Gumbel noise.

    One random number of the row's stream per agent and action. (A running sum of probabilities would
    need one per agent, but its CUDA form is not deterministic.)
    """
    # A zero, one draw in 2^24, would put its action below the unavailable ones: half a step above it instead.
    u_BNA = rng.uniform(*logits_BNA.shape[1:]).clamp(min=2.0**-25)
    return (logits_BNA - (-u_BNA.log()).log()).argmax(-1)


def _log_probs(logits: Tensor, avail: Tensor) -> Tensor:
    return logits.masked_fill(~avail, _NEVER).log_softmax(-1)


def _taken(log_probs: Tensor, actions: Tensor) -> Tensor:
    return log_probs.gather(-1, actions[..., None]).squeeze(-1)


def _standardise(x: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the entries where mask is True; 0 elsewhere."""
    mean = masked_mean(x, mask)
    deviation = masked_mean((x - mean).square(), mask).sqrt()
    return torch.where(mask, (x - mean) / (deviation + 1e-5), 0.0)  # 1e-5: Yu et al.
