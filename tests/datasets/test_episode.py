"""Episodes that do not fit a world, or hold what no world gives."""

import dataclasses
import math

import pytest
import torch

from marl.datasets import Episode, memory_of
from marl.errors import MarlError
from marl.offline import summarise
from marl.types import Box, Discrete, EnvSpec

CPU = torch.device("cpu")
SMALL, LARGE = Box(low=(-1.0,), high=(1.0,)), Box(low=(-math.inf, 0.0), high=(5.0, 10.0))


def spec_of(*spaces):
    """Two agents; states of 2 numbers, episodes of at most 6 steps."""
    return EnvSpec(
        name="pair",
        agents=("a", "b"),
        agent_types=("a", "b"),
        obs_size=2,
        state_size=2,
        action_spaces=spaces,
        reward="agent",
        episode_limit=6,
    )


def episode(spec, L=4, **changes):
    A = spec.n_actions
    actions = torch.ones(L, 2, dtype=torch.int64) if spec.discrete else torch.full((L, 2, A), 0.5)
    parts = {
        "obs_UNO": torch.randn(L + 1, 2, 2),
        "state_US": torch.randn(L + 1, 2),
        "avail_UNA": torch.ones(L + 1, 2, A, dtype=torch.bool),
        "alive_UN": torch.ones(L + 1, 2, dtype=torch.bool),
        "actions_LN": actions,
        "reward_LK": torch.randn(L, 2),
        "terminated": True,
    }
    return Episode(**(parts | changes))


def spoiled(value, where, number):
    out = value.clone()
    out[where] = number
    return out


def refused(spec, wrong, message):
    with pytest.raises(MarlError, match=f"^episode 1.*{message}"):
        memory_of(spec, [episode(spec), wrong], CPU)


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["obs_UNO", "state_US", "actions_LN", "reward_LK"])
def test_what_is_not_finite_is_refused(name, number):
    """In the last entry, too, which is no transition's first state."""
    spec = spec_of(SMALL, SMALL)
    fine = episode(spec)
    wrong = dataclasses.replace(fine, **{name: spoiled(getattr(fine, name), -1, number)})
    refused(spec, wrong, "holds NaN or infinite numbers: repair or drop it")


def test_fractions_and_complex_numbers_are_refused():
    spec = spec_of(Discrete(n=3), Discrete(n=3))
    floats = torch.ones(4, 2)
    refused(spec, episode(spec, actions_LN=floats + 0.4), "actions are no whole numbers, .* 0 to 2")
    assert memory_of(spec, [episode(spec, actions_LN=floats)], CPU).episodes == 1
    refused(spec, episode(spec, reward_LK=torch.ones(4, 2) * 1j), "reward has complex numbers")
    refused(spec, episode(spec, actions_LN=floats * 1j), "action has complex numbers")


def test_living_agents_take_available_actions():
    spec = spec_of(Discrete(n=3), Discrete(n=3))
    forbids = {"avail_UNA": spoiled(torch.ones(5, 2, 3, dtype=torch.bool), (2, 1, 1), False)}
    refused(spec, episode(spec, **forbids), "action 1 of b in step 2 is not available there")
    dead = spoiled(torch.ones(5, 2, dtype=torch.bool), (2, 1), False)
    assert memory_of(spec, [episode(spec, alive_UN=dead, **forbids)], CPU).episodes == 1
    last = spoiled(torch.ones(5, 2, 3, dtype=torch.bool), 4, False)  # nobody acts on the last observation
    assert memory_of(spec, [episode(spec, avail_UNA=last)], CPU).episodes == 1


def test_episodes_are_as_long_as_the_world_allows():
    spec = spec_of(SMALL, SMALL)
    assert memory_of(spec, [episode(spec, 6)], CPU).episodes == 1
    refused(spec, episode(spec, 7), "has 7 steps, episodes of env=pair have 1 to 6: use the env")
    refused(spec, episode(spec, 0), "has 0 steps")


def test_masks_have_the_worlds_shapes():
    spec = spec_of(SMALL, SMALL)
    yes = torch.ones(5, 2, 3, dtype=torch.bool)
    refused(spec, episode(spec, avail_UNA=yes), r"avail has shape \(5, 2, 3\), env=pair has \(5, 2, 1\)")
    refused(spec, episode(spec, alive_UN=yes[:, :1, 0]), r"alive has shape \(5, 1\), env=pair has \(5, 2\)")


@pytest.mark.parametrize(
    ("where", "number", "message"),
    [
        ((2, 0, 0), 1.0001, None),
        ((2, 0, 0), 1.1, r"action 1\.1 of a in step 2, dimension 0, lies outside \[-1, 1\]"),
        ((2, 0, 0), -50.0, "action -50 of a in step 2"),
        ((2, 0, 1), 50.0, None),  # a's Box has one dimension
        ((2, 1, 0), -1e9, None),
        ((2, 1, 0), 9.0, r"action 9 of b in step 2, dimension 0, lies outside \[-inf, 5\]"),
        ((0, 1, 1), 10.005, None),
        ((0, 1, 1), -0.1, r"action -0\.1 of b in step 0, dimension 1, lies outside \[0, 10\]"),
    ],
)
def test_real_actions_stay_in_their_boxes(where, number, message):
    """But for rounding; what fills up the smaller Box may be anything, and so may a dead agent's action."""
    spec = spec_of(SMALL, LARGE)
    one = episode(spec)
    wrong = dataclasses.replace(one, actions_LN=spoiled(one.actions_LN, where, number))
    if message is None:
        assert memory_of(spec, [one, wrong], CPU).episodes == 2
        return
    refused(spec, wrong, message)
    dead = spoiled(one.alive_UN, where[:2], False)
    assert memory_of(spec, [dataclasses.replace(wrong, alive_UN=dead)], CPU).episodes == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("actions_BTN", "action"),
        ("state_BTS", "state"),
        ("obs_BTNO", "observation"),
        ("agent_reward_BTN", "reward"),
    ],
)
def test_a_summary_finds_what_is_not_finite(name, said):
    """In a run's own memory, say; windows of 5 entries, so that the episodes come in several."""
    spec = spec_of(SMALL, SMALL)
    batches = list(memory_of(spec, [episode(spec) for _ in range(3)], CPU).scan(5))
    assert len(summarise(batches).length_E) == 3
    batches[2] = dataclasses.replace(
        batches[2], **{name: spoiled(getattr(batches[2], name), (0, 3), math.nan)}
    )
    with pytest.raises(MarlError, match=f"episode 2 of the data set holds a {said} that is NaN or infinite"):
        summarise(batches)


def test_a_summary_finds_a_final_state_that_is_not_finite():
    spec = spec_of(SMALL, SMALL)
    (batch,) = memory_of(spec, [episode(spec) for _ in range(2)], CPU).scan()
    state_BTS = spoiled(batch.state_BTS, (0, 9), math.inf)  # the last entry; no transition starts there
    with pytest.raises(MarlError, match="episode 1 of the data set holds a next state"):
        summarise([dataclasses.replace(batch, state_BTS=state_BTS)])
