"""Cloning and decision transformers: what they are told, what they learn, and their state."""

import math

import pytest
import torch

from marl import checkpoint
from marl.agents.bc import Config as BC
from marl.agents.decision_transformer import Config as DT
from marl.datasets import Episode, memory_of
from marl.errors import FieldError, MarlError
from marl.loops import BatchConfig, OfflineConfig
from marl.offline import OfflinePolicy, Outcomes, Scaler, summarise
from marl.offline.outcomes import front
from marl.rng import Rng
from marl.types import Box, Discrete, EnvSpec, TimeStep

CPU = torch.device("cpu")
AGENTS = {
    "bc": BC(hidden=32),
    "bc_p": BC(condition="preference", hidden=32, learning_rate=3e-3),
    "rvs_p": BC(condition="outcome", hidden=32, learning_rate=3e-3),
    "dt": DT(features=16, blocks=1, context=4, learning_rate=3e-3),
}


def spec(discrete=True, N=1):
    space = Discrete(n=2) if discrete else Box(low=(-1.0, -2.0), high=(1.0, 2.0))
    return EnvSpec(
        name="fork",
        agents=tuple(f"a{i}" for i in range(N)),
        agent_types=("a",) * N,
        obs_size=2,
        state_size=2,
        action_spaces=(space,) * N,
        reward="vector",
        objectives=("left", "right"),
        episode_limit=5,
    )


def fork(count=40, discrete=True, N=1):
    """Half of the episodes always go left and earn in objective 0, the others right and in objective 1."""
    g = torch.Generator().manual_seed(0)
    for e in range(count):
        side, L = e % 2, 5
        actions = (
            torch.full((L, N), side)
            if discrete
            else torch.tensor([0.9, -1.8]).expand(L, N, 2) * (1 - 2 * side)
        )
        yield Episode(
            obs_UNO=torch.randn(L + 1, N, 2, generator=g),
            state_US=torch.randn(L + 1, 2, generator=g),
            avail_UNA=torch.ones(L + 1, N, 2, dtype=torch.bool),
            alive_UN=torch.ones(L + 1, N, dtype=torch.bool),
            actions_LN=actions,
            reward_LK=torch.eye(2)[side].expand(L, 2).clone(),
            terminated=False,
        )


class World:
    """What the offline loop asks of a world."""

    def __init__(self, made):
        self.spec, self.device = made, CPU


def loop_of(config, made, length=0):
    agent = config.build(spec=made, rng=Rng(0, "agent"), device=CPU)
    batch = BatchConfig(sequences=16, length=length, starts="episode" if length == 0 else "any")
    return OfflineConfig(data="unused", updates=10, batch=batch).build(
        env=World(made), agent=agent, rng=Rng(0)
    )


def step_of(made, B=3, t=0, reward=None):
    N, A = made.n_agents, made.n_actions
    yes = torch.ones(B, N, dtype=torch.bool)
    no = torch.zeros(B, dtype=torch.bool)
    return TimeStep(
        obs_BNO=torch.zeros(B, N, 2),
        state_BS=torch.zeros(B, 2),
        avail_BNA=yes[..., None].expand(-1, -1, A),
        terminated_B=no,
        truncated_B=no,
        present_BN=yes,
        alive_BN=yes,
        t_B=torch.full((B,), t),
        reward_BK=torch.zeros(B, 2) if reward is None else reward,
    )


def choice(agent, made):
    stream = Rng(0).stream("act", 3)
    return agent.act(step_of(made), agent.initial_carry(3), rng=stream, explore=0.0).actions_BN


@pytest.mark.parametrize("discrete", [True, False], ids=["discrete", "box"])
@pytest.mark.parametrize("name", ["bc_p", "rvs_p", "dt"])
def test_a_preference_chooses_the_side(name, discrete):
    made = spec(discrete, N=2)
    chosen = []
    for wanted in ((1.0, 0.0), (0.0, 1.0)):
        config = type(AGENTS[name])(**(vars(AGENTS[name]) | {"preference": wanted}))
        loop = loop_of(config, made)
        loop.use(memory_of(made, fork(discrete=discrete, N=2), CPU))
        for _ in range(15):
            loop.iterate()
        chosen.append(choice(loop.agent, made))
    left, right = chosen
    if discrete:
        assert (left == 0).all()
        assert (right == 1).all()
    else:
        assert torch.allclose(left, torch.tensor([0.9, -1.8]).expand_as(left), atol=0.3)
        assert torch.allclose(right, -left, atol=0.5)


