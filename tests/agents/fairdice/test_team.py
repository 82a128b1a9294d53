"""The learner against the oracle, its variants, its refusals, and its state."""

import math

import pytest
import torch

from marl import checkpoint, momdp
from marl.agents.fairdice import Config
from marl.agents.fairdice.check import FlowWatch
from marl.agents.fairdice.divergence import DIVERGENCES
from marl.agents.fairdice.tabular import Problem, newton
from marl.agents.fairdice.welfare import AlphaFair, InUnit, PatchedLog
from marl.datasets import Episode, memory_of
from marl.envs.momdp import Config as World
from marl.errors import FieldError, MarlError
from marl.loops import BatchConfig, OfflineConfig
from marl.offline import Trunk
from marl.replay import Replay
from marl.rng import Rng
from marl.types import Box, EnvSpec

CPU, GAMMA = torch.device("cpu"), 0.9
SMALL = World(states=6, actions=3, objectives=2, limit=20)
LINEAR = {  # a table of nu and of logits, for comparison with the oracle
    "gamma": GAMMA,
    "advantage": "mean",
    "layers": 0,
    "scale_inputs": False,
    "penalty": 0.0,
    "shift": False,
    "starts": "episode",
    "learning_rate": 0.1,
    "mu_learning_rate": 0.1,
}


def learn(data, updates, *, full=True, seed=0, **changes):
    """A team that learned, by the offline loop's own steps."""
    agent = Config(**(LINEAR | changes)).build(spec=data.spec, rng=Rng(seed, "agent"), device=CPU)
    loop = OfflineConfig(
        data="unused", full=full, batch=BatchConfig(sequences=64, length=2, starts="any")
    ).build(env=data.env, agent=agent, rng=Rng(seed))
    loop.use(data.memory())
    for _ in range(updates // 10):
        metrics = loop.iterate()
    return agent, metrics


def policy_of(agent, data):
    """pi(a|s) of every state (S, A)."""
    eye = torch.eye(data.S)[:, None]
    return agent.policy.outputs(agent.scaler.obs(eye))[0][:, 0].softmax(-1).double().detach()


def reached(agent, data, model, data_SA):
    """Returns of the learned policy in the estimated process (K,)."""
    policy_SA = policy_of(agent, data) * (data_SA > 0)
    policy_SA = policy_SA / policy_SA.sum(-1, keepdim=True).clamp(min=1e-9)
    return momdp.returns(model, momdp.occupancy(model, policy_SA, GAMMA))


def against_the_oracle(make_data, updates, *, f="chi2", beta=0.3, judge=None, **settings):
    """Welfare of the learned policy is within 1 % of the optimum's; judged by the agent's own, or another."""
    data = make_data(SMALL, episodes=50)
    model, data_SA = data.estimate()
    agent, metrics = learn(data, updates, divergence=f, beta=beta, policy_decay=updates, **settings)
    p = Problem(model=model, data_SA=data_SA, gamma=GAMMA, welfare=agent.welfare, divergence=f, beta=beta)
    best, judge, J = newton(p), judge or agent.welfare, reached(agent, data, model, data_SA)
    optimum = float(judge.utility(best.return_K).sum())
    assert float(judge.utility(J).sum()) == pytest.approx(optimum, abs=0.01 * abs(optimum))
    return agent, metrics, best, J


@pytest.mark.parametrize("f", DIVERGENCES)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.25, 2.0])
def test_the_learner_reaches_the_oracle(make_data, alpha, f):
    """As do J and mu, where mu has not far to go: log mu goes at one rate."""
    updates = 1000 if alpha == 2 else 500
    agent, metrics, best, _ = against_the_oracle(make_data, updates, f=f, alpha=alpha)
    if alpha > 1:
        return
    assert torch.allclose(agent.weights_K.detach().double(), best.mu_K, rtol=0.05)
    J = torch.tensor([metrics[f"train/J.goal_{k}"] for k in range(2)]).double()
    assert torch.allclose(J, best.return_K, rtol=0.1, atol=1e-3)
    assert metrics["train/flow"] == pytest.approx(1, abs=0.05)


