"""Golden vectors: observation, state and available actions of SMAC, worked out by hand.

Nothing here is computed by the world: every number is written as the arithmetic of SMAC's layout
(oxwhirl/smac d6aab33) on a hand-placed battle. Positions are chosen so that distances are round: 3-4-5
triangles, exactly 6 (may attack: distance <= 6), exactly 9 (not seen: distance < 9), others a little beside.

    observation  moves N S E W | enemies | mates in index order | own
        enemy    attackable, distance/9, dx/9, dy/9, hp/max, [shield/max], [type one-hot]
        mate     visible, distance/9, dx/9, dy/9, hp/max, [shield/max], [type one-hot]
        own      hp/max, [shield/max], [type one-hot]
    state        allies | enemies | last actions one-hot
        ally     hp/max, cooldown/max (medivac: energy/200), (x-16)/32, (y-16)/32, [shield/max], [type]
        enemy    hp/max, (x-16)/32, (y-16)/32, [shield/max], [type one-hot]
    available    no-op, stop, N, S, E, W, attack enemy k (medivac: heal ally k)

Full values: marine 45, marauder 125, medivac 150, stalker 80 + 80, zealot 100 + 50, colossus 200 + 150,
zergling 35. Cooldown normalisers: marine 15, marauder 25, stalker 35, zealot 22, colossus 24 game loops.
`units` holds allies, then enemies: (type, x, y, {what is not 0}); hp 0 = dead.
"""

import math

import pytest


def none(count):
    """Nothing is known: zeros."""
    return [0.0] * count


def dead(n_actions):
    """Only no-op."""
    return [1] + [0] * (n_actions - 1)


# ------------------------------------------------------------------------------------------------ 3m
# N (north) is +y. Ally 2 and nobody else is dead.
#   a0 (10,16)   e0 (13,12): (+3,-4) d 5     e1 (16,24): (+6,+8) d 10 unseen   e2 (16,16): (+6,0) d 6
#   a1 (13,20)   e0: (0,-8) d 8 seen only    e1: (+3,+4) d 5                   e2: (+3,-4) d 5
M3 = dict(
    map="3m",
    units=[
        ("marine", 10, 16, {"hp": 45}),
        ("marine", 13, 20, {"hp": 30, "cooldown": 9}),
        ("marine", 11, 16, {"hp": 0}),
        ("marine", 13, 12, {"hp": 45}),
        ("marine", 16, 24, {"hp": 9}),
        ("marine", 16, 16, {"hp": 10}),
    ],
    obs=[
        [
            *[1, 1, 1, 1],
            *[1, 5 / 9, 3 / 9, -4 / 9, 45 / 45],
            *none(5),
            *[1, 6 / 9, 6 / 9, 0, 10 / 45],
            *[1, 5 / 9, 3 / 9, 4 / 9, 30 / 45],  # a1
            *none(5),  # a2 is dead
            *[45 / 45],
        ],
        [
            *[1, 1, 1, 1],
            *[0, 8 / 9, 0, -8 / 9, 45 / 45],
            *[1, 5 / 9, 3 / 9, 4 / 9, 9 / 45],
            *[1, 5 / 9, 3 / 9, -4 / 9, 10 / 45],
            *[1, 5 / 9, -3 / 9, -4 / 9, 45 / 45],  # a0
            *none(5),  # a2
            *[30 / 45],
        ],
        none(30),
    ],
    avail=[
        [0, 1, 1, 1, 1, 1, 1, 0, 1],
        [0, 1, 1, 1, 1, 1, 0, 1, 1],
        dead(9),
    ],
    state=[
        [45 / 45, 0 / 15, -6 / 32, 0 / 32],
        [30 / 45, 9 / 15, -3 / 32, 4 / 32],
        none(4),
        [45 / 45, -3 / 32, -4 / 32],
        [9 / 45, 0 / 32, 8 / 32],
        [10 / 45, 0 / 32, 0 / 32],
        [0, 0, 0, 0, 1, 0, 0, 0, 0],  # a0 went east
        [0, 0, 0, 0, 0, 0, 0, 1, 0],  # a1 attacked e1
        [1, 0, 0, 0, 0, 0, 0, 0, 0],  # a2 could do nothing
    ],
    last_actions=[4, 7, 0],
)

