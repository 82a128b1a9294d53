"""TMC: its losses by hand, and who sends when, what is kept and for how long."""

import math

import pytest
import torch

from marl.agents.ac import Config as AC
from marl.agents.tmc import Config as TMC
from marl.agents.tmc.losses import confidence_loss, smoothing_loss
from marl.channel import Bernoulli, PerfectLink
from marl.envs.relay_game import Config as Relay
from marl.errors import MarlError
from marl.evaluate import evaluate
from marl.rng import Rng
from marl.rollout import Rollout
from marl.value import td_loss

CPU = torch.device("cpu")
BETAS = (0.5, 1.0, 1.5)


def build(spec, config=TMC, seed=0, **changes):
    return config(**({"hidden": 8} | changes)).build(spec=spec, rng=Rng(seed), device=CPU)


def masks(filled, start):
    return torch.tensor([filled], dtype=torch.bool), torch.tensor([start], dtype=torch.bool)


# Smoothing


def test_smoothing_by_hand():
    """One agent, messages of one entry: 1, 2, 4, then a new episode 3, 1; the last entry has no action."""
    m = torch.tensor([1.0, 2.0, 4.0, 3.0, 1.0, 9.0])[None, :, None, None].requires_grad_()
    filled, start = masks([1, 1, 1, 1, 1, 0], [1, 0, 0, 1, 0, 0])
    t1 = 0.5 * (2 - 1) ** 2  # a lone past message gets the first weight
    t2 = 0.5 * (4 - 1) ** 2 + 1.0 * (4 - 2) ** 2  # of two the older gets it
    t4 = 0.5 * (1 - 3) ** 2
    absolute = smoothing_loss(m, filled, start, BETAS, form="absolute")
    assert absolute.item() == pytest.approx((t1 + t2 + t4) / 5)
    relative = smoothing_loss(m, filled, start, BETAS, form="relative")
    terms = [t1 / (1 * 4), t2 / (2 * 16), t4 / (1 * 1)]
    assert relative.item() == pytest.approx(sum(terms) / 5)
    released = smoothing_loss(m, filled, start, BETAS, form="released")
    assert released.item() == pytest.approx((terms[0] + (terms[0] + terms[1]) + terms[2]) / 5)
    (slope,) = torch.autograd.grad(absolute, m)
    by_hand = [-1 - 3, 1 - 2 * 2, 3 + 2 * 2, 2, -2]  # 2 beta (m - m') of every pair
    assert slope.flatten().tolist() == pytest.approx([x / 5 for x in by_hand] + [0.0])


def test_the_newest_of_three_weighs_most_and_older_ones_nothing():
    m = torch.tensor([9.0, 1.0, 2.0, 4.0, 0.0])[None, :, None, None]
    filled, start = masks([0, 0, 0, 0, 1], [1, 0, 0, 0, 0])
    filled[:] = True
    last = smoothing_loss(m, filled, start, BETAS, form="absolute") * 5
    before = smoothing_loss(m[:, :4], filled[:, :4], start[:, :4], BETAS, form="absolute") * 4
    assert (last - before).item() == pytest.approx(0.5 * 1 + 1.0 * 4 + 1.5 * 16)


