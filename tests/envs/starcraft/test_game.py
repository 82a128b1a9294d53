"""Whole episodes against a stand-in of the game: orders, deaths, rewards, ends, restarts, crashes."""

import logging

import pytest
import torch

from marl.agents.qmix import Config as Qmix
from marl.envs.battle.rules import TorchForm
from marl.envs.starcraft import Config, StarCraft
from marl.errors import MarlError
from marl.evaluate import evaluate
from marl.rng import Rng

CPU = torch.device("cpu")


def choose(avail_NA, generator, attack=0.7):
    """Attack or heal if possible, mostly; else anything legal."""
    weight = torch.rand(avail_NA.shape, generator=generator)
    weight[:, 6:] += attack
    weight[:, 4] += 0.4
    return ((weight + 0.01) * avail_NA).argmax(-1)


def copied(state):
    return {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize(
    ("config", "episodes"),
    [
        (Config(map="3m"), 3),
        (Config(map="2s3z", reward="signed", obs_last_action=True, obs_timestep=True), 1),
        (Config(map="MMM", state_timestep=True), 1),
        (Config(map="corridor", reward="clamp", obs_pathing=True), 1),
        (Config(map="so_many_baneling", reward="sparse"), 2),
    ],
    ids=lambda value: value.map if isinstance(value, Config) else None,
)
def test_an_episode_equals_the_same_fight_in_battle(games, config, episodes):
    """The stand-in has battle's physics: every observation, reward and end must be battle's own."""
    made = games(config)
    env = StarCraft(config, players=[made.game], device=CPU)
    ts = env.reset(Rng(0))
    fake = made.fakes[0]
    battle = TorchForm(config.battle, fake.tables, CPU)
    keys = {"key_B": torch.zeros(1, dtype=torch.int64), "episode_B": torch.zeros(1, dtype=torch.int64)}
    twin = copied(fake.state) | keys
    generator, ends, steps = torch.Generator().manual_seed(1), [], 0
    total = 0.0
    while len(ends) < episodes:
        actions = choose(ts.avail_BNA[0], generator)[None]
        expected = battle.step(twin, actions)
        ts = env.step(actions)
        steps += 1
        total += float(ts.reward_B)
        for name in ("reward_B", "final_obs_BNO", "final_state_BS"):
            torch.testing.assert_close(getattr(ts, name), getattr(expected, name), rtol=0, atol=1e-6)
        assert torch.equal(ts.final_avail_BNA, expected.final_avail_BNA)
        for name in ("terminated_B", "truncated_B"):
            assert torch.equal(getattr(ts, name), getattr(expected, name)), name
        for name, value in ts.info.items():
            assert torch.equal(value, expected.info[name]), name
        if ts.done_B:
            ends.append((bool(ts.info["success"]), round(total, 3)))
            total, steps = 0.0, 0
            assert ts.t_B == 0
            assert len(made.fakes) == 1  # the same process plays on
            twin = copied(fake.state) | keys
            assert ts.alive_BN.all()
        assert int(ts.t_B) == steps
    kinds = [name for name, _ in made.log]
    assert kinds.count("debug") == episodes  # every next episode begins by killing all
    assert kinds.count("create_game") == 1
    env.close()
    assert fake.closed


def test_all_ends_are_met(games):
    """Win, loss and time limit with SMAC's rewards, hand-computed."""
    config = Config(map="3m")
    made = games(config)
    frame = made.game.begin(3)
    fake = made.fakes[0]
    # far apart, so that nobody shoots in the step
    fake.state["pos_BU2"][0, :, 0] = torch.tensor([2.0, 2, 2, 30, 30, 30])
    fake.state["goal_B2"] = fake.state["pos_BU2"][:, 3]
    stop = [1, 1, 1]
    frame = made.game.step(stop)
    assert (frame.reward, frame.done) == (0.0, False)
    fake.state["hp_BU"][0, 3:5] = torch.tensor([20.0, 0.0])  # 25 points of damage, and one enemy of 45 dead
    frame = made.game.step(stop)
    assert frame.reward == pytest.approx((25 + 45 + 10) / (365 / 20))
    assert (frame.dead_allies, frame.dead_enemies, frame.done) == (0, 1, False)
    assert frame.state_S[12 + 3 : 12 + 6].tolist() == [0, 0, 0]  # the dead enemy's place in the state
    fake.state["hp_BU"][0, 0] = 0.0  # an ally falls: no reward in the default, the dead may do nothing else
    frame = made.game.step(stop)
    assert frame.reward == 0.0
    assert frame.avail_NA[0].tolist() == [True] + [False] * 8
    assert frame.obs_NO[0].abs().sum() == 0
    fake.state["hp_BU"][0, 3:] = 0.0
    frame = made.game.step([0, 1, 1])
    assert frame.reward == pytest.approx((20 + 45 + 20 + 200) / (365 / 20))
    assert (frame.terminated, frame.success, frame.dead_enemies) == (True, True, 3)
    sent = made.log[-1][1]
    assert len(sent.actions) == 2  # none for the dead

    frame = made.game.again()
    assert not frame.done
    fake.state["hp_BU"][0, :3] = 0.0
    frame = made.game.step(stop)
    assert (frame.terminated, frame.success, frame.reward) == (True, False, 0.0)

    made.game.again()
    fake.state["pos_BU2"][0, :, 0] = torch.tensor([2.0, 2, 2, 30, 30, 30])
    fake.state["goal_B2"] = fake.state["pos_BU2"][:, 3]
    for t in range(1, 61):
        frame = made.game.step(stop)
        assert frame.terminated == (t == 60)
    assert (frame.truncated, frame.success) == (False, False)


def test_the_limit_truncates_where_asked(games):
    config = Config(map="3m", continuing_episode=True)
    made = games(config)
    made.game.begin(0)
    made.fakes[0].state["pos_BU2"][0, :, 0] = torch.tensor([2.0, 2, 2, 30, 30, 30])
    made.fakes[0].state["goal_B2"] = made.fakes[0].state["pos_BU2"][:, 3]
    frames = [made.game.step([1, 1, 1]) for _ in range(60)]
    assert [f.truncated for f in frames] == [False] * 59 + [True]
    assert not frames[-1].terminated


def test_orders_are_smacs(games, modules):
    """Stop, four moves, attack and heal with abilities, tags and targets, read off the wire."""
    made = games(Config(map="MMM"))
    made.game.begin(0)
    fake = made.fakes[0]
    n = fake.map.n_allies
    centre = torch.tensor([16.0, 16.0])
    fake.state["pos_BU2"] = centre + torch.arange(20)[None, :, None] * 0.1  # all within reach of all
    made.game.step([1] * n)
    here = fake.state["pos_BU2"][0].clone()
    made.game.step([1, 2, 3, 4, 5, 6, 6 + 9, 6 + 2, 1, 6 + 3])
    commands = [action.action_raw.unit_command for action in made.log[-1][1].actions]
    assert [c.ability_id for c in commands] == [4, 16, 16, 16, 16, 23, 23, 23, 4, 386]
    assert [list(c.unit_tags) for c in commands] == [[tag] for tag in fake.tags[:n]]
    assert not any(c.queue_command for c in commands)
    for i, (dx, dy) in enumerate([(0, 2), (0, -2), (2, 0), (-2, 0)], start=1):
        place = commands[i].target_world_space_pos
        assert (place.x, place.y) == pytest.approx((float(here[i, 0]) + dx, float(here[i, 1]) + dy), abs=1e-5)
    targets = [c.target_unit_tag for c in commands[5:8]]
    assert targets == [fake.tags[n], fake.tags[n + 9], fake.tags[n + 2]]
    assert commands[9].target_unit_tag == fake.tags[3]  # the medivac heals its mate 3


def test_the_game_is_created_as_smac_does(games, modules):
    made = games(Config(map="2m_vs_1z", difficulty="A"))
    made.game.begin(5)
    create, join = (next(r for name, r in made.log if name == kind) for kind in ("create_game", "join_game"))
    api, common = modules.api, modules.common
    assert create.local_map.map_path == "SMAC_Maps/2m_vs_1z.SC2Map"
    assert create.local_map.map_data == b"map of 2m_vs_1z"
    assert not create.realtime
    us, them = create.player_setup
    assert (us.type, them.type) == (api.Participant, api.Computer)
    assert (them.race, them.difficulty) == (common.Protoss, api.CheatInsane)
    assert join.race == common.Terran
    assert join.options.raw
    assert not join.options.score
    assert Config().difficulty == "7"
    assert api.VeryHard == 7
    other = games(Config(map="2m_vs_1z"))
    other.game.begin(6)
    assert other.log[1][1].random_seed != create.random_seed


def test_an_unavailable_action_is_carried_out_as_stop(games):
    made = games(Config(map="3m"))
    frame = made.game.begin(0)
    assert not frame.avail_NA[:, 6:].any()  # nobody in range at the start
    frame = made.game.step([6, 0, 99])
    commands = [action.action_raw.unit_command for action in made.log[-1][1].actions]
    assert [c.ability_id for c in commands] == [4, 4, 4]
    last = frame.state_S[-27:].reshape(3, 9)
    assert last[0].tolist() == [0.0] * 6 + [1, 0, 0]  # what was chosen, as battle has it


def test_games_do_not_depend_on_how_many_run_beside(games):
    config = Config(map="3m")
    alone = StarCraft(config, players=[games(config).game], device=CPU)
    many = StarCraft(config, players=[games(config).game for _ in range(3)], device=CPU)
    ts, other = alone.reset(Rng(2)), many.reset(Rng(2))
    generator, different = torch.Generator().manual_seed(0), False
    for _ in range(40):
        actions = choose(ts.avail_BNA[0], generator)[None]
        ts, other = alone.step(actions), many.step(actions.expand(3, -1).contiguous())
        for name, value in ts.state_dict().items():
            assert torch.equal(value, other.state_dict()[name][:1]), name
        different |= not torch.equal(other.obs_BNO[0], other.obs_BNO[1])
    assert different
    alone.close()
    many.close()


@pytest.mark.parametrize("request_name", ["action", "step", "observation"])
def test_a_crash_cuts_the_episode_and_starts_a_new_game(games, caplog, request_name):
    config = Config(map="3m")
    made = games(config)
    env = StarCraft(config, players=[made.game], device=CPU)
    ts = env.reset(Rng(0))
    ts = env.step(torch.ones(1, 3, dtype=torch.int64))
    seen = ts.obs_BNO.clone()
    made.fakes[0].die_at = request_name
    with caplog.at_level(logging.WARNING):
        ts = env.step(torch.ones(1, 3, dtype=torch.int64))
    assert (bool(ts.truncated_B), bool(ts.terminated_B), float(ts.reward_B)) == (True, False, 0.0)
    assert torch.equal(ts.final_obs_BNO, seen)
    assert not ts.info["success"]
    assert "env 0: StarCraft II ended" in caplog.text
    assert "a new game starts" in caplog.text
    assert len(made.fakes) == 2
    assert made.fakes[0].closed
    assert made.fakes[1].seed != made.fakes[0].seed  # or it would die the same death again
    assert not env.step(torch.ones(1, 3, dtype=torch.int64)).done_B
    env.close()


def test_a_game_that_dies_between_episodes_is_replaced(games):
    made = games(Config(map="3m"))
    made.game.begin(0)
    made.fakes[0].die_at = "debug"
    assert not made.game.again().done
    assert len(made.fakes) == 2


def test_a_game_that_always_dies_ends_the_run(games):
    def kill(fake):
        fake.die_at = "game_info"

    made = games(Config(map="3m"), kill)
    with pytest.raises(MarlError, match=r"env 0: StarCraft II ended 3 times in a row .*: start its SC2_x64"):
        made.game.begin(0)
    assert len(made.fakes) == 3


def test_a_refused_map_is_one_sentence(games):
    def refuse(fake):
        fake.refuse = True

    made = games(Config(map="3m"), refuse)
    with pytest.raises(MarlError, match=r"refuses the map .*3m.SC2Map: .*InvalidMapData"):
        made.game.begin(0)


def test_another_map_under_the_name_is_one_sentence(games):
    def shrink(fake):
        fake.encode = lambda state, scenario, tags, old=fake.encode: old(state, scenario, tags)[1:]

    def disguise(fake):
        def other(state, scenario, tags, old=fake.encode):
            units = old(state, scenario, tags)
            units[-1].unit_type = 74
            return units

        fake.encode = other

    made = games(Config(map="3m"), shrink)
    with pytest.raises(MarlError, match="made no 3 allies and 3 enemies"):
        made.game.begin(0)
    made = games(Config(map="3m"), disguise)
    with pytest.raises(MarlError, match=r"holds the enemies .*stalker.*, not .*marine.: 3"):
        made.game.begin(0)


def test_a_loaded_run_cuts_the_episodes_and_goes_on(games):
    config = Config(map="3m")
    env = StarCraft(config, players=[games(config).game], device=CPU)
    ts = env.reset(Rng(0))
    for _ in range(5):
        ts = env.step(torch.full((1, 3), 4))
    saved, shown = env.state_dict(), ts.obs_BNO.clone()
    env.close()

    made = games(config)
    other = StarCraft(config, players=[made.game], device=CPU)
    other.load_state_dict(saved)
    ts = other.step(torch.full((1, 3), 4))
    assert bool(ts.truncated_B)
    assert float(ts.reward_B) == 0.0
    assert torch.equal(ts.final_obs_BNO, shown)
    assert int(ts.t_B) == 0
    assert not torch.equal(ts.obs_BNO, shown)
    assert not other.step(torch.full((1, 3), 4)).done_B
    with pytest.raises(MarlError, match="give its num_envs"):
        other.load_state_dict({"key_B": torch.zeros(2, dtype=torch.int64)})
    with pytest.raises(MarlError, match=r"give int64 \(1, 3\)"):
        other.step(torch.zeros(1, 3))
    other.close()


def test_an_evaluation_runs_few_games_at_a_time(games, monkeypatch):
    """The games of a batch have ended before those of the next begin."""
    config, made = Config(map="3m", max_envs=2), []

    def build(self, *, num_envs, device, threads=1):
        assert all(fake.closed for each in made for fake in each.fakes)
        batch = [games(config) for _ in range(num_envs)]
        made.extend(batch)
        return StarCraft(config, players=[each.game for each in batch], device=device)

    monkeypatch.setattr(Config, "build", build)
    agent = Qmix(hidden=8).build(spec=config.spec, rng=Rng(0), device=CPU)
    measured = evaluate(agent, config, episodes=3, rng=Rng(0, "e"), device=CPU, threads=1, explore=1.0)
    assert len(measured.lists()["success"]) == 3
    assert len(made) == 3
    assert all(fake.closed for each in made for fake in each.fakes)
    again = evaluate(agent, config, episodes=3, rng=Rng(0, "e"), device=CPU, threads=1, explore=1.0, batch=3)
    assert again.lists() == measured.lists()


def test_pictures(games):
    config = Config(map="MMM")
    env = StarCraft(config, players=[games(config).game], device=CPU)
    env.reset(Rng(0))
    first = env.render()
    env.step(torch.full((1, 10), 4))
    second = env.render()
    assert first.shape == second.shape
    assert first.dtype == second.dtype
    assert first.std() > 10
    assert (first != second).any()
    env.close()
