"""Lies over a link, victims by sensitivity, and the learned model, each against numbers by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from marl.agents.cmarl_attack import Config
from marl.agents.cmarl_attack.messages import LyingLink
from marl.agents.cmarl_attack.model import Model, Play, foresees_failure, learn
from marl.agents.cmarl_attack.sensitivity import _Probe, leads
from marl.channel import PerfectLink
from marl.errors import FieldError, MarlError
from marl.measure import load_agent, load_run
from marl.rng import Rng, Stream
from marl.robust.attack import measure
from marl.robust.perturbation import gradient
from marl.types import EnvSpec, TimeStep
from tests.agents.cmarl_attack.hand import HandMade

CPU = torch.device("cpu")
MESSAGE = torch.tensor([[[1.0, -2.0], [3.0, 0.5]], [[0.1, 0.2], [-4.0, 0.0]]])  # 2 worlds, 2 agents


def said(lie: str, linf: float = float("inf")) -> tuple[torch.Tensor, torch.Tensor, LyingLink]:
    """Agent 1 lies in world 0 alone: what agent 0 received, what was delivered, the link."""
    link = LyingLink(
        PerfectLink(CPU),
        torch.tensor([1]),
        torch.tensor([[True], [False]]),
        lie=lie,  # type: ignore[arg-type]
        linf=linf,
        rng=Rng(0).stream("x", 2),
    )
    received, delivered, _ = link.send(MESSAGE, torch.ones(2, 2, 2, dtype=torch.bool), {})
    assert torch.equal(received[:, 1, 0], MESSAGE[:, 0]), "agent 0 is honest"
    assert torch.equal(received[1, 0, 1], MESSAGE[1, 1]), "world 1 is left alone"
    return received[0, 0, 1], delivered, link


@pytest.mark.parametrize("lie", ["flip", "silence"])
def test_a_lie_that_nobody_is_sent_has_no_size(lie: str) -> None:
    link = LyingLink(
        PerfectLink(CPU),
        torch.tensor([1]),
        torch.tensor([[True], [True]]),
        lie=lie,  # type: ignore[arg-type]
        linf=float("inf"),
        rng=Rng(0).stream("x", 2),
    )
    wanted = torch.ones(2, 2, 2, dtype=torch.bool)
    wanted[0, 0, 1] = False  # agent 1 is silent in world 0, but for itself
    link.send(MESSAGE, wanted, {})
    told = [3.5, 4.0] if lie == "silence" else [7.0, 8.0]
    assert link.change_BK.tolist() == [[0.0], [told[1]]]
    assert link.features_BK[0].tolist() == [0.0]


def test_lies_by_hand() -> None:
    heard, _, link = said("flip")
    assert heard.tolist() == [-3.0, -0.5]
    assert link.change_BK.tolist() == [[7.0], [0.0]]
    assert link.largest_BK.tolist() == [[6.0], [0.0]]
    assert link.features_BK.tolist() == [[2.0], [0.0]]
    heard, _, _ = said("flip", linf=1.5)
    assert heard.tolist() == [1.5, -0.5]
    heard, _, _ = said("noise", linf=0.25)
    assert (heard - MESSAGE[0, 1]).abs().tolist() == [0.25, 0.25]
    heard, _, _ = said("random")
    assert bool((heard.abs() <= 3.0).all())
    assert heard.tolist() != MESSAGE[0, 1].tolist()
    heard, delivered, _ = said("silence")
    assert heard.tolist() == [0.0, 0.0]
    assert delivered[:, 0, 1].tolist() == [False, True]
    assert link.statistics()["messages"] == 4, "everything else is the link's own"


@pytest.mark.parametrize("agent", ["tmc", "ic3net"])
def test_teams_that_talk_are_lied_to(agent: str, trained: Callable[..., Path]) -> None:
    cfg, saved = load_run(trained("env=relay_game", f"agent={agent}", "agent.hidden=8"))
    attack = Config(choose="none", force="message", lie="flip", agents=(1,))
    team = attack.build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
    numbers = measure(team, cfg, episodes=3, seed=0).numbers()
    assert numbers["steps_attacked"]
    assert numbers["target_reached"] is None
    none = attack.within("steps", 0).build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
    clean = measure(load_agent(cfg, saved), cfg, episodes=3, seed=0)
    assert measure(none, cfg, episodes=3, seed=0).episodes["return"] == clean.episodes["return"]


@pytest.mark.parametrize("words", [("ac", "ablation"), ("ac", "message_dropout"), ("tarmac", "ablation")])
def test_teams_that_defend_their_messages_are_attacked_as_they_act(
    words: tuple[str, str], trained: Callable[..., Path]
) -> None:
    """A budget of 0 misleads nobody: what a victim would have done is what its team does in use."""
    agent, defence = words
    cfg, saved = load_run(trained("env=battle/3m", f"agent={agent}", "agent.hidden=8", f"defence={defence}"))
    for choose, episodes in (("local_worst", 2), ("mixer_worst", 1))[: 1 + (agent == "tarmac")]:
        attack = Config(choose=choose, force="pgd", agents=(0, 1, 2)).within("linf", 0.0)  # type: ignore[arg-type]
        team = attack.build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
        numbers = measure(team, cfg, episodes=episodes, seed=0).numbers()
        assert numbers["steps_attacked"]
        assert numbers["misclassified"] == 0.0
    wide = Config(choose="local_worst", force="pgd", agents=(0, 1, 2))
    team = wide.build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
    assert measure(team, cfg, episodes=2, seed=0).numbers()["misclassified"]


def test_teams_that_do_not_talk_say_so(trained: Callable[..., Path]) -> None:
    cfg, saved = load_run(trained("env=battle/3m", "agent=qmix", "agent.hidden=16"))
    team = Config(choose="none", force="message").build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
    with pytest.raises(MarlError, match="qmix sends no messages"):
        measure(team, cfg, episodes=1, seed=0)


def test_leads_and_sensitivity_by_hand(ts: TimeStep, spec: EnvSpec, stream: Stream) -> None:
    W_AO = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    team = HandMade(spec, lambda x: x @ W_AO.T)
    scores = team.scores(ts, {})
    probe = _Probe(team)
    probe.act(ts, team.initial_carry(5), rng=stream, explore=0.0)
    for n in range(3):
        sizes = []
        for b in range(5):
            free = [a for a in range(4) if ts.avail_BNA[b, n, a]]
            first, second = sorted(free, key=lambda a: -float(scores[b, n, a]))[:2]
            lead = float(scores[b, n, first] - scores[b, n, second])
            assert float(leads(scores, ts.avail_BNA)[b, n]) == pytest.approx(lead, abs=1e-6)
            steep = float((W_AO[first] - W_AO[second])[:5].abs().sum())  # the sixth feature is padding
            sizes.append(min(lead / steep, 1.0))
        assert float(probe.sizes()[n]) == pytest.approx(sum(sizes) / 5, abs=1e-5)


class _Talking(HandMade):
    """Agent 0's scores hear what agent 1 sees, too."""

    extras_spec = {"delivered": None}  # noqa: RUF012

    def scores(self, ts: TimeStep, carry: dict[str, torch.Tensor]) -> torch.Tensor:
        own = self.function(ts.obs_BNO)
        heard = torch.nn.functional.one_hot(torch.tensor(0), own.shape[1])[None, :, None]
        return own + 5.0 * heard * self.function(ts.obs_BNO[:, 1:2].flip(-1))


