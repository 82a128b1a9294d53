"""The ring of episodes against a plain list of episodes."""

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.errors import FieldError, MarlError
from marl.records import Layout, pack_bits, unpack_bits
from marl.replay import MemoryConfig, Replay
from marl.rng import Rng
from marl.tape import Tape
from marl.types import Act, Box, Discrete, EnvSpec, FieldSpec, TimeStep

CPU = torch.device("cpu")
LIMIT = 5
EXTRAS = {
    "message": FieldSpec(shape=(2, 3), dtype=torch.float32),
    "spoke": FieldSpec(shape=(2,), dtype=torch.bool),
}


def make_spec(**changes):
    fields = dict(
        name="noise",
        agents=("a", "b"),
        agent_types=("any", "any"),
        obs_size=3,
        state_size=2,
        action_spaces=(Discrete(n=4), Discrete(n=4)),
        episode_limit=LIMIT,
        costs=("fuel",),
    )
    return EnvSpec(**(fields | changes))


class Noise:
    """B envs of random numbers; writes a tape, and keeps every finished episode as plain lists."""

    def __init__(self, spec, layout, B, on_finish, seed=0, lengths=None):
        self.spec, self.B, self.g = spec, B, torch.Generator().manual_seed(seed)
        self.lengths = lengths or (lambda: int(torch.randint(1, LIMIT + 1, (), generator=self.g)))
        self.tape = Tape(layout, B, LIMIT + 1, CPU, on_finish=on_finish)
        self.finished, self.running = [], [[] for _ in range(B)]
        self.left = [self.lengths() for _ in range(B)]
        self.ts = self._timestep(torch.zeros(B, dtype=torch.bool), torch.zeros(B, dtype=torch.bool))
        self.tape.start(self.ts)

    def _look(self):
        B, N, A = self.B, 2, self.spec.n_actions
        avail = torch.rand(B, N, A, generator=self.g) < 0.5
        obs = torch.randn(B, N, self.spec.obs_size, generator=self.g)
        return obs, torch.randn(B, self.spec.state_size, generator=self.g), avail

    def _timestep(self, terminated, truncated):
        obs, state, avail = self._look()
        ts = TimeStep(
            obs_BNO=obs,
            state_BS=state,
            avail_BNA=avail,
            terminated_B=terminated,
            truncated_B=truncated,
            present_BN=torch.ones(self.B, 2, dtype=torch.bool),
            alive_BN=torch.rand(self.B, 2, generator=self.g) < 0.7,
            t_B=torch.zeros(self.B, dtype=torch.int64),
        )
        if self.spec.reward == "team":
            ts.reward_B = torch.randn(self.B, generator=self.g)
        elif self.spec.reward == "agent":
            ts.agent_reward_BN = torch.randn(self.B, 2, generator=self.g)
        else:
            ts.reward_BK = torch.randn(self.B, len(self.spec.objectives), generator=self.g)
        ts.cost_BC = torch.randn(self.B, 1, generator=self.g)
        ts.final_obs_BNO, ts.final_state_BS, ts.final_avail_BNA = self._look()
        return ts

    def step(self):
        before = self.ts
        if self.spec.discrete:
            actions = torch.randint(4, (self.B, 2), generator=self.g)
        else:
            actions = torch.randn(self.B, 2, self.spec.n_actions, generator=self.g)
        extras = {
            "message": torch.randn(self.B, 2, 3, generator=self.g),
            "spoke": torch.rand(self.B, 2, generator=self.g) < 0.5,
        }
        self.left = [n - 1 for n in self.left]
        done = torch.tensor([n == 0 for n in self.left])
        cut = torch.rand(self.B, generator=self.g) < 0.5
        self.ts = ts = self._timestep(done & ~cut, done & cut)
        rewards = [v for v in (ts.reward_B, ts.agent_reward_BN, ts.reward_BK) if v is not None]
        for b in range(self.B):
            entry = dict(obs=before.obs_BNO[b], state=before.state_BS[b], avail=before.avail_BNA[b])
            entry |= dict(
                alive=before.alive_BN[b], action=actions[b], reward=rewards[0][b], cost=ts.cost_BC[b]
            )
            entry |= dict(terminated=bool(ts.terminated_B[b]), truncated=bool(ts.truncated_B[b]))
            entry |= {name: value[b] for name, value in extras.items()}
            self.running[b].append(entry)
            if done[b]:
                final = dict(obs=ts.final_obs_BNO[b], state=ts.final_state_BS[b], avail=ts.final_avail_BNA[b])
                self.finished.append([*self.running[b], final])
                self.running[b], self.left[b] = [], self.lengths()
        self.tape.put(Act(actions_BN=actions, carry={}, extras=extras), ts)


