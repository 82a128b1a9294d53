"""PPO teams: losses by hand, value statistics, chunks, masks, acting, restoring, learning."""

import copy
import math

import pytest
import torch
from scipy import stats

from marl.agents import ippo, mappo
from marl.envs import matrix_game
from marl.errors import MarlError, NonFiniteError
from marl.loops import OnPolicyConfig
from marl.policy import ValueNorm, entropy, policy_loss, value_loss
from marl.policy.chunks import cut, minibatches
from marl.policy.heads import sample
from marl.rng import Rng
from marl.types import Box, Discrete

CPU = torch.device("cpu")
AGENTS = {"ippo": ippo, "mappo": mappo}


def _build(spec, name="ippo", seed=0, **config):
    settings = {"hidden": 8, "epochs": 2, "chunk": 4} | config
    return AGENTS[name].Config(**settings).build(spec=spec, rng=Rng(seed), device=CPU)


def _update(team, batch):
    return team.update(batch, rng=Rng(0).stream("update", 1).fold(team.updates))


@pytest.fixture
def make_rollout(make_batch):
    """A batch as the on-policy loop makes it: it may begin in mid-episode with any carry."""

    def make(spec, B=4, T=14, seed=0, hidden=8):
        batch = make_batch(spec, B=B, T=T, seed=seed)
        g = torch.Generator().manual_seed(seed + 1)
        batch.start_BT[::2, 0] = False
        for name in ("actor", "critic"):
            batch.extras[f"carry.{name}_BNH"] = torch.randn(B, spec.n_agents, hidden, generator=g)
        batch.alive_BTN = torch.rand(B, T, spec.n_agents, generator=g) < 0.8
        batch.reward_BT = torch.where(batch.filled_BT, batch.reward_BT, 0.0)
        return batch

    return make


# Losses


def test_policy_loss_by_hand():
    """Ratios 1.5, 0.5, 1.5, 0.5 at clip 0.2: the pessimistic side of each advantage."""
    old = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5]).log()
    new = torch.tensor([0.75, 0.25, 0.75, 0.25, 1.0]).log().requires_grad_()
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, torch.inf])
    mask = torch.tensor([True, True, True, True, False])
    loss = policy_loss(new, old, advantage, mask, clip=0.2)
    torch.testing.assert_close(loss.item(), -(1.2 + 0.5 - 1.5 - 0.8) / 4)
    loss.backward()  # d/d log p = -ratio A / 4 where the unclipped side is the smaller, else 0
    torch.testing.assert_close(new.grad, torch.tensor([0.0, -0.5 / 4, 1.5 / 4, 0.0, 0.0]))


def test_value_loss_by_hand():
    """Huber with threshold 1 and clip 0.5: the larger of the losses at V and at the clipped V."""
    old = torch.tensor([0.0, 0.0, 0.0, 0.0])
    value = torch.tensor([2.0, 0.25, -1.0, 7.0]).requires_grad_()
    target = torch.tensor([3.0, 0.0, 1.0, torch.nan])
    mask = torch.tensor([True, True, True, False])
    loss = value_loss(value, old, target, mask, clip=0.5, huber=1.0)
    # at V: 0.5, 0.03125, 1.5; at the clipped V (0.5, 0.25, -0.5): 2.0, 0.03125, 1.0
    torch.testing.assert_close(loss.item(), (2.0 + 0.03125 + 1.5) / 3)
    loss.backward()
    torch.testing.assert_close(value.grad, torch.tensor([0.0, 0.25 / 3, -1.0 / 3, 0.0]))


def test_entropy_counts_available_actions_only():
    logits = torch.tensor([0.0, 0.0, -1e10, 0.0]).requires_grad_()
    value = entropy(logits.log_softmax(-1))
    torch.testing.assert_close(value.item(), math.log(3))
    value.backward()
    assert torch.isfinite(logits.grad).all()