def test_sensitivity_is_to_what_an_agent_sees_itself(ts: TimeStep, spec: EnvSpec, stream: Stream) -> None:
    """By finite differences of agent 1's lead in agent 1's observation; agent 0's follows from it, too."""
    W_AO = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    team = _Talking(spec, lambda x: x @ W_AO.T)
    probe = _Probe(team)
    probe.act(ts, team.initial_carry(5), rng=stream, explore=0.0)
    lead_BN = leads(team.scores(ts, {}), ts.avail_BNA)
    steep_BN = torch.zeros_like(lead_BN)
    for n, o in itertools.product(range(3), range(5)):
        moved = ts.obs_BNO.clone()
        moved[:, n, o] += 1e-4
        other_BN = leads(team.scores(replace(ts, obs_BNO=moved), {}), ts.avail_BNA)
        steep_BN[:, n] += ((other_BN - lead_BN)[:, n] / 1e-4).abs()
    wanted_N = (lead_BN / steep_BN).clamp(max=1.0).mean(0)
    torch.testing.assert_close(probe.sizes().float(), wanted_N, rtol=0.05, atol=1e-3)


def test_victims_are_found_once_and_named(trained: Callable[..., Path]) -> None:
    cfg, saved = load_run(trained("env=battle/3m", "agent=qmix", "agent.hidden=16"))
    agent = load_agent(cfg, saved)
    found = Config(choose="random", sensitive=2).resolved(cfg, agent)
    assert found.sensitive is None
    assert len(set(found.agents)) == 2
    with pytest.raises(FieldError, match=r"attack\.sensitive=4 cannot be used: the team has 3 agents"):
        Config(choose="random", sensitive=4).resolved(cfg, agent)


