"""Acting under attack: what victims see, what allies do, how often, and what learners are told."""

from dataclasses import replace

import pytest
import torch

from marl.agents import ippo, qmix
from marl.envs.navigation import Config as Navigation
from marl.envs.relay_game import Config as Relay
from marl.errors import FieldError, MarlError
from marl.loops import OffPolicyConfig, OnPolicyConfig
from marl.loops.base import Means
from marl.rng import Rng
from marl.robust.attacker import Attacker
from marl.robust.config import Adversarial, Byzantine
from marl.robust.perturbation import Limits
from marl.robust.rollout import drawn, training_rollout, worst
from marl.rollout import Rollout

CPU = torch.device("cpu")
B = 8


def _made(defence, module=qmix, env=None, **config):
    """A rollout, and the list of clean time steps that its world gives."""
    world = (env or Relay(runners=3)).build(num_envs=B, device=CPU, threads=1)
    clean, step, reset = [], world.step, world.reset
    world.step = lambda actions: clean.append(step(actions)) or clean[-1]
    world.reset = lambda rng: clean.append(reset(rng)) or clean[-1]
    agent = module.Config(hidden=8, defence=defence, **config).build(spec=world.spec, rng=Rng(1), device=CPU)
    return training_rollout(world, agent, Rng(2)), clean


def test_without_a_defence_the_rollout_is_the_plain_one():
    rollout, _ = _made(None)
    assert type(rollout) is Rollout
    assert rollout.agent.regulariser is None
    assert rollout.agent.extras_spec == {}


@pytest.mark.parametrize("module", [qmix, ippo])
@pytest.mark.parametrize("attack", ["pgd", "ifgsm"])
def test_perturbed_observations_stay_in_range_and_budget(module, attack):
    defence = Adversarial(epsilon=0.2, attack=attack, ramp=0, agents=2)
    rollout, clean = _made(defence, module)
    limits, changed = Limits.of(rollout.env.spec, CPU), torch.zeros(3, dtype=torch.bool)
    for _ in range(12):
        before, after = clean[-1].obs_BNO, rollout.ts.obs_BNO
        assert (after - before).abs().max() <= 0.2 + 1e-6
        assert (after >= torch.minimum(limits.low, before)).all()
        assert (after <= torch.maximum(limits.high, before)).all()
        victim_BN = (after != before).any(-1)
        assert (victim_BN.sum(-1) <= 2).all()
        assert torch.equal(rollout.ts.state_BS, clean[-1].state_BS)
        changed |= victim_BN.any(0)
        if attack == "ifgsm":  # steps ascend: the worst action's score does not fall
            ts, carry = rollout.ts, rollout.carry
            was = rollout.agent.scores(replace(ts, obs_BNO=before), carry).detach()
            target_BN1 = worst(was, ts.avail_BNA)[..., None]
            now = rollout.agent.scores(ts, carry).detach()
            rise_BN = (now - was).gather(-1, target_BN1).squeeze(-1)
            assert (rise_BN[victim_BN] > -1e-5).all()
        rollout.step(1.0)
    assert changed.all()


def test_victims_are_the_same_for_an_episode_and_the_budget_grows():
    rollout, clean = _made(Adversarial(epsilon=0.4, ramp=10 * B))
    seen: dict[tuple[int, int], set[int]] = {}
    for t in range(14):
        change_BN = (rollout.ts.obs_BNO - clean[-1].obs_BNO).abs().amax(-1)
        assert change_BN.max() <= 0.4 * min(1.0, t / 10) + 1e-6
        for b, n in (change_BN > 0).nonzero().tolist():
            seen.setdefault((b, int(rollout.episode_B[b])), set()).add(n)
        rollout.step(1.0)
    assert seen
    assert all(len(victims) == 1 for victims in seen.values())


def test_the_memory_holds_what_was_acted_on():
    env = Relay(runners=3).build(num_envs=4, device=CPU)
    defence = Adversarial(epsilon=0.3, ramp=0)
    agent = qmix.Config(hidden=8, defence=defence).build(spec=env.spec, rng=Rng(1), device=CPU)
    acted, act = [], agent.act

    def spy(ts, carry, **rest):
        acted.append(ts.obs_BNO)
        return act(ts, carry, **rest)

    agent.act = spy
    loop = OnPolicyConfig(rollout_steps=5).build(env=env, agent=agent, rng=Rng(0))
    batch = loop.collect(Means())
    stored = [batch.obs_BTNO[b][batch.filled_BT[b]] for b in range(4)]
    assert torch.equal(torch.stack(stored, 1), torch.stack(acted))


