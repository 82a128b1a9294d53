"""Hidden features in the order of groups: the same scores, and one permutation between two layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from marl.sparse.export.layers import Grouped
from marl.sparse.export.order import in_order, permutations
from marl.sparse.export.policy import SCORES, Field, Policy, Step

SPARSE = ("agent.sparsity.groups=4", "agent.sparsity.smallest=8")
TEAMS = [
    ("env=relay_game", "agent=qmix", "sparsity=random_groups", *SPARSE),
    ("env=predator_prey/easy", "agent=ic3net", "agent.rounds=2", "sparsity=random_groups", *SPARSE),
    ("env=predator_prey/easy", "agent=commnet", "agent.recurrent=false", "sparsity=random_groups", *SPARSE),
    ("env=traffic_junction/easy", "agent=tarmac", "sparsity=random_groups", *SPARSE),
    ("env=battle/3m", "agent=mappo", "agent.recurrent=true", "sparsity=random_groups", *SPARSE),
    ("env=battle/3m", "agent=mappo", "agent.share=false", "sparsity=random_groups", *SPARSE),
    ("env=navigation", "agent=ippo", "sparsity=magnitude", "agent.sparsity.smallest=8"),
]


def play(policy: Policy, steps: int = 4) -> list[torch.Tensor]:
    """Scores of some steps from a fresh carry, on inputs that do not depend on the policy."""
    carry, out = policy.initial_carry(5), []
    for step in range(steps):
        given = dict(zip((f.name for f in policy.inputs), policy.example(5, seed=step), strict=True))
        given |= carry
        made = dict(zip(policy.outputs, policy(*(given[f.name] for f in policy.inputs)), strict=True))
        out.append(made[SCORES])
        carry = {f.name: made[f.next] for f in policy.inputs if f.next in made}
    return out


@pytest.mark.parametrize("words", TEAMS, ids=" ".join)
def test_scores_stay_and_permutations_go(words: tuple[str, ...], make_team: Any) -> None:
    policy = make_team(*words)[1].export()
    ordered = in_order(policy)
    for ours, theirs in zip(play(ordered), play(policy), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    before, after = permutations(policy), permutations(ordered)
    assert after < before or before == 0 or "agent.share=false" in words
    assert policy.bytes == ordered.bytes


def test_a_perceptron_permutes_once_between_two_layers(make_grouped: Any) -> None:
    """Three layers: a gather of the world's inputs, a scatter into each next order, and the last scatter."""
    layers = {
        "a": make_grouped(6, 12, 3, "relu", 1),
        "b": make_grouped(12, 16, 4, "tanh", 2),
        "c": make_grouped(16, 5, 2, "none", 3),
    }
    names = ("obs", "x", "y", SCORES)
    steps = [
        Step(op="layer", reads=(names[k],), makes=(names[k + 1],), layers=(layer,))
        for k, layer in enumerate(layers)
    ]
    policy = Policy([Field(name="obs", shape=(2, 6))], (SCORES,), steps, layers, {})
    ordered = in_order(policy)
    x = policy.example(5)
    torch.testing.assert_close(ordered(*x)[0], policy(*x)[0], rtol=1e-5, atol=1e-6)
    kinds = [layer.layouts[0] for layer in ordered.layers.values() if isinstance(layer, Grouped)]
    assert [layout.sorted_in for layout in kinds] == [False, True, True]
