"""starcraft/<map> promises what battle/<map> promises, so that one checkpoint plays in both."""

import dataclasses
from pathlib import Path

import pytest
import torch

from marl import checkpoint, compose, conf
from marl.agents.qmix import Config as Qmix
from marl.envs.battle import Config as Battle
from marl.envs.battle.maps import SMAC
from marl.envs.starcraft import Config, StarCraft
from marl.errors import FieldError, MarlError
from marl.rng import Rng
from marl.types import EnvSpec

CPU = torch.device("cpu")
NAMES = list(SMAC)
OPTIONS = {
    "obs_last_action": True, "obs_pathing": True, "obs_height": True, "obs_timestep": True,
    "state_last_action": False, "state_timestep": True,
}  # fmt: skip


def test_all_maps_of_smac_are_there():
    assert len(NAMES) == 23


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["smac", "all"])
def test_the_spec_is_battles(name, options):
    ours = Config(map=name, **options).spec
    theirs = Battle(map=name, form="torch", **options).build(num_envs=1, device=CPU).spec
    for field in dataclasses.fields(EnvSpec):
        if field.name != "name":
            assert getattr(ours, field.name) == getattr(theirs, field.name), field.name
    assert (ours.name, theirs.name) == (f"starcraft/{name}", f"battle/{name}")


def test_aliases_match_the_maps():
    folder = Path(conf.__file__).parent / "env" / "starcraft"
    assert {file.stem for file in folder.iterdir()} == set(NAMES)
    for name in NAMES:
        text = (folder / f"{name}.yaml").read_text()
        assert text == f"_target_: marl.envs.starcraft.Config\nmap: {name}\n"
    one, two = compose.compose(["env=starcraft/8m"]), compose.compose(["env=starcraft", "env.map=8m"])
    assert one == two


@pytest.mark.parametrize("name", ["3m", "2s3z"])
def test_a_team_trained_in_battle_acts_in_starcraft(games, name, tmp_path):
    """The same checkpoint loads, and chooses the same actions where the units are the same."""
    battle = Battle(map=name, form="torch").build(num_envs=1, device=CPU)
    trained = Qmix().build(spec=battle.spec, device=CPU, rng=Rng(0))
    path = checkpoint.write(tmp_path, 1, {"agent": trained.state_dict()}, {}, info={})

    made = games(Config(map=name))
    env = StarCraft(made.game.config, players=[made.game], device=CPU)
    agent = Qmix().build(spec=env.spec, device=CPU, rng=Rng(1))
    agent.load_state_dict(checkpoint.read(path).state["agent"])
    ts = env.reset(Rng(0))
    twin = {k: v.clone() for k, v in made.fakes[0].state.items()}
    battle.load_state_dict(battle.state_dict() | twin)
    seen = battle.observe()
    carries = [trained.initial_carry(1), agent.initial_carry(1)]
    stream = Rng(0).stream("act", 1)
    for _ in range(20):
        there = trained.act(seen, carries[0], rng=stream, explore=0.0)
        here = agent.act(ts, carries[1], rng=stream, explore=0.0)
        assert torch.equal(there.actions_BN, here.actions_BN)
        assert ts.avail_BNA.gather(-1, here.actions_BN[..., None]).all()
        carries = [there.carry, here.carry]
        ts, seen = env.step(here.actions_BN), battle.step(there.actions_BN)
        assert torch.equal(ts.done_B, seen.done_B)
        if ts.done_B:
            break
    env.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_envs", 0), ("difficulty", "B"), ("difficulty", ""), ("step_mul", 0), ("map", "v2/terran_5v5")],
)
def test_bad_settings_name_the_field(field, value):
    with pytest.raises(FieldError, match=rf"^{field}={value!r} "):
        Config(**{field: value})


def test_an_unknown_map_lists_close_names():
    with pytest.raises(MarlError, match="map='3n' is no battle map: did you mean 3m"):
        Config(map="3n")
