"""Action values with messages: sums by hand, replayed deliveries, recurrent state, a signal to pass on."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from marl.agents import ac, qmix, schednet, tmc, vbc
from marl.channel import Bernoulli, PerfectLink
from marl.errors import MarlError, NonFiniteError
from marl.evaluate import evaluate
from marl.loops import BatchConfig, ExploreConfig, OffPolicyConfig, UpdatesConfig
from marl.rng import Rng
from marl.types import Box

CPU = torch.device("cpu")
AGENTS = {"ac": ac, "tmc": tmc, "vbc": vbc, "schednet": schednet}
SUMS = ["ac", "tmc", "vbc"]  # those that add messages to values


def build(spec, name="ac", seed=0, **config):
    return AGENTS[name].Config(**({"hidden": 8} | config)).build(spec=spec, rng=Rng(seed), device=CPU)


def update(team, batch):
    return team.update(batch, rng=Rng(0).stream("update", 1).fold(team.updates))


def look(team, batch):
    x = team.online.agents.inputs(batch.obs_BTNO, batch.last_actions_BTN)
    return x, team._look(team.online, x, batch)


class Slow(nn.Module):
    """The released network, one entry and one agent at a time, with torch's own cells."""

    def __init__(self, team):
        super().__init__()
        t = {k.removeprefix("agents."): v for k, v in team.state_dict()["networks"].items()}
        H, A = team.config.hidden, team.spec.n_actions
        self.fc1, self.rnn, self.fc2 = nn.LazyLinear(H), nn.GRUCell(H, H), nn.Linear(H, A)
        self.fc1(torch.zeros(1, t["encoder.weight"].shape[1]))
        self.recurrent = "speaker.core.input.weight" in t
        pairs = [(self.fc1, "encoder"), (self.fc2, "head")]
        if self.recurrent:
            self.say, self.cell = nn.Linear(H, A), nn.GRUCell(A, A)
            pairs.append((self.say, "speaker.encoder"))
            cells = [(self.rnn, "core"), (self.cell, "speaker.core")]
        else:
            between = team.config.encoder_hidden
            self.say, self.then = nn.Linear(H, between), nn.Linear(between, A)
            pairs += [(self.say, "speaker.first"), (self.then, "speaker.second")]
            cells = [(self.rnn, "core")]
        with torch.no_grad():
            for layer, name in pairs:
                for kind in ("weight", "bias"):
                    layer.get_parameter(kind).copy_(t[f"{name}.{kind}"])
            for cell, name in cells:
                for part, theirs in (("ih", "input"), ("hh", "recurrent")):
                    for kind in ("weight", "bias"):
                        cell.get_parameter(f"{kind}_{part}").copy_(t[f"{name}.{theirs}.{kind}"])

    def forward(self, x, h, m):
        h = self.rnn(F.relu(self.fc1(x)), h)
        m = self.cell(F.elu(self.say(h)), m) if self.recurrent else self.then(F.elu(self.say(h)))
        return self.fc2(h), h, m