def stored(episodes, capacity):
    """The newest episodes that fit."""
    out, room = [], capacity
    for episode in reversed(episodes):
        room -= len(episode)
        if room < 0:
            break
        out.append(episode)
    return out[::-1]


def check_row(batch, b, entries, spec):
    """Row b of the batch holds these (episode, t) entries, then padding."""
    T = batch.filled_BT.shape[1]
    none = -1 if spec.discrete else 0.0
    for t in range(T):
        episode, at = entries[min(t, len(entries) - 1)]
        entry = episode[at]
        acted = "action" in entry and t < T - 1 and t < len(entries)
        assert bool(batch.filled_BT[b, t]) == acted
        torch.testing.assert_close(batch.obs_BTNO[b, t], entry["obs"], rtol=0, atol=0)
        torch.testing.assert_close(batch.state_BTS[b, t], entry["state"], rtol=0, atol=0)
        assert torch.equal(batch.avail_BTNA[b, t], entry["avail"])
        if "alive" in entry:
            assert torch.equal(batch.alive_BTN[b, t], entry["alive"])
        assert bool(batch.start_BT[b, t]) == (at == 0 and t < len(entries))
        last = episode[at - 1]["action"] if at else torch.full_like(episode[0]["action"], none)
        assert torch.equal(batch.last_actions_BTN[b, t], last)
        rewards = [v for v in (batch.reward_BT, batch.agent_reward_BTN, batch.reward_BTK) if v is not None]
        pairs = [
            (batch.actions_BTN, "action"),
            (rewards[0], "reward"),
            (batch.cost_BTC, "cost"),
            (batch.extras["message"], "message"),
            (batch.extras["spoke"], "spoke"),
        ]
        for got, name in pairs:
            want = entry[name] if acted else torch.zeros_like(episode[0][name])
            assert torch.equal(got[b, t], want), name
        for got, name in ((batch.terminated_BT, "terminated"), (batch.truncated_BT, "truncated")):
            assert bool(got[b, t]) == (acted and entry[name])


def find(episodes, obs):
    """(episode number, t) of the entry with this observation."""
    for e, episode in enumerate(episodes):
        for t, entry in enumerate(episode):
            if torch.equal(entry["obs"], obs):
                return e, t
    raise AssertionError("the memory returned an entry that was never stored")


def check_sample(memory, episodes, spec, seed, length, starts):
    batch = memory.sample(Rng(seed).stream("s", 1), 6, length, starts)
    assert not batch.filled_BT[:, -1].any()
    for b in range(6):
        e, t = find(episodes, batch.obs_BTNO[b, 0])
        assert t == 0 or starts == "any"
        assert batch.filled_BT[b, 0]
        after = [(episode, i) for episode in episodes[e:] for i in range(len(episode))][t:]
        entries = after[: len(episodes[e])] if length == 0 else after[:length]
        check_row(batch, b, entries, spec)
    if length:
        assert batch.filled_BT.shape == (6, length)


@settings(max_examples=40, deadline=None)
@given(
    B=st.integers(1, 4),
    capacity=st.integers(LIMIT + 1, 40),
    steps=st.integers(LIMIT, 40),
    seed=st.integers(0, 1000),
    length=st.sampled_from([0, 2, 4, 7, 13]),
    any_start=st.booleans(),
)
def test_ring_equals_list_of_episodes(B, capacity, steps, seed, length, any_start):
    spec = make_spec()
    layout = Layout.of(spec, EXTRAS)
    memory = Replay(layout, capacity, CPU)
    world = Noise(spec, layout, B, memory.append, seed)
    for _ in range(steps):
        world.step()
    episodes = stored(world.finished, capacity)
    assert memory.episodes == len(episodes)
    assert memory.entries == sum(map(len, episodes))
    starts = "any" if any_start and length else "episode"
    check_sample(memory, episodes, spec, seed, length, starts)

    copy = Replay(layout, capacity, CPU)
    segments = memory.segments()
    copy.load_state_dict(memory.state_dict(), lambda name: segments[name]())
    check_sample(copy, episodes, spec, seed, length, starts)
    assert copy.state_dict()["segments"] == list(segments)