def test_without_learning_the_oracle_is_out_of_reach(make_data):
    with pytest.raises(AssertionError):
        against_the_oracle(make_data, 10, learning_rate=1e-9)


@pytest.mark.parametrize("beta", [0.1, 0.01])
def test_kl_learns_at_a_small_beta(make_data, beta):
    against_the_oracle(make_data, 600, f="kl", beta=beta)


@pytest.mark.parametrize("alpha", [4.0, 8.0])
def test_a_large_alpha_in_a_unit_is_near_max_min(make_data, alpha):
    """The learner reaches the oracle, mu too, and the least objective has more than under Nash."""
    agent, _, best, J = against_the_oracle(make_data, 800, f="soft_chi2", alpha=alpha, unit=1.0)
    assert torch.allclose(agent.weights_K.detach().double(), best.mu_K, rtol=0.05)
    nash = against_the_oracle(make_data, 300, f="soft_chi2", unit=1.0, judge=AlphaFair(1.0))[3]
    assert J.min() > nash.min() + 0.02


def test_a_patched_log_in_a_unit_is_nash(make_data):
    """Its patch is below all returns; in the paper's unit it is above all of them, near the sum."""
    settings = {"unit": 0.1, "beta": 0.03, "judge": AlphaFair(1.0)}
    nash = against_the_oracle(make_data, 400, **settings)
    patched = against_the_oracle(make_data, 400, **settings, welfare="patched_log")
    assert patched[0].welfare == InUnit(PatchedLog(), nash[0].welfare.k0)
    assert min(patched[3].min(), nash[3].min()) > nash[0].welfare.k0
    assert torch.allclose(patched[3], nash[3], atol=0.01)
    paper = against_the_oracle(make_data, 400, welfare="patched_log")
    assert paper[3].min() < 0.7 * nash[3].min()


def test_ratios_that_stay_far_from_a_flow_are_said_once(caplog):
    watch = FlowWatch()
    for update in range(1, 4001):
        watch.add(torch.tensor(0.1), update)
        assert len(caplog.records) == (update >= 2000)
    assert "0.1 times the flow of the data over the last 1000 of 2000 updates" in caplog.text


def test_terminated_transitions_end_the_flow(make_data):
    """Rooms whose goals end the episode: proper ends reach the oracle, official ones lose every reward."""
    world = World(world="four_rooms", limit=30, goals=((2, 4), (4, 2)), slip=0.0)
    data = make_data(world, episodes=60)
    model, data_SA = data.estimate()
    settings = {"beta": 0.3, "divergence": "soft_chi2"}
    best = newton(Problem(model=model, data_SA=data_SA, gamma=GAMMA, welfare=AlphaFair(1.0), **settings))
    agent, _ = learn(data, 1000, **settings)
    assert torch.allclose(agent.weights_K.detach().double(), best.mu_K, rtol=0.05)
    with pytest.raises(MarlError, match=r"objective 0 \(goal_0\) is rewarded only where an episode ends"):
        learn(data, 10, **settings, ends="official")


@pytest.mark.parametrize("ends", ["proper", "official"])
def test_what_is_said_to_be_earned_is_one_over_mu(make_data, ends):
    """At the optimum of Nash welfare, whether or not last transitions count. Episodes are cut off."""
    agent, metrics = learn(make_data(SMALL, episodes=30), 1500, ends=ends, divergence="soft_chi2", beta=0.3)
    J_K = torch.tensor([metrics[f"train/J.{name}"] for name in agent.names])
    assert torch.allclose(J_K * agent.weights_K.detach(), torch.ones(len(J_K)), rtol=1e-3)
    assert metrics["train/ratio"] == pytest.approx(1, rel=1e-3)


