"""Words of a command line become runs and job lists."""

from pathlib import Path

import pytest

from marl import compose
from marl.errors import FieldError, MarlError


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0-9", list(range(10))),
        ("0,3,5", [0, 3, 5]),
        ("0-2,7", [0, 1, 2, 7]),
        ("4", [4]),
        ("1,1,0-2", [1, 0, 2]),
        (5, [5]),
    ],
)
def test_seeds(text: str | int, seeds: list[int]) -> None:
    assert compose.parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1-", "0-99999", "1.5", "0..3"])
def test_wrong_seeds(text: str) -> None:
    with pytest.raises(FieldError, match="seeds="):
        compose.parse_seeds(text)


def test_an_alias_and_its_map_are_the_same_run() -> None:
    one, two = compose.compose(["env=battle/8m"]), compose.compose(["env=battle", "env.map=8m"])
    assert one == two
    assert one.run_id == two.run_id
    assert one.run_id.startswith("qmix-battle_8m-s0-")


def test_the_last_of_two_overrides_wins() -> None:
    cfg = compose.compose(["env=battle/8m", "seed=1", "env=battle/3m", "agent=vdn", "seed=2", "agent=iql"])
    assert (cfg.env.map, cfg.seed) == ("3m", 2)
    assert type(cfg.agent).__module__ == "marl.agents.iql"


def test_settings_that_no_yaml_lists_can_be_given() -> None:
    assert compose.compose(["agent.gamma=0.9"]).agent.gamma == 0.9
    assert compose.compose(["logger.project=mine"]).logger.project == "mine"


@pytest.mark.parametrize("path", ["/tmp/a=b/c", "/tmp/it's/x", "../up", "a b", "~/runs", "x=1,y=2", "12e4"])
def test_paths_are_taken_literally(path: str) -> None:
    assert compose.compose([f"runs_dir={path}"]).runs_dir == Path(path)


def test_nothing_is_written_while_composing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compose.compose([])
    assert list(tmp_path.iterdir()) == []


def test_sweeps_and_seeds_expand_into_one_job_list() -> None:
    jobs = compose.expand(
        ["agent=vdn,qmix", "total_steps=range(1,3)", "runs_dir=/a=b"], seeds="0-1", multirun=True
    )
    assert len(jobs) == 8
    assert jobs[0] == ["agent=vdn", "total_steps=1", "seed=0", "runs_dir=/a=b"]
    assert jobs[-1] == ["agent=qmix", "total_steps=2", "seed=1", "runs_dir=/a=b"]
    assert compose.expand(["agent=vdn"]) == [["agent=vdn"]]


def test_several_values_without_m_say_so() -> None:
    for call in (lambda: compose.expand(["agent=vdn,qmix"]), lambda: compose.compose(["agent=vdn,qmix"])):
        with pytest.raises(MarlError, match="agent has several values: add -m"):
            call()
    with pytest.raises(MarlError, match="an interval has no list of values"):
        compose.expand(["agent.lr=interval(0,1)"], multirun=True)


def test_every_option_of_every_group_composes() -> None:
    """Each YAML names a Config that exists, with fields it has."""
    target = ["env.target=package.module:factory"]
    data = ["loop.data=runs/any"]
    offline = ("offline", "transitions", "episodes", "fairdice", "bc", "decision_transformer")
    doors = ("pettingzoo", "gymnasium", "mo_gymnasium")
    needed = dict.fromkeys(doors, target) | dict.fromkeys(offline, data)
    needed |= {name: ["agent=ac"] for name in ("ablation", "message_dropout")}
    for group in compose.GROUPS:
        for name in compose.options(group):
            cfg = compose.compose([f"{group}={name}", *needed.get(name, [])])
            if group == "agent":
                assert f"agents.{name}" in type(cfg.agent).__module__, name
            if group in ("sparsity", "defence"):
                assert (getattr(cfg.agent, group) is None) == (name == "none"), name


def test_swept_settings_are_named_as_they_were_typed():
    jobs = compose.expand(["agent=vdn", "agent.gamma=0.9,0.95", "env.map=3m", "env=battle"], multirun=True)
    assert [job[1] for job in jobs] == ["agent.gamma=0.9", "agent.gamma=0.95"]
    assert all(word[0] != "+" for job in jobs for word in job)
    assert [compose.compose(job).agent.gamma for job in jobs] == [0.9, 0.95]


def test_a_run_with_each_seed_equals_the_run_composed_with_it():
    words = ["agent=vdn", "env=matrix_game", "total_steps=40"]
    made = compose.with_seeds(words, [3, 5])
    assert made == [compose.compose([*words, f"seed={seed}"]) for seed in (3, 5)]
    assert [cfg.run_id for cfg in compose.with_seeds([*words, "run_id=mine"], [3])] == ["mine"]
