"""The arithmetic of the benchmarks on rows made by hand, and the workers on tiny cases."""

import sys
from pathlib import Path

import pytest

from experiments.benchmarks import env, interleave, machine, memory, peers, time_to_win, train
from experiments.benchmarks.interleave import Worker
from marl.errors import MarlError


def rows(side: str, rates: list[float], **about: object) -> list[dict]:
    return [
        {**about, "side": side, "repetition": i, "steps": 2 * rate, "seconds": 2.0}
        for i, rate in enumerate(rates)
    ]


def test_ratio_is_of_medians_and_its_ends_are_of_turns() -> None:
    both = rows("a", [10, 30, 20]) + rows("b", [2, 5, 4])
    assert interleave.ratios(both, "a", "b") == (5.0, 5.0, 6.0, 3)


def test_env_claims_take_the_worse_batch_size(tmp_path: Path) -> None:
    raw = tmp_path / "env.csv"
    data = rows("native 2", [100] * 5, map="3m", envs=1024) + rows("jaxmarl", [10] * 5, map="3m", envs=1024)
    data += rows("native 2", [90] * 5, map="3m", envs=4096) + rows("jaxmarl", [20] * 5, map="3m", envs=4096)
    data += rows("native 2", [60, 50, 70, 80, 90], map="3m", envs=16) + rows(
        "native 1", [1] * 5, map="3m", envs=16
    )
    interleave.write_rows(raw, data)
    assert env.ratio_3m(raw) == (4.5, 4.5, 4.5, 5)
    assert env.steps_b16_3m(raw) == (70, 50, 90, 5)


def test_train_ratio_takes_the_worse_mixer(tmp_path: Path) -> None:
    raw = tmp_path / "train.csv"
    data = []
    for mixer, ours in (("pymarl", 40), ("jaxmarl", 30)):
        data += rows("marl", [ours] * 5, map="3m", mixer=mixer) + rows(
            "jaxmarl", [20] * 5, map="3m", mixer=mixer
        )
    data += rows("marl", [1] * 5, map="2s3z", mixer="pymarl") + rows(
        "jaxmarl", [9] * 5, map="2s3z", mixer="pymarl"
    )
    interleave.write_rows(raw, data)
    assert train.ratio(raw) == (1.5, 1.5, 1.5, 5)


def test_flops_of_one_update_by_hand() -> None:
    """One agent, one input beside its id, one action, one state feature; layers written out."""
    facts = {"agents": 1, "obs": 0, "actions": 1, "state": 1}
    H, E, D = 64, 32, 64
    agent_first, agent_rest = 2 * H, 3 * H * H + 3 * H * H + H * 1  # inputs: last action and id; GRU; head
    mixer_first = D + D + E + E  # hidden layers of w1 and w2, b1, hidden layer of b2
    mixer_rest = D * E + D * E + E  # outputs of w1 (one agent), w2 and b2
    macs = 3 * (agent_first + mixer_first) + 4 * (agent_rest + mixer_rest)
    assert train.flops(facts, "pymarl") == 2 * 32 * 128 * macs


def test_split_shares_add_up(tmp_path: Path) -> None:
    raw = tmp_path / "split.csv"
    parts = {f"{part}_s": 0.1 for part in train.PARTS}
    about = {"side": "marl", "seconds": 1.0, "updates": 8, "gflop_per_update": 3.0, "peak_gflops": 160.0}
    data = [
        {"map": map_name, "mixer": mixer, "repetition": i, **about, **parts}
        for map_name, mixer in train.CASES
        for i in range(5)
    ]
    interleave.write_rows(raw, data)
    assert "| 3m, pymarl | 10% | 10% | 10% | 10% | 10% | 10% | 40% |" in train.split_table(raw)
    assert train.gflops_over_peak(raw) == pytest.approx((0.5, 0.5, 0.5, 5))  # 24 GFLOP in 0.3 s, 160 at most


