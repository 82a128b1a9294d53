"""PPO with continuous actions: the Gaussian by hand, masks of unequal boxes, records, an oracle."""

import math
from types import SimpleNamespace

import pytest
import torch

from marl.agents import ippo, mappo
from marl.loops import OnPolicyConfig
from marl.loops.base import Means
from marl.policy.heads import RAW, GaussianHead
from marl.rng import Rng
from marl.types import Box, EnvSpec, TimeStep

CPU = torch.device("cpu")
SPACES = (Box(low=(-2.0, 0.0), high=(2.0, 1.0)), Box(low=(-math.inf,), high=(math.inf,)))


class Bandit:
    """One step: agent n earns -sum_d (a_d - target_nd)^2; the optimum of its mean is the target."""

    def __init__(self, num_envs, spaces=SPACES, targets=((1.0, 0.25), (-1.5, 0.0))):
        self.num_envs, self.device, self.target_NA = num_envs, CPU, torch.tensor(targets)
        self.spec = EnvSpec(
            name="bandit", agents=("a", "b"), agent_types=("x", "y"), obs_size=2, state_size=1,
            action_spaces=spaces, reward="agent", episode_limit=1,
        )  # fmt: skip
        self.real_NA = GaussianHead(self.spec, share=False).real_NA

    def _look(self, **changes):
        B, N, A = self.num_envs, 2, self.spec.n_actions
        no_B, yes_BN = torch.zeros(B, dtype=torch.bool), torch.ones(B, N, dtype=torch.bool)
        fields = {
            "obs_BNO": torch.eye(2).expand(B, 2, 2),
            "state_BS": torch.ones(B, 1),
            "avail_BNA": torch.ones(B, N, A, dtype=torch.bool),
            "terminated_B": no_B,
            "truncated_B": no_B,
            "present_BN": yes_BN,
            "alive_BN": yes_BN,
            "t_B": torch.zeros(B, dtype=torch.int64),
            "agent_reward_BN": torch.zeros(B, N),
        }
        return TimeStep(**(fields | changes))

    def reset(self, rng):
        return self._look()

    def step(self, actions):
        assert actions.dtype == torch.float32
        self.seen = actions
        error_BN = torch.where(self.real_NA, actions - self.target_NA, 0.0).square().sum(-1)
        ts = self._look(terminated_B=torch.ones(self.num_envs, dtype=torch.bool), agent_reward_BN=-error_BN)
        ts.final_obs_BNO, ts.final_state_BS, ts.final_avail_BNA = ts.obs_BNO, ts.state_BS, ts.avail_BNA
        return ts

    def state_dict(self):
        return {}


def _head(share=False):
    return GaussianHead(Bandit(1).spec, share=share)


def _ask(head, means, *, explore, rows=1):
    outputs = torch.tensor(means).expand(rows, 2, 2)
    with torch.no_grad():
        return head.act(outputs, None, Rng(0).stream("act", rows), explore=explore)


def test_log_probability_and_entropy_by_hand():
    """sigma = e^0.5 and 1: terms outside an agent's own box count nothing."""
    head = _head(share=True)
    with torch.no_grad():
        head.log_std.copy_(torch.tensor([0.5, 0.0]))
    mean = torch.tensor([[0.0, 1.0], [2.0, 7.0]]).requires_grad_()
    u = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    half = 0.5 * math.log(2 * math.pi)
    first = -1.0 / (2 * math.e) - 0.5 - half  # (u - mu)^2 / (2 sigma^2), log sigma
    expected = torch.tensor([first - 2.0 - half, -4.0 / (2 * math.e) - 0.5 - half])
    log_prob = head.log_prob(mean, {"actions": u})
    torch.testing.assert_close(log_prob, expected)
    log_prob.sum().backward()  # d/d mu = (u - mu) / sigma^2
    torch.testing.assert_close(mean.grad, torch.tensor([[1 / math.e, 2.0], [-2 / math.e, 0.0]]))
    one = 0.5 + half
    torch.testing.assert_close(head.entropy(), torch.tensor([0.5 + 2 * one, 0.5 + one]))


def test_density_and_entropy_agree_with_torchs_own():
    head = _head()
    with torch.no_grad():
        head.log_std.copy_(torch.tensor([[0.3, -0.7], [0.2, 9.0]]))
    g = torch.Generator().manual_seed(0)
    mean, u = torch.randn(5, 2, 2, generator=g), torch.randn(5, 2, 2, generator=g)
    reference = torch.distributions.Normal(mean, head.log_std.exp())
    expected = torch.where(head.real_NA, reference.log_prob(u), 0.0).sum(-1)
    torch.testing.assert_close(head.log_prob(mean, {"actions": u}), expected)
    torch.testing.assert_close(head.entropy(), torch.where(head.real_NA, reference.entropy()[0], 0.0).sum(-1))


