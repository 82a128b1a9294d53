"""Whole updates against a slow reference written independently in PyMARL's style."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from marl.agents import iql, qmix, qplex, vdn
from marl.errors import MarlError, NonFiniteError
from marl.rng import Rng
from marl.types import Box

CPU = torch.device("cpu")
AGENTS = {"iql": iql, "vdn": vdn, "qmix": qmix, "qplex": qplex}


def _build(spec, name="qmix", seed=0, **config):
    return AGENTS[name].Config(**({"hidden": 8} | config)).build(spec=spec, rng=Rng(seed), device=CPU)


def _update(team, batch):
    return team.update(batch, rng=Rng(0).stream("update", 1))


def _values_and_targets(team, batch):
    x = team.online.agents.inputs(batch.obs_BTNO, batch.last_actions_BTN)
    return team._values_and_targets(batch, x, team._look(team.online, x, batch))


def _q(net, obs, last_action, start):
    return net(net.inputs(obs, last_action), start)


class SlowNetwork(nn.Module):
    """PyMARL's agent, one entry at a time."""

    def __init__(self, inputs, hidden, actions):
        super().__init__()
        self.fc1, self.rnn = nn.Linear(inputs, hidden), nn.GRUCell(hidden, hidden)
        self.fc2 = nn.Linear(hidden, actions)

    def take(self, tensors, copy_of=None):
        names = {"fc1": "encoder", "fc2": "head"}
        for ours, theirs in names.items():
            for part in ("weight", "bias"):
                value = tensors[f"agents.{theirs}.{part}"]
                getattr(self, ours).get_parameter(part).data.copy_(
                    value if copy_of is None else value[copy_of]
                )
        for part, theirs in (("ih", "input"), ("hh", "recurrent")):
            for kind in ("weight", "bias"):
                value = tensors[f"agents.core.{theirs}.{kind}"]
                self.rnn.get_parameter(f"{kind}_{part}").data.copy_(
                    value if copy_of is None else value[copy_of]
                )

    def forward(self, inputs, h):
        h = self.rnn(F.relu(self.fc1(inputs)), h)
        return self.fc2(h), h


class SlowMixer(nn.Module):
    """PyMARL's QMixer."""

    def __init__(self, N, S, embed, hyper):
        super().__init__()
        self.N, self.E = N, embed
        self.w1 = nn.Sequential(nn.Linear(S, hyper), nn.ReLU(), nn.Linear(hyper, N * embed))
        self.w2 = nn.Sequential(nn.Linear(S, hyper), nn.ReLU(), nn.Linear(hyper, embed))
        self.b1 = nn.Linear(S, embed)
        self.b2 = nn.Sequential(nn.Linear(S, embed), nn.ReLU(), nn.Linear(embed, 1))

    def take(self, tensors):
        with torch.no_grad():
            for name in ("w1", "w2", "b2"):
                for theirs, ours in (("0", "layers.0"), ("2", "layers.1")):
                    for kind in ("weight", "bias"):
                        p = getattr(self, name).get_parameter(f"{theirs}.{kind}")
                        p.copy_(tensors[f"mixer.{name}.{ours}.{kind}"])
            for kind in ("weight", "bias"):
                self.b1.get_parameter(kind).copy_(tensors[f"mixer.b1.{kind}"])

    def forward(self, qs, state):
        w1 = torch.abs(self.w1(state)).view(-1, self.N, self.E)
        hidden = F.elu(torch.bmm(qs.view(-1, 1, self.N), w1) + self.b1(state).view(-1, 1, self.E))
        w2 = torch.abs(self.w2(state)).view(-1, self.E, 1)
        return (torch.bmm(hidden, w2).view(-1) + self.b2(state).view(-1)).view(-1)


