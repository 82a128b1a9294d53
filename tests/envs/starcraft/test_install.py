"""One sentence for everything that may be missing."""

import pytest
import torch

from marl.envs.starcraft import Config, check, imports
from marl.errors import MarlError
from marl.rng import Rng

CPU = torch.device("cpu")


def install(folder, *, build=75689, maps=("3m",)):
    """What the game's folder looks like, without the game."""
    program = folder / "Versions" / f"Base{build}" / "SC2_x64"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nsleep 0.5\nexit 3\n")
    program.chmod(0o755)
    for name in maps:
        file = folder / "Maps" / "SMAC_Maps" / f"{name}.SC2Map"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def build(**options):
    return Config(engine="pysc2", **options).build(num_envs=1, device=CPU)


def test_without_pysc2(monkeypatch):
    monkeypatch.setattr(imports.importlib.util, "find_spec", lambda name: None)
    sentence = "pysc2 is not installed: pip install 'marl-suite[starcraft]'"
    assert check() == (False, sentence)
    with pytest.raises(MarlError) as raised:
        build()
    assert str(raised.value) == sentence


def test_without_the_game(modules, monkeypatch, tmp_path):
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    usable, sentence = check()
    assert not usable
    assert sentence.startswith(
        f"StarCraft II is not in {tmp_path}: install it from https://github.com/Blizzard/"
    )
    assert "set SC2PATH to its folder" in sentence
    with pytest.raises(MarlError) as raised:
        build()
    assert str(raised.value) == sentence


def test_without_smacs_maps(modules, monkeypatch, tmp_path):
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    install(tmp_path, maps=())
    missing = rf"^SMAC's map .*3m\.SC2Map is missing: unzip https://.*SMAC_Maps\.zip into {tmp_path}/Maps$"
    with pytest.raises(MarlError, match=missing):
        build()
    assert not check().usable
    install_maps = tmp_path / "Maps" / "SMAC_Maps"
    install_maps.mkdir(parents=True)
    (install_maps / "3m.SC2Map").write_bytes(b"")
    assert check().usable
    with pytest.raises(MarlError, match=r"8m\.SC2Map is missing"):
        build(map="8m")


def test_with_all_of_it(modules, monkeypatch, tmp_path):
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    install(tmp_path)
    usable, sentence = check()
    assert usable
    assert sentence == f"StarCraft II latest in {tmp_path} through pysc2"
    assert check("4.10.0").sentence == f"StarCraft II 4.10.0 in {tmp_path} through pysc2"
    assert check("4.6.2").sentence.startswith(f"game_version='4.6.2' is not in {tmp_path} (")
    env = build()  # starts nothing yet
    assert env.spec.name == "starcraft/3m"
    env.close()


def test_a_program_that_ends_at_once_is_one_sentence(modules, monkeypatch, tmp_path):
    """Through pysc2's own launcher; the program of the installed folder is a script that exits."""
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    install(tmp_path)
    env = build()
    with pytest.raises(MarlError, match=r"^env 0: StarCraft II ended 3 times in a row \(ConnectError: "):
        env.reset(Rng(0))
    env.close()
    (tmp_path / "Versions" / "Base75689" / "SC2_x64").unlink()
    with pytest.raises(MarlError, match=r"^StarCraft II does not start: No SC2 binary found at"):
        build().reset(Rng(0))


def test_smacs_door_where_it_is_missing(modules):
    with pytest.raises(MarlError, match=r"engine='smac' cannot be used: smac.env.StarCraft2Env is missing"):
        Config(engine="smac").build(num_envs=1, device=CPU)