def test_beta_matters_and_with_the_wrong_broadcast_does_not(make_data):
    data = make_data(SMALL, episodes=30)

    def distance(kind):
        one, other = (
            policy_of(
                learn(
                    data,
                    120,
                    full=False,
                    advantage="sample",
                    beta=b,
                    policy_loss=kind,
                    shift=kind == "behaviour_cloning",
                )[0],
                data,
            )
            for b in (0.01, 10.0)
        )
        return float((one - other).abs().sum(-1).mean())

    assert distance("fixed") > 0.3
    assert distance("wrong_broadcast") < 0.05
    assert distance("behaviour_cloning") < 1e-6


@pytest.mark.parametrize(("kind", "matters"), [("fixed", True), ("wrong_broadcast", False)])
def test_the_policy_changes_with_beta_by_kruskal_wallis(make_data, kind, matters):
    """As the replication tested it: the welfare reached, groups by beta, seeds in each. Its p for the fixed
    loss lie below 0.02, for the wrong broadcast all above 0.16."""
    scipy_stats = pytest.importorskip("scipy.stats", reason="scipy is in the extra dev")
    data, nash = make_data(SMALL, episodes=30), AlphaFair(1.0)

    def welfare(beta, seed):
        agent, _ = learn(data, 60, full=False, seed=seed, advantage="sample", beta=beta, policy_loss=kind)
        occupancy_SA = momdp.occupancy(data.true, policy_of(agent, data), GAMMA)
        return float(nash.utility(momdp.returns(data.true, occupancy_SA)).sum())

    groups = [[welfare(beta, seed) for seed in range(5)] for beta in (0.01, 1.0, 100.0)]
    p = scipy_stats.kruskal(*groups).pvalue
    assert p < 0.01 if matters else p > 0.16


def test_the_data_are_described_before_training(make_data, capsys):
    data = make_data(SMALL, episodes=20)
    data.played.reward_ETK[:, :, 1] = 0
    data.played.reward_ETK[0, 0, 1] = 3  # once, in a state that others cross
    learn(data, 10, alpha=0.0)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "data: 20 episodes, 400 transitions"
    assert said[2].startswith("objective 1 (goal_1): rewards 0 to 3, above the least in 1 transitions")
    assert "mean return 0.15" in said[2]


def test_given_weights_stay_and_the_sum_needs_none(make_data):
    data = make_data(SMALL, episodes=30)
    agent, metrics = learn(data, 50, weights=(0.2, 0.8))
    assert agent.weights_K.tolist() == pytest.approx([0.2, 0.8])
    assert metrics["train/mu.goal_1"] == pytest.approx(0.8)
    agent, _ = learn(data, 50, alpha=0.0)
    assert agent.weights_K.tolist() == [1, 1]
    with pytest.raises(FieldError, match="give 2 weights, one for each of goal_0, goal_1"):
        learn(data, 10, weights=(1.0,))


class Line:
    """One state, actions in [-2, 4] around 1: objective 0 is rewarded below 1, objective 1 above."""

    device = CPU
    spec = EnvSpec(
        name="line",
        agents=("a",),
        agent_types=("a",),
        obs_size=1,
        state_size=1,
        action_spaces=(Box(low=(-2.0,), high=(4.0,)),),
        reward="vector",
        objectives=("left", "right"),
        episode_limit=8,
    )

    def memory(self):
        g, L = torch.Generator().manual_seed(0), 8
        episodes = []
        for _ in range(64):
            actions = -2 + 6 * torch.rand(L, 1, 1, generator=g)
            left = (actions < 1).float()[:, 0]
            one = torch.ones(L + 1, 1)
            yes = one[..., None].bool()
            episodes.append(
                Episode(
                    obs_UNO=one[..., None],
                    state_US=one,
                    avail_UNA=yes,
                    alive_UN=yes[..., 0],
                    actions_LN=actions,
                    reward_LK=torch.cat([left, 1 - left], -1),
                    terminated=False,
                )
            )
        return memory_of(self.spec, episodes, CPU)


