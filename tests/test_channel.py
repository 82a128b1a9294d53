"""Links that lose, wait and overflow: long-run losses, bursts, queues, exact counts, configs, commands."""

import dataclasses
import json
import pkgutil

import numpy as np
import pytest
import torch

from marl import cli, compose
from marl.agents import ac, commnet, schednet, tarmac, tmc, vbc
from marl.agents.ic3net import Config as IC3Net
from marl.agents.iql import Config as IQL
from marl.channel import Bernoulli, Bursts, GilbertElliott, Perfect, PerfectLink, mean_burst, stationary_loss
from marl.channel.chain import advance, cumulative, stationary
from marl.envs.relay_game import Config as Relay
from marl.errors import FieldError, MarlError
from marl.evaluate import conversation, evaluate
from marl.loops import OnPolicyConfig
from marl.rng import Rng
from marl.rollout import Rollout

CPU = torch.device("cpu")
# Of every team that talks: its config, and features of a message (None: the world's actions).
TEAMS = {
    "ac": (ac.Config(hidden=8), None),
    "tmc": (tmc.Config(hidden=8, timeout=2), None),
    "vbc": (vbc.Config(hidden=8), None),
    "schednet": (schednet.Config(hidden=8), None),
    "commnet": (commnet.Config(hidden=8, rounds=2), 8),
    "ic3net": (IC3Net(hidden=8), 8),
    "tarmac": (tarmac.Config(hidden=8), 16 + 32),
}
# Name, loss in the long run and mean burst, of the reference sheet.
SHEET = [("light", 0.0115, 1.16), ("medium", 0.0842, 1.53), ("heavy", 0.1203, 1.37)]


def named(name, *words):
    return compose.compose(["agent=ic3net", f"channel={name}", *words]).channel


def talk(config, steps, B=2, N=3, wanted=None, seed=0, rows=None):
    """A link in use: wanted and delivered masks and received messages of every step, (T, B, N, N[, 1])."""
    link, carry, log = config.build(device=CPU), {}, []
    stream = Rng(seed).stream("act", B if rows is None else rows)
    wanted = torch.ones(B, N, N, dtype=torch.bool) if wanted is None else wanted
    for t in range(steps):
        link.begin(stream.fold(0, t))
        message = (torch.arange(N, dtype=torch.float32) + 10 * t).expand(B, N)[..., None]
        received, delivered, carry = link.send(message, wanted, carry)
        log.append((delivered, received))
    return link, torch.stack([d for d, _ in log]), torch.stack([r for _, r in log])


def matrix(back):
    K = len(back)
    P = np.zeros((K, K))
    for s, p in enumerate(back):
        P[s, 0] += p
        P[s, min(s + 1, K - 1)] += 1 - p
    return P


@pytest.mark.parametrize("name", ["light", "medium", "heavy"])
def test_the_long_run_is_the_chains_own(name):
    """Against powers of the transition matrix."""
    back = named(name).back
    P = np.linalg.matrix_power(matrix(back), 1000)
    np.testing.assert_allclose(stationary(back), P[0], atol=1e-12)
    (expected,) = ((loss, burst) for n, loss, burst in SHEET if n == name)
    assert (round(stationary_loss(back), 4), round(mean_burst(back), 2)) == expected


def test_chains_that_never_or_always_lose():
    assert stationary([1.0, 0.5]) == [1.0, 0.0]
    assert stationary([0.5, 0.0]) == [0.0, 1.0]
    assert stationary([0.5, 0.2, 0.0]) == [0.0, 0.0, 1.0]
    assert stationary([0.5, 1.0, 0.0])[2] == 0.0
    assert mean_burst([1.0, 1.0]) == 0.0
    assert mean_burst([0.5, 0.0]) == float("inf")
    assert stationary_loss(Bernoulli(loss=1.0).back) == 1.0


def test_a_chain_moves_by_its_table():
    table = cumulative([0.9, 0.25, 0.5], [0.0, 0.0, 1.0])
    state = torch.tensor([0, 1, 1, 2, 2, 3, 3])
    u = torch.tensor([0.3, 0.89, 0.91, 0.2, 0.3, 0.4, 0.999999])
    assert advance(state, u, table).tolist() == [3, 1, 2, 1, 3, 1, 3]


def bursts_of(lost_TX):
    """Mean number of losses in a row, of runs that end within the record."""
    ends = lost_TX[:-1] & ~lost_TX[1:]
    return lost_TX[:-1].sum() / ends.sum()