@pytest.mark.parametrize("form", ["relative", "absolute", "released"])
def test_smoothing_against_a_plain_loop(make_spec, make_batch, form):
    spec = make_spec()
    batch = make_batch(spec, B=4, T=16)
    B, T, N = batch.actions_BTN.shape
    A, m = spec.n_actions, torch.randn(B, T, N, spec.n_actions, dtype=torch.float64)
    total, steps = 0.0, int(batch.filled_BT.sum())
    for b in range(B):
        for n in range(N):
            past, running = [], 0.0
            for t in range(T):
                if batch.start_BT[b, t]:
                    past, running = [], 0.0
                if batch.filled_BT[b, t]:
                    own = sum(
                        beta * (m[b, t, n] - old).square().sum().item()
                        for beta, old in zip(BETAS, past, strict=False)
                    )
                    if form != "absolute":
                        own /= max(len(past), 1) * m[b, t, n].square().sum().item()
                    running += own
                    total += running if form == "released" else own
                past = [*past, m[b, t, n]][-3:]
    scale = {"relative": 1 / N, "absolute": 1.0, "released": 1 / (B * N * A)}[form]
    args = batch.filled_BT, batch.start_BT, BETAS
    assert smoothing_loss(m, *args, form=form).item() == pytest.approx(total * scale / steps)
    m.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: smoothing_loss(x, *args, form=form), m)
    spoilt = torch.where(batch.filled_BT[..., None, None], m.detach(), torch.nan)
    assert torch.isfinite(smoothing_loss(spoilt, *args, form=form))


def test_silent_messages_have_no_infinite_distance():
    m = torch.zeros(1, 4, 2, 3).requires_grad_()
    filled, start = masks([1, 1, 1, 1], [1, 0, 0, 0])
    loss = smoothing_loss(m, filled, start, BETAS, form="relative")
    (slope,) = torch.autograd.grad(loss, m)
    assert loss == 0
    assert torch.isfinite(slope).all()


# Confidence


def test_confidence_by_hand():
    """Two agents, three actions; the best of agent 0 is not available, agent 1 has one action."""
    q = torch.tensor([[[[5.0, 1.0, 1.1], [0.3, 0.0, 0.2]]]]).requires_grad_()
    avail = torch.tensor([[[[False, True, True], [True, False, False]]]])
    filled = torch.tensor([[True]])
    args = {"sharpness": 25.0}
    loss = confidence_loss(q, avail, filled, form="exponential", **args)
    e = math.exp(-25 * (1.1 - 1.0))
    assert loss.item() == pytest.approx(e / 2, rel=1e-4)
    (slope,) = torch.autograd.grad(loss, q)
    assert slope.flatten().tolist() == pytest.approx([0, 25 * e / 2, -25 * e / 2, 0, 0, 0], rel=1e-4)
    gap = confidence_loss(q, avail, filled, form="gap", **args)
    assert gap.item() == pytest.approx(-0.1 / 2, rel=1e-4)
    (slope,) = torch.autograd.grad(gap, q)
    assert slope.flatten().tolist() == pytest.approx([0, 0.5, -0.5, 0, 0, 0])
    released = confidence_loss(q, avail, filled, form="released", **args)
    assert released.item() == pytest.approx((math.exp(-25 * 3.9) + math.exp(-25 * 0.1)) / 192, rel=1e-4)


@pytest.mark.parametrize("form", ["exponential", "gap", "released"])
def test_confidence_is_a_mean_over_steps_and_differentiable(make_spec, make_batch, form):
    batch = make_batch(make_spec(), B=3, T=9)
    g = torch.Generator().manual_seed(1)
    q = torch.randn(batch.avail_BTNA.shape, dtype=torch.float64, generator=g)
    rest = {"form": form, "sharpness": 2.0}
    whole = confidence_loss(q, batch.avail_BTNA, batch.filled_BT, **rest)
    yes = torch.tensor([[True]])
    single = [
        confidence_loss(q[b : b + 1, t : t + 1], batch.avail_BTNA[b : b + 1, t : t + 1], yes, **rest)
        for b in range(3)
        for t in range(9)
        if batch.filled_BT[b, t]
    ]
    torch.testing.assert_close(whole, torch.stack(single).mean())
    q.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: confidence_loss(x, batch.avail_BTNA, batch.filled_BT, **rest), q
    )


