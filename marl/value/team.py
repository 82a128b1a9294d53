"""A team of recurrent action-value learners; the mixer makes the method.

| symbol | name here | meaning |
|---|---|---|
| Q_i(tau_i, u_i) | q_BTN | value of agent i's chosen action given its history |
| Q_tot | value_BTM | joint value (M = 1), or the agents' own values (M = N) |
| theta, theta^- | online, target | parameters, and their delayed copy |
| y_t | target_BTM | learning target: `marl.returns` |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from marl.errors import MarlError
from marl.nets import FlatParameters, Optimiser, bind, kernels, load_tensors, tensors_of
from marl.returns import lambda_returns, nstep_returns
from marl.rng import Rng, Stream
from marl.robust.extras import INTENDED, extra_fields
from marl.robust.losses import squared_distance
from marl.robust.regularise import Regulariser, View, regulariser
from marl.sparse import follow, sparsify
from marl.sparse.distil import teacher_of
from marl.sparse.export.policy import Policy
from marl.types import Act, Batch, Carry, EnvSpec, FieldSpec, Link, TimeStep
from marl.value import export
from marl.value.config import ValueConfig
from marl.value.explore import epsilon_greedy
from marl.value.joint import Joint
from marl.value.losses import double_q_actions, td_loss
from marl.value.network import RecurrentQ


@dataclass(kw_only=True)
class Look:
    """What networks make of a batch of sequences."""

    q_BTNA: Tensor  # Q_i of all actions
    features_BTNH: Tensor  # of which the agents' own values are a linear function
    parts: dict[str, Tensor] = field(default_factory=dict)  # what a method's own losses want besides


class Networks(nn.Module):
    """Everything that is learned: the agents' network and the mixer."""

    def __init__(self, agents: Any, mixer: nn.Module) -> None:
        super().__init__()
        self.agents, self.mixer = agents, mixer