@pytest.mark.parametrize(
    ("config", "loss", "burst"),
    [
        *((named(name), loss, burst) for name, loss, burst in SHEET),
        (Bernoulli(loss=0.3), 0.3, 1 / 0.7),
        (GilbertElliott(), 0.156, 1.5),
        (GilbertElliott(loss=0.4, burst=5.0), 0.4, 5.0),
    ],
)
def test_losses_are_those_asked_for(config, loss, burst):
    """Sampled: 24,000 packets or more of 240 chains, within five deviations of what bursts allow."""
    T = 400
    _, delivered, _ = talk(config, T, B=40)
    pairs = ~torch.eye(3, dtype=torch.bool)
    lost_TX = (~delivered[:, :, pairs]).flatten(1).numpy()
    assert lost_TX.shape == (T, 240)
    error = np.sqrt(loss * (1 - loss) * 2 * burst / lost_TX.size)  # 2 burst - 1: of a two-state chain, about
    assert abs(lost_TX.mean() - loss) < 5 * error
    assert abs(bursts_of(lost_TX) - burst) < 0.07 * burst
    first = lost_TX[:10].mean()
    if config.from_stationary:
        assert abs(first - loss) < 5 * error * np.sqrt(T / 10)
    between = np.corrcoef(lost_TX[:, 0], lost_TX[:, 1])[0, 1]
    assert np.isnan(between) or abs(between) < 0.3  # pairs are independent


def test_shipped_chains_begin_delivering_and_the_others_as_in_the_long_run():
    never = Bursts(returns=(0.0, 0.5))
    assert not talk(never, 1)[1].any()
    assert talk(Bursts(returns=(1.0, 0.0)), 5)[1].sum() == 5 * 2 * 6
    _, delivered, _ = talk(GilbertElliott(loss=0.4, burst=8.0), 1, B=400)
    assert abs(1 - delivered.sum().item() / 2400 - 0.4) < 5 * np.sqrt(0.24 / 2400)


