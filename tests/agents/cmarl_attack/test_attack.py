"""The team under attack: steps one and two, timing, budgets, the victim's memory, the adversary's world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from marl.agents.cmarl_attack import Config, Timing, choose
from marl.agents.cmarl_attack.config import FORCES
from marl.agents.cmarl_attack.team import Attacked
from marl.agents.cmarl_attack.victim import Victim
from marl.agents.cmarl_attack.world import run_config
from marl.errors import FieldError, MarlError
from marl.measure import load_agent, load_run
from marl.rng import Rng, Stream
from marl.robust.attack import measure
from marl.robust.perturbation import Budget, chosen
from marl.types import EnvSpec, TimeStep
from tests.agents.cmarl_attack.hand import BATTLE, HandMade, attack_config

CPU = torch.device("cpu")
PERTURBING = tuple(name for name in FORCES if name != "control")


def under(team: HandMade, **settings: Any) -> Attacked:
    chosen: dict[str, Any] = {"choose": "local_worst", "force": "itfgsm"} | settings
    if chosen["force"] != "control":
        chosen = {"budget": Budget(linf=0.3)} | chosen
    if chosen["force"] not in ("control", "fgsm"):
        chosen = {"iterations": 10} | chosen
    return Attacked(Config(**chosen), team, None)  # type: ignore[arg-type]


def greedy(team: HandMade, ts: TimeStep) -> torch.Tensor:
    return chosen(team.scores(ts, {}), ts.avail_BNA)


# Step one


def test_choices_by_hand(team: HandMade, ts: TimeStep, spec: EnvSpec, stream: Stream) -> None:
    scores, best = team.scores(ts, {}), greedy(team, ts)
    victim = Victim(team, spec, (0,))
    avail = victim.of_victims(ts.avail_BNA)
    worst = choose.local_worst(victim.of_victims(scores), avail)
    for b in range(5):
        free = [a for a in range(4) if ts.avail_BNA[b, 0, a]]
        assert int(worst[b]) == min(free, key=lambda a: float(scores[b, 0, a]))
    mixed = choose.mixer_worst(victim, ts, {}, best)
    for b in range(5):  # action 2 is the team's worst by far, whatever the agent itself thinks
        wanted = 2 if ts.avail_BNA[b, 0, 2] else int(worst[b])
        assert int(mixed[b]) == wanted
    assert bool((mixed != worst).any())
    counts = torch.zeros(5, 4)
    for i in range(300):
        drawn = choose.at_random(victim.of_victims(best), avail, stream.fold(i))
        assert bool(avail.gather(-1, drawn[..., None]).all())
        counts[torch.arange(5), drawn[:, 0]] += 1
    others = avail[:, 0].clone()
    others[torch.arange(5), best[:, 0]] = False
    assert bool(((counts > 0) == others).all()), "every available action but the greedy one"
    shares = counts[others] / (300 / others.sum(-1, keepdim=True).expand(-1, 4)[others])
    assert bool((shares - 1).abs().max() < 0.35)


def test_an_agent_without_a_choice_is_left_alone(team: HandMade, ts: TimeStep, stream: Stream) -> None:
    avail = torch.zeros_like(ts.avail_BNA)
    avail[..., 0] = True
    attacked = under(team, choose="random")
    act = attacked.act(replace(ts, avail_BNA=avail), attacked.initial_carry(5), rng=stream, explore=0.0)
    assert float(act.extras["attack.attacked"].sum()) == 0
    assert torch.equal(act.carry["seen_BNO"], ts.obs_BNO)


# Step two


@pytest.mark.parametrize("force", PERTURBING)
def test_only_the_victims_free_features_change(
    force: str, team: HandMade, ts: TimeStep, stream: Stream
) -> None:
    steps: dict[str, Any] = {"jsma": {"theta": 0.2}, "djsma": {"thetas": (0.1, 0.3)}}.get(force, {})
    attacked = under(team, force=force, agents=(2, 0), kinds=("real",), **steps)
    act = attacked.act(ts, attacked.initial_carry(5), rng=stream, explore=0.0)
    seen = act.carry["seen_BNO"]  # what the team's memory took in
    eta = seen - ts.obs_BNO
    assert float(act.extras["attack.attacked"].sum()) > 0
    assert float(eta.abs().sum()) > 0
    assert float(eta[:, 1].abs().sum()) == 0, "a mate"
    assert float(eta[..., 4:].abs().sum()) == 0, "a flag, and padding"
    assert float(eta.abs().max()) <= 0.3 + 1e-6
    assert bool(((seen >= 0) & (seen <= 1)).all())
    torch.testing.assert_close(act.extras["attack.l1"], eta.abs().sum((1, 2)).double())
    assert act.extras["attack.l0"].tolist() == (eta != 0).sum((1, 2)).double().tolist()
    per_victim = eta.abs().amax(-1)[:, [2, 0]].sum(-1).double()
    torch.testing.assert_close(act.extras["attack.linf"], per_victim)
    assert torch.equal(act.actions_BN, chosen(team.function(seen), ts.avail_BNA)), "the team acts on it"


def test_pgd_is_not_iterative_fgsm_by_another_name(team: HandMade, ts: TimeStep, stream: Stream) -> None:
    """Left to themselves one raises the target's log-probability, the other its score."""

    def seen(**settings: Any) -> torch.Tensor:
        attacked = under(team, budget=Budget(), step=0.05, **settings)
        return attacked.act(ts, attacked.initial_carry(5), rng=stream, explore=0.0).carry["seen_BNO"]

    assert torch.equal(seen(force="pgd"), seen(force="pgd", gain="cross_entropy"))
    assert torch.equal(seen(force="itfgsm"), seen(force="itfgsm", gain="score"))
    assert not torch.equal(seen(force="pgd"), seen(force="itfgsm"))