def test_gaussians_learn_what_is_weighed():
    """Mean and deviation of the weighted actions: uniform in [-2, 1], in [1, 4], or of all of them."""

    def learned(**changes):
        settings = {"gamma": 0.0, "beta": 0.1, "hidden": 16, "penalty": 0.0, "learning_rate": 0.01}
        config = Config(**(settings | {"scale_inputs": False} | changes))
        agent = config.build(spec=Line.spec, rng=Rng(0), device=CPU)
        loop = OfflineConfig(data="unused", full=True).build(env=Line(), agent=agent, rng=Rng(0))
        loop.use(Line().memory())
        for _ in range(25):
            loop.iterate()
        mean, log_std = agent.policy.outputs(torch.ones(1, 1, 1))
        return float(1 + 3 * mean.detach()), float(3 * log_std.detach().exp())

    half, whole = 3 / math.sqrt(12), 6 / math.sqrt(12)  # deviations of uniform numbers
    assert learned(weights=(1.0, 0.0)) == pytest.approx((-0.5, half), abs=0.15)
    assert learned(weights=(0.0, 1.0)) == pytest.approx((2.5, half), abs=0.15)
    assert learned() == pytest.approx((1.0, whole), abs=0.15)
    assert learned(weights=(1.0, 0.0), policy_loss="behaviour_cloning")[0] == pytest.approx(1.0, abs=0.15)


def test_all_variants_learn(make_data):
    data = make_data(SMALL, episodes=20)
    for changes in (
        {"mu": "raw"},
        {"penalty": 0.1, "penalty_mix": "sample", "layers": 2, "hidden": 16},
        {"starts": "transition", "shift": True, "ends": "official"},
        {"policy_decay": 20, "max_grad_norm": 1.0},
        {"welfare": "patched_log", "scale_rewards": False},
    ):
        _, metrics = learn(data, 30, full=False, **changes)
        assert math.isfinite(metrics["train/loss"])