@pytest.mark.parametrize(
    ("smoothing", "confidence"),
    [("relative", "exponential"), ("absolute", "gap"), ("released", "released")],
)
def test_an_update_adds_both_losses_with_their_weights(make_spec, make_talk, smoothing, confidence):
    """Of the messages and of Q_glb, not of local values, gradients included; the TD loss is that of AC."""
    spec, betas = make_spec(), (0.2, 0.9)
    batch, rng = make_talk(spec), Rng(0).stream("update", 1)
    changes = {"smoothing": smoothing, "confidence": confidence, "betas": betas}
    changes |= {} if confidence == "gap" else {"sharpness": 3.0}
    team = build(spec, smoothing_weight=0.3, confidence_weight=0.7, **changes)
    x = team.online.agents.inputs(batch.obs_BTNO, batch.last_actions_BTN)
    look, filled = team._look(team.online, x, batch), batch.filled_BT
    _, message_BTNA, _ = team.online.agents.listen(x, batch.start_BT)
    smooth = smoothing_loss(message_BTNA, filled, batch.start_BT, betas, form=smoothing)
    confident = confidence_loss(look.q_BTNA, batch.avail_BTNA, filled, form=confidence, sharpness=3.0)
    td = td_loss(*team._values_and_targets(batch, x, look), filled, kind=team.config.td_loss)
    loss = td + 0.3 * smooth + 0.7 * confident
    slopes = torch.autograd.grad(loss, list(team.online.parameters()))
    metrics = team.update(batch, rng=rng)
    torch.testing.assert_close(metrics["smoothing"], smooth.detach())
    torch.testing.assert_close(metrics["confidence"], confident.detach())
    torch.testing.assert_close(metrics["td_loss"], build(spec, AC).update(batch, rng=rng)["loss"])
    torch.testing.assert_close(metrics["loss"], loss.detach())
    torch.testing.assert_close(metrics["grad_norm"], torch.cat([s.flatten() for s in slopes]).norm())


# The protocol


class InUse(PerfectLink):
    testing = True


def walk(team, spec, make_step, steps, link, B=2, alive=None):
    """Acts on fixed random observations; (action values, message, mask of what arrived) of every step."""
    carry, stream, log = team.initial_carry(B), Rng(3).stream("act", B), []
    for t in range(steps):
        ts = make_step(spec, B=B, seed=t)
        if alive is not None:
            ts.alive_BN = alive[t].expand(B, -1)
        said, carry = team._speak(ts, carry)
        link.begin(stream.fold(0, t))
        talk = team._protocol if link.testing else team._talk_to_all
        q, delivered, carry = talk(said, carry, link)
        carry = carry | {"last_action_BN": torch.zeros(B, spec.n_agents, dtype=torch.int64)}
        log.append((q, said, delivered, carry))
    return log


@pytest.mark.parametrize("combine", ["mean", "sum"])
@pytest.mark.parametrize("encoder", ["recurrent", "mlp"])
def test_threshold_0_over_a_perfect_link_is_the_training_forward(make_spec, make_step, encoder, combine):
    spec = make_spec()
    team = build(spec, delta=0.0, encoder=encoder, combine=combine)
    used = walk(team, spec, make_step, 20, InUse(CPU))
    trained = walk(team, spec, make_step, 20, PerfectLink(CPU))
    for (a, *_), (b, *_) in zip(used, trained, strict=True):
        torch.testing.assert_close(a, b)
    assert used[3][2].sum() == 2 * 6  # everything was sent


@pytest.mark.parametrize("dead_talk", [True, False])
def test_and_it_still_is_after_a_death(make_spec, make_step, dead_talk):
    """Agent 1 dies at step 8, agent 2 is away from step 5 to 7; what they said is younger than the window."""
    spec, alive = make_spec(), torch.ones(16, 3, dtype=torch.bool)
    alive[8:, 1] = alive[5:8, 2] = False
    team = build(spec, delta=0.0, dead_talk=dead_talk)
    used = walk(team, spec, make_step, 16, InUse(CPU), alive=alive)
    trained = walk(team, spec, make_step, 16, PerfectLink(CPU), alive=alive)
    for t, ((a, _, sent, _), (b, said, wanted, _)) in enumerate(zip(used, trained, strict=True)):
        torch.testing.assert_close(a, b)
        assert torch.equal(sent, wanted)
        heard = said.message_BNA if dead_talk else said.message_BNA * alive[t, :, None]
        others = heard.sum(1, keepdim=True) - heard
        torch.testing.assert_close(a, said.local_BNA + others / 2)


