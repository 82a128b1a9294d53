"""The learned adversary: its price, its world, its run beside the victim's, and who may use it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from marl import config, results
from marl.agents.cmarl_attack import Config, Learner
from marl.agents.cmarl_attack.adversary import cheapness
from marl.agents.cmarl_attack.victim import Victim
from marl.agents.cmarl_attack.world import World, gaps, run_config
from marl.errors import FieldError
from marl.measure import load_agent, load_run
from marl.rng import Rng
from marl.robust.attack import measure
from marl.types import EnvSpec, TimeStep
from tests.agents.cmarl_attack.hand import BATTLE, HandMade, attack_config

CPU = torch.device("cpu")


# The adversary


def test_the_soft_penalty_by_hand_and_its_gradient() -> None:
    q = torch.tensor([[[[1.0, 0.0, 5.0]]], [[[0.0, 0.0, 0.0]]]], requires_grad=True)
    avail = torch.tensor([[[[True, True, False]]], [[[True, True, True]]]])
    gap = torch.tensor([[[[2.0, 0.0, 9.0]]], [[[1.0, 1.0, 1.0]]]])
    live = torch.tensor([[[True]], [[False]]])
    p = 1 / (1 + torch.exp(torch.tensor(-2.0)))  # tau 0.5: exp(2) : exp(0)
    value = cheapness(q, avail, gap, live, temperature=0.5)
    torch.testing.assert_close(value, 4 * p)
    value.backward()
    assert q.grad is not None
    slope = 4 * p * (1 - p) / 0.5
    torch.testing.assert_close(q.grad[0, 0, 0], torch.stack([slope, -slope, torch.tensor(0.0)]))
    assert float(q.grad[1].abs().sum()) == 0


def test_gaps_by_hand(team: HandMade, ts: TimeStep, spec: EnvSpec) -> None:
    d = gaps(Victim(team, spec, (1,)), ts, {})
    scores = team.scores(ts, {})[:, 1]
    for b in range(5):
        free = ts.avail_BNA[b, 1]
        best = scores[b][free].max()
        for a in range(4):
            wanted = float(best - scores[b, a]) if free[a] else 0.0
            assert float(d[b, 0, a]) == pytest.approx(wanted, abs=1e-6)


def test_the_adversarys_world_is_the_teams_turned_round(trained: Callable[..., Path]) -> None:
    folder = trained(*BATTLE)
    cfg, saved = load_run(folder)
    world = World(run=folder, step=saved.step, agents=(1,), penalty=0.5)
    env = world.build(num_envs=3, device=CPU, threads=1)
    assert env.spec.agents == ("agent_1",)
    ts = env.reset(Rng(1, "x"))
    plain = cfg.env.build(num_envs=3, device=CPU, threads=1)
    agent = load_agent(cfg, saved)
    ts_plain, carry = plain.reset(Rng(1, "x").child("env")), agent.initial_carry(3)
    rng = Rng(1, "x").stream("act", 3)
    for t in range(4):
        assert torch.equal(ts.obs_BNO[:, 0], ts_plain.obs_BNO[:, 1])
        action = ts.avail_BNA[:, 0].float().argmax(-1)
        d = gaps(Victim(agent, plain.spec, (1,)), ts_plain, carry).gather(-1, action[:, None, None])[:, 0, 0]
        act = agent.act(ts_plain, carry, rng=rng.fold(t), explore=0.0)
        act.actions_BN[:, 1] = action
        carry = act.carry | {"last_action_BN": act.actions_BN}
        ts, ts_plain = env.step(action[:, None]), plain.step(act.actions_BN)
        assert ts.reward_B is not None
        assert ts_plain.reward_B is not None
        torch.testing.assert_close(ts.reward_B, -ts_plain.reward_B - 0.5 * d.square())


def test_the_adversarys_world_goes_on_bit_for_bit(trained: Callable[..., Path]) -> None:
    folder = trained(*BATTLE)
    step = load_run(folder)[1].step
    made = [
        World(run=folder, step=step, penalty=0.1, gap=True).build(num_envs=2, device=CPU, threads=1)
        for _ in range(2)
    ]
    one, two = made
    ts = one.reset(Rng(2))
    for _ in range(5):
        ts = one.step(ts.avail_BNA.float().argmax(-1))
    two.reset(Rng(2))
    two.load_state_dict({k: v.clone() for k, v in one.state_dict().items()})
    for _ in range(70):  # over the end of an episode
        action = ts.avail_BNA.float().argmax(-1)
        ts, other = one.step(action), two.step(action)
        for name, value in ts.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


def test_the_adversary_is_trained_once_and_kept(
    trained: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(*BATTLE)
    cfg, saved = load_run(folder)
    attack = attack_config()
    first = attack.build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
    assert "adversary owr_own_s0_" in capsys.readouterr().err
    again = replace(attack, force="djsma").build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
    assert "adversary" not in capsys.readouterr().err, "step two does not matter to it"
    for one, two in zip(
        first.adversary.state_dict()["networks"].values(),
        again.adversary.state_dict()["networks"].values(),
        strict=True,
    ):
        assert torch.equal(one, two)
    kept = run_config(attack, cfg, saved.step).folder
    assert kept.parent == folder / "adversaries"
    named = replace(attack, adversary=kept, learner=Learner()).build(
        cfg=cfg, saved=saved, agent=load_agent(cfg, saved)
    )
    assert named.adversary is not None
    assert first.learned_on == named.learned_on == cfg.run_id
    with pytest.raises(FieldError, match=r"attack.agents=\(7,\) cannot be used"):
        replace(attack, agents=(7,)).build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
    assert "adversary" not in capsys.readouterr().err, "nobody is trained for nothing"
    other = replace(attack, agents=(1,), adversary=kept, learner=Learner())
    with pytest.raises(FieldError, match=r"attack.adversary=.*give the run of an adversary of agents 1"):
        other.build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))


def test_an_adversary_goes_on_where_its_victim_was_moved_to(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    first, moved = tmp_path / "first", tmp_path / "moved"
    shutil.copytree(trained(*BATTLE), first)
    attack = attack_config()
    cfg, saved = load_run(first)
    kept = run_config(attack, cfg, saved.step).folder.relative_to(first)
    attack.build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
    (first / kept / "results.json").unlink()  # as a killed process leaves it
    first.rename(moved)
    cfg, saved = load_run(moved)
    for _ in range(2):  # going on, and finished
        team = attack.build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
        assert team.learned_on == "moved", "no transfer"
    assert results.read(moved / kept)["status"] == "finished"
    assert not first.exists()


def test_an_adversary_that_does_not_fit_is_named(trained: Callable[..., Path]) -> None:
    cfg, saved = load_run(trained(*BATTLE))
    attack_config().build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
    kept = run_config(attack_config(), cfg, saved.step).folder
    wrong = {
        kept: "it was trained in another world",
        kept / "nowhere": "there is no checkpoint in this folder",
    }
    other, saved = load_run(trained("env=predator_prey/easy", "agent=qmix", "agent.hidden=16"))
    for folder, words in wrong.items():
        attack = Config(choose="owr", force="control", adversary=folder)
        with pytest.raises(FieldError, match=f"attack.adversary=.*{words}"):
            attack.build(cfg=other, saved=saved, agent=load_agent(other, saved))


@pytest.mark.parametrize("regulariser", ["reward", "soft"])
def test_the_adversarys_run_resumes_bit_for_bit(
    regulariser: str, trained: Callable[..., Path], tmp_path: Path
) -> None:
    from marl import train
    from marl.resume import resume

    folder = trained(*BATTLE)
    cfg, saved = load_run(folder)
    made = run_config(attack_config(regulariser=regulariser, total_steps=300), cfg, saved.step)

    def run(name: str, steps: int) -> Any:
        return train.run(replace(made, runs_dir=tmp_path, run_id=name, total_steps=steps))

    run("whole", 300)
    run("half", 160)
    train.run(*resume(tmp_path / "half", ["total_steps=300"])[:2])
    states = [load_run(tmp_path / name)[1].state["agent"]["networks"] for name in ("whole", "half")]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_stored_adversary_does_not_trust_for_its_user(trained: Callable[..., Path]) -> None:
    node = config.unmake(World(run=trained(*BATTLE), step=20))
    assert set(node) == {"_target_", "run", "step", "agents", "penalty", "gap"}


def test_stable_baselines3_can_be_the_adversary(trained: Callable[..., Path]) -> None:
    pytest.importorskip("stable_baselines3")
    cfg, saved = load_run(trained(*BATTLE))
    attack = attack_config(kind="sb3", total_steps=200)
    team = attack.build(cfg=cfg, saved=saved, agent=load_agent(cfg, saved))
    assert type(team.adversary).__name__ == "Sb3Team"
    numbers = measure(team, cfg, episodes=2, seed=0).numbers()
    assert numbers["steps_attacked"]
    with pytest.raises(FieldError, match=r"regulariser='soft' cannot be used: give reward"):
        Learner(kind="sb3", regulariser="soft")
