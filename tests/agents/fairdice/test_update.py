"""One update by hand, on two or three transitions: what every option makes of them."""

import math

import pytest
import torch

from marl.agents.fairdice import Config, losses
from marl.agents.fairdice.divergence import DIVERGENCES
from marl.agents.fairdice.unit import DataReturn
from marl.datasets import Episode, memory_of
from marl.errors import MarlError
from marl.rng import Rng
from marl.types import Box, EnvSpec

CPU, GAMMA, BETA, NU = torch.device("cpu"), 0.5, 2.0, (2.0, 1.0)
SPEC = EnvSpec(
    name="line",
    agents=("a",),
    agent_types=("a",),
    obs_size=1,
    state_size=1,
    action_spaces=(Box(low=(-1.0,), high=(1.0,)),),
    reward="vector",
    objectives=("left", "right"),
    episode_limit=4,
)
# States on the way, rewards, and whether it terminates.
SHORT = ([1, 3], [(1, 0)], True)
LONG = ([2, 4, 6], [(0, 2), (3, 1)], False)


def memory(*episodes):
    made = []
    for states, rewards, terminated in episodes:
        state_US = torch.tensor(states).float()[:, None]
        yes = torch.ones(len(states), 1, 1, dtype=torch.bool)
        parts = {"obs_UNO": state_US[:, None], "state_US": state_US, "avail_UNA": yes}
        parts |= {"alive_UN": yes[..., 0], "actions_LN": torch.zeros(len(rewards), 1, 1)}
        made.append(Episode(**parts, reward_LK=torch.tensor(rewards).float(), terminated=terminated))
    return memory_of(SPEC, made, CPU)


def team(*episodes, nu=NU, **changes):
    """A learner with nu(s) = nu[0] s + nu[1] that has seen the episodes, and all of them in one batch."""
    given = {"gamma": GAMMA, "beta": BETA, "divergence": "chi2", "layers": 0, "scale_inputs": False}
    given |= {"penalty": 0.0, "shift": False, "learning_rate": 0.01, "mu_learning_rate": 0.05}
    agent = Config(**(given | changes)).build(spec=SPEC, rng=Rng(0), device=CPU)
    seen = memory(*episodes)
    agent.examine(seen.scan())
    agent.nu.heads[0].weight.data.fill_(nu[0])
    agent.nu.heads[0].bias.data.fill_(nu[1])
    return agent, next(seen.scan(seen.entries))


def stream():
    return Rng(0).stream("update", 1)


def update(*episodes, **changes):
    agent, batch = team(*episodes, **changes)
    return agent, {k: float(v.detach()) for k, v in agent.update(batch, rng=stream()).items()}


def cost(e):
    """beta f*0(e / beta) of chi2."""
    y = e / BETA
    return BETA * (y + y * y / 2 if y >= -1 else -0.5)


def mean(*values):
    return sum(values) / len(values)


# Rewards are scaled to (1/3, 0), (0, 1), (1, 1/2); nu is 3 and, behind an end, 0; 5 and 9; 9 and 13.
E_SHORT, E_LONG = [1 / 3 - 3], [1 + 0.5 * 9 - 5, 1.5 + 0.5 * 13 - 9]


def test_all_rows_count_and_a_terminated_one_has_no_future():
    _, m = update(SHORT, LONG, weights=(1.0, 1.0))
    assert m["dual"] == pytest.approx(0.5 * mean(3, 5) + mean(*map(cost, E_SHORT + E_LONG)))
    weights = [0, 1.25, 0.5]  # 1 + e / beta, not below 0
    assert m["ratio"] == pytest.approx(mean(*weights))
    assert m["J.left"] == pytest.approx(0.5 / 3)
    assert m["J.right"] == pytest.approx((1.25 + 0.5 / 2) / 3)
    assert m["zero_share"] == pytest.approx(1 / 3)
    # Of what enters, a row that goes on gives half back.
    assert m["flow"] == pytest.approx(mean(*weights))


def test_flow_counts_ends_in_full():
    """The terminated row weighs 1 + (1 - nu) / 2 with a small nu, and hands nothing on."""
    _, m = update(SHORT, LONG, weights=(1.0, 1.0), nu=(0.0, 0.0))
    w = [1 + 1 / 6, 1.5, 1.75]
    assert m["flow"] == pytest.approx(mean(w[0], 0.5 * w[1], 0.5 * w[2]) / 0.5)


def test_official_ends_leave_rows_out():
    """The row that terminates and the one that is cut off."""
    _, m = update(SHORT, LONG, weights=(1.0, 1.0), ends="official")
    assert m["dual"] == pytest.approx(0.5 * mean(3, 5) + cost(E_LONG[0]))
    assert m["flow"] == pytest.approx(1.25)
    assert (m["ratio"], m["J.left"], m["J.right"]) == pytest.approx((1.25, 0, 1.25))
    assert m["zero_share"] == pytest.approx(2 / 3)