def test_the_curve_ends_where_the_steps_do() -> None:
    short = Config(choose="random", force="pgd", step=0.02, iterations=30)
    assert short.budgets == ("linf", (0.0, 0.05, 0.1, 0.2, 0.5))


@pytest.mark.parametrize(("force", "name", "value"), [("control", "linf", 0.1), ("djsma", "steps", 0.5)])
def test_curves_that_would_be_flat_are_refused(force: str, name: str, value: float) -> None:
    with pytest.raises(FieldError, match="curve="):
        Config(choose="random", force=force).within(name, value)  # type: ignore[arg-type]


def test_targets_are_reached_and_counted(team: HandMade, ts: TimeStep, stream: Stream) -> None:
    attacked = under(team, choose="local_worst", force="pgd", budget=Budget(), gain="margin", iterations=60)
    act = attacked.act(ts, attacked.initial_carry(5), rng=stream, explore=0.0)
    before, scores = greedy(team, ts), team.scores(ts, {})
    target = choose.local_worst(scores[:, :1], ts.avail_BNA[:, :1])[:, 0]
    hit = (act.actions_BN[:, 0] == target) & (target != before[:, 0])
    assert act.extras["attack.hit"].tolist() == hit.double().tolist()
    assert act.extras["attack.misled"].tolist() == (act.actions_BN[:, 0] != before[:, 0]).double().tolist()
    assert int(hit.sum()) >= 2
    assert torch.equal(act.actions_BN[:, 1:], before[:, 1:])


def test_direct_control_replaces_the_action_and_the_memory_of_it(
    team: HandMade, ts: TimeStep, stream: Stream
) -> None:
    attacked = under(team, force="control", choose="local_worst", agents=(1,))
    act = attacked.act(ts, attacked.initial_carry(5), rng=stream, explore=0.0)
    target = choose.local_worst(team.scores(ts, {})[:, 1:2], ts.avail_BNA[:, 1:2])[:, 0]
    assert torch.equal(act.actions_BN[:, 1], target)
    assert torch.equal(act.carry["last_action_BN"], act.actions_BN)
    assert torch.equal(act.carry["seen_BNO"], ts.obs_BNO), "it sees the truth"
    assert act.extras["attack.hit"].tolist() == act.extras["attack.attacked"].tolist()


@pytest.mark.parametrize("force", PERTURBING)
@pytest.mark.parametrize("name", ["linf", "l1", "l0", "l2"])
def test_a_budget_of_zero_changes_nothing(
    force: str, name: str, team: HandMade, ts: TimeStep, stream: Stream
) -> None:
    budget = Budget(**({"linf": 0.3} | {name: 0}))  # type: ignore[arg-type]
    attacked = under(team, force=force, budget=budget)
    act = attacked.act(ts, attacked.initial_carry(5), rng=stream, explore=0.0)
    assert torch.equal(act.carry["seen_BNO"], ts.obs_BNO)
    assert torch.equal(act.actions_BN, greedy(team, ts))
    assert float(act.extras["attack.attacked"].sum()) > 0, "it tried"
    assert float(act.extras["attack.misled"].sum()) == 0