# At the edges: of the map (the cell one unit ahead must lie in it), of sight, of attack; before any action.
#   a0 (31.5,31.5)  a1 (22.5,31.5): d 9 exactly, unseen        a2 (31.5,22.75): d 8.75 seen
#                   e0 (25.25,31.5): d 6.25 seen only          e2 (31.5,25.5): d 6 attackable
#   a1              e0: (+2.75, 0)     e2: (+9,-6) unseen      a2: (+9,-8.75) unseen
#   a2              e0: (-6.25,+8.75) d 10.75 unseen           e2: (0,+2.75)
M3_EDGES = dict(
    map="3m",
    units=[
        ("marine", 31.5, 31.5, {"hp": 45}),
        ("marine", 22.5, 31.5, {"hp": 45}),
        ("marine", 31.5, 22.75, {"hp": 27}),
        ("marine", 25.25, 31.5, {"hp": 40}),
        ("marine", 31.5, 30.5, {"hp": 0}),
        ("marine", 31.5, 25.5, {"hp": 36}),
    ],
    obs=[
        [
            *[0, 1, 0, 1],
            *[0, 6.25 / 9, -6.25 / 9, 0, 40 / 45],
            *none(5),  # e1 is dead
            *[1, 6 / 9, 0, -6 / 9, 36 / 45],
            *none(5),  # a1 at exactly 9
            *[1, 8.75 / 9, 0, -8.75 / 9, 27 / 45],
            *[45 / 45],
        ],
        [
            *[0, 1, 1, 1],
            *[1, 2.75 / 9, 2.75 / 9, 0, 40 / 45],
            *none(5),
            *none(5),
            *none(5),
            *none(5),
            *[45 / 45],
        ],
        [
            *[1, 1, 0, 1],
            *none(5),
            *none(5),
            *[1, 2.75 / 9, 0, 2.75 / 9, 36 / 45],
            *[1, 8.75 / 9, 0, 8.75 / 9, 45 / 45],  # a0
            *none(5),  # a1
            *[27 / 45],
        ],
    ],
    avail=[
        [0, 1, 0, 1, 0, 1, 0, 0, 1],
        [0, 1, 0, 1, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 1, 0, 0, 1],
    ],
    state=[
        [45 / 45, 0, 15.5 / 32, 15.5 / 32],
        [45 / 45, 0, 6.5 / 32, 15.5 / 32],
        [27 / 45, 0, 15.5 / 32, 6.75 / 32],
        [40 / 45, 9.25 / 32, 15.5 / 32],
        none(3),
        [36 / 45, 15.5 / 32, 9.5 / 32],
        none(3 * 9),  # no last actions at an episode's start
    ],
    last_actions=[-1, -1, -1],
)