@pytest.mark.parametrize(
    "changes",
    [
        {"reward": "agent"},
        {"reward": "vector", "objectives": ("x", "y")},
        {"action_spaces": (Box(low=(-1.0, -1.0), high=(1.0, 1.0)),) * 2},
        {"action_spaces": (Discrete(n=4), Discrete(n=300))},
        {"state_size": 0},
    ],
    ids=["agent", "vector", "box", "many actions", "no state"],
)
def test_other_worlds(changes):
    spec = make_spec(**changes)
    layout = Layout.of(spec, EXTRAS)
    memory = Replay(layout, 30, CPU)
    world = Noise(spec, layout, 2, memory.append)
    for _ in range(30):
        world.step()
    episodes = stored(world.finished, 30)
    check_sample(memory, episodes, spec, 0, 0, "episode")
    check_sample(memory, episodes, spec, 1, 9, "episode")


def filled_memory(capacity=60, steps=40, seed=0, **config):
    spec = make_spec()
    memory = MemoryConfig(capacity=capacity, **config).build(MemoryConfig(**config).layout(spec, EXTRAS), CPU)
    world = Noise(spec, memory.layout, 3, memory.append, seed)
    for _ in range(steps):
        world.step()
    return memory, world


def test_every_episode_is_equally_likely():
    memory, world = filled_memory(capacity=200)
    batch = memory.sample(Rng(0).stream("s", 1), 20_000, 2)
    episodes = stored(world.finished, 200)
    counts = torch.zeros(len(episodes))
    _, which = batch.obs_BTNO[:, 0].flatten(1).unique(dim=0, return_inverse=True)
    counts = which.bincount().float()
    assert len(counts) == len(episodes)
    expected = 20_000 / len(episodes)
    assert ((counts - expected).abs() < 5 * math.sqrt(expected)).all()


def test_every_transition_is_equally_likely_with_any_start():
    memory, world = filled_memory(capacity=60)
    batch = memory.sample(Rng(0).stream("s", 1), 20_000, 2, "any")
    actions = sum(len(episode) - 1 for episode in stored(world.finished, 60))
    _, which = batch.obs_BTNO[:, 0].flatten(1).unique(dim=0, return_inverse=True)
    counts = which.bincount().float()
    assert len(counts) == actions
    expected = 20_000 / actions
    assert ((counts - expected).abs() < 5 * math.sqrt(expected)).all()


def test_sampling_is_a_function_of_the_stream():
    memory, _ = filled_memory()
    stream = Rng(5).stream("sample", 1)
    first, again = (memory.sample(stream.fold(7), 4, 9) for _ in range(2))
    other = memory.sample(stream.fold(8), 4, 9)
    assert torch.equal(first.obs_BTNO, again.obs_BTNO)
    assert not torch.equal(first.obs_BTNO, other.obs_BTNO)


def test_float16_is_used_where_asked():
    full, _ = filled_memory()
    half, world = filled_memory(obs_dtype="float16")
    assert half.layout.fields["obs"].dtype == torch.float16
    assert half.layout.size < full.layout.size
    batch = half.sample(Rng(0).stream("s", 1), 3)
    assert batch.obs_BTNO.dtype == torch.float32
    obs = torch.stack([entry["obs"] for e in world.finished for entry in e]).half().float()
    assert all((obs == row).flatten(1).all(1).any() for row in batch.obs_BTNO[:, 0])
    states = torch.stack([entry["state"] for e in world.finished for entry in e])
    assert all((states == row).all(1).any() for row in batch.state_BTS[:, 0])


def test_max_gib_wins_and_says_so(caplog):
    layout = MemoryConfig().layout(make_spec(), EXTRAS)
    config = MemoryConfig(capacity=1000, max_gib=100.5 * layout.size / 2**30)
    with caplog.at_level(logging.WARNING, "marl.replay"):
        memory = config.build(layout, CPU)
    assert memory.capacity == 100
    assert memory.bytes <= config.max_gib * 2**30
    assert "holds 100 entries" in caplog.text
    caplog.clear()
    assert MemoryConfig(capacity=99, max_gib=config.max_gib).build(layout, CPU).capacity == 99
    assert not caplog.text


def test_too_small_a_memory_is_refused():
    layout = MemoryConfig().layout(make_spec(), EXTRAS)
    with pytest.raises(FieldError, match=r"^capacity=5 .*give 6 or more"):
        MemoryConfig(capacity=LIMIT).build(layout, CPU)
    with pytest.raises(FieldError, match=r"^max_gib="):
        MemoryConfig(max_gib=LIMIT * layout.size / 2**30).build(layout, CPU)
    with pytest.raises(FieldError, match=r"^obs_dtype='float64'"):
        MemoryConfig(obs_dtype="float64")