def test_value_norm_is_a_debiased_running_mean_and_deviation():
    norm = ValueNorm(enabled=True)
    first, second = torch.tensor([1.0, 3.0, 99.0]), torch.tensor([5.0, 7.0])
    norm.update(first, torch.tensor([True, True, False]))
    torch.testing.assert_close(norm.normalise(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([-1.0, 0.0, 1.0]))
    norm.update(second, torch.tensor([True, True]))
    mean, square = (2.0 + 6.0) / 2, (5.0 + 37.0) / 2  # both updates weigh (nearly) the same
    deviation = (square - mean**2) ** 0.5
    torch.testing.assert_close(norm.normalise(first), (first - mean) / deviation, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.restore(norm.normalise(first)), first)
    off = ValueNorm(enabled=False)
    off.update(first, torch.tensor([True, True, True]))
    assert torch.equal(off.normalise(first), first)


def test_advantages_are_the_generalised_estimate(make_spec, make_rollout):
    """delta_t + gamma lambda (1 - d) A_{t+1}, then mean 0 and deviation 1 over live agents."""
    spec = make_spec()
    team, batch = _build(spec, normalise_values=False, chunk=0), make_rollout(make_spec())
    x = team._chunks(batch)
    B, T, N = batch.actions_BTN.shape
    advantage = torch.zeros(B, T + 1, N)
    for b in range(B):
        for t in reversed(range(T)):
            if batch.filled_BT[b, t]:
                future = 0.0 if batch.terminated_BT[b, t] else 1.0
                delta = batch.reward_BT[b, t] + 0.99 * future * x["value"][b, t + 1] - x["value"][b, t]
                ahead = advantage[b, t + 1] if batch.filled_BT[b, t + 1] else 0.0
                advantage[b, t] = delta + 0.99 * 0.95 * future * ahead
    live = batch.filled_BT[..., None] & batch.alive_BTN
    mean, deviation = advantage[:, :T][live].mean(), advantage[:, :T][live].std(correction=0)
    expected = (advantage[:, :T] - mean) / (deviation + 1e-5)
    torch.testing.assert_close(x["advantage"][live], expected[live], rtol=1e-4, atol=1e-4)
    assert (x["advantage"][~live] == 0).all()


def test_learning_does_not_depend_on_the_rewards_scale(make_spec, make_rollout):
    """Rewards and values times 100: the same advantages, once the statistics know the returns."""
    spec = make_spec()
    teams = [_build(spec, chunk=0), _build(spec, chunk=0)]
    results = []
    for team, scale in zip(teams, (1.0, 100.0), strict=True):
        batch = make_rollout(spec)
        batch.reward_BT = batch.reward_BT * scale
        for _ in range(40):  # the critic's own values fade out of the statistics
            x = team._chunks(batch)
            team.norm.update(x["return"], x["mask"])
        results.append(team._chunks(batch)["advantage"])
    torch.testing.assert_close(*results, rtol=0.05, atol=0.05)


# Chunks and recurrent state


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("chunk", [1, 4, 7, 14, 99, 0])
def test_chunks_continue_where_the_one_before_ended(make_spec, make_rollout, name, chunk, recurrent):
    """The first epoch's ratio is 1: every chunk starts from the right state, whatever its length."""
    spec = make_spec()
    team, batch = _build(spec, name, chunk=chunk, recurrent=recurrent), make_rollout(spec)
    x = team._chunks(batch)
    with torch.no_grad():
        none = torch.zeros(1, spec.n_agents, 8)  # nothing is kept for networks without a GRU
        start, seen = x.get("start"), x.get("critic", x["actor"])
        logits = team.actor(x["actor"], start, x.get("actor_state", none))[0]
        value = team.critic(seen, start, x.get("critic_state", none))[0].squeeze(-1)
    log_prob = logits.masked_fill(~x["avail"], -1e10).log_softmax(-1)
    taken = log_prob.gather(-1, x["actions"][..., None]).squeeze(-1)
    mask = x["mask"]
    torch.testing.assert_close(taken[mask], x["log_prob"][mask], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(value[mask], x["value"][mask], rtol=1e-5, atol=1e-5)
    assert mask.sum() == batch.filled_BT.sum() * spec.n_agents


def test_cut_pads_the_last_chunk_of_an_env():
    x = torch.arange(10).reshape(2, 5)
    assert cut(x, 3).tolist() == [[0, 1, 2], [3, 4, 0], [5, 6, 7], [8, 9, 0]]


def test_minibatches_are_as_many_as_asked_or_refused():
    x, order = {"x": torch.arange(6.0)}, torch.tensor([5, 0, 3, 1, 4, 2])
    parts = minibatches(x, order, 4)
    assert [part["x"].tolist() for part in parts] == [[5.0, 0.0], [3.0, 1.0], [4.0], [2.0]]
    with pytest.raises(MarlError, match=r"agent.minibatches=7 .* 6 chunks"):
        minibatches(x, order, 7)


def test_hidden_state_resets_at_an_episodes_start(make_spec, make_rollout):
    spec = make_spec()
    team, batch = _build(spec, chunk=0), make_rollout(spec, B=1, T=20)
    t = int(batch.start_BT[0, 1:].nonzero()[0]) + 1
    other = copy.copy(batch)
    other.obs_BTNO = batch.obs_BTNO.clone()
    other.obs_BTNO[:, :t] += 1.0  # another past
    before, after = team._chunks(batch)["log_prob"], team._chunks(other)["log_prob"]
    assert torch.equal(before[:, t:], after[:, t:])
    other.start_BT = torch.zeros_like(batch.start_BT)
    assert not torch.equal(before[:, t:], team._chunks(other)["log_prob"][:, t:])


def test_state_reward_and_end_keep_the_order_of_envs(make_spec, make_rollout):
    spec = make_spec()
    team, batch = _build(spec, "mappo", chunk=0), make_rollout(spec)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = copy.copy(batch)
    for key, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            setattr(shuffled, key, value[order])
    shuffled.extras = {k: v[order] for k, v in batch.extras.items()}
    plain, mixed = team._chunks(batch), team._chunks(shuffled)
    for name in ("value", "return", "log_prob", "advantage"):
        mask = mixed["live"]
        torch.testing.assert_close(plain[name][order][mask], mixed[name][mask], rtol=1e-4, atol=1e-4)


def test_truncation_bootstraps_and_termination_does_not(make_spec, make_rollout):
    spec = make_spec()
    team, batch = _build(spec, chunk=0), make_rollout(spec)
    batch.terminated_BT[:] = batch.filled_BT
    cut_off = team._chunks(batch)["return"][batch.filled_BT]
    torch.testing.assert_close(cut_off, batch.reward_BT[batch.filled_BT][:, None].expand(-1, spec.n_agents))
    batch.terminated_BT[:] = False
    assert (team._chunks(batch)["return"][batch.filled_BT] - cut_off).abs().min() > 1e-6


def test_the_limit_is_an_end_where_asked(make_spec, make_rollout):
    spec = make_spec()
    team, batch = _build(spec, chunk=0, limit_ends=True), make_rollout(spec)
    batch.terminated_BT[:], batch.truncated_BT[:] = False, batch.filled_BT
    returns = team._chunks(batch)["return"][batch.filled_BT]
    torch.testing.assert_close(returns, batch.reward_BT[batch.filled_BT][:, None].expand(-1, spec.n_agents))


# Masks


def test_what_dead_agents_did_does_not_matter_to_the_policy(make_spec, make_rollout):
    spec = make_spec()
    batch, other = make_rollout(spec), make_rollout(spec)
    g = torch.Generator().manual_seed(5)
    dead = batch.filled_BT[..., None] & ~batch.alive_BTN
    assert dead.any()
    random = torch.randint(spec.n_actions, dead.shape, generator=g)
    other.actions_BTN = torch.where(dead, random, batch.actions_BTN)
    first, second = _build(spec), _build(spec)
    _update(first, batch)
    _update(second, other)
    for a, b in zip(first.actor.parameters(), second.actor.parameters(), strict=True):
        assert torch.equal(a, b)


def test_central_critic_sees_the_state_but_not_of_the_dead(make_spec, make_step):
    spec = make_spec()
    local, central = _build(spec), _build(spec, "mappo")
    ts = make_step(spec)
    ts.alive_BN = torch.tensor([[True, False, True], [True, True, True]])
    rows = central._critic_inputs(ts.obs_BNO, ts.state_BS, ts.alive_BN)
    S, O = spec.state_size, spec.obs_size  # noqa: E741
    assert torch.equal(rows[0, 0], torch.cat([ts.state_BS[0], ts.obs_BNO[0, 0], torch.eye(3)[0]]))
    assert (rows[0, 1, : S + O] == 0).all()
    assert torch.equal(rows[0, 1, S + O :], torch.eye(3)[1])
    rows = local._critic_inputs(ts.obs_BNO, ts.state_BS, ts.alive_BN)
    assert torch.equal(rows[0, 1], torch.cat([ts.obs_BNO[0, 1], torch.eye(3)[1]]))


# Acting


def test_samples_follow_the_policy_and_availability():
    rows = 20_000
    logits = torch.tensor([0.0, 1.0, -1e10, 2.0]).expand(rows, 2, 4)
    actions = sample(logits, Rng(3).stream("act", rows))
    for i in range(2):
        counts = torch.bincount(actions[:, i], minlength=4)
        assert counts[2] == 0
        kept = [0, 1, 3]
        expected = logits[0, 0, kept].softmax(-1) * rows
        assert stats.chisquare(counts[kept].numpy(), expected.numpy()).pvalue > 0.01


def test_a_random_number_of_zero_takes_no_unavailable_action():
    """One draw in 2^24 is zero; an agent with a single available action must still take it."""

    class Zeros:
        def uniform(self, *shape):
            return torch.zeros(2, *shape)

    logits = torch.tensor([-1e10, -1e10, 3.0]).expand(2, 2, 3)
    assert (sample(logits, Zeros()) == 2).all()


def test_greedy_is_the_likeliest_available_action(make_spec, make_step):
    spec = make_spec()
    team, ts = _build(spec), make_step(spec, B=40)
    carry, rng = team.initial_carry(40), Rng(0).stream("act", 40)
    greedy = team.act(ts, carry, rng=rng, explore=0.0).actions_BN
    scores = team.scores(ts, carry).masked_fill(~ts.avail_BNA, -torch.inf)
    assert torch.equal(greedy, scores.argmax(-1))
    sampled = team.act(ts, carry, rng=rng, explore=1.0).actions_BN
    assert ts.avail_BNA.gather(-1, sampled[..., None]).all()
    assert not torch.equal(sampled, greedy)
    few = team.act(ts.map(lambda x: x[:5]), team.initial_carry(5), rng=Rng(0).stream("act", 5), explore=1.0)
    assert torch.equal(few.actions_BN, sampled[:5])


def test_scores_are_differentiable_in_the_observation(make_spec, make_step):
    spec = make_spec()
    team, ts = _build(spec), make_step(spec)
    ts.obs_BNO.requires_grad_()
    (slope,) = torch.autograd.grad(team.scores(ts, team.initial_carry(2))[0, 1, 2], ts.obs_BNO)
    assert slope[0, 1].abs().max() > 0
    slope[0, 1] = 0.0
    assert (slope == 0).all()


# Updates


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("share", [True, False])
def test_learning_is_deterministic_and_restores_bit_for_bit(make_spec, make_rollout, name, share):
    spec = make_spec()
    batches = [make_rollout(spec, seed=k) for k in range(4)]
    config = {"share": share, "minibatches": 3}
    whole, again, first = (_build(spec, name, **config) for _ in range(3))
    for batch in batches:
        _update(whole, batch)
        _update(again, batch)
    for batch in batches[:2]:
        _update(first, batch)
    rest = _build(spec, name, seed=5, **config)
    rest.load_state_dict(first.state_dict())
    for batch in batches[2:]:
        _update(rest, batch)
    expected = whole.state_dict()
    counters = {"updates": 4, "steps": sum(int(batch.filled_BT.sum()) for batch in batches)}
    for other in (again, rest):
        state = other.state_dict()
        assert state["counters"] == expected["counters"] == counters
        for key, value in expected["networks"].items():
            assert torch.equal(value, state["networks"][key]), key
        for part in ("actor", "critic"):
            for key, value in expected["optimisers"][part].items():
                assert torch.equal(value, state["optimisers"][part][key]), key


def test_learning_rate_and_entropy_fall_over_team_steps(make_spec, make_rollout):
    """Half way after one batch, at the end after two; then an entropy bonus is none."""
    spec = make_spec()
    batch = make_rollout(spec)
    over = 2 * int(batch.filled_BT.sum())
    team = _build(spec, learning_rate=0.01, learning_rate_decay=over)
    for share in (1.0, 0.5, 0.0):
        before = [p.clone() for p in team.actor.parameters()]
        _update(team, batch)
        for optimiser in team.optimisers.values():
            assert optimiser.learning_rate == pytest.approx(0.01 * share)
        same = all(torch.equal(a, b) for a, b in zip(before, team.actor.parameters(), strict=True))
        assert same is (share == 0.0)
    settings = ((0.5, over), (0.0, 0), (0.5, 0))
    fading, without, always = (_build(spec, entropy=e, entropy_decay=d) for e, d in settings)
    for _ in range(2):
        _update(fading, batch)
    for other in (without, always):
        other.load_state_dict(fading.state_dict())
    for other in (fading, without, always):
        _update(other, batch)
    weights = [next(iter(team.actor.parameters())) for team in (fading, without, always)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_statistics_learn_once_per_step(make_spec, make_rollout):
    """Epochs times minibatches updates of the value statistics, as in the released code."""
    spec = make_spec()
    team = _build(spec, epochs=3, minibatches=2)
    _update(team, make_rollout(spec))
    assert team.norm.statistics[2].item() == pytest.approx(1 - 0.99999**6)


def test_a_loss_that_is_not_finite_is_named(make_spec, make_rollout):
    spec = make_spec()
    team, batch = _build(spec), make_rollout(spec)
    batch.reward_BT[batch.filled_BT] = torch.nan
    with pytest.raises(NonFiniteError, match="policy loss"):
        _update(team, batch)


def test_worlds_that_do_not_fit_are_refused(make_spec):
    with pytest.raises(MarlError, match="mixes discrete and continuous"):
        _build(make_spec(action_spaces=(Discrete(n=2), Discrete(n=2), Box(low=(0.0,), high=(1.0,)))))
    with pytest.raises(MarlError, match="vector reward"):
        _build(make_spec(reward="vector", objectives=("a", "b")))


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip": 0.0},
        {"chunk": -1},
        {"epochs": 0},
        {"entropy": -1.0},
        {"trace": 2},
        {"learning_rate_decay": -1},
        {"entropy_decay": -1},
    ],
)
def test_bad_values_name_their_field(wrong):
    with pytest.raises(MarlError, match=next(iter(wrong))):
        ippo.Config(**wrong)


@pytest.mark.parametrize("name", AGENTS)
def test_learns_the_climbing_joint_action(name):
    """The monotone game pays 8 for (2, 2); a team that does not learn stays near the mean, 2.3."""

    def run(learning_rate):
        env = matrix_game.Config(game="monotone").build(num_envs=32, device=CPU)
        config = {"hidden": 16, "learning_rate": learning_rate, "epochs": 4, "chunk": 0}
        team = AGENTS[name].Config(**config).build(spec=env.spec, rng=Rng(0), device=CPU)
        loop = OnPolicyConfig(rollout_steps=4).build(env=env, agent=team, rng=Rng(0))
        return [loop.iterate()["train/return"] for _ in range(40)][-1]

    assert run(0.01) > 7.0
    assert run(1e-9) < 4.0
