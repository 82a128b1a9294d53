"""Which first states of a data set lead to a reward."""

import itertools

import torch

from marl.offline.reach import keys, reached


def episodes(*paths, rewards, ends=()):
    """Episodes as paths of states; rewards: (episode, step, objective); ends: episodes that terminated."""
    edges = [(e, t, a, b) for e, p in enumerate(paths) for t, (a, b) in enumerate(itertools.pairwise(p))]
    state_XS, next_XS = (torch.tensor([[float(edge[i]), 1.0] for edge in edges]) for i in (2, 3))
    rewarded_XK = torch.tensor([[(e, t, k) in rewards for k in (0, 1)] for e, t, *_ in edges])
    last = [t == len(paths[e]) - 2 for e, t, *_ in edges]
    terminated_X = torch.tensor([e in ends and is_last for (e, *_), is_last in zip(edges, last, strict=True)])
    first_X = torch.tensor([t == 0 for _, t, *_ in edges])
    return reached(keys(state_XS), keys(next_XS), rewarded_XK, terminated_X, first_X).tolist()


def test_a_reward_is_reached_through_another_episodes_states():
    """Episode 1 crosses state 3, from which episode 2 reaches objective 1; episode 0 never meets it."""
    paths = [(0, 1, 2), (5, 3, 4), (6, 3, 7, 8)]
    found = episodes(*paths, rewards={(0, 1, 0), (2, 2, 1)})
    assert found == [[True, False], [False, True], [False, True]]


def test_nothing_is_reached_beyond_a_terminated_transition_or_before_its_own_reward():
    paths = [(0, 1), (1, 2), (9, 0)]
    assert episodes(*paths, rewards={(1, 0, 0)}) == [[True, False]] * 3
    assert episodes(*paths, rewards={(1, 0, 0)}, ends={0}) == [[False, False], [True, False], [False, False]]


def test_chains_of_episodes_are_followed_to_their_end():
    """Each episode ends where the one before began: the reward of the first is reached by all."""
    paths = [(i + 1, i) for i in range(30)]
    assert episodes(*paths, rewards={(0, 0, 1)}) == [[False, True]] * 30


def test_keys_are_of_values():
    state_XS = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0], [0.0, 1.0 + 2**-23]])
    assert len(keys(state_XS).unique()) == 3
    assert int(keys(state_XS)[0]) == int(keys(state_XS)[1])
    assert len(keys(torch.eye(500)).unique()) == 500