def test_what_the_dead_did_not_say_was_not_sent(make_spec, make_step):
    """Who returns sends what changed while it was silent, and waits no longer than the timeout."""
    spec, alive = make_spec(), torch.ones(12, 3, dtype=torch.bool)
    alive[2:10, 2] = False
    team = build(spec, delta=math.inf, timeout=4, window=20, dead_talk=False)
    log = walk(team, spec, make_step, 12, InUse(CPU), alive=alive)
    assert [t for t in range(12) if log[t][2][0, 0, 1]] == [3, 7, 11]
    assert [t for t in range(12) if log[t][2][0, 0, 2]] == [10]
    for t in range(2, 10):
        assert (log[t][3]["sent_BNA"][:, 2] == 0).all()


@pytest.mark.parametrize("timeout", [1, 4, 7])
def test_an_infinite_threshold_sends_exactly_once_per_timeout(make_spec, make_step, timeout):
    spec, link = make_spec(), InUse(CPU)
    team = build(spec, delta=math.inf, timeout=timeout)
    log = walk(team, spec, make_step, 28, link)
    assert [int(d.sum()) for _, _, d, _ in log] == [12 * ((t + 1) % timeout == 0) for t in range(28)]
    assert link.statistics()["talk"] == 1 / timeout


def test_without_any_delivery_values_decay_to_the_local_ones_after_the_window(make_spec, make_step):
    spec, W = make_spec(), 5
    team = build(spec, delta=0.0, window=W)
    dead = Bernoulli(loss=1.0).build(device=CPU)
    dead.testing = True
    for q, said, delivered, _ in walk(team, spec, make_step, 8, dead):
        assert not delivered.any()
        torch.testing.assert_close(q, said.local_BNA)

    class Dies(InUse):
        def send(self, message_BNM, wanted_BNN, carry):
            self.sent = getattr(self, "sent", 0) + 1
            return super().send(message_BNM, wanted_BNN & (self.sent <= 3), carry)

    log = walk(team, spec, make_step, 12, Dies(CPU))
    last = log[2][1].message_BNA  # of the last step that came through
    for t, (q, said, _, _) in enumerate(log[3:], 3):
        expected = said.local_BNA
        if t <= 2 + W:
            others = last.sum(1, keepdim=True) - last
            expected = expected + others / 2
        torch.testing.assert_close(q, expected)


def test_who_sends_is_decided_by_the_distance_to_what_was_sent(make_spec, make_step):
    """Replayed by hand: last sent and quiet steps of every agent; what was lost counts as sent."""
    spec = make_spec()
    delta = 0.1
    team = build(spec, delta=delta, timeout=4)
    lossy = Bernoulli(loss=0.5).build(device=CPU)
    lossy.testing, lossy.trace = True, []
    log = walk(team, spec, make_step, 25, lossy, B=1)
    last, quiet, kinds = torch.zeros(3, spec.n_actions), [0] * 3, set()
    kept, age = torch.zeros(3, 3, spec.n_actions), [[99] * 3 for _ in range(3)]
    for (q, said, delivered, _), (wanted, _) in zip(log, lossy.trace, strict=True):
        for j in range(3):
            m = said.message_BNA[0, j].detach()
            far, quiet[j] = float((m - last[j]).norm()) > delta, quiet[j] + 1
            sends = far or quiet[j] >= 4
            kinds.add((far, quiet[j] >= 4))
            assert wanted[0, :, j].tolist() == [sends and i != j for i in range(3)]
            if sends:
                last[j], quiet[j] = m, 0
            for i in range(3):
                age[i][j] = 0 if delivered[0, i, j] else age[i][j] + 1
                if delivered[0, i, j]:
                    kept[i, j] = m
        for i in range(3):
            heard = sum((kept[i, j] for j in range(3) if age[i][j] <= 12), torch.zeros(spec.n_actions))
            torch.testing.assert_close(q[0, i], said.local_BNA[0, i] + heard / 2)
    assert kinds >= {(True, False), (False, True), (False, False)}