@pytest.mark.parametrize(("probability", "count"), [(0.0, 1), (0.3, 1), (1.0, 2)])
def test_episodes_are_attacked_with_the_probability_asked_for(make_step, make_spec, probability, count):
    rows = 4000
    ts = make_step(make_spec(N=4), B=rows)
    ts.present_BN[:, 3] = False  # does not exist
    stream = Rng(0).stream("episode", rows)
    victim_BN = drawn(ts, stream, count, probability)
    assert torch.equal(victim_BN, drawn(ts, stream, count, probability))
    assert not victim_BN[:, 3].any()
    attacked = victim_BN.any(-1).float().mean().item()
    assert abs(attacked - probability) <= 3 * (probability * (1 - probability) / rows) ** 0.5
    assert set(victim_BN.sum(-1).tolist()) == (
        {0, count} if 0 < probability < 1 else {count * (probability > 0)}
    )
    shares = victim_BN[:, :3].float().mean(0) / max(probability * count / 3, 1e-9)
    assert ((shares - 1).abs() < 0.15).all() or probability == 0


@pytest.mark.parametrize("action", ["random", "worst"])
def test_a_byzantine_ally_does_what_it_did_not_choose(action):
    rollout, _ = _made(Byzantine(probability=1.0, action=action))
    forced = 0
    for _ in range(20):
        ts, carry = rollout.ts, rollout.carry
        act, finished = rollout.step(0.0)
        other_BN = act.actions_BN != act.extras["intended"]
        assert (other_BN.sum(-1) <= 1).all()
        assert ts.avail_BNA.gather(-1, act.actions_BN[..., None]).all()
        if action == "worst":
            lowest_BN = worst(rollout.agent.scores(ts, carry), ts.avail_BNA)
            assert torch.equal(act.actions_BN[other_BN], lowest_BN[other_BN])
        if finished is None:
            assert torch.equal(rollout.carry["last_action_BN"], act.actions_BN)
        forced += int(other_BN.sum())
    assert forced > 0


def test_action_values_learn_what_was_chosen_under_what_was_done(make_spec, make_batch):
    """Of two batches that differ in what was done alone, the values learned from are the same."""
    spec = make_spec()
    team = qmix.Config(hidden=8, defence=Byzantine()).build(spec=spec, rng=Rng(1), device=CPU)
    batch = make_batch(spec)
    batch.extras["intended"] = batch.actions_BTN
    x = team.online.agents.inputs(batch.obs_BTNO, batch.last_actions_BTN)
    look = team._look(team.online, x, batch)
    wanted = team._values_and_targets(batch, x, look)[0]
    done = replace(batch, actions_BTN=torch.zeros_like(batch.actions_BTN))
    assert torch.equal(team._values_and_targets(done, x, look)[0], wanted)
    done.extras = {}
    assert not torch.equal(team._values_and_targets(done, x, look)[0], wanted)


def test_policies_learn_nothing_from_decisions_that_were_not_theirs():
    env = Relay(runners=3).build(num_envs=4, device=CPU)
    config = ippo.Config(hidden=8, recurrent=False, defence=Byzantine(probability=1.0))
    agent = config.build(spec=env.spec, rng=Rng(1), device=CPU)
    batch = OnPolicyConfig(rollout_steps=9).build(env=env, agent=agent, rng=Rng(0)).collect(Means())
    forced_BTN, filled_BT = batch.extras["byzantine"], batch.filled_BT
    assert (forced_BTN[filled_BT].sum(-1) <= 1).all()  # who has left the relay cannot be forced
    assert forced_BTN.any()
    x = agent._chunks(batch)
    assert torch.equal(x["live"][:, 0], ~forced_BTN[filled_BT] & batch.alive_BTN[filled_BT])
    assert torch.equal(x["mask"][:, 0], ~forced_BTN[filled_BT])


@pytest.mark.parametrize("action", ["random", "worst", "learned"])
def test_continuous_actions_stay_in_their_box(action):
    extra = {"batch": 4} if action == "learned" else {}
    defence = Byzantine(probability=1.0, action=action, **extra)
    rollout, _ = _made(defence, ippo, Navigation(n_agents=2, actions="continuous"))
    low, high = (torch.tensor(getattr(rollout.env.spec.action_spaces[0], e)) for e in ("low", "high"))
    for _ in range(10):
        act, _ = rollout.step(1.0)
        assert (act.actions_BN >= low).all()
        assert (act.actions_BN <= high).all()
        forced_BN = act.extras["byzantine"]
        if action == "worst":
            ends = (act.actions_BN == low) | (act.actions_BN == high)
            assert ends[forced_BN].all()
            assert forced_BN.any()


