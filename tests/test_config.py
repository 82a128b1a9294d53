"""Config nodes become typed dataclasses, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from marl import config
from marl.errors import FieldError, MarlError, require

HERE = __name__.split(".")[0]  # the package of these classes, as `_target_` names it
TARGET = f"{__name__}.Widget"


@dataclass(kw_only=True)
class Inner:
    size: int = 3

    def __post_init__(self) -> None:
        require(self.size > 0, "size", self.size, "give 1 or more")


@dataclass(kw_only=True)
class Widget:
    """Every kind of annotation that a Config may use."""

    whole: int
    real: float = 0.5
    flag: bool = False
    text: str = "a"
    place: Path = Path("x")
    kind: Literal["a", "b"] = "a"
    maybe: float | None = None
    either: int | str = 1
    numbers: tuple[int, ...] = (1, 2)
    pair: tuple[float, str] = (1.0, "b")
    names: list[str] = field(default_factory=list)
    table: Mapping[str, int] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    later: float = field(default=2.0, metadata=config.QUIET)


def make(**values: Any) -> Widget:
    made = config.make({"_target_": TARGET, **values}, trust=[HERE], where="w")
    assert isinstance(made, Widget)
    return made


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("whole", 1e6, 1_000_000),
        ("real", 2, 2.0),
        ("place", "a/b", Path("a/b")),
        ("maybe", None, None),
        ("maybe", 3, 3.0),
        ("either", "x", "x"),
        ("numbers", [4, 5, 6], (4, 5, 6)),
        ("pair", [1, "x"], (1.0, "x")),
        ("names", ["x"], ["x"]),
        ("table", {"x": 1}, {"x": 1}),
        ("inner", {"size": 9}, Inner(size=9)),
    ],
)
def test_values_take_the_annotated_type(name: str, given: Any, value: Any) -> None:
    made = getattr(make(**{"whole": 1, name: given}), name)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("whole", 1.5, "w.whole=1.5 cannot be used: give a whole number"),
        ("whole", True, "w.whole=True cannot be used: give a whole number"),
        ("whole", float("nan"), "w.whole=nan cannot be used"),
        ("whole", float("inf"), "w.whole=inf cannot be used"),
        ("whole", "???", "w.whole is missing: give w.whole=<a whole number>"),
        ("real", "abc", "w.real='abc' cannot be used: give a number"),
        ("flag", 1, "w.flag=1 cannot be used: give true or false"),
        ("text", 3, "w.text=3 cannot be used: give text"),
        ("kind", "c", "w.kind='c' cannot be used: give a or b"),
        ("maybe", "x", "w.maybe='x' cannot be used: give a number"),
        ("either", [1], "w.either=[1] cannot be used: give a whole number or text"),
        ("numbers", 3, r"w.numbers=3 cannot be used: give a list [a whole number, ...]"),
        ("numbers", [1, "x"], "w.numbers[1]='x' cannot be used: give a whole number"),
        ("pair", [1], "w.pair=[1] cannot be used: give 2 values"),
        ("table", {"x": "y"}, "w.table.x='y' cannot be used: give a whole number"),
        ("inner", 3, "w.inner=3 cannot be used: give a mapping with size"),
        ("inner", {"sise": 3}, "did you mean w.inner.size?"),
        ("inner", {"size": 0}, "w.inner.size=0 cannot be used: give 1 or more"),
        ("wole", 3, "w.wole is not a setting of"),
        ("wole", 3, "did you mean w.whole?"),
        ("zzz", 3, "valid names are either, flag, inner"),
    ],
)
def test_wrong_values_are_one_sentence(name: str, given: Any, words: str) -> None:
    with pytest.raises(MarlError) as caught:
        make(**{"whole": 1, name: given})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("os.system", "only marl.* may be named; add trust=[os]"),
        ("subprocess.Popen", "only marl.* may be named"),
        ("marl.files.os.system", "there is no module marl.files.os"),
        ("marl.files.remove_folder", "has no dataclass remove_folder"),
        ("marl.files.Path", "has no dataclass Path"),
        ("marl.nowhere.Config", "there is no module marl.nowhere"),
        ("marl.config", "has no dataclass config"),
        ("marl", "give a dotted path"),
        ("__import__('os').system", "give a dotted path"),
        (3, "give a dotted path"),
    ],
)
def test_targets_name_trusted_dataclasses_only(target: Any, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        config.make({"_target_": target, "command": "touch /tmp/never"})
    assert words in str(caught.value)


def test_a_foreign_dataclass_that_a_trusted_module_imported_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import marl.config

    monkeypatch.setattr(marl.config, "Foreign", Widget, raising=False)
    with pytest.raises(FieldError, match="which is not trusted"):
        config.make({"_target_": "marl.config.Foreign", "whole": 1})


def test_unmake_is_the_inverse_of_make() -> None:
    made = make(whole=3, maybe=1.5, inner={"size": 4}, place="a/b", numbers=[7])
    node = config.unmake(made)
    assert node["inner"] == {"size": 4}
    assert config.make(node, trust=[HERE]) == made


def run_config(**changes: Any) -> config.RunConfig:
    part = {"_target_": TARGET, "whole": 1}
    return config.load({"env": part, "agent": part, "loop": part, **changes}, trust=[HERE])


def test_a_stored_config_comes_back_equal() -> None:
    cfg = run_config(seed=3, total_steps=1e5, evaluation={"episodes": 4})
    assert config.load(cfg.to_dict(), trust=[HERE]) == cfg
    assert config.load(cfg.to_dict(), trust=[HERE]).hash == cfg.hash


def test_a_stored_config_cannot_trust_for_itself() -> None:
    stored = run_config().to_dict()
    assert stored["trust"] == [HERE]
    with pytest.raises(FieldError, match=r"env\._target_=.*only marl\.\* may be named"):
        config.load(stored)


def test_the_hash_follows_what_shapes_the_numbers_and_nothing_else() -> None:
    base = run_config()
    for same in ({"seed": 5}, {"run_id": "b"}, {"runs_dir": "elsewhere"}, {"checkpoint": {"keep": 3}}):
        assert run_config(**same).hash == base.hash
    other_env = {"env": {"_target_": TARGET, "whole": 2}}
    for other in (
        {"threads": 3},
        {"num_envs": 3},
        {"total_steps": 5},
        {"evaluation": {"episodes": 2}},
        other_env,
    ):
        assert run_config(**other).hash != base.hash


def test_a_field_that_came_later_leaves_no_trace_at_its_default() -> None:
    base = run_config()
    assert "later" not in base.to_dict()["env"]
    assert run_config(env={"_target_": TARGET, "whole": 1, "later": 2}).hash == base.hash
    changed = run_config(env={"_target_": TARGET, "whole": 1, "later": 3})
    assert changed.hash != base.hash
    assert config.load(changed.to_dict(), trust=[HERE]) == changed


def test_run_ids_are_deterministic_readable_and_start_with_a_letter() -> None:
    cfg = run_config(seed=7)
    assert cfg.run_id == run_config(seed=7).run_id == f"test_config-test_config-s7-{cfg.hash[:8]}"
    for bad in ("12e45678", "a/b", "../a", "-a", "a" * 200, ".hidden"):
        with pytest.raises(FieldError, match="run_id"):
            run_config(run_id=bad)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sed": 1}, "sed is not a setting of a run: did you mean seed?"),
        ({"seed": -1}, "seed=-1 cannot be used"),
        ({"threads": 0}, "threads=0 cannot be used: give 1 or more"),
        ({"num_envs": 0}, "num_envs=0"),
        ({"total_steps": 0.5}, "total_steps=0.5 cannot be used: give a whole number"),
        ({"device": "tpu"}, "device='tpu' cannot be used: give cpu, cuda or cuda:<index>"),
        ({"env": None}, "env has no _target_"),
        ({"evaluation": {"episodes": 0}}, "evaluation.episodes=0 cannot be used: give 1 or more"),
        ({"checkpoint": {"evry_steps": 1}}, "did you mean checkpoint.every_steps?"),
        ({"logger": {"_target_": "marl.loggers.Config", "wandb": "x"}}, "logger.wandb='x' cannot be used"),
    ],
)
def test_run_settings_are_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MarlError) as caught:
        run_config(**change)
    assert words in str(caught.value)
