"""SchedNet's team: acting by a schedule, and the three losses. Symbols: agents/schednet/__init__.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from marl.agents.schednet.config import Config
from marl.agents.schednet.network import Critic, SchedQ, WeightGenerator, schedule_of
from marl.channel import PerfectLink
from marl.errors import MarlError
from marl.nets import FlatParameters, Optimiser, load_tensors, tensors_of, undone_if_not_finite
from marl.returns import nstep_returns
from marl.rng import Rng, Stream
from marl.robust.messages import defended, heard_at_ends, message_defence, scores_in_use
from marl.sparse.export.policy import Policy
from marl.talk.team import all_to_all
from marl.types import Act, Batch, Carry, EnvSpec, FieldSpec, Link, TimeStep
from marl.value import Look, Networks, QTeam, td_loss
from marl.value.explore import epsilon_greedy


class SchedNet(QTeam):
    """K of N agents broadcast at every step, in training and in use.

    CHOICE: exploration draws all weights of a world uniformly, with the probability of a random action: the
    paper explores the schedule with the same epsilon.
    CHOICE: at an entry without an action (an episode's last observation, or the last entry of a window) the
    schedule is Top(k) of the weights that the generator gives now, and its messages arrive.

    Args: as of `marl.talk.TalkingTeam`.
    """

    config: Config

    def __init__(self, spec: EnvSpec, config: Config, *, rng: Rng, device: torch.device) -> None:
        N = spec.n_agents
        self.extras_spec = {
            "delivered": FieldSpec(shape=(N, N), dtype=torch.bool),
            "scheduled": FieldSpec(shape=(N,), dtype=torch.bool),
            "weight": FieldSpec(shape=(N,), dtype=torch.float32),
            "average": FieldSpec(shape=(N,), dtype=torch.float32),
        }
        super().__init__(spec, config, config.make_mixer(spec), rng=rng, device=device)
        self.message_defence = message_defence(config.defence, spec, rng=rng, device=device)
        generator = rng.torch("schedule")
        self.generator = WeightGenerator(spec, config, generator).to(device)
        self.critic = Critic(spec, config, generator).to(device)
        rest: dict[str, Any] = {"kind": "adam", "eps": 1e-8, "max_grad_norm": config.max_grad_norm}
        rates = config.generator_learning_rate, config.critic_learning_rate
        self._optimisers = {
            "generator": Optimiser(self.generator, learning_rate=rates[0], **rest),
            "critic": Optimiser(self.critic, learning_rate=rates[1], **rest),
        }
        self._late_generator = WeightGenerator(spec, config, torch.Generator()).to(device)
        self._late_critic = Critic(spec, config, torch.Generator()).to(device)
        late = self._late_generator.requires_grad_(False), self._late_critic.requires_grad_(False)
        self._late = [FlatParameters(module) for module in late]
        self._follow(1.0)

    def _follow(self, tau: float) -> None:
        """Targets of generator and critic move towards them."""
        for late, optimiser in zip(self._late, self._optimisers.values(), strict=True):
            late.vector.data.lerp_(optimiser.flat.vector.data, tau)

    def _make_agents(self, generator: torch.Generator) -> nn.Module:
        return SchedQ(self.spec, self.config, generator)

    # Acting

    def initial_carry(self, rows: int) -> Carry:
        average_BN = torch.zeros(rows, self.spec.n_agents, device=self.device)
        return super().initial_carry(rows) | {"average_BN": average_BN}

    @torch.no_grad()
    @defended
    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        link = PerfectLink(self.device) if link is None else link
        weight_BN, lots_BN = self._weights(ts, rng.fold("schedule"), explore)
        scheduled_BN = schedule_of(lots_BN, self._may_talk(ts.alive_BN), self.config.k)
        q_BNA, delivered_BNN, after = self._listen(ts, carry, scheduled_BN, link)
        actions_BN = epsilon_greedy(q_BNA, ts.avail_BNA, rng, explore)
        extras = {"weight": weight_BN, "scheduled": scheduled_BN, "delivered": delivered_BNN}
        return Act(
            actions_BN=actions_BN,
            carry=after | {"last_action_BN": actions_BN},
            extras=extras | {"average": carry["average_BN"]},
        )

    def _weights(self, ts: TimeStep, rng: Stream, explore: float) -> tuple[Tensor, Tensor]:
        """w, and what the schedule ranks: w itself, or w plus Gumbel noise, whose Top(k) is Softmax(k)."""
        weight_BN = self.generator(ts.obs_BNO)
        N = weight_BN.shape[1]
        if explore > 0:
            coin_B1 = rng.fold("coin").uniform(1)
            weight_BN = torch.where(coin_B1 < explore, rng.fold("weight").uniform(N), weight_BN)
        if self.config.schedule == "top":
            return weight_BN, weight_BN
        lot_BN = rng.fold("lot").uniform(N).clamp(1e-7, 1 - 1e-7)
        return weight_BN, weight_BN - (-lot_BN.log()).log()

    def scores(self, ts: TimeStep, carry: Carry) -> Tensor:
        """Values by the schedule Top(k), every scheduled message delivered."""
        return scores_in_use(self.message_defence, self._values, ts, carry, PerfectLink(self.device))

    def _values(self, ts: TimeStep, carry: Carry, link: Link) -> Tensor:
        scheduled_BN = schedule_of(self.generator(ts.obs_BNO), self._may_talk(ts.alive_BN), self.config.k)
        return self._listen(ts, carry, scheduled_BN, link)[0]

    def _listen(
        self, ts: TimeStep, carry: Carry, scheduled_BN: Tensor, link: Link
    ) -> tuple[Tensor, Tensor, Carry]:
        """Values, which messages arrived, and the carry after it."""
        net: SchedQ = self.online.agents
        x_BNI = net.inputs(ts.obs_BNO, carry["last_action_BN"])
        said_BNL = net.say(x_BNI)
        wanted_BNN = self._wanted(scheduled_BN)
        received_BNNL, delivered_BNN, carry = link.send(said_BNL, wanted_BNN, carry)
        received_BNNL = torch.where(_own(scheduled_BN)[..., None], said_BNL[:, None], received_BNNL)
        e_BNH = net.hear(x_BNI, received_BNNL, carry["average_BN"])
        q_BNA, h_BNH = net.values_step(e_BNH, carry["hidden_BNH"])
        average_BN = (carry["average_BN"] + scheduled_BN) / 2
        return q_BNA, delivered_BNN, carry | {"hidden_BNH": h_BNH, "average_BN": average_BN}

    def _may_talk(self, alive: Tensor) -> Tensor:
        return torch.ones_like(alive) if self.config.dead_talk else alive

    @staticmethod
    def _wanted(scheduled: Tensor) -> Tensor:
        """Messages of the scheduled to all others, bool (..., receiver, sender)."""
        return all_to_all(scheduled, dead_talk=False)

    def export(self) -> Policy:
        """Refused: who talks is decided by comparing all agents, which no step of a policy does."""
        raise MarlError("a team that talks by a schedule cannot be exported: give the run of another team")

    # Learning

    def update(self, batch: Batch, *, rng: Stream) -> dict[str, Tensor]:
        """One step of the action values, of the critic and of the weight generator.

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite; everything is as before the update.
        """
        with undone_if_not_finite(self):
            metrics = super().update(batch, rng=rng)
            average_BTN = self._averages(batch)
            critic = self._critic_loss(batch, average_BTN)
            self._optimisers["critic"].step(critic, "critic loss")
            weight_BTN = self.generator(batch.obs_BTNO)
            worth_BT1 = self.critic(batch.state_BTS, average_BTN, weight_BTN)
            filled_BT1 = batch.filled_BT[..., None]
            gain = torch.where(filled_BT1, worth_BT1, 0.0).sum() / filled_BT1.sum().clamp(min=1)
            self._optimisers["generator"].step(-gain, "generator loss")
        self._follow(self.config.schedule_tau)
        return metrics | {"critic_loss": critic.detach(), "schedule_value": gain.detach()}

    def _critic_loss(self, batch: Batch, average_BTN: Tensor) -> Tensor:
        """(r + gamma Q(s', w'^-) - Q(s, w))^2, mean over filled entries; w as acted."""
        with torch.no_grad():
            late_BTN = self._late_generator(batch.obs_BTNO)
            future_BT1 = self._late_critic(batch.state_BTS, average_BTN, late_BTN)
            ends = self._ended(batch), batch.filled_BT
            target_BT1 = nstep_returns(
                self._reward(batch, 1), future_BT1, *ends, gamma=self.config.gamma, steps=1
            )
        value_BT1 = self.critic(batch.state_BTS, average_BTN, batch.extras["weight"])
        return td_loss(value_BT1, target_BT1, batch.filled_BT, kind="squared")

    def _averages(self, batch: Batch) -> Tensor:
        """a (B, T, N): as acting had it; after an episode's last action from what was scheduled there."""
        stored_BTN = batch.extras["average"]
        after_BTN = (stored_BTN + batch.extras["scheduled"]).roll(1, 1) / 2
        after_BTN = torch.where(batch.start_BT[..., None], 0.0, after_BTN)
        return torch.where(batch.filled_BT[..., None], stored_BTN, after_BTN)

    def _look(self, nets: Networks, x_BTNI: Tensor, batch: Batch) -> Look:
        net: SchedQ = nets.agents
        filled_BT1 = batch.filled_BT[..., None]
        with torch.no_grad():
            weight_BTN = self.generator(batch.obs_BTNO)
        now_BTN = schedule_of(weight_BTN, self._may_talk(batch.alive_BTN), self.config.k)
        scheduled_BTN = torch.where(filled_BT1, batch.extras["scheduled"], now_BTN)
        wanted_BTNN = heard_at_ends(self.message_defence, self._wanted(scheduled_BTN))
        delivered_BTNN = torch.where(filled_BT1[..., None], batch.extras["delivered"], wanted_BTNN)
        heard_BTNN = delivered_BTNN | _own(scheduled_BTN)
        received_BTNNL = torch.where(heard_BTNN[..., None], net.say(x_BTNI)[:, :, None], 0.0)
        e_BTNH = net.hear(x_BTNI, received_BTNNL, self._averages(batch))
        h_BTNH = net.states_of(e_BTNH, batch.start_BT)
        return Look(q_BTNA=net.head(h_BTNH), features_BTNH=h_BTNH)

    # Persistence

    def state_dict(self) -> dict[str, Any]:
        """As of `QTeam`, with generator, critic, their targets and optimisers."""
        state = super().state_dict()
        for part, name, module in self._modules():
            state[part] |= {f"{name}.{key}": value for key, value in tensors_of(module).items()}
        state["optimisers"] |= {name: o.state_dict() for name, o in self._optimisers.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore, after which acting and learning go on bit for bit.

        Raises:
            MarlError: a tensor is missing, unknown or of another shape.
        """
        rest = dict(state)
        for part, name, module in self._modules():
            start, given = f"{name}.", rest[part]
            mine = {key.removeprefix(start): value for key, value in given.items() if key.startswith(start)}
            rest[part] = {key: value for key, value in given.items() if not key.startswith(start)}
            load_tensors(module, mine, f"{part} of the {name}")
        for name, optimiser in self._optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        super().load_state_dict(rest)

    def _modules(self) -> list[tuple[str, str, nn.Module]]:
        """What is learned beside the action values: part of the state, name, module."""
        return [
            ("networks", "generator", self.generator),
            ("networks", "critic", self.critic),
            ("targets", "generator", self._late_generator),
            ("targets", "critic", self._late_critic),
        ]


def _own(scheduled: Tensor) -> Tensor:
    """A scheduled agent hears itself, bool (..., receiver, sender)."""
    return torch.diag_embed(scheduled)