def test_what_is_above_its_least_at_ends_alone_is_refused_with_official_ends():
    """The second objective never earns less than 1/2, and more in the last row alone."""
    rows = ([2, 4, 6, 8], [(1, 0.5), (0, 0.5), (0, 1)], False)
    with pytest.raises(MarlError, match=r"objective 1 \(right\) is rewarded only where an episode ends"):
        team(rows, ends="official")
    team(rows)


def test_equal_rows_share_the_advantage_of_those_that_count():
    """One state and action twice, of advantages 0 and 1; the second ends the episode."""
    twice = ([1, 1, 1], [(0, 0), (1, 1)], False)
    settings = {"weights": (0.5, 0.5), "advantage": "mean", "nu": (0.0, 0.0)}
    assert update(twice, **settings)[1]["dual"] == pytest.approx(cost(0.5))
    assert update(twice, **settings, ends="official")[1]["dual"] == pytest.approx(0)


def test_rewards_as_they_are():
    _, m = update(SHORT, LONG, weights=(1.0, 1.0), scale_rewards=False)
    e = [1 - 3, 2 + 0.5 * 9 - 5, 4 + 0.5 * 13 - 9]
    assert m["dual"] == pytest.approx(0.5 * mean(3, 5) + mean(*map(cost, e)))


def test_all_three_states_are_scaled():
    _, m = update(SHORT, LONG, weights=(1.0, 1.0), scale_inputs=True)
    middle, deviation = 7 / 3, math.sqrt(7 - 49 / 9)  # of 1, 2 and 4

    def nu(s):
        return 2 * (s - middle) / deviation + 1

    e = [1 / 3 - nu(1), 1 + 0.5 * nu(4) - nu(2), 1.5 + 0.5 * nu(6) - nu(4)]
    assert m["dual"] == pytest.approx(0.5 * mean(nu(1), nu(2)) + mean(*map(cost, e)), rel=1e-5)


@pytest.mark.parametrize(("starts", "share"), [("episode", 1 / 2), ("transition", 2 / 3)])
def test_first_states_weigh_by_episode_or_by_transition(starts, share):
    """The long episode starts at 2."""
    agent, batch = team(SHORT, LONG, weights=(1.0, 1.0), starts=starts)
    drawn = agent._draw_first(20_000, stream())
    assert float((drawn == 2).float().mean()) == pytest.approx(share, abs=0.02)
    used = []
    agent._draw_first = lambda rows, rng: used.append(rows) or torch.full((rows, 1), 2.0)
    dual = float(agent.update(batch, rng=stream())["dual"])
    first = mean(3, 5) if starts == "episode" else 5  # all of them, or as drawn
    assert used == ([] if starts == "episode" else [3])
    assert dual == pytest.approx(0.5 * first + mean(*map(cost, E_SHORT + E_LONG)))


@pytest.mark.parametrize(("shift", "weights"), [(False, (0, 1.25, 0.5)), (True, (0, 1, 0.25))])
def test_shifted_weights(shift, weights):
    """The largest e is 1/2; weights of the policy are 1 + (e - shift) / 2, over their mean."""
    agent, batch = team(SHORT, LONG, weights=(1.0, 1.0), shift=shift)
    obs = batch.obs_BTNO[:, :-1].flatten(0, 1)[batch.filled_BT[:, :-1].flatten()]
    ones = torch.ones(3, 1, 1, dtype=torch.bool)
    log_prob = agent.policy.log_prob(obs, ones, torch.zeros(3, 1, 1)).detach()
    m = agent.update(batch, rng=stream())
    w = torch.tensor(weights) / mean(*weights)
    assert float(m["policy_loss"]) == pytest.approx(float(-(w * log_prob).mean()), rel=1e-5)
    assert float(m["effective_share"]) == pytest.approx(float(w.sum() ** 2 / (3 * w.square().sum())))


def test_shifted_weights_are_measured_from_the_rows_that_count():
    """Rows of e = 3, 1 and 0, the first left out: of chi2 the second weighs 1 and the third 1/2."""
    e_X, keep_X = torch.tensor([3.0, 1.0, 0.0]), torch.tensor([False, True, True])
    weight_X = losses.policy_weights(e_X, keep_X, beta=BETA, f=DIVERGENCES["chi2"], shift=True)
    assert weight_X.tolist() == pytest.approx([0, 4 / 3, 2 / 3])


def test_a_raw_weight_that_leaves_the_positive_numbers_stops_the_run():
    """The data earn 1.02 of the first objective, more than 1 / mu, and Adam's first step is its rate."""
    agent, batch = team(SHORT, LONG, mu="raw", nu=(-2.0, 1.0), mu_learning_rate=2.0)
    with pytest.raises(MarlError, match=r"objective 0 \(left\) is -1 and is not positive: use mu=exp"):
        agent.update(batch, rng=stream())