def _slow_q(net, batch, spec):
    """Unroll entry by entry; the hidden state is set to zero where an episode starts."""
    B, T, N, _ = batch.obs_BTNO.shape
    A = spec.n_actions
    out, h = [], torch.zeros(B, N, net.rnn.hidden_size)
    for t in range(T):
        rows, hs = [], []
        for b in range(B):
            for i in range(N):
                last = torch.zeros(A)
                if batch.last_actions_BTN[b, t, i] >= 0:
                    last[batch.last_actions_BTN[b, t, i]] = 1.0
                rows.append(torch.cat([batch.obs_BTNO[b, t, i], last, torch.eye(N)[i]]))
                hs.append(torch.zeros_like(h[b, i]) if batch.start_BT[b, t] else h[b, i])
        q, h = net(torch.stack(rows), torch.stack(hs))
        h = h.view(B, N, -1)
        out.append(q.view(B, N, A))
    return torch.stack(out, 1)


def _slow_loss(nets, targets, batch, spec, gamma):
    q, target_q = _slow_q(nets[0], batch, spec), _slow_q(targets[0], batch, spec).detach()
    losses = []
    for b in range(q.shape[0]):
        for t in range(q.shape[1]):
            if not batch.filled_BT[b, t]:
                continue
            chosen = torch.stack([q[b, t, i, batch.actions_BTN[b, t, i]] for i in range(spec.n_agents)])
            value = nets[1](chosen, batch.state_BTS[b, t])
            future = []
            for i in range(spec.n_agents):
                legal = [a for a in range(spec.n_actions) if batch.avail_BTNA[b, t + 1, i, a]]
                best = max(legal, key=lambda a, i=i: q[b, t + 1, i, a].item())
                future.append(target_q[b, t + 1, i, best])
            ahead = targets[1](torch.stack(future), batch.state_BTS[b, t + 1]).detach()
            y = batch.reward_BT[b, t] + gamma * (0.0 if batch.terminated_BT[b, t] else ahead)
            losses.append((value - y) ** 2)
    return torch.cat(losses).mean()