def play(count: int = 600) -> Play:
    """Two agents of two actions; the state's first feature rises with agent 0's action 1, alone."""
    g = torch.Generator().manual_seed(0)
    state = torch.randn(count, 3, generator=g)
    joint = torch.randint(2, (count, 2), generator=g)
    action = torch.nn.functional.one_hot(joint, 2).flatten(1).float()
    after = state + torch.stack([joint[:, 0].float(), torch.zeros(count), -0.1 * state[:, 2]], -1)
    returns = torch.arange(20.0)
    last = returns[:, None] * torch.ones(20, 3)
    return Play(state_XS=state, action_XU=action, next_XS=after, return_E=returns, last_ES=last)


def test_the_model_learns_the_world_and_where_teams_fail() -> None:
    data = play()
    made = learn(data, Model(hidden=32, epochs=40, learning_rate=3e-3))
    assert made.fail_S.tolist() == [0.5] * 3, "mean of the two worst of twenty"
    error = (made(data.state_XS, data.action_XU) - data.next_XS).square().mean()
    assert float(error) < 0.01
    again = learn(play(), Model(hidden=32, epochs=40, learning_rate=3e-3))
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))


def test_what_the_model_foresees_is_raised_in_the_right_direction() -> None:
    made = learn(play(), Model(hidden=32, epochs=40, learning_rate=3e-3))
    made.fail_S.copy_(torch.tensor([5.0, 0.0, 0.0]))  # far up the first feature: action 1 leads there
    state, greedy = torch.zeros(4, 3), torch.zeros(4, 2, dtype=torch.int64)
    avail = torch.ones(4, 1, 2, dtype=torch.bool)
    aim = foresees_failure(made, state, greedy, avail, torch.tensor([0]), temperature=1.0)
    scores = torch.zeros(4, 1, 2)
    slope, _ = gradient(lambda x: x, scores, aim)
    assert bool((slope[..., 1] > 0).all())
    assert bool((slope[..., 0] < 0).all())
    h = 1e-2
    for a in range(2):
        up, down = scores.clone(), scores.clone()
        up[..., a] += h
        down[..., a] -= h
        numeric = (aim.gain(up) - aim.gain(down)) / (2 * h)
        torch.testing.assert_close(slope[:, 0, a], numeric, rtol=0.02, atol=1e-3)


def test_an_attack_by_model_runs_and_keeps_its_budget(trained: Callable[..., Path]) -> None:
    cfg, saved = load_run(trained("env=battle/3m", "agent=qmix", "agent.hidden=16"))
    small = Model(episodes=2, epochs=1, hidden=8)
    attack = Config(choose="none", force="model", model=small, iterations=2, step=0.05).within("linf", 0.07)
    team = attack.build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
    numbers = measure(team, cfg, episodes=2, seed=0).numbers()
    assert numbers["linf"] is not None
    assert 0 < numbers["linf"] <= 0.07 + 1e-6


def test_untargeted_attacks_and_choices_go_apart() -> None:
    for force, choose in itertools.product(("message", "model"), ("random", "owr")):
        with pytest.raises(FieldError, match="wants no particular action; give none"):
            Config(choose=choose, force=force)  # type: ignore[arg-type]
    with pytest.raises(FieldError, match="wants an action; give one of random"):
        Config(choose="none", force="pgd")


@pytest.mark.parametrize("words", [("qmix",), ("qmix", "agent.share=false"), ("mappo",), ("tmc",)])
def test_scores_of_some_agents_are_those_of_all(words: tuple[str, ...], trained: Callable[..., Path]) -> None:
    agent, *rest = words
    folder = trained("env=battle/3m", f"agent={agent}", "agent.hidden=16", *rest)
    cfg, saved = load_run(folder)
    team = load_agent(cfg, saved)
    ts = cfg.env.build(num_envs=3, device=CPU, threads=1).reset(Rng(0))
    carry = {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in team.initial_carry(3).items()}
    some = torch.tensor([2, 0])
    wanted = team.scores(ts, carry)[:, some]
    torch.testing.assert_close(team.scores_of(ts, carry, some), wanted, rtol=1e-5, atol=1e-6)