def test_what_is_lost_does_not_depend_on_the_batch_nor_on_who_talks():
    config = Bernoulli(loss=0.5)
    _, many, _ = talk(config, 20, B=6)
    _, few, _ = talk(config, 20, B=2)
    assert torch.equal(many[:, :2], few)
    some = torch.rand(6, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    _, masked, _ = talk(config, 20, B=6, wanted=some)
    assert torch.equal(masked, many & some)
    assert not torch.equal(talk(config, 20, seed=1)[1], few)


def test_messages_arrive_after_the_delay():
    link, delivered, received = talk(Perfect(delay=3), 6)
    assert not delivered[:3].any()
    assert received[3, 0, 0].flatten().tolist() == [0.0, 1.0, 2.0]
    assert received[5, 0, 1].flatten().tolist() == [20.0, 0.0, 22.0]
    counts = link.statistics()
    assert counts["messages"] == 6 * 2 * 6
    assert counts["delivered"] == 3 * 2 * 6  # the rest is still on its way
    sent = torch.zeros(2, 3, 3, dtype=torch.bool)
    sent[:, 0, 2] = True
    _, delivered, _ = talk(Perfect(delay=1), 2, wanted=sent)
    assert torch.equal(delivered[1], sent)


def two_rounds(config, worlds, agents, steps, message):
    """What arrived, (received, delivered) per exchange, where all talk to all twice in every step.

    Args: message: of (step, round), (B, N, M).
    """
    link, carry = config.build(device=CPU), {}
    wanted = torch.ones(worlds, agents, agents, dtype=torch.bool)
    stream, out = Rng(0).stream("act", worlds), []
    for t in range(steps):
        link.begin(stream.fold(0, t))
        for round_ in range(2):
            received, delivered, carry = link.send(message(t, round_), wanted, carry)
            out.append((received, delivered))
    return out


def test_rounds_wait_in_queues_of_their_own():
    arrived = two_rounds(Perfect(delay=1), 1, 2, 2, lambda t, k: torch.full((1, 2, 1 + k), 10.0 * t + k))
    seen = [received[0, 0, 1].tolist() for received, _ in arrived]
    assert seen == [[0.0], [0.0, 0.0], [0.0], [1.0, 1.0]]


def test_rounds_lose_messages_of_their_own():
    """The chain moves once per exchange: what two rounds of a step lose is independent."""
    arrived = two_rounds(Bernoulli(loss=0.5), 40, 3, 20, lambda *_: torch.zeros(40, 3, 1))
    delivered = torch.stack([there for _, there in arrived])
    pairs = ~torch.eye(3, dtype=torch.bool)
    same = (delivered[::2] == delivered[1::2])[..., pairs].float().mean().item()
    assert abs(same - 0.5) < 5 * np.sqrt(0.25 / 4800)


@pytest.mark.parametrize(("bits", "most"), [(0, 0), (31, 0), (96, 3), (10**6, 6)])
def test_bandwidth_is_never_exceeded(bits, most):
    link, delivered, _ = talk(Perfect(bandwidth=bits), 50)
    assert (delivered.sum((2, 3)) == most).all()
    if most == 3:  # every pair has its share
        share = delivered.float().mean((0, 1))[~torch.eye(3, dtype=torch.bool)]
        assert (abs(share - 0.5) < 5 * 0.05).all()
        assert not torch.equal(delivered[:, 0], delivered[:, 1])  # every world draws its own lots
    assert link.statistics()["messages"] == 50 * 2 * 6
    wanted = torch.zeros(2, 3, 3, dtype=torch.bool)
    wanted[:, 0, 1] = True
    assert (talk(Perfect(bandwidth=96), 5, wanted=wanted)[1] == wanted).all()


@pytest.mark.parametrize("name", TEAMS)
def test_counts_of_episodes_are_exact(name):
    """Summed by hand from a trace."""
    env, (config, features) = Relay(max_leg=4, limit=7).build(num_envs=5, device=CPU), TEAMS[name]
    agent, link = config.build(spec=env.spec, rng=Rng(0), device=CPU), Bernoulli(loss=0.4).build(device=CPU)
    link.testing, features = True, features or env.spec.n_actions
    rollout, sent, got, found = Rollout(env, agent, Rng(0), link=link), torch.zeros(5), torch.zeros(5), 0
    exchanges = torch.zeros(5)
    for _ in range(60):
        link.trace = []
        _, finished = rollout.step(1.0)
        assert len(link.trace) == getattr(config, "rounds", 1)
        for wanted, delivered in link.trace:
            assert not (delivered & ~wanted).any()
            sent, got, exchanges = sent + wanted.sum((1, 2)), got + delivered.sum((1, 2)), exchanges + 1
        if finished is None:
            continue
        done = rollout.ts.done_B
        assert finished["link.messages"].tolist() == sent[done].tolist()
        assert finished["link.delivered"].tolist() == got[done].tolist()
        assert finished["link.bits"].tolist() == (sent[done] * features * 32).tolist()
        torch.testing.assert_close(finished["link.talk"].float(), sent[done] / (6 * exchanges[done]))
        found += len(finished["env"])
        sent[done] = got[done] = exchanges[done] = 0
    assert found > 20
    assert 0 < link.statistics()["delivered"] < link.statistics()["messages"]


@pytest.mark.parametrize("testing", [False, True])
@pytest.mark.parametrize("name", TEAMS)
def test_every_team_acts_on_what_arrives(monkeypatch, name, testing):
    """Values or logits change where everything is lost, into those of a team of which nobody is heard."""
    config, _ = TEAMS[name]
    module = "marl.agents.schednet.team" if name == "schednet" else "marl.talk.team"
    choose = "marl.comm.team.sample" if hasattr(config, "rounds") else f"{module}.epsilon_greedy"
    original, seen = pkgutil.resolve_name(choose), []
    monkeypatch.setattr(choose, lambda score, *rest: seen.append(score) or original(score, *rest))

    class Silence(PerfectLink):
        def send(self, message_BNM, wanted_BNN, carry):
            return super().send(message_BNM, wanted_BNN & False, carry)

    def play(link):
        seen.clear()
        env = Relay(max_leg=4, limit=7).build(num_envs=4, device=CPU)
        agent = config.build(spec=env.spec, rng=Rng(0), device=CPU)
        link.testing, rollout = testing, Rollout(env, agent, Rng(0), link=link)
        arrived = sum(int(rollout.step(1.0)[0].extras["delivered"].sum()) for _ in range(6))
        return torch.cat([score.flatten() for score in seen]), arrived, link.statistics()

    heard, arrived, counts = play(Bernoulli(loss=0.0).build(device=CPU))
    assert counts["messages"] == counts["delivered"] == arrived > 0
    assert torch.equal(heard, play(PerfectLink(CPU))[0])
    lost, arrived, counts = play(Bernoulli(loss=1.0).build(device=CPU))
    assert counts["messages"] > counts["delivered"] == arrived == 0
    assert torch.equal(lost, play(Silence(CPU))[0])
    assert not torch.isclose(heard, lost).all()


def test_links_begin_anew_with_every_episode_and_resume_bit_for_bit():
    config = Bursts(returns=(0.6, 0.3, 0.2), delay=2)

    def play(steps, state=None):
        env = Relay(max_leg=4, limit=7).build(num_envs=4, device=CPU)
        agent = IC3Net(hidden=8, gate="open").build(spec=env.spec, rng=Rng(0), device=CPU)
        link = config.build(device=CPU)
        link.trace = []
        rollout = Rollout(env, agent, Rng(0), link=link)
        if state is not None:
            env.load_state_dict(state[0])
            rollout.load_state_dict(state[1])
        starts = []
        for _ in range(steps):
            starts.append(rollout.ts.t_B == 0)
            rollout.step(1.0)
        return rollout, starts

    first, starts = play(13)
    for start, (_, delivered) in zip(starts, first.link.trace, strict=True):
        assert not delivered[start].any()  # nothing of the episode before arrives
    state = first.env.state_dict(), first.state_dict()
    assert state[1]["timestep"]["t_B"].any()
    expected = [first.step(1.0)[0].actions_BN for _ in range(20)]
    second, _ = play(0, state)
    assert all(torch.equal(second.step(1.0)[0].actions_BN, actions) for actions in expected)
    assert first.link.statistics() == second.link.statistics()


def test_evaluation_over_a_channel_does_not_depend_on_the_batch():
    world = Relay(max_leg=4, limit=9)
    spec = world.build(num_envs=1, device=CPU).spec
    agent = IC3Net(hidden=8, gate="open").build(spec=spec, rng=Rng(0), device=CPU)
    args = {"episodes": 12, "rng": Rng(0, "e"), "device": CPU, "threads": 1}
    whole = evaluate(agent, world, channel=Bernoulli(loss=0.5), **args).lists()
    assert whole == evaluate(agent, world, channel=Bernoulli(loss=0.5), batch=5, **args).lists()
    assert sum(whole["link.delivered"]) < sum(whole["link.messages"])
    none = evaluate(agent, world, **args).lists()
    assert none["link.delivered"] == none["link.messages"]
    rest = {name: args[name] for name in ("rng", "device", "threads")}
    wanted, delivered = conversation(agent, world, channel=Bernoulli(loss=0.5), **rest)
    assert int(wanted.sum()) == whole["link.messages"][0]
    assert int(delivered.sum()) == whole["link.delivered"][0]
    mute = IQL(hidden=8).build(spec=spec, rng=Rng(0), device=CPU)
    assert conversation(mute, world, **rest) is None


def test_links_that_are_added_count_what_all_of_them_sent():
    """Episodes that are still going on count, too."""
    links = [talk(Bernoulli(loss=0.5), steps, seed=steps)[0] for steps in (4, 3)]
    links[1].finish(torch.tensor([True, False]))
    each = [link.statistics() for link in links]
    links[0].add(links[1])
    total = links[0].statistics()
    for name in ("messages", "delivered", "bits"):
        assert total[name] == each[0][name] + each[1][name] > 0
    assert total["messages"] == 7 * 2 * 6
    assert total["talk"] == 1.0


def test_a_training_link_loses_what_the_learner_replays():
    env = Relay().build(num_envs=4, device=CPU)
    agent = IC3Net(hidden=8, gate="open").build(spec=env.spec, rng=Rng(0), device=CPU)
    parts = {"env": env, "agent": agent, "rng": Rng(1)}
    loop = OnPolicyConfig(rollout_steps=8).build(**parts, link=Bernoulli(loss=1.0).build(device=CPU))
    assert not loop.rollout.link.testing
    loop.iterate()
    assert loop.rollout.link.statistics()["messages"] > 0
    assert loop.rollout.link.statistics()["delivered"] == 0


# Configs and commands


def test_names_of_the_group_and_the_second_place():
    words = ["channel=heavy", "train_channel=bernoulli", "train_channel.loss=0.5"]
    cfg = compose.compose(["agent=ic3net", *words])
    assert isinstance(cfg.channel, Bursts)
    assert cfg.channel.returns[0] == 0.9
    assert cfg.train_channel == Bernoulli(loss=0.5)
    names = ["bernoulli", "gilbert_elliott", "heavy", "light", "medium", "perfect"]
    assert compose.options("channel") == names
    assert isinstance(named("perfect").build(device=CPU), PerfectLink)
    assert named("perfect", "channel.delay=2").delay == 2


def test_a_run_without_channels_keeps_its_name():
    """Published raw files are named by the hash of their config."""
    plain = compose.compose(["agent=qmix", "env=battle/3m", "seed=1"])
    assert plain.channel is None
    ids = {compose.compose(["agent=qmix", "env=battle/3m", "seed=1", w]).run_id for w in ("channel=heavy",)}
    ids |= {compose.compose(["agent=qmix", "env=battle/3m", "seed=1", "train_channel=heavy"]).run_id}
    assert len(ids | {plain.run_id}) == 3
    assert "channel" not in plain.to_dict()
    shorter = dataclasses.replace(plain, run_id="")
    assert shorter.run_id == plain.run_id


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bernoulli(loss=1.5), "loss=1.5 "),
        (lambda: GilbertElliott(loss=1.0), "loss=1.0 "),
        (lambda: GilbertElliott(loss=0.8, burst=2.0), "burst=2.0 .*give 4 or more"),
        (lambda: GilbertElliott(burst=0.5), "burst=0.5 "),
        (lambda: Bursts(returns=(0.5,)), "returns="),
        (lambda: Bursts(returns=(0.5, 1.5)), "returns="),
        (lambda: Perfect(delay=-1), "delay=-1 "),
        (lambda: Perfect(bandwidth=-1), "bandwidth=-1 "),
    ],
)
def test_bad_settings_name_the_field(make, message):
    with pytest.raises(FieldError, match=message):
        make()