# Timing


def test_a_budget_of_steps_holds(team: HandMade, ts: TimeStep, stream: Stream) -> None:
    attacked = under(team, force="control", timing=Timing(steps=2))
    carry, counts = attacked.initial_carry(5), torch.zeros(5, dtype=torch.float64)
    for _ in range(5):
        act = attacked.act(ts, carry, rng=stream, explore=0.0)
        carry, counts = act.carry, counts + act.extras["attack.attacked"]
    wanted = (
        choose.local_worst(team.scores(ts, {})[:, :1], ts.avail_BNA[:, :1])[:, 0] != greedy(team, ts)[:, 0]
    )
    assert counts.tolist() == (2.0 * wanted).tolist()
    none = under(team, force="control", timing=Timing(steps=0))
    act = none.act(ts, none.initial_carry(5), rng=stream, explore=0.0)
    assert torch.equal(act.actions_BN, greedy(team, ts))


def test_timing_by_chance_and_by_preference(team: HandMade, ts: TimeStep, stream: Stream) -> None:
    half = under(team, force="control", timing=Timing(when="random", rate=0.25))
    every = under(team, force="control")
    total = sum(
        float(
            half.act(ts, half.initial_carry(5), rng=stream.fold(i), explore=0.0)
            .extras["attack.attacked"]
            .sum()
        )
        for i in range(200)
    )
    most = float(
        every.act(ts, every.initial_carry(5), rng=stream, explore=0.0).extras["attack.attacked"].sum()
    )
    assert 0.17 < total / (200 * most) < 0.33
    p = team.scores(ts, {})[:, 0].masked_fill(~ts.avail_BNA[:, 0], -torch.inf).softmax(-1)
    spread = p.amax(-1) - p.masked_fill(~ts.avail_BNA[:, 0], torch.inf).amin(-1)
    middle = float(spread.median())
    careful = under(team, force="control", timing=Timing(when="critical", threshold=middle))
    act = careful.act(ts, careful.initial_carry(5), rng=stream, explore=0.0)
    full = every.act(ts, every.initial_carry(5), rng=stream, explore=0.0).extras["attack.attacked"]
    assert act.extras["attack.attacked"].tolist() == (full * (spread >= middle)).tolist()


# Whole attacks


def test_attacks_are_the_same_twice_and_in_parts(trained: Callable[..., Path]) -> None:
    cfg, saved = load_run(trained(*BATTLE))
    attack = Config(choose="random", force="djsma", iterations=2, thetas=(0.3, 1.0))

    def played(batch: int | None) -> dict[str, list[float]]:
        team = attack.build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
        return measure(team, cfg, episodes=2, seed=5, batch=batch).episodes

    once = played(None)
    assert once == played(None)
    assert sum(once["attack.attacked"]) > 0
    parts = played(1)
    assert parts["attack.attacked"] == once["attack.attacked"]
    assert parts["return"] == pytest.approx(once["return"], abs=1e-4)


def test_worlds_that_nobody_looks_at_are_left_alone(team: HandMade, ts: TimeStep, stream: Stream) -> None:
    attacked = under(team, choose="random", force="pgd")
    all_of_them = attacked.act(ts, attacked.initial_carry(5), rng=stream, explore=0.0)
    counts = torch.tensor([True, False, True, True, False])
    attacked.count_only(counts)
    some = attacked.act(ts, attacked.initial_carry(5), rng=stream, explore=0.0)
    for name, value in all_of_them.extras.items():
        torch.testing.assert_close(some.extras[name], value * counts)
    assert torch.equal(some.carry["seen_BNO"][~counts], ts.obs_BNO[~counts])
    attacked.count_only(None)
    again = attacked.act(ts, attacked.initial_carry(5), rng=stream, explore=0.0)
    assert torch.equal(again.carry["seen_BNO"], all_of_them.carry["seen_BNO"])