@pytest.mark.parametrize("config", [{}, {"encoder": "mlp", "encoder_hidden": 5}, {"combine": "sum"}])
def test_values_equal_a_plain_loop(make_spec, make_talk, config):
    spec = make_spec()
    team, batch = build(spec, **config), make_talk(spec, B=2, T=8)
    slow, (_, seen), N = Slow(team), look(team, batch), spec.n_agents
    for b in range(2):
        h, m = [torch.zeros(1, 8)] * N, [torch.zeros(1, spec.n_actions)] * N
        for t in range(8):
            local = []
            for i in range(N):
                if batch.start_BT[b, t]:
                    h[i], m[i] = torch.zeros(1, 8), torch.zeros(1, spec.n_actions)
                last = torch.zeros(spec.n_actions)
                if batch.last_actions_BTN[b, t, i] >= 0:
                    last[batch.last_actions_BTN[b, t, i]] = 1.0
                x = torch.cat([batch.obs_BTNO[b, t, i], last, torch.eye(N)[i]])[None]
                q, h[i], m[i] = slow(x, h[i], m[i])
                local.append(q)
            for i in range(N):
                heard = torch.zeros(1, spec.n_actions)
                for j in range(N):
                    arrived = batch.extras["delivered"][b, t, i, j] or not batch.filled_BT[b, t]
                    if j != i and arrived:
                        heard = heard + m[j]
                divisor = 1 if config.get("combine") == "sum" else N - 1
                torch.testing.assert_close(seen.q_BTNA[b, t, i], (local[i] + heard / divisor)[0])
                torch.testing.assert_close(seen.parts["message"][b, t, i], m[i][0])


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("lossy", [False, True])
def test_acting_step_by_step_equals_the_sequence(make_spec, make_talk, make_step, monkeypatch, name, lossy):
    """What was acted on, over a link that loses half, is what learning computes from the stored masks."""
    spec = make_spec()
    team, batch = build(spec, name), make_talk(spec, B=3, T=7)
    link = Bernoulli(loss=0.5).build(device=CPU) if lossy else PerfectLink(CPU)
    batch.start_BT[:] = torch.arange(7) == 0
    batch.filled_BT[:] = True
    q, original = [], __import__("marl.value.explore", fromlist=["x"]).epsilon_greedy
    module = "marl.agents.schednet.team" if name == "schednet" else "marl.talk.team"
    monkeypatch.setattr(f"{module}.epsilon_greedy", lambda *a: q.append(a[0]) or original(*a))
    carry, stream, actions, extras = team.initial_carry(3), Rng(1).stream("act", 3), [], []
    for t in range(7):
        ts = make_step(spec, B=3)
        ts.obs_BNO, ts.avail_BNA = batch.obs_BTNO[:, t], batch.avail_BTNA[:, t]
        link.begin(stream.fold(t))
        act = team.act(ts, carry, rng=stream.fold(t), explore=0.5, link=link)
        carry = act.carry
        actions.append(act.actions_BN)
        extras.append(act.extras)
    batch.last_actions_BTN = torch.stack([torch.full_like(actions[0], -1), *actions[:-1]], 1)
    batch.extras = {k: torch.stack([e[k] for e in extras], 1) for k in team.extras_spec}
    for k, value in batch.extras.items():
        assert tuple(value.shape[2:]) == team.extras_spec[k].shape
        assert value.dtype == team.extras_spec[k].dtype
    torch.testing.assert_close(torch.stack(q, 1), look(team, batch)[1].q_BTNA.detach())
    lost = link.statistics()["messages"] - link.statistics()["delivered"]
    assert (lost > 0) == lossy


@pytest.mark.parametrize("name", SUMS)
def test_scores_hear_everybody_and_are_differentiable(make_spec, make_step, name):
    spec = make_spec()
    team, ts = build(spec, name), make_step(spec)
    carry, stream = team.initial_carry(2), Rng(0).stream("a", 2)
    for _ in range(2):
        carry = team.act(ts, carry, rng=stream, explore=0.0).carry
    ts.obs_BNO.requires_grad_()
    (slope,) = torch.autograd.grad(team.scores(ts, carry)[0, 1, 2], ts.obs_BNO)
    assert (slope[0].abs().amax(-1) > 0).all()  # its own and the others' observations
    assert (slope[1] == 0).all()


@pytest.mark.parametrize("name", AGENTS)
def test_the_dead_are_silent_in_scores_and_at_ends(make_spec, make_talk, make_step, name):
    """Where nothing is sent, values are of what would be: all of it, with `dead_talk: false` the living's."""
    spec, slopes = make_spec(), {}
    for dead_talk in (True, False):
        team = build(spec, name, dead_talk=dead_talk, **({"k": 3} if name == "schednet" else {}))
        ts, batch = make_step(spec, B=1), make_talk(spec, B=1)
        ts.alive_BN = torch.tensor([[True, False, True]])
        batch.alive_BTN[:, :, 1] = False
        t = int((~batch.filled_BT[0]).nonzero()[0])  # an episode's last observation
        ts.obs_BNO.requires_grad_()
        (of_scores,) = torch.autograd.grad(team.scores(ts, team.initial_carry(1))[0, 0].sum(), ts.obs_BNO)
        batch.obs_BTNO.requires_grad_()
        _, seen = look(team, batch)
        (of_ends,) = torch.autograd.grad(seen.q_BTNA[0, t, 0].sum(), batch.obs_BTNO)
        slopes[dead_talk] = of_scores[0], of_ends[0, t]
    for heard, silenced in zip(slopes[True], slopes[False], strict=True):
        assert (heard.abs().sum(-1) > 0).all()
        assert (silenced.abs().sum(-1) > 0).tolist() == [True, False, True]