def test_loss_gradients_are_those_of_finite_differences():
    head = _head()
    g = torch.Generator().manual_seed(1)
    mean, u = torch.randn(6, 2, 2, generator=g), torch.randn(6, 2, 2, generator=g)
    x = {
        "actions": u,
        "advantage": torch.randn(6, 2, generator=g),
        "live": torch.rand(6, 2, generator=g) < 0.8,
    }
    x["log_prob"] = head.log_prob(mean, x).detach() + 0.05

    def objective(mean):
        values, gradient = head.loss(mean, x, clip=0.2, weight=0.1)
        return values[0] - 0.1 * values[1], gradient

    _, gradient = objective(mean)
    slope = torch.zeros_like(head.log_std)
    head.log_std.grad = None
    objective(mean)
    learned = head.log_std.grad.clone()
    step = 1e-2
    for index in [(0, 0, 0), (2, 0, 1), (3, 1, 0), (1, 1, 1)]:
        other = mean.clone()
        other[index] += step
        up = objective(other)[0]
        other[index] -= 2 * step
        estimate = (up - objective(other)[0]) / (2 * step)
        torch.testing.assert_close(gradient[index], estimate, rtol=0.05, atol=2e-4)
    for index in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                head.log_std[index] += sign * step
            ends.append(objective(mean)[0])
            with torch.no_grad():
                head.log_std[index] -= sign * step
        slope[index] = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close(learned, slope, rtol=0.05, atol=5e-4)
    assert learned[1, 1] == 0  # no such dimension


def test_actions_are_scaled_to_the_box_and_clipped():
    """A finite box is middle + half width times the Gaussian's number; an infinite one takes it as it is."""
    actions, extras = _ask(_head(), [[0.5, -0.5], [40.0, 3.0]], explore=False)
    assert actions[0].tolist() == [[1.0, 0.25], [40.0, 0.0]]
    assert extras[RAW][0].tolist() == [[0.5, -0.5], [40.0, 0.0]]
    actions, extras = _ask(_head(), [[0.0, 0.0], [0.0, 0.0]], explore=True, rows=5000)
    raw = extras[RAW]
    assert raw[:, 0].abs().max() > 2.5  # kept unclipped
    assert actions[:, 0].min(0).values.tolist() == [-2.0, 0.0]
    assert actions[:, 0].max(0).values.tolist() == [2.0, 1.0]
    assert (actions[:, 1, 1] == 0).all()
    assert (raw[:, 1, 1] == 0).all()
    torch.testing.assert_close(raw[:, 0].std(0), torch.ones(2), rtol=0.05, atol=0.0)
    torch.testing.assert_close(raw.mean((0, 1)), torch.zeros(2), rtol=0.0, atol=0.05)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(("module", "share"), [(ippo, True), (mappo, False)])
def test_the_first_epochs_ratio_is_one_and_records_carry_floats(module, share, recurrent):
    env = Bandit(8)
    config = module.Config(hidden=8, recurrent=recurrent, share=share, chunk=3)
    team = config.build(spec=env.spec, rng=Rng(0), device=CPU)
    batch = OnPolicyConfig(rollout_steps=5).build(env=env, agent=team, rng=Rng(0)).collect(Means())
    assert batch.actions_BTN.dtype == torch.float32
    assert batch.actions_BTN.shape == (8, batch.filled_BT.shape[1], 2, 2)
    last = batch.filled_BT.nonzero()[-1]
    assert torch.equal(batch.actions_BTN[last[0], last[1]], env.seen[last[0]])
    x = team._chunks(batch)
    none = torch.zeros(1, 2, 8)
    outputs = team.actor(x["actor"], x.get("start"), x.get("actor_state", none))[0]
    ratio = (team.policy.log_prob(outputs, x) - x["log_prob"])[x["mask"]].exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=1e-5, atol=1e-5)
    assert len(ratio) == 8 * 5 * 2


@pytest.mark.parametrize("module", [ippo, mappo])
def test_learns_the_optimum_of_a_quadratic_bandit(module):
    """Greedy actions reach the targets; with learning switched off they stay in the middle of the boxes."""

    def run(learning_rate, iterations):
        env = Bandit(64)
        config = module.Config(
            hidden=16, recurrent=False, learning_rate=learning_rate, epochs=4, minibatches=2, entropy=0.0
        )
        team = config.build(spec=env.spec, rng=Rng(0), device=CPU)
        loop = OnPolicyConfig(rollout_steps=4).build(env=env, agent=team, rng=Rng(0))
        for _ in range(iterations):
            loop.iterate()
        ts = env.reset(None)
        act = team.act(ts, team.initial_carry(64), rng=Rng(0).stream("act", 64), explore=0.0)
        error_NA = torch.where(env.real_NA, act.actions_BN[0] - env.target_NA, 0.0).abs()
        return float(error_NA.max()), team.policy.log_std.exp()

    error, deviation = run(0.01, 150)
    assert error < 0.3  # of targets 1 to 1.5 away
    assert deviation.flatten()[0] < 0.5  # a quadratic rewards certainty
    assert run(1e-9, 10)[0] > 0.9


def test_greedy_needs_no_randomness_and_restores_with_its_deviation():
    env = Bandit(3)
    config = ippo.Config(hidden=8)
    team, other = (config.build(spec=env.spec, rng=Rng(s), device=CPU) for s in (0, 1))
    with torch.no_grad():
        team.policy.log_std.fill_(-0.3)
    other.load_state_dict(team.state_dict())
    assert torch.equal(other.policy.log_std, team.policy.log_std)
    unused = SimpleNamespace()
    ts = env.reset(None)
    for each in (team, other):
        act = each.act(ts, each.initial_carry(3), rng=unused, explore=0.0)
        assert act.actions_BN.shape == (3, 2, 2)