def test_the_dead_may_be_silenced(make_spec, make_step):
    spec = make_spec()
    ts = make_step(spec)
    ts.alive_BN = torch.tensor([[True, False, True]] * 2)
    for dead_talk in (True, False):
        for config in (TMC, AC):
            team, link = (
                build(spec, config, dead_talk=dead_talk, timeout=1)
                if config is TMC
                else (build(spec, config, dead_talk=dead_talk)),
                InUse(CPU),
            )
            act = team.act(ts, team.initial_carry(2), rng=Rng(0).stream("a", 2), explore=0.0, link=link)
            assert act.extras["delivered"][:, :, 1].any() == dead_talk
            assert act.extras["delivered"][:, :, 0].sum() == 4


def test_buffers_and_timers_begin_anew_with_every_episode():
    env = Relay(max_leg=4, limit=7).build(num_envs=6, device=CPU)
    team = build(env.spec)
    rollout = Rollout(env, team, Rng(0), link=InUse(CPU))
    fresh, seen = team.initial_carry(6), 0
    for _ in range(30):
        _, finished = rollout.step(0.5)
        if finished is None:
            continue
        for name, value in fresh.items():
            assert torch.equal(rollout.carry[name][finished["env"]], value[finished["env"]]), name
        seen += len(finished["env"])
        busy = ~rollout.ts.done_B
        assert not busy.any() or rollout.carry["message_BNA"][busy].abs().min() > 0
    assert seen > 10


def test_training_is_all_to_all_and_use_is_not():
    """The same team: the loop's link is no test, that of `evaluate` is."""
    world = Relay(max_leg=4, limit=7)
    env = world.build(num_envs=6, device=CPU)
    team = build(env.spec, delta=math.inf)
    rollout = Rollout(env, team, Rng(0))
    for _ in range(12):
        rollout.step(0.0)
    assert rollout.link.statistics()["talk"] == 1.0
    found = evaluate(team, world, episodes=8, rng=Rng(0), device=CPU, threads=1)
    assert found.means()["link.talk"] < 0.2


@pytest.mark.parametrize(
    "wrong",
    [
        {"smoothing": "x"}, {"confidence": "x"}, {"smoothing_weight": -1.0}, {"confidence_weight": -1.0},
        {"delta": -0.1}, {"timeout": 0}, {"window": -1}, {"betas": ()}, {"betas": (-1.0,)},
        {"sharpness": 0.0},
        {"mixer": "x"}, {"encoder": "x"}, {"combine": "x"}, {"share": False}, {"encoder_hidden": 0},
    ],
)  # fmt: skip
def test_bad_values_name_their_field(wrong):
    with pytest.raises(MarlError, match=next(iter(wrong))):
        TMC(**wrong)


@pytest.mark.parametrize(
    ("field", "value", "reader", "other"),
    [
        ("embed", 8, {"mixer": "qmix"}, {"mixer": "vdn"}),
        ("hyper_hidden", 8, {"mixer": "qmix"}, {"mixer": "vdn"}),
        ("encoder_hidden", 8, {"encoder": "mlp"}, {"encoder": "recurrent"}),
        ("sharpness", 5.0, {"confidence": "released"}, {"confidence": "gap"}),
    ],
)
def test_settings_that_nobody_reads_are_refused(field, value, reader, other):
    assert getattr(TMC(**{field: value}, **reader), field) == value
    ((name, kind),) = other.items()
    with pytest.raises(MarlError, match=f"{field}={value} .*{name}={kind} does not read it"):
        TMC(**{field: value}, **other)
    TMC(**other)