def test_segment_names_change_exactly_when_content_does(monkeypatch):
    monkeypatch.setattr("marl.replay._SEGMENT", 8)
    memory, world = filled_memory(capacity=50, steps=0)
    seen = {}
    for _ in range(60):
        world.step()
        now = {name: read()["records"] for name, read in memory.segments().items()}
        assert sum(len(rows) for rows in now.values()) == memory.entries
        for name, rows in now.items():
            assert torch.equal(seen.setdefault(name, rows), rows)
    assert memory.head > 3 * 50  # wrapped
    unchanged = set(memory.segments())
    world.step()
    kept = unchanged & set(memory.segments())
    assert len(kept) >= 4  # all parts but the oldest and the newest


def test_resume_goes_on_bit_for_bit_after_wrap():
    memory, world = filled_memory(capacity=50, steps=60)
    copy = Replay(memory.layout, 50, CPU)
    segments = memory.segments()
    copy.load_state_dict(memory.state_dict(), lambda name: segments[name]())
    world.tape._on_finish = lambda rows: (memory.append(rows), copy.append(rows))
    for k in range(30):
        world.step()
        stream = Rng(k).stream("s", 1)
        for length in (0, 11):
            a, b = memory.sample(stream, 5, length), copy.sample(stream, 5, length)
            assert torch.equal(a.obs_BTNO, b.obs_BTNO)
            assert torch.equal(a.filled_BT, b.filled_BT)
    assert memory.state_dict()["segments"] == copy.state_dict()["segments"]


def test_running_episodes_survive_a_reload():
    finished = []
    memory, world = filled_memory(steps=17)
    world.tape._on_finish = lambda rows: finished.append(rows.clone())
    copy = Tape(memory.layout, 3, LIMIT + 1, CPU)
    copy.load_state_dict(world.tape.state_dict())
    assert copy.at_B.any()  # the break falls within an episode
    again = []
    copy._on_finish = lambda rows: again.append(rows.clone())
    state, lengths = world.g.get_state(), list(world.left)
    running = [list(r) for r in world.running]
    for tape in (world.tape, copy):
        world.tape, world.left, world.running = tape, list(lengths), [list(r) for r in running]
        world.g.set_state(state)
        for _ in range(12):
            world.step()
    assert len(finished) == len(again) > 3
    assert all(torch.equal(a, b) for a, b in zip(finished, again, strict=True))


def test_foreign_content_is_refused_by_name():
    memory, _ = filled_memory()
    segments = memory.segments()

    def load(target, read=lambda name: segments[name]()):
        target.load_state_dict(memory.state_dict(), read)

    with pytest.raises(
        MarlError, match=r"'obs' is torch.float32\[2, 3\], this run's is torch.float32\[2, 4\]"
    ):
        load(Replay(Layout.of(make_spec(obs_size=4), EXTRAS), 60, CPU))
    with pytest.raises(MarlError, match=r"'state' .* torch.float16"):
        load(Replay(Layout.of(make_spec(), EXTRAS, state_dtype=torch.float16), 60, CPU))
    with pytest.raises(MarlError, match=r"'extra.message' .* absent"):
        load(Replay(Layout.of(make_spec(), {}), 60, CPU))
    with pytest.raises(MarlError, match="give capacity=60"):
        load(Replay(memory.layout, 20, CPU))
    with pytest.raises(MarlError, match=r"segment \d+-\d+ does not hold"):
        load(Replay(memory.layout, 60, CPU), lambda name: {"records": segments[name]()["records"][1:]})


def test_nothing_stored_yet():
    memory, _ = filled_memory(steps=0)
    with pytest.raises(MarlError, match="no finished episode yet"):
        memory.sample(Rng(0).stream("s", 1), 2)


def test_an_episode_beyond_the_limit_is_an_error():
    _, world = filled_memory(steps=0)
    world.left = [LIMIT + 2] * 3
    for _ in range(LIMIT):
        world.step()
    with pytest.raises(MarlError, match="ran past its episode_limit of 5 steps"):
        world.step()


def test_bits_round_trip():
    every_byte = torch.arange(256).unsqueeze(1).bitwise_right_shift(torch.arange(8)).bitwise_and(1).bool()
    packed = pack_bits(every_byte)
    assert packed.flatten().tolist() == list(range(256))
    assert torch.equal(unpack_bits(packed.to(torch.uint8)), every_byte)