@pytest.mark.parametrize(("layers", "layer_norm"), [(0, False), (1, True), (3, True), (2, False)])
def test_the_native_pass_of_nu_is_torchs(layers, layer_norm):
    """Values, gradients of the parameters, and the slope in the states."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"hidden": 24, "layers": layers, "layer_norm": layer_norm, "generator": generator}
    nu, x = Trunk(5, heads=[(1, 1.0)], fused=True, **sizes), torch.randn(100, 5, generator=generator)
    for norm in nu.norms:
        torch.nn.init.normal_(norm.weight, generator=generator)
        torch.nn.init.normal_(norm.bias, generator=generator)
    at = x.clone().requires_grad_()
    values, parameters = (nu(x)[0], nu.twice(at)), list(nu.parameters())
    assert torch.allclose(*values, atol=1e-5)
    mine, plain = (torch.autograd.grad(y.square().sum(), parameters, retain_graph=True) for y in values)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(mine, plain, strict=True))
    assert torch.allclose(nu.slope(x), torch.autograd.grad(values[1].sum(), at)[0], atol=1e-5)


def test_the_penalty_differentiates_steep_rows_alone(make_data):
    """Its value and gradient are those of all rows; flat rows give zero, NaN stays NaN."""
    data = make_data(SMALL, episodes=20)
    agent, _ = learn(data, 10, layers=2, hidden=16, penalty=0.1, penalty_mix="sample")
    rng, rows_XS = Rng(0).stream("penalty", 1), torch.rand(64, data.spec.state_size)

    def penalty_and_gradient():
        penalty = agent._penalty(rows_XS, rng)
        return penalty, torch.autograd.grad(penalty, list(agent.nu.parameters()), allow_unused=True)

    assert float(agent._penalty(rows_XS, rng)) == 0
    agent.nu.heads[0].weight.data *= 5 / steepness(agent, rows_XS, rng).median()
    assert 0.1 < (steepness(agent, rows_XS, rng) > 5).float().mean() < 0.9
    mine, mine_gradients = penalty_and_gradient()
    agent.nu.native = lambda x: False
    whole, gradients = penalty_and_gradient()
    assert torch.allclose(mine, whole, rtol=1e-4)
    assert whole > 0
    pairs = zip(mine_gradients, gradients, strict=True)
    assert all(a is b is None or torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in pairs)
    del agent.nu.native
    agent.nu.heads[0].weight.data.fill_(torch.nan)
    assert agent._penalty(rows_XS, rng).isnan()


def steepness(agent, rows_XS, rng):
    """|grad nu| where the penalty looks."""
    seen = []
    slope = agent.nu.slope
    agent.nu.slope = lambda x: seen.append(slope(x)) or seen[0]
    agent._penalty(rows_XS, rng)
    del agent.nu.slope
    return seen[0].norm(dim=-1)


def test_the_decayed_rate_ends_at_zero(make_data):
    data = make_data(SMALL, episodes=20)
    agent, _ = learn(data, 20, policy_decay=20)
    before = policy_of(agent, data)
    loop = OfflineConfig(data="unused", full=True).build(env=data.env, agent=agent, rng=Rng(0))
    loop.use(data.memory())
    loop.iterate()
    assert torch.equal(policy_of(agent, data), before)


# What cannot be learned is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"welfare": "patched_log", "alpha": 2.0}, r"alpha=2\.0 cannot be used: leave it out"),
        ({"weights": (1.0, 2.0), "alpha": 2.0}, r"alpha=2\.0 cannot be used: leave it out: fixed weights"),
        ({"weights": (1.0, 2.0), "welfare": "patched_log"}, "welfare='patched_log' .*leave it out: fixed"),
        ({"weights": (0.0, 0.0)}, r"weights=.* with a sum above 0"),
        ({"weights": (math.inf, 1.0)}, r"weights=.* give finite numbers"),
        ({"alpha": math.inf}, r"alpha=inf cannot be used: give a finite number"),
        ({"unit": 0.0}, r"unit=0\.0 cannot be used: give a finite number above 0, or null"),
        ({"weights": (1.0, 2.0), "mu": "raw"}, "mu='raw' cannot be used: leave it out: fixed weights"),
        ({"weights": (1.0, 2.0), "mu_limit": 9.0}, r"mu_limit=9\.0 cannot be used: leave it out"),
        ({"weights": (1.0, 2.0), "unit": 0.1}, r"unit=0\.1 cannot be used: leave it out: fixed weights"),
        ({"alpha": 0.0, "mu": "raw"}, "mu='raw' cannot be used: leave it out: alpha=0 is a sum"),
        ({"alpha": 0.0, "unit": 0.1}, r"unit=0\.1 cannot be used: leave it out: alpha=0 is a sum"),
        ({"penalty": 0.0, "penalty_mix": "sample"}, "penalty_mix='sample' .* penalty=0 has none"),
        ({"policy_loss": "behaviour_cloning", "shift": False}, "shift=False .* has no weights"),
        ({"layers": 0, "hidden": 7}, "hidden=7 .* layers=0 has no hidden layer"),
        ({"layers": 0, "layer_norm": False}, "layer_norm=False .* layers=0 has no hidden layer"),
        ({"beta": 0.0}, r"beta=0\.0 cannot be used: give a number above 0"),
        ({"ends": "never"}, "ends='never' cannot be used: give one of proper, official"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(given, message):
    with pytest.raises(FieldError, match=message):
        Config(**given)


def spoiled(make_data, change):
    data = make_data(SMALL, episodes=20)
    change(data.played.reward_ETK)
    return data


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            lambda r: r[..., 1].zero_(),
            {},
            r"objective 1 \(goal_1\) is never rewarded .* \(agent.unit=0.1\)",
        ),
        (lambda r: r[..., 0].fill_(2), {}, r"objective 0 \(goal_0\) is never rewarded"),
        (lambda r: r[..., 0].sub_(1), {"scale_rewards": False}, r"objective 0 \(goal_0\) is never rewarded"),
        (
            lambda r: r[..., 1].sub_(0.5),
            {"scale_rewards": False},
            r"objective 1 \(goal_1\) has a mean return of -.* set scale_rewards=true",
        ),
        (
            lambda r: r[..., 1].mul_(30),
            {"scale_rewards": False},
            r"objective 1 \(goal_1\) has rewards from 0 to 30: .* set scale_rewards=true",
        ),
    ],
)
def test_data_that_cannot_be_learned_from_are_refused(make_data, change, settings, message):
    data = spoiled(make_data, change)
    with pytest.raises(MarlError, match=message):
        learn(data, 10, **settings)
    learn(data, 10, **settings, alpha=0.0)  # a sum can
    learn(data, 10, **settings, welfare="patched_log", unit=0.1)


def test_a_patched_log_in_the_papers_unit_is_said(make_data, caplog):
    learn(make_data(SMALL, episodes=20), 10, welfare="patched_log", unit=0.1)
    assert not caplog.records
    learn(make_data(SMALL, episodes=20), 10, welfare="patched_log")
    assert "without agent.unit is near the plain sum" in caplog.text


def test_rewards_that_are_not_finite_are_refused(make_data):
    data = spoiled(make_data, lambda r: r[3].fill_(math.nan))
    with pytest.raises(MarlError, match="episode 3: the data's reward holds NaN or infinite"):
        learn(data, 10)


def test_a_weight_without_bound_stops_training(make_data):
    data = make_data(SMALL, episodes=20)
    with pytest.raises(MarlError, match=r"the weight of objective \d \(goal_\d\) is .* exceeds mu_limit=2 "):
        learn(data, 400, mu_limit=2.0)
    agent, _ = learn(data, 10, weights=(1e7, 1.0))  # given ones have bounds of their own
    assert agent.weights_K.tolist() == [1e7, 1]


def test_it_wants_to_see_the_data_first(make_data):
    data = make_data(SMALL, episodes=5)
    agent = Config().build(spec=data.spec, rng=Rng(0), device=CPU)
    with pytest.raises(MarlError, match="call `examine` before `update`"):
        agent.update(next(data.memory().scan()), rng=Rng(0).stream("u", 1))


# The loop's promises


def test_resume_is_bit_exact(make_data, tmp_path):
    """Through a checkpoint on disk, between two updates of a decaying rate."""
    data = make_data(SMALL, episodes=30)
    config = Config(hidden=16, policy_decay=50, penalty=0.1)
    batch = BatchConfig(sequences=32, length=2, starts="any")

    def loop():
        agent = config.build(spec=data.spec, rng=Rng(0, "agent"), device=CPU)
        made = OfflineConfig(data=tmp_path, updates=3, batch=batch).build(
            env=data.env, agent=agent, rng=Rng(1)
        )
        return made

    whole, first, second = loop(), loop(), loop()
    for one in (whole, first):
        one.use(data.memory())
    rows = [whole.iterate() for _ in range(8)]
    assert [first.iterate() for _ in range(4)] == rows[:4]
    checkpoint.write(tmp_path, first.steps, first.state_dict(), first.segments(), info={})
    saved, _ = checkpoint.latest(tmp_path)
    second.load_state_dict(saved.state, saved.read_segment)
    assert [second.iterate() for _ in range(4)] == rows[4:]
    for name, value in whole.state_dict()["agent"]["networks"].items():
        assert torch.equal(value, second.state_dict()["agent"]["networks"][name]), name


def test_scan_gives_every_transition_once(make_data):
    memory: Replay = make_data(SMALL, episodes=30).memory()
    whole = next(memory.scan(memory.entries))
    for length in (2, 7, 1000):
        parts = list(memory.scan(length))
        for name in ("obs_BTNO", "actions_BTN", "reward_BTK", "truncated_BT", "start_BT"):
            joined = torch.cat([getattr(b, name)[b.filled_BT] for b in parts])
            assert torch.equal(joined, getattr(whole, name)[whole.filled_BT]), name
    assert int(whole.filled_BT.sum()) == memory.entries - memory.episodes
