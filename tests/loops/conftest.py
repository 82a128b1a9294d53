"""A recurrent actor-critic and a world whose numbers are known, for the tests of the loops."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from marl.rng import Rng
from marl.types import Act, Discrete, EnvSpec, FieldSpec, TimeStep

CPU = torch.device("cpu")


class A2C:
    """Advantage actor-critic with a GRU, n-step returns to the rollout's end, shared by all agents.

    Stores the log-probability of its actions, so that `update` can check that it recomputes them.
    """

    def __init__(self, spec, rng, learning_rate):
        self.spec, N, A = spec, spec.n_agents, spec.n_actions
        self.extras_spec = {"logp": FieldSpec(shape=(N,), dtype=torch.float32)}
        torch.manual_seed(rng.torch("init").initial_seed() % 2**63)
        self.core = nn.GRUCell(spec.obs_size + A + N, 32)
        self.head = nn.Linear(32, A + 1)  # logits and value
        self.net = nn.ModuleList([self.core, self.head])
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=learning_rate)
        self.largest_logp_error = 0.0

    def initial_carry(self, rows):
        N = self.spec.n_agents
        return {"h": torch.zeros(rows, N, 32), "last": torch.full((rows, N), -1)}

    def _step(self, obs_BNO, last_BN, h_BNH, avail_BNA):
        B, N, _ = obs_BNO.shape
        last_BNA = F.one_hot(last_BN + 1, self.spec.n_actions + 1)[..., 1:]
        x = torch.cat([obs_BNO, last_BNA, torch.eye(N).expand(B, N, N)], -1)
        h_BNH = self.core(x.flatten(0, 1), h_BNH.flatten(0, 1)).unflatten(0, (B, N))
        logits, value = self.head(h_BNH).split([self.spec.n_actions, 1], -1)
        logp_BNA = logits.masked_fill(~avail_BNA, -1e9).log_softmax(-1)
        return logp_BNA, value.squeeze(-1).mean(-1), h_BNH

    @torch.no_grad()
    def act(self, ts, carry, *, rng, explore, link=None):
        logp_BNA, _, h = self._step(ts.obs_BNO, carry["last"], carry["h"], ts.avail_BNA)
        score = logp_BNA
        if explore > 0:  # Gumbel-max
            score = logp_BNA - (-rng.uniform(*logp_BNA.shape[1:]).clamp(min=1e-9).log()).log()
        actions = score.argmax(-1)
        logp = logp_BNA.gather(-1, actions[..., None]).squeeze(-1)
        return Act(actions_BN=actions, carry={"h": h, "last": actions}, extras={"logp": logp})

    def unroll(self, batch):
        """log pi (B, T, N, A) and V (B, T), from the carry that the loop gives."""
        h, logps, values = batch.extras["carry.h"], [], []
        for t in range(batch.filled_BT.shape[1]):
            h = torch.where(batch.start_BT[:, t, None, None], 0.0, h)
            logp, value, h = self._step(
                batch.obs_BTNO[:, t], batch.last_actions_BTN[:, t], h, batch.avail_BTNA[:, t]
            )
            logps.append(logp)
            values.append(value)
        return torch.stack(logps, 1), torch.stack(values, 1)

    def update(self, batch, *, rng):
        logp_BTNA, value_BT = self.unroll(batch)
        filled = batch.filled_BT
        target, ahead = torch.zeros_like(value_BT), value_BT[:, -1].detach()
        for t in reversed(range(filled.shape[1] - 1)):
            ahead = torch.where(filled[:, t + 1], ahead, value_BT[:, t + 1].detach())
            ahead = batch.reward_BT[:, t] + 0.95 * (~batch.terminated_BT[:, t]) * ahead
            target[:, t] = ahead
        logp = logp_BTNA.gather(-1, batch.actions_BTN[..., None]).squeeze(-1)
        error = (logp.detach() - batch.extras["logp"])[filled].abs().max()
        self.largest_logp_error = max(self.largest_logp_error, float(error))
        advantage = target - value_BT.detach()
        policy = -(advantage[..., None] * logp)[filled].mean()
        entropy = -(logp_BTNA.exp() * logp_BTNA.clamp(min=-50)).sum(-1)[filled].mean()
        loss = policy + 0.5 * (target - value_BT)[filled].square().mean() - 0.01 * entropy
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        return {"loss": loss.detach()}

    def state_dict(self):
        flat = torch.cat([p.detach().flatten() for p in self.net.parameters()])
        moments = [dict(self.optimiser.state[p]) for p in self.net.parameters()]
        moments = [{k: v.clone() for k, v in m.items()} for m in moments]
        return {"networks": {"flat": flat}, "optimisers": {"moments": moments}}

    def load_state_dict(self, state):
        torch.nn.utils.vector_to_parameters(state["networks"]["flat"].clone(), self.net.parameters())
        for p, moments in zip(self.net.parameters(), state["optimisers"]["moments"], strict=True):
            self.optimiser.state[p] = {k: v.clone() for k, v in moments.items()}


@dataclass
class A2CConfig:
    learning_rate: float = 5e-3

    def build(self, *, spec, rng, device):
        return A2C(spec, rng, self.learning_rate)


class Script:
    """Env b plays episodes of the given lengths, each terminated ("T") or truncated ("C").

    Observation and state: [b, episode, t]; reward 100 b + 10 episode + t. Action t is always available.
    """

    def __init__(self, ends):
        self.ends, self.num_envs, self.device = ends, len(ends), CPU
        limit = max(n for row in ends for n, _ in row)
        self.spec = EnvSpec(
            name="script",
            agents=("a",),
            agent_types=("any",),
            obs_size=3,
            state_size=3,
            action_spaces=(Discrete(n=2),),
            episode_limit=limit,
        )

    def reset(self, rng):
        self.episode, self.t = [0] * self.num_envs, [0] * self.num_envs
        return self._timestep([0] * self.num_envs, "")

    def _timestep(self, reward, kinds):
        look = torch.tensor([[b, self.episode[b], self.t[b]] for b in range(self.num_envs)]).float()
        yes = torch.ones(self.num_envs, 1, dtype=torch.bool)
        return TimeStep(
            obs_BNO=look[:, None],
            state_BS=look,
            avail_BNA=yes[..., None].expand(-1, -1, 2),
            terminated_B=torch.tensor([k == "T" for k in kinds or " " * self.num_envs]),
            truncated_B=torch.tensor([k == "C" for k in kinds or " " * self.num_envs]),
            present_BN=yes,
            alive_BN=yes,
            t_B=torch.tensor(self.t),
            reward_B=torch.tensor(reward).float(),
        )

    def step(self, actions_BN):
        reward = [100 * b + 10 * self.episode[b] + self.t[b] for b in range(self.num_envs)]
        self.t = [t + 1 for t in self.t]
        final = self._timestep(reward, "")
        kinds = []
        for b, row in enumerate(self.ends):
            length, kind = row[self.episode[b] % len(row)]
            kinds.append(kind if self.t[b] == length else " ")
            if self.t[b] == length:
                self.episode[b], self.t[b] = self.episode[b] + 1, 0
        ts = self._timestep(reward, kinds)
        last = dict(
            final_obs_BNO=final.obs_BNO, final_state_BS=final.state_BS, final_avail_BNA=final.avail_BNA
        )
        return replace(ts, **last)

    def state_dict(self):
        return {"episode": torch.tensor(self.episode), "t": torch.tensor(self.t)}

    def load_state_dict(self, state):
        self.episode, self.t = state["episode"].tolist(), state["t"].tolist()


@pytest.fixture
def a2c():
    return A2CConfig


@pytest.fixture
def script():
    return Script


def assert_same(a, b, path="state"):
    """Two nested states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, path
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    else:
        assert a == b, path