class QTeam:
    """Recurrent Q-learning with target networks, double Q and epsilon-greedy acting.

    Args:
        spec: the world; Discrete actions and a team or per-agent reward.
        config: hyper-parameters.
        make_mixer: builds the mixer from a generator of initial weights.
        rng: source of the initial weights.
        device: where networks live and batches arrive.

    Raises:
        MarlError: the world's actions are not discrete, or its reward is a vector.
    """

    extras_spec: dict[str, FieldSpec] = {}  # noqa: RUF012 - nothing is stored beside actions

    def __init__(
        self,
        spec: EnvSpec,
        config: ValueConfig,
        make_mixer: Callable[[torch.Generator], nn.Module],
        *,
        rng: Rng,
        device: torch.device,
    ) -> None:
        if not spec.discrete:
            raise MarlError(f"env={spec.name} has continuous actions: Q-learning teams need discrete ones")
        if spec.reward == "vector":
            raise MarlError(f"env={spec.name} has a vector reward: Q-learning teams need a scalar one")
        self.spec, self.config, self.device = spec, config, device
        self.updates, self.defence = 0, config.defence
        self.extras_spec = self.extras_spec | extra_fields(config.defence, spec, values=True)
        self.regulariser = regulariser(config.defence, spec, device)
        self.online = self._make(make_mixer, rng.torch("init")).to(device)
        self.target = self._make(make_mixer, torch.Generator()).to(device)
        self.pruner = sparsify(self.online, config.sparsity, rng)
        self.pruners = {} if self.pruner is None else {"": self.pruner}
        sparsify(self.target, config.sparsity, rng.child("target"))
        self.optimiser = Optimiser(
            self.online,
            kind=config.optimiser,
            learning_rate=config.learning_rate,
            eps=config.optimiser_eps,
            alpha=config.rmsprop_alpha,
            max_grad_norm=config.max_grad_norm,
            pruner=self.pruner,
            native=True,
        )
        self.teacher = teacher_of(config.sparsity, self, QTeam)
        self._target = FlatParameters(self.target.requires_grad_(False))
        self._move_target(1.0)

    def _make(
        self, make_mixer: Callable[[torch.Generator], nn.Module], generator: torch.Generator
    ) -> Networks:
        return Networks(self._make_agents(generator), make_mixer(generator))

    # What methods whose agents do more than look for themselves replace

    def _make_agents(self, generator: torch.Generator) -> nn.Module:
        """The agents' network."""
        return RecurrentQ(self.spec, self.config, generator)

    def _look(self, nets: Networks, x_BTNI: Tensor, batch: Batch) -> Look:
        """Q-values of every entry. Args: x_BTNI: input rows of the agents' network."""
        h_BTNH = nets.agents.states(x_BTNI, batch.start_BT)
        return Look(q_BTNA=nets.agents.head(h_BTNH), features_BTNH=h_BTNH)

    def _own_losses(self, look: Look, batch: Batch) -> dict[str, tuple[float, Tensor]]:
        """Losses beside the TD loss by name: (weight, value)."""
        return {}

    def _move_target(self, tau: float) -> None:
        """theta^- <- tau theta + (1 - tau) theta^-, and the groups of theta where layers are grouped."""
        follow(self.target, self.online)
        self._target.vector.data.lerp_(self.optimiser.flat.vector.data, tau)
        bind(self.target)

    # Acting

    def initial_carry(self, rows: int) -> Carry:
        N, H = self.spec.n_agents, self.config.hidden
        return {
            "hidden_BNH": torch.zeros(rows, N, H, device=self.device),
            "last_action_BN": torch.full((rows, N), -1, device=self.device),
        }

    @torch.no_grad()
    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        q_BNA, h_BNH = self._step_network(ts, carry)
        actions_BN = epsilon_greedy(q_BNA, ts.avail_BNA, rng, explore)
        return Act(actions_BN=actions_BN, carry={"hidden_BNH": h_BNH, "last_action_BN": actions_BN})

    def scores(self, ts: TimeStep, carry: Carry) -> Tensor:
        return self._step_network(ts, carry)[0]

    def scores_of(self, ts: TimeStep, carry: Carry, agents_K: Tensor) -> Tensor:
        """As `scores`, of these agents alone (B, K, A): K rows of the shared network instead of N."""
        net = self.online.agents
        apart = type(net) is RecurrentQ and type(self).scores is QTeam.scores
        if not (apart and self.config.share):
            return self.scores(ts, carry).index_select(1, agents_K)
        x_BNI = net.inputs(ts.obs_BNO, carry["last_action_BN"])
        q_BKA: Tensor = net.step(*(v.index_select(1, agents_K) for v in (x_BNI, carry["hidden_BNH"])))[0]
        return q_BKA

    def _step_network(self, ts: TimeStep, carry: Carry) -> tuple[Tensor, Tensor]:
        net = self.online.agents
        return net.step(net.inputs(ts.obs_BNO, carry["last_action_BN"]), carry["hidden_BNH"])

    def export(self) -> Policy:
        """What `marl export` writes: acting alone, with masks resolved."""
        return export.policy(self.spec, self.online.agents)

    def joint_value(self, ts: TimeStep, carry: Carry, actions_BN: Tensor) -> Tensor:
        """Q_tot of the joint actions (B, 1), or the agents' own values (B, N)."""
        q_BTNA = self.scores(ts, carry)[:, None]
        rest = actions_BN[:, None], ts.avail_BNA[:, None], ts.state_BS[:, None]
        return self._mix(self.online, q_BTNA, *rest)[:, 0]

    # Learning

    def update(self, batch: Batch, *, rng: Stream) -> dict[str, Tensor]:
        """One optimiser step on the TD loss of all filled entries.

        Raises:
            NonFiniteError: loss or gradient is NaN or infinite; nothing was changed.
        """
        with kernels.alone():
            if self.pruner is not None:
                self.pruner.observe(batch.mean_reward())
            x_BTNI = self.online.agents.inputs(batch.obs_BTNO, batch.last_actions_BTN)
            look = self._look(self.online, x_BTNI, batch)
            value_BTM, target_BTM = self._values_and_targets(batch, x_BTNI, look)
            td = td_loss(value_BTM, target_BTM, batch.filled_BT, kind=self.config.td_loss)
            own = self._own_losses(look, batch) | self._taught(look, batch)
            if self.regulariser is not None:
                own |= self._robust_loss(self.regulariser, look, batch, rng)
            loss = sum((weight * value for weight, value in own.values()), td)
            norm = self.optimiser.step(loss)
        self.updates += 1
        if self.updates % self.config.target_every == 0:
            self._move_target(self.config.target_tau)
        parts = {name: value.detach() for name, (_, value) in own.items()}
        parts |= {"td_loss": td.detach()} if own else {}
        return self._metrics(batch, loss, norm, value_BTM, target_BTM) | parts

    def lessons(self, batch: Batch) -> dict[str, Tensor]:
        """What it teaches a student: its Q-values of every entry, (B, T, N, A)."""
        x_BTNI = self.online.agents.inputs(batch.obs_BTNO, batch.last_actions_BTN)
        return {"q": self._look(self.online, x_BTNI, batch).q_BTNA}

    def _taught(self, look: Look, batch: Batch) -> dict[str, tuple[float, Tensor]]:
        """The teacher's term of the loss, where there is a teacher."""
        if self.teacher is None:
            return {}
        live_BTN = batch.filled_BT[..., None] & batch.alive_BTN
        taught_BTNA = self.teacher.lessons(batch)["q"]
        term = self.teacher.divergence(look.q_BTNA, taught_BTNA, live_BTN, batch.avail_BTNA)
        return {"distil_loss": (self.teacher.weight(self.optimiser.steps), term)}

    def _robust_loss(
        self, regulariser: Regulariser, look: Look, batch: Batch, rng: Stream
    ) -> dict[str, tuple[float, Tensor]]:
        """The defence's term, as `_own_losses`."""
        nets, avail_BTNA = self.online, batch.avail_BTNA

        def view(obs_BTNO: Tensor) -> View:
            seen = self._look(nets, nets.agents.inputs(obs_BTNO, batch.last_actions_BTN), batch)
            return View(seen.q_BTNA, seen.features_BTNH)

        term = regulariser.term(
            view,
            batch.obs_BTNO,
            View(look.q_BTNA, look.features_BTNH),
            distance=lambda clean, perturbed: squared_distance(clean, perturbed, avail_BTNA),
            decision=double_q_actions(look.q_BTNA, avail_BTNA),
            mask=batch.alive_BTN & batch.filled_BT[..., None],
            rng=rng.fold("defence"),
        )
        return {regulariser.name: (regulariser.weight, term)}

    def _metrics(
        self, batch: Batch, loss: Tensor, norm: Tensor, value_BTM: Tensor, target_BTM: Tensor
    ) -> dict[str, Tensor]:
        filled_BT1 = batch.filled_BT[:, :, None]
        count = (filled_BT1.sum() * value_BTM.shape[-1]).clamp(min=1)
        metrics = {
            "loss": loss.detach(),
            "grad_norm": norm,
            "value": torch.where(filled_BT1, value_BTM.detach(), 0.0).sum() / count,
            "target": torch.where(filled_BT1, target_BTM, 0.0).sum() / count,
        }
        return metrics if self.pruner is None else metrics | self.pruner.metrics()

    def _values_and_targets(self, batch: Batch, x_BTNI: Tensor, look: Look) -> tuple[Tensor, Tensor]:
        """Q of the actions taken, differentiable, and their targets; both (B, T, M).

        Args:
            x_BTNI: input rows of the agents' network.
            look: what the online networks make of them.
        """
        c, q_BTNA = self.config, look.q_BTNA
        chosen_BTN = batch.extras.get(INTENDED, batch.actions_BTN)  # under attack not what was done
        actions_BTN = torch.where(batch.filled_BT[:, :, None], chosen_BTN, 0)
        value_BTM = self._mix(self.online, q_BTNA, actions_BTN, batch.avail_BTNA, batch.state_BTS)
        with torch.no_grad():
            target_q_BTNA = self._look(self.target, x_BTNI, batch).q_BTNA
            chooser = q_BTNA if c.double_q else target_q_BTNA
            best_BTN = double_q_actions(chooser, batch.avail_BTNA)
            future_BTM = self._mix(self.target, target_q_BTNA, best_BTN, batch.avail_BTNA, batch.state_BTS)
            ends = self._ended(batch), batch.filled_BT
            reward_BTM = self._reward(batch, value_BTM.shape[-1])
            if c.returns == "lambda":
                target_BTM = lambda_returns(reward_BTM, future_BTM, *ends, gamma=c.gamma, trace=c.trace)
            else:
                target_BTM = nstep_returns(reward_BTM, future_BTM, *ends, gamma=c.gamma, steps=c.steps)
        return value_BTM, target_BTM

    @staticmethod
    def _mix(
        nets: Networks, q_BTNA: Tensor, actions_BTN: Tensor, avail_BTNA: Tensor, state_BTS: Tensor
    ) -> Tensor:
        joint = Joint(
            q_BTN=q_BTNA.gather(-1, actions_BTN[..., None]).squeeze(-1),
            actions_BTN=actions_BTN,
            q_BTNA=q_BTNA,
            avail_BTNA=avail_BTNA,
            state_BTS=state_BTS,
        )
        return nets.mixer(joint)

    def _ended(self, batch: Batch) -> Tensor:
        """After which transitions nothing more is worth anything, bool (B, T)."""
        return batch.terminated_BT | batch.truncated_BT if self.config.limit_ends else batch.terminated_BT

    def _reward(self, batch: Batch, M: int) -> Tensor:
        """Scaled rewards (B, T, M). CHOICE: a joint value learns the sum of rewards per agent."""
        if batch.reward_BT is not None:
            return self.config.reward_scale * batch.reward_BT[:, :, None].expand(-1, -1, M)
        assert batch.agent_reward_BTN is not None
        own_BTN = self.config.reward_scale * batch.agent_reward_BTN
        return own_BTN if M > 1 else own_BTN.sum(-1, keepdim=True)

    # Persistence

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, optimiser statistics and counters: all that `update` and `act` depend on."""
        return {
            "networks": tensors_of(self.online),
            "targets": tensors_of(self.target),
            "optimisers": {"online": self.optimiser.state_dict()},
            "counters": {"updates": self.updates} | ({} if self.teacher is None else self.teacher.counters),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore, after which acting and learning go on bit for bit.

        Raises:
            MarlError: a tensor is missing, unknown or of another shape.
        """
        load_tensors(self.online, state["networks"], "networks")
        load_tensors(self.target, state["targets"], "targets")
        self.optimiser.load_state_dict(state["optimisers"]["online"])
        self.updates = int(state["counters"]["updates"])
        if self.teacher is not None:
            self.teacher.restore(state["counters"])
