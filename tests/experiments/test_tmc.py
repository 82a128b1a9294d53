"""TMC's sweep and table: thresholds chosen on other seeds, claims by hand from made-up measurements."""

import json

import pytest

from experiments.claims import derive
from experiments.tmc import sweep, table
from marl import cli, compose
from marl.errors import MarlError

ENV = "battle/3s5z"


def entry(won, sent, words=(), channel="perfect", episodes=2000):
    """All episodes have 10 steps; so many are won, and so many messages go per step."""
    wins = round(won * 100)
    return {
        "words": list(words),
        "channel": channel,
        "episodes": episodes,
        "success": "1" * wins + "0" * (100 - wins),
        "length": [10] * 100,
        "link.messages": [round(10 * sent)] * 100,
        "link.delivered": [round(10 * sent)] * 100,
    }


def run(agent, seed, entries, part="battle", env=ENV):
    return {
        "run_id": f"{agent}-{seed}",
        "part": part,
        "env": env,
        "agent": agent,
        "seed": seed,
        "git": {"commit": "abc", "dirty": False},
        "hardware": {"cpu": "x"},
        "date": "2026-01-01T00:00:00",
        "entries": entries,
    }


@pytest.fixture
def reported(tmp_path):
    """Five seeds: all-to-all sends 56 a step and wins 90 %; TMC 7 and 89 %, and loses least under losses."""
    made = []
    for seed in range(5):
        off = 0.01 * (seed - 2)
        for agent, won, sent, heavy in (
            ("tmc", 0.89, 7, 0.80), ("ac", 0.90, 56, 0.60), ("ac(heavy)", 0.85, 56, 0.80),
            ("vbc", 0.90, 14, 0.10), ("schednet", 0.88, 28, 0.05), ("qmix", 0.70, 0, 0.70),
        ):  # fmt: skip
            entries = [entry(won + off, sent), entry(heavy + off, sent, channel="heavy")]
            entries.append(entry(0.5, 1, ["agent.delta=9"], episodes=500))
            made.append(run(agent, seed, entries))
    paths = []
    for one in made:
        paths.append(tmp_path / f"{one['run_id']}.json")
        sweep._write(paths[-1], one)
        assert json.loads(paths[-1].read_text()) == one
    return paths


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("message_reduction", 1 - 7 / 56),
        ("win_gap_points", 1.0),
        ("vbc_over_tmc_messages", 2.0),
        ("schednet_over_tmc_messages", 4.0),
        ("rank_heavy_loss", 1),
    ],
)
def test_claims_by_hand(reported, name, value):
    got = derive(f"experiments.tmc.table:{name}", [str(path) for path in reported])
    assert got[0] == pytest.approx(value)
    assert got[1] <= got[0] <= got[2]
    assert got[3] == 5


def test_the_rank_counts_those_that_surely_win_more(reported):
    better = [run("ac(light)", s, [entry(0.89, 56), entry(0.9, 56, channel="heavy")]) for s in range(5)]
    paths = list(reported)
    for one in better:
        paths.append(reported[0].parent / f"{one['run_id']}.json")
        sweep._write(paths[-1], one)
    assert table.rank_heavy_loss(*paths)[0] == 2


def test_messages_pay_where_silence_wins_less(reported):
    measured = table.read(reported)
    assert table.where_messages_pay(measured) == [ENV]
    for one in measured:
        if one["agent"] == "qmix":
            one["entries"] = [entry(0.82, 0)]
    assert table.where_messages_pay(measured) == []


def test_the_page_and_the_plots(reported, tmp_path):
    measured = table.read(reported)
    shown = table.table(measured)
    assert shown.count(f"| {ENV} |") == 6
    assert "| tmc | - | 5 | 0.12 [" in shown  # 7 of 56
    assert table.pareto(measured).axes
    assert table.losses(measured).axes


def test_claims_are_written_of_worlds_where_messages_pay(reported, monkeypatch):
    rows = []
    monkeypatch.setattr(table, "ROOT", reported[0].parent)
    monkeypatch.setattr(table, "write_claim", lambda **row: rows.append(row))
    measured = table.read(reported)
    table.claims(reported, measured, table.where_messages_pay(measured))
    assert {row["id"] for row in rows} == {f"tmc.{name}" for name in table._CLAIMS}
    by = {row["id"]: row for row in rows}
    assert len(by["tmc.vbc_over_tmc_messages"]["raw"]) == 10
    assert "vbc 90.0 %" in by["tmc.vbc_over_tmc_messages"]["note"]
    assert not by["tmc.win_gap_points"]["trial"]
    rows.clear()
    table.claims(reported, measured, [])
    assert rows == []


# Choosing


def test_the_threshold_with_the_fewest_messages_that_costs_little():
    grid = [(0.90, 50, "0"), (0.89, 20, "0.1"), (0.88, 9, "0.2"), (0.80, 5, "0.5")]

    def tuned(shift=0.0):
        mine = [entry(won + shift, sent, [f"agent.delta={d}"], episodes=500) for won, sent, d in grid]
        other = [entry(0.1, 1, ["agent.delta=0.9"], episodes=500)]
        return [
            run("tmc", 100, mine, "battle_tune"),
            run("ac", 100, [entry(0.90, 56, episodes=500)], "battle_tune"),
            run("tmc", 0, other),  # a reported seed, which must not matter
            run("tmc", 100, other, "battle_tune", env="battle/3m"),
        ]

    assert sweep.choose(tuned(), ENV, "tmc") == ("agent.delta=0.1",)
    assert sweep.choose(tuned(-0.1), ENV, "tmc") == ("agent.delta=0",)  # none is enough: wins most
    assert sweep.choose(tuned(), ENV, "ac") == ()
    with pytest.raises(MarlError, match=r"vbc .*sweep tune"):
        sweep.choose(tuned(), ENV, "vbc")


def test_grids_are_settings_of_the_methods():
    for agent in ("tmc", "vbc", "schednet", "ac", "qmix"):
        found = sweep.settings(agent)
        assert len(found) == len(set(found)) >= (1 if agent in ("ac", "qmix") else 3)
        for words in (found[0], found[-1]):
            node = {"agent": {"_target_": f"marl.agents.{agent}.Config"}}
            again = compose.over(node, words)["agent"]
            cfg = compose.load({**compose.compose([f"agent={agent}"]).to_dict(), "agent": again})
            for word in words:
                name, value = word.removeprefix("agent.").split("=")
                assert getattr(cfg.agent, name) == float(value)


def test_the_studies_compose():
    from marl import study

    for name, least in (("study.yaml", 100), ("scout/study.yaml", 30)):
        jobs = study.from_file(sweep.HERE / name).jobs
        assert len(jobs) >= least


def test_a_run_is_measured_on_the_same_episodes_under_any_setting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "BATCH", 3)
    words = ["agent=tmc", "agent.hidden=8", "env=relay_game", "run_id=run", "total_steps=60", "num_envs=2"]
    words += ["logger=none", "video=false", "threads=1", "evaluation.final_episodes=2"]
    assert cli.main(["train", *words]) == 0
    folder = tmp_path / "runs" / "run"
    loud = sweep.measure(folder, ("agent.delta=0",), "perfect", 7)
    quiet = sweep.measure(folder, ("agent.delta=1e+06", "agent.timeout=2"), "heavy", 7)
    assert loud["episodes"] == len(loud["length"]) == len(quiet["success"]) == 7
    assert sweep.messages(quiet) <= 3.0 < sweep.messages(loud)
    assert loud["link.delivered"] == loud["link.messages"]
    assert sweep.measure(folder, ("agent.delta=0",), "perfect", 7) == loud