def test_plain_cloning_learns_the_share_of_both():
    made = spec()
    loop = loop_of(AGENTS["bc"], made)
    loop.use(memory_of(made, fork(), CPU))
    for _ in range(10):
        metrics = loop.iterate()
    assert metrics["train/loss"] == pytest.approx(math.log(2), abs=0.05)


def test_hindsight_by_hand():
    made = spec()
    memory = memory_of(made, fork(2), CPU)
    scaler, outcomes = Scaler(made, 2, inputs=True, rewards=True), Outcomes(2)
    summary = summarise(memory.scan())
    scaler.fit(summary)
    outcomes.fit(summary, scaler)
    batch = memory.window(0, 6)
    preference, to_go, left = outcomes.hindsight(batch, scaler, 5)
    assert preference[0, :5].tolist() == [[1.0, 0.0]] * 5
    assert to_go[0, :5, 0].tolist() == [5, 4, 3, 2, 1]
    assert to_go[0, :5, 1].tolist() == [0] * 5
    assert left[0].tolist()[:5] == [5, 4, 3, 2, 1]
    assert outcomes.best(torch.tensor([0.9, 0.1])).tolist() == [5, 0]
    assert outcomes.best(torch.tensor([0.1, 0.9])).tolist() == [0, 5]
    rows = torch.tensor([[1.0, 1.0], [3.0, 0.0], [0.0, 3.0], [2.0, 2.0], [2.0, 2.0]])
    assert front(rows).tolist() == [[3, 0], [2, 2], [0, 3]]


def test_what_was_earned_is_wished_no_more():
    made = spec()
    config = BC(condition="outcome", preference=(1.0, 0.0), hidden=8)
    loop = loop_of(config, made)
    loop.use(memory_of(made, fork(), CPU))
    agent, stream = loop.agent, Rng(0).stream("act", 3)
    act = agent.act(step_of(made), agent.initial_carry(3), rng=stream, explore=0.0)
    assert act.carry["to_go_BK"].tolist() == [[5.0, 0.0]] * 3
    reward = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.5, 0.0]])
    act = agent.act(step_of(made, t=1, reward=reward), act.carry, rng=stream, explore=0.0)
    assert act.carry["to_go_BK"][:, 0].tolist() == [4.0, 5.0, 4.5]


def test_acting_is_told_what_learning_was_told():
    """Wanted and still to come per step, in the third step of an episode that always goes left."""
    made = spec()
    config = BC(condition="outcome", preference=(1.0, 0.0), hidden=8)
    loop = loop_of(config, made)
    loop.use(memory_of(made, fork(2), CPU))
    agent, batch = loop.agent, loop.memory.window(0, 6)
    learned = agent._hindsight(batch)[2]
    carry = {"to_go_BK": torch.tensor([[3.0, 0.0]])}
    assert agent._wishes(step_of(made, B=1, t=2), carry)[0].tolist() == learned.tolist() == [1, 0, 1, 0]


def test_a_gaussian_policy_by_hand():
    """Weights of 0: mean tanh(0.5) and tanh(-2) and deviation 1/e in a Box of half widths 1 and 2."""
    made = spec(discrete=False)
    policy = OfflinePolicy(made, hidden=8, layers=0, layer_norm=False, generator=torch.Generator())
    with torch.no_grad():
        for head, bias in zip(policy.trunk.heads, ((0.5, -2.0), (-1.0, -1.0)), strict=True):
            head.weight.zero_()
            head.bias.copy_(torch.tensor(bias))
    ones, rows = torch.ones(20_000, 1, 2, dtype=torch.bool), torch.zeros(20_000, 1, 2)
    mean = torch.tensor([math.tanh(0.5), math.tanh(-2.0)])
    stream = Rng(0).stream("act", 20_000)
    assert torch.allclose(policy.act(rows, ones, stream, explore=False)[0, 0] / torch.tensor([1, 2]), mean)
    drawn = policy.act(rows, ones, stream, explore=True)[:, 0, 0].detach()
    assert float(drawn.median()) == pytest.approx(float(mean[0]), abs=0.01)
    # Of a Gaussian 15.87 % lie more than one deviation below the mean.
    assert float((drawn < mean[0] - math.exp(-1)).float().mean()) == pytest.approx(0.1587, abs=0.01)
    action = torch.tensor([[[0.2, -1.0]]])
    z = (torch.tensor([0.2, -0.5]) - mean) * math.e
    wanted = float((-0.5 * z.square() + 1 - 0.5 * math.log(2 * math.pi)).sum())
    assert policy.log_prob(rows[:1], ones[:1], action).item() == pytest.approx(wanted, rel=1e-5)