def gradient(agent, part):
    """Of the first update: a tenth of it is Adam's mean."""
    return agent.optimisers[part].state_dict()["exp_avg"] * 10


def test_the_penalty_is_part_of_the_loss():
    """|grad nu| = 8 is 3 too much: the penalty is 9, and its gradient 6."""
    without, _ = update(SHORT, LONG, weights=(1.0, 1.0), nu=(8.0, 1.0))
    agent, m = update(SHORT, LONG, weights=(1.0, 1.0), nu=(8.0, 1.0), penalty=0.1)
    assert m["penalty"] == pytest.approx(9)
    more = gradient(agent, "nu") - gradient(without, "nu")
    assert sorted(more.tolist()) == pytest.approx([0, 0.6], abs=1e-4)  # of bias and weight


@pytest.mark.parametrize("mix", ["batch", "sample"])
def test_where_the_penalty_looks(mix):
    """Between the first state, 1, and the next ones: with one share for all rows, or each its own."""
    agent, _ = team(([1, 3, 6, 2], [(1, 0), (0, 1), (1, 1)], False), penalty=0.1, penalty_mix=mix)
    seen, slope = [], agent.nu.slope
    agent.nu.slope = lambda x: seen.append(x.clone()) or slope(x)
    agent.nu.native = lambda x: True
    next_XS = torch.tensor([[3.0], [6.0], [2.0]])
    agent._penalty(next_XS, stream())
    share = ((seen[0] - next_XS) / (1 - next_XS))[:, 0]
    assert ((share > 0) & (share < 1)).all()
    same = torch.allclose(share, share[0].expand(3), atol=1e-5)
    assert same == (mix == "batch")


def test_gradients_are_clipped():
    free, m = update(SHORT, LONG, weights=(1.0, 1.0))
    clipped, _ = update(SHORT, LONG, weights=(1.0, 1.0), max_grad_norm=0.01)
    for part, norm in (("nu", "nu_grad_norm"), ("policy", "policy_grad_norm")):
        assert float(gradient(free, part).norm()) == pytest.approx(m[norm], rel=1e-4)
        assert m[norm] > 0.02
        assert float(gradient(clipped, part).norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("mu", "after"), [("exp", math.exp(0.05)), ("raw", 1.05)])
def test_the_first_step_of_mu(mu, after):
    """Adam's first step is the rate, up, as the data earn less than 1 / mu = 1. nu has a rate of its own."""
    agent, m = update(SHORT, LONG, mu=mu)
    assert (m["mu.left"], m["mu.right"]) == (1, 1)  # of before
    assert agent.weights_K.tolist() == pytest.approx([after, after])
    assert m["dual"] == pytest.approx(0.5 * mean(3, 5) + mean(*map(cost, E_SHORT + E_LONG)) - 2)
    assert abs(float(agent.nu.heads[0].weight.detach()) - NU[0]) == pytest.approx(0.01, rel=1e-3)


# The unit


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # (1 - gamma) r of the one that terminates; of the other r0 + gamma r1 over 1 + gamma.
        ({}, [mean(1 / 6, 1 / 3), mean(0, 5 / 6)]),
        ({"starts": "transition"}, [(1 / 6 + 2 / 3) / 3, (2 * 5 / 6) / 3]),
        # The first row of the long one alone is left.
        ({"ends": "official", "welfare": "patched_log"}, [0, 1]),
    ],
)
def test_the_unit_is_what_the_data_earn(settings, expected):
    agent, _ = team(SHORT, LONG, unit=0.5, **settings)
    assert agent.welfare.k0 == pytest.approx(0.5 * mean(*expected))
    own, seen = DataReturn(gamma=GAMMA, official=settings.get("ends") == "official"), memory(SHORT, LONG)
    list(own.passing(seen.scan(2)))
    share = torch.tensor([1, 2] if "starts" in settings else [1, 1])
    assert own.return_K(agent.scaler, share).tolist() == pytest.approx(expected)


def test_a_unit_of_nothing_is_refused():
    with pytest.raises(MarlError, match=r"agent.unit=0.1 is in mean returns of the data, which are 0"):
        team(([1, 2], [(0, 0)], False), welfare="patched_log", unit=0.1)


def test_the_dual_in_a_unit():
    """u*(-1) of k0 log(k / k0) is -k0 for each objective."""
    _, m = update(SHORT, LONG, unit=1.0)
    k0 = mean(mean(1 / 6, 1 / 3), mean(0, 5 / 6))
    assert m["dual"] == pytest.approx(0.5 * mean(3, 5) + mean(*map(cost, E_SHORT + E_LONG)) - 2 * k0)