def test_training_takes_no_delay():
    words = ["agent=ic3net", "train_channel=perfect", "train_channel.delay=1"]
    with pytest.raises(MarlError, match=r"train_channel\.delay=1 .*same step"):
        compose.compose(words)


def test_a_trained_team_is_measured_over_any_channel(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["agent=ic3net", "agent.hidden=8", "agent.gate=open", "env=relay_game", "threads=1"]
    words += [
        "logger=none",
        "video=false",
        "run_id=run",
        "total_steps=200",
        "num_envs=2",
        "evaluation.final_episodes=6",
    ]
    assert (
        cli.main(["train", *words, "train_channel=bernoulli", "channel=bernoulli", "channel.loss=0.5"]) == 0
    )
    assert cli.main(["evaluate", "run=runs/run", "episodes=6"]) == 0
    run = tmp_path / "runs" / "run"
    own = json.loads((run / "evaluation-256-s0-e0-n6.json").read_bytes())
    final = json.loads((run / "results.json").read_bytes())["final"]
    assert own["episodes"] == {name: rows[0] for name, rows in final.items()}
    assert "overrides" not in own
    for words, name in (
        (["channel=bernoulli", "channel.loss=1.0", "talk=true"], "channel=bernoulli-channel.loss=1.0"),
        (["channel.delay=1"], "channel.delay=1"),
        (["channel=perfect"], "channel=perfect"),
    ):
        assert cli.main(["evaluate", "run=runs/run", "episodes=6", *words]) == 0, capsys.readouterr().err
        found = json.loads((run / f"evaluation-256-s0-e0-n6-{name}.json").read_bytes())["episodes"]
        lost = sum(found["link.messages"]) - sum(found["link.delivered"])
        assert (lost == sum(found["link.messages"])) == ("loss=1.0" in name)
        assert (lost == 0) == (name == "channel=perfect")
    assert (run / "talk-256-s0-e0-n6-channel=bernoulli-channel.loss=1.0.png").is_file()
    assert "it changed nothing" not in capsys.readouterr().out
    assert cli.main(["evaluate", "run=runs/run", "episodes=6", "channel=heavy", "agent.messages=false"]) == 0
    assert "it changed nothing: ic3net sent no messages" in capsys.readouterr().out
    assert cli.main(["evaluate", "run=runs/run", "episodes=6", "channel=heavy", "agent.hidden=16"]) != 0
    assert "agent.hidden=16: the trained team does not fit: leave out" in capsys.readouterr().err


def test_a_channel_that_nobody_uses_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["env=relay_game", "threads=1", "logger=none", "video=false", "total_steps=40", "num_envs=2"]
    words += ["agent=ippo", "evaluation.final_episodes=2", "channel=heavy"]
    assert cli.main(["train", *words]) == 0
    said = "it changed nothing: ippo sent no messages"
    assert said in capsys.readouterr().err
    assert cli.main(["train", *words[:-3], "agent=ic3net", "agent.gate=open", *words[-2:]]) == 0
    assert said.replace("ippo", "ic3net") not in capsys.readouterr().err


def test_a_training_channel_that_nobody_uses_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["env=relay_game", "threads=1", "logger=none", "video=false", "total_steps=40", "num_envs=2"]
    words += ["evaluation.final_episodes=0", "train_channel=heavy"]
    for agent, silent in (("iql", True), ("ac", False)):
        assert cli.main(["train", *words, f"agent={agent}"]) == 0
        said = f"train_channel changed nothing: {agent} sent no messages in training"
        assert (said in capsys.readouterr().err) == silent