def test_a_transformer_sees_only_its_own_episode_and_only_the_past():
    made, config = spec(), AGENTS["dt"]
    net = config.build(spec=made, rng=Rng(0), device=CPU).net
    g = torch.Generator().manual_seed(1)
    wish, obs, action = (torch.randn(1, 4, n, generator=g) for n in (4, 3, 2))
    real = torch.tensor([[False, True, True, True]])
    out = net(wish, obs, action, real)
    for changed, same in ((0, (1, 2, 3)), (3, (1, 2))):  # padding; the future
        other = [x.clone() for x in (wish, obs, action)]
        for x in other:
            x[:, changed] += 1
        assert torch.allclose(net(*other, real)[:, same], out[:, same], atol=1e-6)
    action[:, 3] += 1  # an action is not seen where it is chosen
    assert torch.allclose(net(wish, obs, action, real)[:, 3], out[:, 3], atol=1e-6)
    obs[:, 1] += 1
    assert not torch.allclose(net(wish, obs, action, real)[:, 3], out[:, 3], atol=1e-6)


@pytest.mark.parametrize("name", AGENTS)
def test_resume_is_bit_exact(name, tmp_path):
    made = spec(discrete=False)
    whole, first, second = (loop_of(AGENTS[name], made) for _ in range(3))
    for loop in (whole, first):
        loop.use(memory_of(made, fork(discrete=False), CPU))
    rows = [whole.iterate() for _ in range(4)]
    assert [first.iterate() for _ in range(2)] == rows[:2]
    checkpoint.write(tmp_path, first.steps, first.state_dict(), first.segments(), info={})
    saved, _ = checkpoint.latest(tmp_path)
    second.load_state_dict(saved.state, saved.read_segment)
    assert [second.iterate() for _ in range(2)] == rows[2:]
    assert torch.equal(choice(second.agent, made), choice(whole.agent, made))


@pytest.mark.parametrize("batch", ["windows", "beginnings", "everything"])
@pytest.mark.parametrize("name", ["bc_p", "rvs_p", "dt"])
def test_they_want_whole_episodes(name, batch):
    """Not windows from anywhere, nor the first steps of episodes, whose outcome is not seen."""
    made = spec()
    loop = loop_of(AGENTS[name], made, length=2)
    loop.config.batch.starts = "episode" if batch == "beginnings" else "any"
    loop.config.full = batch == "everything"
    loop.use(memory_of(made, fork(), CPU))
    with pytest.raises(MarlError, match=r"whole episodes: give loop\.batch\.length=0 and loop\.full=false"):
        loop.iterate()


def test_wrong_settings_are_refused():
    for config, given, field in (
        (BC, {"condition": "wish"}, "condition='wish'"),
        (BC, {"preference": (-1.0, 1.0)}, "preference="),
        (BC, {"preference": (0.5, 0.5)}, "preference=.* leave it out, or give condition"),
        (BC, {"hidden": 0}, "hidden=0"),
        (DT, {"features": 9}, "features=9"),
        (DT, {"context": 0}, "context=0"),
        (DT, {"preference": (0.0, 0.0)}, "preference="),
    ):
        with pytest.raises(FieldError, match=field):
            config(**given)
    for config in (BC(condition="preference", preference=(1.0,)), DT(preference=(1.0,))):
        with pytest.raises(FieldError, match="give 2 numbers, one for each of left, right"):
            config.build(spec=spec(), rng=Rng(0), device=CPU)


def test_clonings_rate_falls_to_nothing_as_fairdices():
    """After `policy_decay` updates nothing changes any more; before, it does."""
    loop = loop_of(BC(hidden=8, policy_decay=20), spec(), length=2)
    loop.use(memory_of(spec(), fork(), CPU))

    def weights():
        return torch.cat([p.detach().flatten() for p in loop.agent.policy.parameters()])

    seen = [weights()]
    for _ in range(4):
        loop.iterate()
        seen.append(weights())
    assert not torch.equal(seen[1], seen[2])
    assert torch.equal(seen[3], seen[4])
    assert float(loop.agent.optimisers["policy"].learning_rate) == 0.0