def test_time_to_win_counts_the_first_confirmed_evaluation(tmp_path: Path) -> None:
    raw = tmp_path / "win.csv"
    about = {"evaluate_s": 1.0}
    data = [
        {"seed": 0, "train_s": 10.0, "wins_32": 0.5, "wins_320": None, **about},
        {"seed": 0, "train_s": 20.0, "wins_32": 1.0, "wins_320": 0.96, **about},
        {"seed": 1, "train_s": 30.0, "wins_32": 1.0, "wins_320": 0.95, **about},
        {"seed": 2, "train_s": 301.0, "wins_32": 0.97, "wins_320": 0.94, **about},  # never arrived
    ]
    interleave.write_rows(raw, data)
    assert time_to_win.training(raw) == (30.0, 20.0, 301.0, 3)
    assert time_to_win.everything(raw) == (31.0, 21.0, 302.0, 3)


def test_time_to_win_over_the_peer_counts_the_last_row_of_each_seed(tmp_path: Path) -> None:
    raw = tmp_path / "peer.csv"
    ours, peer = {0: (5.0, 10.0), 1: (20.0,)}, {0: (20.0, 60.0), 1: (300.0,)}
    data = [
        {"side": side, "seed": seed, "seconds": value}
        for side, seeds in (("marl", ours), ("jaxmarl", peer))
        for seed, values in seeds.items()
        for value in values
    ]
    interleave.write_rows(raw, data)
    assert time_to_win.over_peer(raw) == (10.5, 6.0, 15.0, 2)


def test_dense_layout_by_hand() -> None:
    """PyMARL's fields of one step of a world with 2 agents, 3 actions, 4 features, 5 of the state."""
    row = {"agents": 2, "actions": 3, "obs": 4, "state": 5, "limit": 9}
    floats = 4 * (5 + 2 * 4 + 2 * 3 + 1)  # state, observations, one-hot actions, reward
    integers = 4 * (2 * 3) + 8 * 2 + 8  # availability (int32), actions, filled (int64)
    assert memory.dense_bytes(row) == 10 * (floats + integers + 1)
    assert memory.episode_bytes(row | {"entries": 60, "entry_bytes": 10, "episodes": 6}) == 100.0


def test_quiet_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "busy", lambda: 1.4)
    with pytest.raises(MarlError, match=r"keep 1\.4 processors busy.*--smoke"):
        machine.require_quiet()
    monkeypatch.setattr(machine, "busy", lambda: 0.1)
    machine.require_quiet()


def test_a_peer_that_is_not_installed_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    with pytest.raises(
        MarlError, match=r"jaxmarl is not installed: run `python -m experiments\.benchmarks\.peers"
    ):
        peers.python_of("jaxmarl")


def test_env_worker_steps_and_sides_take_turns() -> None:
    case = {"words": ["env=battle/3m"], "envs": 4, "threads": 1}
    with (
        Worker(sys.executable, ["marl_env"], threads=1) as native,
        Worker(sys.executable, ["marl_env"], threads=1) as torch_form,
    ):
        facts = native.ask(prepare=case | {"form": "native"})
        assert facts == facts | torch_form.ask(prepare=case | {"form": "torch"}) | {
            k: facts[k] for k in ("seconds", "peak_mib")
        }
        sides = {"a": native, "b": torch_form}
        done = interleave.interleave(sides, repetitions=2, seconds=0.01, about={"map": "3m"})
    assert [(row["side"], row["repetition"]) for row in done] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert all(row["steps"] % 4 == 0 and row["steps"] > 0 and row["seconds"] >= 0.01 for row in done)


def test_train_worker_splits_its_time() -> None:
    overrides = [*train.overrides("3m", "pymarl"), "loop.batch.sequences=2"]
    case = {"overrides": overrides, "seed": 0, "warm_steps": 0, "threads": 1, "split": True}
    with Worker(sys.executable, ["marl_train"], threads=1) as worker:
        facts = worker.ask(prepare=case)
        row = worker.ask(measure=0.05)
    assert (facts["agents"], facts["obs"], facts["state"], facts["actions"]) == (3, 30, 48, 9)
    assert row["steps"] == 2048 * row["updates"] / 8
    spent = sum(row[f"{part}_s"] for part in train.PARTS)
    assert 0.5 * row["seconds"] < spent <= row["seconds"]


def test_a_worker_that_dies_says_why() -> None:
    with Worker(sys.executable, ["marl_env"], threads=1) as worker, pytest.raises(MarlError, match="nowhere"):
        worker.ask(prepare={"words": ["env=nowhere"], "envs": 1, "form": None, "threads": 1})