# ---------------------------------------------------------------------------------------------- 2s3z
# Type bits: ally stalker 10, ally zealot 01, but enemy ZEALOT 10, enemy STALKER 01 (SMAC's quirk).
#   a0 stalker (16,16)    e0 stalker (20,13): (+4,-3) d 5     e1 stalker dead   e2 zealot (22,16): (+6,0) d 6
#                         e3 zealot (16,25): d 9 unseen       e4 zealot (10,13): (-6,-3) d sqrt 45, seen only
#   a1 stalker (12,13)    e0: (+8,0) d 8 seen only            e4: (-2,0) d 2
#   a2 zealot (16,24.5)   e3: (0,+0.5)                        a0: (0,-8.5)
#   a3 zealot dead        a4 zealot (0.5,0.5): the south-west corner, nobody near
S2Z3 = dict(
    map="2s3z",
    units=[
        ("stalker", 16, 16, {"hp": 80, "shield": 40, "cooldown": 14}),
        ("stalker", 12, 13, {"hp": 20}),
        ("zealot", 16, 24.5, {"hp": 60, "shield": 10}),
        ("zealot", 17, 17, {"hp": 0}),
        ("zealot", 0.5, 0.5, {"hp": 100, "shield": 50, "cooldown": 11}),
        ("stalker", 20, 13, {"hp": 80, "shield": 60}),
        ("stalker", 17, 18, {"hp": 0}),
        ("zealot", 22, 16, {"hp": 50, "shield": 0}),
        ("zealot", 16, 25, {"hp": 100, "shield": 50}),
        ("zealot", 10, 13, {"hp": 100, "shield": 25}),
    ],
    obs=[
        [
            *[1, 1, 1, 1],
            *[1, 5 / 9, 4 / 9, -3 / 9, 80 / 80, 60 / 80, 0, 1],
            *none(8),
            *[1, 6 / 9, 6 / 9, 0, 50 / 100, 0 / 50, 1, 0],
            *none(8),
            *[0, math.sqrt(45) / 9, -6 / 9, -3 / 9, 100 / 100, 25 / 50, 1, 0],
            *[1, 5 / 9, -4 / 9, -3 / 9, 20 / 80, 0 / 80, 1, 0],  # a1
            *[1, 8.5 / 9, 0, 8.5 / 9, 60 / 100, 10 / 50, 0, 1],  # a2
            *none(8),
            *none(8),
            *[80 / 80, 40 / 80, 1, 0],
        ],
        [
            *[1, 1, 1, 1],
            *[0, 8 / 9, 8 / 9, 0, 80 / 80, 60 / 80, 0, 1],
            *none(8),
            *none(8),
            *none(8),
            *[1, 2 / 9, -2 / 9, 0, 100 / 100, 25 / 50, 1, 0],
            *[1, 5 / 9, 4 / 9, 3 / 9, 80 / 80, 40 / 80, 1, 0],  # a0
            *none(8),
            *none(8),
            *none(8),
            *[20 / 80, 0 / 80, 1, 0],
        ],
        [
            *[1, 1, 1, 1],
            *none(8),
            *none(8),
            *none(8),
            *[1, 0.5 / 9, 0, 0.5 / 9, 100 / 100, 50 / 50, 1, 0],
            *none(8),
            *[1, 8.5 / 9, 0, -8.5 / 9, 80 / 80, 40 / 80, 1, 0],  # a0
            *none(8),
            *none(8),
            *none(8),
            *[60 / 100, 10 / 50, 0, 1],
        ],
        none(80),
        [
            *[1, 0, 1, 0],
            *none(5 * 8),
            *none(4 * 8),
            *[100 / 100, 50 / 50, 0, 1],
        ],
    ],
    avail=[
        [0, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0],
        [0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1],
        [0, 1, 1, 1, 1, 1, 0, 0, 0, 1, 0],
        dead(11),
        [0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0],
    ],
    state=[
        [80 / 80, 14 / 35, 0 / 32, 0 / 32, 40 / 80, 1, 0],
        [20 / 80, 0 / 35, -4 / 32, -3 / 32, 0 / 80, 1, 0],
        [60 / 100, 0 / 22, 0 / 32, 8.5 / 32, 10 / 50, 0, 1],
        none(7),
        [100 / 100, 11 / 22, -15.5 / 32, -15.5 / 32, 50 / 50, 0, 1],
        [80 / 80, 4 / 32, -3 / 32, 60 / 80, 0, 1],
        none(6),
        [50 / 100, 6 / 32, 0 / 32, 0 / 50, 1, 0],
        [100 / 100, 0 / 32, 9 / 32, 50 / 50, 1, 0],
        [100 / 100, -6 / 32, -3 / 32, 25 / 50, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],  # a0 attacked e2
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],  # a1 attacked e4
        [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],  # a2 went north
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],  # a3 could do nothing
        [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],  # a4 stopped
    ],
    last_actions=[8, 10, 2, 0, 1],
)


@pytest.mark.parametrize("form", ["torch", "native"])
@pytest.mark.parametrize(
    ("golden", "sizes"),
    [(M3, (30, 48, 9)), (M3_EDGES, (30, 48, 9)), (S2Z3, (80, 120, 11))],
    ids=["3m", "3m_edges", "2s3z"],
)
def test_golden(golden, sizes, form, check_golden):
    check_golden(golden, sizes, form)


@pytest.mark.parametrize("form", ["torch", "native"])
def test_rock_stops_walkers(form, place):
    """corridor: rock at 13 <= x < 19 but for the passage 15 <= y < 17 (envs/battle/terrain.py)."""
    units = [
        ("zealot", 12.5, 10.5, {"hp": 100}),  # west of the rock: no way east
        ("zealot", 16.5, 16.5, {"hp": 100}),  # in the passage: no way north
        ("zealot", 16.5, 15.5, {"hp": 100}),  # in the passage: no way south
        ("zealot", 12.5, 16.5, {"hp": 100}),  # at its mouth: every way
        ("zealot", 19.5, 5.5, {"hp": 100}),  # east of the rock: no way west
        ("zealot", 5.5, 0.5, {"hp": 100}),  # at the map's southern edge
        *[("zergling", 29.5, 1.5 + k, {"hp": 35}) for k in range(24)],
    ]
    _, ts = place("corridor", form, units, [-1] * 6)
    moves_NSEW = ts.avail_BNA[1, :, 2:6].int().tolist()
    assert moves_NSEW == [[1, 1, 0, 1], [0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 1]]
    assert ts.obs_BNO[1, :, :4].int().tolist() == moves_NSEW