def test_three_updates_equal_the_slow_reference(make_spec, make_batch):
    """PyMARL's settings, with a target copy between the second and the third update."""
    spec = make_spec()
    team = _build(
        spec, returns="nstep", optimiser="rmsprop", optimiser_eps=1e-5, learning_rate=5e-3,
        target_every=2, max_grad_norm=0.5,
    )  # fmt: skip
    tensors = team.state_dict()["networks"]
    net = SlowNetwork(spec.obs_size + spec.n_actions + spec.n_agents, 8, spec.n_actions)
    mixer = SlowMixer(spec.n_agents, spec.state_size, 32, 64)
    net.take(tensors)
    mixer.take(tensors)
    target = copy.deepcopy(net), copy.deepcopy(mixer)
    parameters = [*net.parameters(), *mixer.parameters()]
    optimiser = torch.optim.RMSprop(parameters, lr=5e-3, alpha=0.99, eps=1e-5)
    for k in range(3):
        batch = make_batch(spec, seed=k)
        loss = _slow_loss((net, mixer), target, batch, spec, gamma=0.99)
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 0.5)
        optimiser.step()
        metrics = _update(team, batch)
        torch.testing.assert_close(metrics["loss"], loss.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(metrics["grad_norm"], norm, rtol=1e-4, atol=1e-5)
        if k == 1:
            target[0].load_state_dict(net.state_dict())
            target[1].load_state_dict(mixer.state_dict())
    slow = SlowNetwork(spec.obs_size + spec.n_actions + spec.n_agents, 8, spec.n_actions)
    slow.take(team.state_dict()["networks"])
    for name, value in slow.named_parameters():
        torch.testing.assert_close(value, net.get_parameter(name), rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("share", [True, False])
def test_learning_is_deterministic_and_restores_bit_for_bit(make_spec, make_batch, name, share):
    """Two runs agree; so does one that was saved between two target copies and loaded elsewhere."""
    spec = make_spec()
    batches = [make_batch(spec, seed=k) for k in range(6)]
    config = {"share": share, "target_every": 2}
    whole, again, first = (_build(spec, name, **config) for _ in range(3))
    for batch in batches:
        _update(whole, batch)
        _update(again, batch)
    for batch in batches[:3]:
        _update(first, batch)
    rest = _build(spec, name, seed=5, **config)
    rest.load_state_dict(first.state_dict())
    for batch in batches[3:]:
        _update(rest, batch)
        _update(first, batch)  # the saved one goes on undisturbed
    expected = whole.state_dict()
    for other in (again, rest, first):
        state = other.state_dict()
        assert state["counters"] == expected["counters"] == {"updates": 6}
        for part in ("networks", "targets"):
            for key, value in expected[part].items():
                assert torch.equal(value, state[part][key]), (part, key)
        for key, value in expected["optimisers"]["online"].items():
            assert torch.equal(value, state["optimisers"]["online"][key]), key


def test_padding_and_unfilled_entries_do_not_matter(make_spec, make_batch):
    spec = make_spec()
    batch = make_batch(spec, run_on=False)
    team, other = _build(spec), _build(spec)
    loss = _update(team, batch)["loss"]
    changed = make_batch(spec, run_on=False)
    padding = ~changed.filled_BT & ~changed.filled_BT.roll(1, 1)  # not even an episode's final entry
    assert padding[:, 1:].any()
    padding[:, 0] = False
    changed.obs_BTNO[padding] = 7.0
    changed.state_BTS[padding] = -7.0
    assert torch.equal(_update(other, changed)["loss"], loss)


def test_truncation_bootstraps_and_termination_does_not(make_spec, make_batch):
    """Turning the last transition's end from truncated to terminated removes gamma V from its target."""
    spec = make_spec()
    team = _build(spec, returns="nstep")
    batch = make_batch(spec)
    batch.terminated_BT[:] = False
    bootstrapped = _values_and_targets(team, batch)[1][..., 0]
    batch.terminated_BT[:] = batch.filled_BT
    cut = _values_and_targets(team, batch)[1][..., 0]
    filled = batch.filled_BT
    torch.testing.assert_close(cut[filled], batch.reward_BT[filled])
    assert (bootstrapped - cut)[filled].abs().min() > 1e-6


def test_limit_ends_makes_a_truncation_an_end(make_spec, make_batch):
    """The target of a last transition is its reward alone, every other target as it was."""
    spec = make_spec()
    batch = make_batch(spec)
    assert batch.truncated_BT.any()
    assert batch.terminated_BT.any()
    default, ends = (_build(spec, returns="nstep", limit_ends=given) for given in (False, True))
    bootstrapped, cut = (_values_and_targets(team, batch)[1][..., 0] for team in (default, ends))
    torch.testing.assert_close(cut[batch.truncated_BT], batch.reward_BT[batch.truncated_BT])
    assert (bootstrapped - cut)[batch.truncated_BT].abs().min() > 1e-6
    rest = batch.filled_BT & ~batch.truncated_BT
    assert torch.equal(cut[rest], bootstrapped[rest])


@pytest.mark.parametrize("name", ["iql", "qmix"])
def test_scaled_rewards_are_learned_as_if_the_world_gave_them(make_spec, make_batch, name):
    spec = make_spec()
    batch = make_batch(spec)
    by_option = _values_and_targets(_build(spec, name, reward_scale=0.1), batch)[1]
    batch.reward_BT *= 0.1
    by_world = _values_and_targets(_build(spec, name), batch)[1]
    torch.testing.assert_close(by_option, by_world)


def test_state_reward_and_end_keep_the_order_of_sequences(make_spec, make_batch):
    """Permuting the sequences of a batch permutes values and targets, and nothing else."""
    spec = make_spec()
    team = _build(spec)
    batch = make_batch(spec, B=5)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = copy.copy(batch)
    for key, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            setattr(shuffled, key, value[order])
    filled = batch.filled_BT[order]
    for a, b in zip(_values_and_targets(team, batch), _values_and_targets(team, shuffled), strict=True):
        torch.testing.assert_close(a[order][filled], b[filled], rtol=1e-5, atol=1e-6)


def test_hidden_state_resets_at_an_episodes_start(make_spec, make_batch):
    """Q-values after a start are those of the rest of the window alone; without the reset they are not."""
    spec = make_spec()
    net = _build(spec).online.agents
    batch = make_batch(spec, B=1, T=30)
    t = int(batch.start_BT[0].nonzero()[2])
    whole = _q(net, batch.obs_BTNO, batch.last_actions_BTN, batch.start_BT)
    rest = _q(net, batch.obs_BTNO[:, t:], batch.last_actions_BTN[:, t:], batch.start_BT[:, t:])
    torch.testing.assert_close(whole[:, t:], rest)
    forgotten = batch.start_BT.clone()
    forgotten[0, t] = False
    assert not torch.allclose(whole[:, t:], _q(net, batch.obs_BTNO, batch.last_actions_BTN, forgotten)[:, t:])


@pytest.mark.parametrize("name", AGENTS)
def test_unshared_networks_equal_separate_ones(make_spec, make_batch, name):
    """Agent i of share=false is PyMARL's network with the i-th copy of the weights."""
    spec = make_spec()
    team, batch = _build(spec, name, share=False), make_batch(spec)
    q = _q(team.online.agents, batch.obs_BTNO, batch.last_actions_BTN, batch.start_BT)
    for i in range(spec.n_agents):
        net = SlowNetwork(spec.obs_size + spec.n_actions + spec.n_agents, 8, spec.n_actions)
        net.take(team.state_dict()["networks"], copy_of=i)
        torch.testing.assert_close(_slow_q(net, batch, spec)[:, :, i], q[:, :, i], rtol=1e-5, atol=1e-6)
    assert not torch.equal(*team.state_dict()["networks"]["agents.head.weight"][:2])


def test_soft_targets(make_spec, make_batch):
    spec = make_spec()
    team = _build(spec, target_every=1, target_tau=0.25)
    before = team.state_dict()
    _update(team, make_batch(spec))
    after = team.state_dict()
    for key, value in after["targets"].items():
        expected = 0.75 * before["targets"][key] + 0.25 * after["networks"][key]
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(("field", "tensor"), [("reward_BT", "loss"), ("obs_BTNO", "loss")])
def test_a_loss_that_is_not_finite_changes_nothing(make_spec, make_batch, field, tensor):
    spec = make_spec()
    team, batch = _build(spec), make_batch(spec)
    _update(team, batch)
    before = team.state_dict()
    value = getattr(batch, field)
    value[batch.filled_BT] = torch.inf
    with pytest.raises(NonFiniteError, match=tensor):
        _update(team, batch)
    after = team.state_dict()
    assert before["counters"] == after["counters"]
    for key in before["networks"]:
        assert torch.equal(before["networks"][key], after["networks"][key])


def test_a_gradient_that_is_not_finite_is_named(make_spec, make_batch, monkeypatch):
    """A finite loss with an infinite slope: the square root at zero."""
    spec = make_spec()
    team, batch = _build(spec), make_batch(spec)
    root = lambda value, *_, **__: (0.0 * value.sum()).sqrt()  # noqa: E731
    monkeypatch.setattr("marl.value.team.td_loss", root)
    with pytest.raises(NonFiniteError, match="gradient"):
        _update(team, batch)


def test_worlds_that_do_not_fit_are_refused(make_spec):
    with pytest.raises(MarlError, match="continuous actions"):
        _build(make_spec(action_spaces=(Box(low=(0.0,), high=(1.0,)),) * 3))
    with pytest.raises(MarlError, match="vector reward"):
        _build(make_spec(reward="vector", objectives=("a", "b")))


def test_a_state_of_another_configuration_is_refused(make_spec):
    spec = make_spec()
    with pytest.raises(MarlError, match="shape"):
        _build(spec).load_state_dict(_build(spec, hidden=16).state_dict())
    with pytest.raises(MarlError, match=r"mixer\.b1"):
        _build(spec, "vdn").load_state_dict(_build(spec).state_dict())


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": 1.1}, {"trace": -0.1}, {"hidden": 0}, {"learning_rate": 0.0}, {"returns": "td"},
        {"target_tau": 0.0}, {"optimiser": "sgd"}, {"embed": 0}, {"steps": 0}, {"td_loss": "l1"},
        {"reward_scale": 0.0},
    ],
)  # fmt: skip
def test_bad_values_name_their_field(wrong):
    with pytest.raises(MarlError, match=next(iter(wrong))):
        qmix.Config(**wrong)