# Learning


@pytest.mark.parametrize("name", AGENTS)
def test_learning_is_deterministic_and_restores_bit_for_bit(make_spec, make_talk, name):
    """Two runs agree; so does one that was saved between two target copies and loaded elsewhere."""
    spec = make_spec()
    batches = [make_talk(spec, seed=k) for k in range(6)]
    whole, again, first = (build(spec, name, target_every=2) for _ in range(3))
    for batch in batches:
        update(whole, batch)
        update(again, batch)
    for batch in batches[:3]:
        update(first, batch)
    rest = build(spec, name, seed=5, target_every=2)
    rest.load_state_dict(first.state_dict())
    for batch in batches[3:]:
        update(rest, batch)
    expected = flat(whole.state_dict())
    assert expected == flat(again.state_dict()) == flat(rest.state_dict())
    assert expected["counters"] == {"updates": 6}


def flat(state):
    if isinstance(state, dict):
        return {key: flat(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, torch.Tensor) else state


@pytest.mark.parametrize("name", AGENTS)
def test_every_parameter_learns(make_spec, make_talk, name):
    spec = make_spec()
    team = build(spec, name)
    before = team.state_dict()["networks"]
    for k in range(3):
        update(team, make_talk(spec, seed=k))
    after = team.state_dict()["networks"]
    still = [key for key in before if torch.equal(before[key], after[key])]
    assert still == []


@pytest.mark.parametrize("name", AGENTS)
def test_state_and_message_reset_at_an_episodes_start(make_spec, make_talk, name):
    spec = make_spec()
    team, batch = build(spec, name), make_talk(spec, B=1, T=20)
    t = int(batch.start_BT[0, 1:].nonzero()[0]) + 1
    other = copy.copy(batch)
    other.obs_BTNO = batch.obs_BTNO.clone()
    other.obs_BTNO[:, :t] += 1.0
    before, after = look(team, batch)[1].q_BTNA, look(team, other)[1].q_BTNA
    assert torch.equal(before[:, t:], after[:, t:])
    other.start_BT = torch.zeros_like(batch.start_BT)
    assert not torch.equal(before[:, t:], look(team, other)[1].q_BTNA[:, t:])


@pytest.mark.parametrize("name", AGENTS)
def test_state_reward_and_end_keep_the_order_of_sequences(make_spec, make_talk, name):
    spec = make_spec()
    team, batch = build(spec, name), make_talk(spec)
    order = torch.tensor([2, 0, 3, 1])
    mixed = copy.copy(batch)
    for key, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            setattr(mixed, key, value[order])
    mixed.extras = {k: v[order] for k, v in batch.extras.items()}
    plain = team._values_and_targets(batch, *look(team, batch))
    for a, b in zip(plain, team._values_and_targets(mixed, *look(team, mixed)), strict=True):
        torch.testing.assert_close(a[order][mixed.filled_BT], b[mixed.filled_BT], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(update(team, batch)["loss"], update(build(spec, name), mixed)["loss"])


@pytest.mark.parametrize("name", AGENTS)
def test_truncation_bootstraps_and_termination_does_not(make_spec, make_talk, name):
    spec = make_spec()
    team, batch = build(spec, name, returns="nstep"), make_talk(spec)
    filled = batch.filled_BT
    batch.terminated_BT[:] = False
    bootstrapped = team._values_and_targets(batch, *look(team, batch))[1][..., 0]
    batch.terminated_BT[:] = filled
    cut = team._values_and_targets(batch, *look(team, batch))[1][..., 0]
    torch.testing.assert_close(cut[filled], batch.reward_BT[filled])
    assert (bootstrapped - cut)[filled].abs().min() > 1e-6


@pytest.mark.parametrize("name", AGENTS)
def test_entries_without_an_action_do_not_matter(make_spec, make_talk, name):
    """Whatever the memory stored there: deliveries, rewards, padding."""
    spec = make_spec()
    loss = update(build(spec, name), make_talk(spec, run_on=False))["loss"]
    batch = make_talk(spec, run_on=False)
    for value in batch.extras.values():
        empty = ~batch.filled_BT
        value[empty] = ~value[empty] if value.dtype == torch.bool else value[empty] + 3.0
    padding = ~batch.filled_BT & ~batch.filled_BT.roll(1, 1)
    padding[:, 0] = False
    assert padding.any()
    batch.obs_BTNO[padding], batch.state_BTS[padding] = 7.0, -7.0
    assert torch.equal(update(build(spec, name), batch)["loss"], loss)


@pytest.mark.parametrize("name", AGENTS)
def test_a_loss_that_is_not_finite_changes_nothing(make_spec, make_talk, name):
    spec = make_spec()
    team, batch = build(spec, name), make_talk(spec)
    update(team, batch)
    before = flat(team.state_dict())
    batch.reward_BT[batch.filled_BT] = torch.inf
    with pytest.raises(NonFiniteError):
        update(team, batch)
    assert flat(team.state_dict()) == before


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("mixer", ["qmix", "vdn"])
def test_both_mixers(make_spec, make_talk, name, mixer):
    spec = make_spec()
    team = build(spec, name, mixer=mixer)
    assert torch.isfinite(update(team, make_talk(spec))["loss"])
    assert any(key.startswith("mixer") for key in team.state_dict()["networks"]) == (mixer == "qmix")


def test_the_sizes_of_the_mixer_are_the_configs(make_spec):
    spec = make_spec()
    weights = build(spec, embed=7, hyper_hidden=11).online.mixer.state_dict()
    plain = qmix.Config(embed=7, hyper_hidden=11).build(spec=spec, rng=Rng(0), device=CPU)
    expected = {name: w.shape for name, w in plain.online.mixer.state_dict().items()}
    assert {name: w.shape for name, w in weights.items()} == expected
    assert any(11 in shape for shape in expected.values())


@pytest.mark.parametrize("name", AGENTS)
def test_worlds_that_do_not_fit_are_refused(make_spec, name):
    with pytest.raises(MarlError, match="continuous actions"):
        build(make_spec(action_spaces=(Box(low=(0.0,), high=(1.0,)),) * 3), name)


def trained(signal, name, loss=0.0, learning_rate=5e-3, **config):
    """Success of a team that must pass on a symbol, after 400 updates."""
    world, rng = signal(), Rng(2)
    env = world.build(num_envs=16, device=CPU)
    settings = {"hidden": 16, "learning_rate": learning_rate, "mixer": "vdn", "target_every": 20}
    team = build(env.spec, name, seed=2, **(settings | config))
    loop = OffPolicyConfig(
        rollout_steps=2,
        batch=BatchConfig(sequences=32),
        updates=UpdatesConfig(ratio=1 / 16, per="step"),
        explore=ExploreConfig(steps=3000),
    ).build(env=env, agent=team, rng=rng, link=Bernoulli(loss=loss).build(device=CPU))
    while loop.updates < 400:
        loop.iterate()
    args = {"episodes": 64, "rng": Rng(9), "device": CPU, "threads": 1}
    return evaluate(team, world, channel=Bernoulli(loss=loss), **args)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ac", {}),
        ("tmc", {}),
        ("vbc", {"variance_weight": 0.1}),  # rewards of 1 do not carry the weight for battle's
        (
            "schednet",
            {"k": 1, "gamma": 0.9, "generator_learning_rate": 2e-3, "critic_learning_rate": 5e-3},
        ),
    ],
)
def test_learns_to_pass_a_signal_on(signal, name, config):
    """A listener that hears nothing can guess one symbol in three; one speaker's turn is enough."""
    assert trained(signal, name, **config).means()["return"] > 0.9


def test_hearing_nothing_or_learning_nothing_stays_a_guess(signal):
    assert trained(signal, "ac", loss=1.0).means()["return"] < 0.6
    assert trained(signal, "ac", learning_rate=1e-12).means()["return"] < 0.6