def test_leaving_finished_worlds_alone_changes_no_result(
    trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, saved = load_run(trained(*BATTLE))
    attack = Config(choose="random", force="itfgsm", agents=(0, 1, 2), gain="margin")

    def played() -> dict[str, list[float]]:
        team = attack.build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
        return measure(team, cfg, episodes=6, seed=5).episodes

    fast = played()
    assert len(set(fast["length"])) > 1, "some worlds wait for others"
    monkeypatch.setattr(Attacked, "count_only", lambda *_: None)
    slow = played()
    assert fast["attack.attacked"] == slow["attack.attacked"]
    for name, values in slow.items():
        assert fast[name] == pytest.approx(values, abs=1e-4), name


def test_another_budget_keeps_victims_and_model(team: HandMade, ts: TimeStep, stream: Stream) -> None:
    attacked = under(team, choose="local_worst", force="itfgsm", budget=Budget())
    tighter = attacked.within("linf", 0.01)
    assert tighter.victims == attacked.victims
    act = tighter.act(ts, tighter.initial_carry(5), rng=stream, explore=0.0)
    assert float((act.carry["seen_BNO"] - ts.obs_BNO).abs().max()) <= 0.01 + 1e-6
    assert attacked.config.budget == Budget(), "the first one is as it was"


def test_a_critic_tries_every_action_in_copies_of_the_worlds(trained: Callable[..., Path]) -> None:
    """mixer_worst of an actor-critic team against one world at a time, stepped by hand."""
    folder = trained("env=battle/3m", "agent=mappo", "agent.hidden=16")
    cfg, saved = load_run(folder)
    agent = load_agent(cfg, saved)
    attack = Config(choose="mixer_worst", force="control", agents=(2,))
    team = attack.build(cfg=cfg, saved=saved, agent=agent)
    env = cfg.env.build(num_envs=2, device=CPU, threads=1)
    team.attach(env)
    ts, rng = env.reset(Rng(3)), Rng(3).stream("act", 2)
    carry = team.initial_carry(2)
    before = {k: v.clone() for k, v in env.state_dict().items()}
    act = team.act(ts, carry, rng=rng, explore=0.0)
    assert all(torch.equal(v, before[k]) for k, v in env.state_dict().items()), "the worlds are left alone"
    plain = {k: v for k, v in carry.items() if not k.startswith("attack.")}
    own = agent.act(ts, plain, rng=rng, explore=0.0)
    worth = torch.full((2, env.spec.n_actions), torch.inf)
    for a in range(env.spec.n_actions):
        joint = own.actions_BN.clone()
        joint[:, 2] = a
        if not ts.avail_BNA[:, 2, a].all():
            continue  # the first step of this map offers both worlds the same
        env.load_state_dict(before)
        after = env.step(joint)
        with torch.no_grad():
            value = agent.values(after, own.carry).mean(-1)
        assert after.reward_B is not None
        worth[:, a] = after.reward_B + agent.discount * value
    assert torch.equal(act.actions_BN[:, 2], worth.argmin(-1))


def test_worlds_that_cannot_be_copied_are_not_tried(
    trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their state cannot be kept: a copy would cut its episodes off. Values need no copies."""
    attack, going_on = Config(choose="mixer_worst", force="control"), attack_config(seed=5)
    for agent in ("mappo", "qmix"):
        cfg, saved = load_run(trained("env=battle/3m", f"agent={agent}", "agent.hidden=16"))
        monkeypatch.setattr(type(cfg.env), "exact_resume", False, raising=False)
        if agent == "mappo":
            with pytest.raises(FieldError, match=r"attack.choose='mixer_worst'.*3m cannot be copied"):
                attack.build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
        else:
            attack.build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
    capsys.readouterr()
    kept = run_config(going_on, cfg, saved.step).folder
    for sentences in (0, 1):
        going_on.build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
        assert capsys.readouterr().err.count("whose state cannot be kept") == sentences
        (kept / "results.json").unlink()  # as a killed process leaves it


WRONG = [
    ({"agents": (7,)}, "agents=(7,) cannot be used: give numbers from 0 to 2"),
    ({"agents": (0, 0)}, "agents=(0, 0) cannot be used"),
]


@pytest.mark.parametrize(("settings", "words"), WRONG)
def test_wrong_victims_say_so(settings: dict[str, Any], words: str, team: HandMade) -> None:
    with pytest.raises(MarlError) as error:
        under(team, **settings)
    assert words in str(error.value)