def test_a_learned_attacker_keeps_to_its_budget():
    defence = Byzantine(probability=1.0, action="learned", budget=2, batch=4, explore=0.9)
    rollout, _ = _made(defence)
    spent: dict[tuple[int, int], int] = {}
    for _ in range(40):
        episode_B = rollout.episode_B
        rollout.step(0.5)
        forced_BV = torch.nn.functional.one_hot(rollout._before["choice"], 4)[:, :3]
        for b in forced_BV.any(-1).nonzero().flatten().tolist():
            key = b, int(episode_B[b])
            spent[key] = spent.get(key, 0) + 1
    assert max(spent.values()) == 2
    assert rollout.attacker.updates > 0


def test_the_attacker_learns_whom_to_force(make_spec):
    """One step, no future: forcing agent 1 costs the team 1, anything else nothing."""
    spec = make_spec()
    config = Byzantine(action="learned", learning_rate=5e-3, batch=32, hidden=16)
    attacker = Attacker(spec, config, 4, Rng(0), CPU)
    g = torch.Generator().manual_seed(0)
    look, choice = torch.randn(256, 7, generator=g), torch.randint(4, (256,), generator=g)
    rows = {"look": look, "choice": choice, "reward": (choice == 1).float(), "next": look}
    rows |= {"may": torch.ones(256, 4, dtype=torch.bool), "ended": torch.ones(256, dtype=torch.bool)}
    attacker.remember(rows)
    alive, everyone = torch.ones(4, 3, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    for _ in range(150):
        attacker.learn()
    quiet = Attacker(spec, Byzantine(action="learned", hidden=16, explore=0.0), 4, Rng(0), CPU)
    quiet.online.load_state_dict(attacker.online.state_dict())
    stream = Rng(1).stream("x", 4)
    chosen = quiet.choose(torch.randn(4, 6, generator=g), alive, everyone, stream)
    assert chosen.tolist() == [1] * 4
    assert quiet.left_B.tolist() == [7] * 4
    alive[:, 1] = False
    assert 1 not in quiet.choose(torch.randn(4, 6, generator=g), alive, everyone, stream).tolist()
    quiet.left_B.zero_()
    assert quiet.choose(torch.randn(4, 6, generator=g), alive, everyone, stream).tolist() == [3] * 4


def test_worlds_that_a_defence_cannot_attack_are_refused():
    with pytest.raises(MarlError, match="continuous actions"):
        _made(Adversarial(), ippo, Navigation(n_agents=2, actions="continuous"))
    with pytest.raises(FieldError, match="give at most 3"):
        _made(Adversarial(agents=4))


def test_an_offline_loop_refuses_an_attack_on_acting(tmp_path):
    from marl.loops import OfflineConfig

    env = Relay().build(num_envs=1, device=CPU)
    agent = qmix.Config(hidden=8, defence=Byzantine()).build(spec=env.spec, rng=Rng(0), device=CPU)
    with pytest.raises(FieldError, match="an offline loop does not act"):
        OfflineConfig(data=tmp_path).build(env=env, agent=agent, rng=Rng(0))


def test_attacks_are_off_where_a_team_is_measured():
    """`evaluate` builds the plain rollout: the same episodes with and without the defence."""
    from marl.evaluate import evaluate

    returns = []
    for defence in (None, Adversarial(ramp=0, epsilon=1.0), Byzantine(probability=1.0)):
        spec = Relay().build(num_envs=1, device=CPU).spec
        agent = qmix.Config(hidden=8, defence=defence).build(spec=spec, rng=Rng(0), device=CPU)
        found = evaluate(agent, Relay(), episodes=6, rng=Rng(3), device=CPU, threads=1)
        returns.append(found.return_E)
    assert torch.equal(returns[0], returns[1])
    assert torch.equal(returns[0], returns[2])


def test_the_off_policy_loop_uses_it():
    env = Relay().build(num_envs=2, device=CPU)
    agent = qmix.Config(hidden=8, defence=Byzantine()).build(spec=env.spec, rng=Rng(0), device=CPU)
    loop = OffPolicyConfig().build(env=env, agent=agent, rng=Rng(0))
    assert type(loop.rollout).__name__ == "ByzantineRollout"
