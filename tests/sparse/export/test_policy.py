"""An exported policy against the team it came from: every score, state and action of whole episodes."""

from __future__ import annotations

import pytest
import torch

from marl.rng import Rng
from marl.sparse.export.layers import Dense
from marl.types import Box

CPU = torch.device("cpu")
ROWS = 6
SPARSE = ("agent.sparsity.groups=4", "agent.sparsity.smallest=8")
TEAMS = [
    ("env=relay_game", "agent=qmix"),
    ("env=relay_game", "agent=vdn", "agent.last_action=false", "agent.agent_ids=false"),
    ("env=battle/3m", "agent=iql", "agent.share=false"),
    ("env=predator_prey/easy", "agent=ic3net"),
    ("env=traffic_junction/easy", "agent=ic3net", "agent.gate=open", "agent.rounds=2"),
    ("env=predator_prey/easy", "agent=commnet", "agent.recurrent=false", "agent.rounds=2"),
    ("env=predator_prey/easy", "agent=ic3net", "agent.messages=false"),
    ("env=traffic_junction/easy", "agent=tarmac"),
    ("env=predator_prey/easy", "agent=tarmac", "agent.form=paper", "agent.rounds=2"),
    ("env=battle/3m", "agent=tmc"),
    ("env=battle/3m", "agent=ac", "agent.combine=sum", "agent.dead_talk=false"),
    ("env=relay_game", "agent=vbc", "agent.last_action=false"),
    ("env=battle/3m", "agent=mappo", "agent.recurrent=true"),
    ("env=navigation", "agent=ippo", "agent.recurrent=false", "agent.share=false", "agent.activation=tanh"),
    ("env=navigation", "env.actions=continuous", "agent=ippo", "agent.layer_norm=false"),
    ("env=relay_game", "agent=qmix", "sparsity=grouped", *SPARSE),
    ("env=predator_prey/easy", "agent=ic3net", "sparsity=grouped", "agent.sparsity.ste=selected", *SPARSE),
    ("env=traffic_junction/easy", "agent=tarmac", "sparsity=random_groups", *SPARSE),
    ("env=relay_game", "agent=tmc", "sparsity=grouped", *SPARSE),
    ("env=battle/3m", "agent=mappo", "agent.share=false", "sparsity=grouped", *SPARSE),
    ("env=navigation", "agent=ippo", "sparsity=magnitude", "agent.sparsity.smallest=8"),
]


@pytest.mark.parametrize("words", TEAMS, ids=" ".join)
def test_it_plays_as_the_team_does(words: tuple[str, ...], make_team) -> None:
    env_config, team = make_team(*words)
    policy = team.export()
    env = env_config.build(num_envs=ROWS, device=CPU, threads=1)
    ts, stream = env.reset(Rng(0).child("env")), Rng(0).stream("act", ROWS)
    theirs, ours = team.initial_carry(ROWS), policy.initial_carry(ROWS)
    if "agent.sparsity.groups=4" in words:
        kinds = [layer.kind for layer in policy.layers.values()]
        assert "grouped" in kinds
        assert policy.bytes[0] < 0.7 * policy.bytes[1]
    discrete = not isinstance(env.spec.action_spaces[0], Box)
    for _ in range(12):
        world = {"obs_BNO": ts.obs_BNO, "alive_BN": ts.alive_BN}
        made = policy(*({**world, **ours}[f.name] for f in policy.inputs))
        assert made[0].allclose(team.scores(ts, theirs), 1e-4, 1e-5)
        act = team.act(ts, theirs, rng=stream, explore=0.0)
        actions, ours = policy.act(world, ours, ts.avail_BNA if discrete else None)
        assert actions.allclose(act.actions_BN, 0, 1e-5)
        assert actions.dtype == act.actions_BN.dtype
        ts, theirs = env.step(act.actions_BN), act.carry
        fresh, started = (team.initial_carry(ROWS), policy.initial_carry(ROWS))
        theirs = {name: _reset(value, fresh[name], ts.done_B) for name, value in theirs.items()}
        ours = {name: _reset(value, started[name], ts.done_B) for name, value in ours.items()}
    for name, value in ours.items():
        twin = theirs[{"hidden_BNH": "hidden_BNH" if "hidden_BNH" in theirs else "actor_BNH"}.get(name, name)]
        assert value.allclose(twin, 1e-4, 1e-5)


def _reset(value, fresh, done_B):
    return torch.where(done_B.view(-1, *[1] * (value.dim() - 1)), fresh, value)


def test_learning_the_team_on_leaves_the_policy_alone(make_team) -> None:
    _, team = make_team("env=relay_game", "agent=iql")
    policy = team.export()
    before = [value.clone() for value in policy.buffers()]
    team.optimiser.flat.vector.data.zero_()
    assert all(a.equal(b) for a, b in zip(before, policy.buffers(), strict=True))


@pytest.mark.parametrize("activation", ["none", "relu", "elu", "tanh"])
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(7, 5, 1), (7, 9, 3), (16, 40, 8), (2, 3, 300)])
def test_a_grouped_layer_is_the_masked_product(
    inputs: int, outputs: int, groups: int, activation: str, make_grouped
) -> None:
    layer = make_grouped(inputs, outputs, groups, activation)
    x = torch.randn(3, 2, inputs)
    weight = torch.zeros(outputs, inputs)
    left = layer.packed.tolist()  # taken from the front, in the order of the format's description
    for g in range(groups):
        for o in range(outputs):
            for i in range(inputs):
                if layer.group_out[o] == g == layer.group_in[i]:
                    weight[o, i] = left.pop(0)
    assert not left
    settings = {"inputs": inputs, "outputs": outputs, "copies": None, "activation": activation}
    expected = Dense(settings, {"weight": weight, "bias": layer.bias})(x)
    assert layer(x).allclose(expected, 1e-5, 1e-6)