@pytest.fixture
def check_resume(tmp_path):
    """2k iterates equal k iterates, a checkpoint on disk, fresh objects and k iterates, bit for bit."""

    def check(loop_config, env_config, agent_config, k, num_envs=3):
        from marl import checkpoint

        def build():
            rng = Rng(11)
            env = env_config.build(num_envs=num_envs, device=CPU, threads=1)
            agent = agent_config.build(spec=env.spec, rng=rng.child("agent"), device=CPU)
            return loop_config.build(env=env, agent=agent, rng=rng.child("loop"))

        whole, first, second = build(), build(), build()
        metrics = [whole.iterate() for _ in range(2 * k)]
        assert metrics[:k] == [first.iterate() for _ in range(k)]
        checkpoint.write(tmp_path, first.steps, first.state_dict(), first.segments(), info={})
        second.iterate()  # what a loop did before it is loaded must not matter
        saved, _ = checkpoint.latest(tmp_path)
        second.load_state_dict(saved.state, saved.read_segment)
        assert metrics[k:] == [second.iterate() for _ in range(k)]
        assert_same(whole.state_dict(), second.state_dict())
        assert (whole.steps, whole.episodes, whole.updates) == (second.steps, second.episodes, second.updates)
        ours, theirs = whole.segments(), second.segments()
        assert list(ours) == list(theirs)
        for name in ours:
            assert_same(ours[name](), theirs[name]())
        return saved.state, whole

    return check
