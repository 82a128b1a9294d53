"""TMC's table: claims by hand from made-up measurements."""

import json

import pytest

from experiments.claims import derive
from experiments.tmc import sweep, table
from marl.errors import MarlError
from tests.experiments.tmc_made import ENV, entry, on_both, run


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
            entries += [
                entry(won + off, sent, channel=name) for name in ("light", "medium", "gilbert_elliott")
            ]
            entries.append(entry(0.5, 1, ["agent.delta=9"], episodes=500))
            if agent == "tmc":  # against VBC, which wins as much, and SchedNet, which wins less
                entries += [entry(0.9 + off, 10, ["agent.delta=0"]), entry(0.8 + off, 5, ["agent.delta=1"])]
                entries.append(entry(0.93 + off, 56, sweep.EVERY_MESSAGE["tmc"]))
                chosen = {"vbc": ["agent.delta=0"], "schednet": ["agent.delta=1"]}
            else:
                chosen = {agent: []}
            made.append(run(agent, seed, entries) | {"chosen": [], "matched": chosen})
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
        ("living_message_reduction", 1 - 3.5 / 42),
        ("win_gap_points", 1.0),
        ("protocol_cost_points", 4.0),
        ("vbc_over_tmc_messages", 1.4),
        ("schednet_over_tmc_messages", 28 / 5),
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
    assert "| tmc | - | 5 | 0.12 [0.12, 0.12] | 0.08 [" in shown  # 7 of 56, 3.5 of 42
    alone = [m for m in measured if m["agent"] == "tmc"]
    assert "| tmc | - | 5 | 0.12 [" in table.table(alone)  # whoever else was measured
    assert table.pareto(measured).axes
    assert table.losses(measured).axes


def test_a_method_looks_the_same_in_every_panel_and_unlike_others(reported):
    """The second world lacks AC(heavy), and has TarMAC and VDN in QMIX's place."""
    measured = table.read(reported)
    grids = [m | {"env": "navigation"} for m in measured if m["agent"] != "ac(heavy)"]
    names = {"qmix": "vdn", "schednet": "tarmac"}
    grids = [m | {"agent": names.get(m["agent"], m["agent"])} for m in grids]
    looks = []
    for ax in table.losses(measured + grids).axes:
        drawn = {c.get_label(): c.lines[0] for c in ax.containers}
        looks.append({name: (line.get_color(), line.get_marker()) for name, line in drawn.items()})
        assert len(set(looks[-1].values())) == len(looks[-1]) >= 5
    assert all(looks[0][name] == look for name, look in looks[1].items() if name in looks[0])
    assert {"tarmac", "vdn"} <= set(looks[1])


def test_claims_are_written_of_worlds_where_messages_pay(reported, monkeypatch):
    rows = []
    monkeypatch.setattr(table, "ROOT", reported[0].parent)
    monkeypatch.setattr(table, "HERE", reported[0].parent)
    old = [{"id": "tmc.schednet_over_tmc_messages"}, {"id": "tmc.win_gap_points"}]
    claims = reported[0].parent / "claims.json"
    claims.write_text(json.dumps(old))
    monkeypatch.setattr(table, "write_claim", lambda **row: rows.append(row))
    measured = table.read(reported)
    table.claims(reported, measured, table.claimed(measured))
    by = {row["id"]: row for row in rows}
    unlike = {"tmc.schednet_over_tmc_messages"}  # TMC's 80 % are fewer than SchedNet's 88 %
    assert set(by) == {f"tmc.{name}" for name in table._CLAIMS} - unlike
    assert len(by["tmc.vbc_over_tmc_messages"]["raw"]) == 10
    assert "tmc 90.0 %, vbc 90.0 %" in by["tmc.vbc_over_tmc_messages"]["note"]
    assert "tmc 89.0 %, ac 90.0 %" in by["tmc.win_gap_points"]["note"]
    assert not by["tmc.win_gap_points"]["trial"]
    assert "against ac, ac(heavy), qmix, schednet, vbc;" in by["tmc.rank_heavy_loss"]["note"]
    assert json.loads(claims.read_text()) == old[1:]  # a claim of before that is none any more goes
    rows.clear()
    table.claims(reported, measured, [])
    assert rows == []


def test_a_table_of_half_a_sweep(reported, monkeypatch, capsys):
    """TMC is not measured over losses yet, nor VBC on any seed of TMC's: those claims wait, others stand."""
    rows = []
    monkeypatch.setattr(table, "ROOT", reported[0].parent)
    monkeypatch.setattr(table, "HERE", reported[0].parent)
    monkeypatch.setattr(table, "write_claim", lambda **row: rows.append(row["id"]))
    for path in reported:
        one = json.loads(path.read_text())
        if one["agent"] == "tmc":
            one["entries"] = [e for e in one["entries"] if e["channel"] == "perfect"]
        if one["agent"] == "vbc":
            one["seed"] += 50
        sweep._write(path, one)
    measured = table.read(reported)
    table.claims(reported, measured, table.claimed(measured))
    stand = ["message_reduction", "living_message_reduction", "win_gap_points", "protocol_cost_points"]
    assert rows == [f"tmc.{name}" for name in stand]
    assert "no claim tmc.rank_heavy_loss: nothing is measured on a common seed" in capsys.readouterr().out
    assert table.losses(measured).axes
    assert "| tmc | - | 5 |" in table.table(measured)


def test_a_ratio_of_messages_is_finite_where_tmc_sends_none(reported):
    """One message in 1,000 steps stands for none."""
    for path in reported:
        one = json.loads(path.read_text())
        if one["agent"] == "tmc":
            for e in one["entries"]:
                e["link.messages"] = [0] * 100
        sweep._write(path, one)
    assert table.vbc_over_tmc_messages(*reported)[0] == pytest.approx(14 * 1000)


def test_two_runs_of_one_cell_are_refused(reported):
    again = json.loads(reported[0].read_text()) | {"run_id": "other"}
    path = reported[0].parent / "other.json"
    sweep._write(path, again)
    with pytest.raises(MarlError, match=r"seed 0: tmc-0 and other: remove"):
        table.read([*reported, path])


def test_what_the_channels_lost(reported):
    measured = table.read(reported)
    assert (
        table.lost(measured)
        == "Lost of all-to-all's messages: light 0.0%, medium 0.0%, heavy 0.0%, gilbert_elliott 0.0%."
    )
    for m in measured:
        for e in m["entries"]:
            e["link.delivered"] = [round(0.75 * sent) for sent in e["link.messages"]]
    assert "heavy 25.0%" in table.lost(measured)


def test_a_world_of_fewer_seeds_makes_no_claim_a_trial(reported):
    """Claims are of the worlds with five seeds, where there are any."""
    measured = table.read(reported)
    hard = [m | {"env": "battle/3s_vs_5z"} for m in measured if m["seed"] < 3]
    assert table.where_messages_pay(measured + hard) == [ENV, "battle/3s_vs_5z"]
    assert table.claimed(measured + hard) == [ENV]
    assert table.claimed(hard) == ["battle/3s_vs_5z"]


def test_only_the_chosen_entry_is_reported(reported):
    """What an earlier choice measured stays in the file and does not count."""
    (one,) = [m for m in table.read(reported) if (m["agent"], m["seed"]) == ("vbc", 0)]
    before = table.cells([one], "vbc", sweep.wins)
    one["entries"].append(entry(0.1, 1, ["agent.request_gap=9"]))
    assert table.cells([one], "vbc", sweep.wins) == before
    one["chosen"] = ["agent.request_gap=9"]
    assert list(table.cells([one], "vbc", sweep.wins).values()) == [0.1]


def test_a_silent_team_is_in_every_rank_by_its_one_measurement(reported):
    measured = table.read(reported)
    for m in measured:
        if m["agent"] == "qmix":
            m["entries"] = [entry(0.85, 0)]
    assert set(table.cells(measured, "qmix", sweep.wins, "heavy").values()) == {0.85}
    assert table._rank(measured, "heavy")[0] == 2  # 85 % without messages, TMC 80 % under heavy losses


def test_nobody_to_compare_with_is_no_rank(reported):
    measured = table.read(reported)
    others = [m for m in measured if m["agent"] == "tmc" or m["seed"] != 0]
    with pytest.raises(MarlError, match="nobody else is measured on every seed"):
        table._rank(others, "heavy")


def test_messages_are_compared_where_both_win_as_much(reported):
    measured = table.read(reported)
    assert [table.likeness(measured, rival, ENV) for rival in ("vbc", "schednet")] == ["matched", "fewer"]
    shown = table.compared(measured)
    assert "| vbc | delta=0 | - | 90.0% [" in shown
    assert "| 1.40 [1.40, 1.40] | matched |" in shown
    for m in measured:
        if m["agent"] == "vbc":  # a threshold that nobody chose wins as much with 5.6 of 56 messages
            m["entries"] += [entry(0.95, 5.6, ["agent.x=1"]), entry(0.5, 2.8, ["agent.x=2"])]
    assert table.in_hindsight(measured, ENV, "vbc") == "0.10"
    assert "| matched | 0.10 |" in table.compared(measured)
    next(m for m in measured if m["agent"] == "vbc")["entries"].pop(-2)  # not on every seed
    assert table.in_hindsight(measured, ENV, "vbc") != "0.10"
    assert "| 5.60 [5.60, 5.60] | fewer |" in shown


def test_wins_are_shown_seed_by_seed(reported):
    measured = table.read(reported)
    shown = table.each_seed(measured, [ENV])
    tmc = table.cells(measured, "tmc", sweep.wins, env=ENV)
    assert f"TMC {', '.join(f'{tmc[key]:.1%}' for key in sorted(tmc))};" in shown
    for m in measured:
        if (m["agent"], m["seed"]) == ("tmc", 0):
            next(e for e in m["entries"] if e["channel"] == "perfect")["success"] = "1000"
    assert "TMC 25.0%, " in table.each_seed(measured, [ENV])


def test_other_forms_of_tmc_are_shown_at_their_own_thresholds(capsys):
    """On seeds of tuning: TMC 90 % with 14 of 56 messages; a form that never wins so much, at its best."""

    def tuning(name, part, grid):
        return on_both(name, [entry(won, sent, [f"agent.delta={d}"]) for won, sent, d in grid], part)

    measured = [
        *on_both("ac", [entry(0.9, 56)]),
        *tuning("tmc", "battle_tune", [(0.92, 50, 0), (0.9, 14, 1), (0.5, 7, 2)]),
        *tuning("tmc encoder=mlp", "battle_forms", [(0.7, 50, 0), (0.69, 28, 1), (0.3, 7, 2)]),
        *tuning("tmc betas=1", "battle_forms", [(0.7, 50, 0)])[:1],  # half of it is not trained yet
    ]
    rows = table.forms(measured).splitlines()[2:]
    assert rows == [
        f"| {ENV} | tmc | 0.920 | delta=1 | 0.900, 0.900 | 0.25 |",
        f"| {ENV} | tmc encoder=mlp | 0.700 | delta=1 | 0.690, 0.690 | 0.50 |",
    ]
    assert "no row of tmc betas=1" in capsys.readouterr().out
    assert table.forms(measured[2:]) == ""  # nobody to compare with


def test_worlds_that_were_looked_at_are_shown_with_every_seed(tmp_path):
    """Two seeds of all-to-all, one of silence; navigation by its return."""
    for agent, seed, env, steps, rows in (
        ("ac", 100, "battle/3m", 2000, [[1.0, 5.0], [0.0, 7.0]]),
        ("ac", 101, "battle/3m", 2000, [[1.0, 5.0], [1.0, 7.0]]),
        ("ac", 100, "battle/3m", 9000, [[1.0, 5.0], [1.0, 7.0]]),
        ("qmix", 100, "battle/3m", 2000, [[0.0, 1.0], [0.0, 1.0]]),
        ("ac", 100, "navigation", 2000, [[0.0, -3.0], [0.0, -4.0]]),
    ):
        run_id = f"{agent}-{env.replace('/', '_')}-{seed}-{steps}"
        raw = {
            "study": "tmc",
            "run_id": run_id,
            "part": "scout_long" if steps > 2000 else "scout",
            "seed": seed,
            "columns": ["success", "return"],
        }
        raw |= {"overrides": [f"env={env}", f"agent={agent}", f"total_steps={steps}"]}
        raw |= {"columns": ["success", "return"], "episodes": rows}
        (tmp_path / f"{run_id}.json").write_text(json.dumps(raw))
    assert table.looked_at(tmp_path).splitlines()[2:] == [
        "| battle/3m (success) | 2,000 | 0.500, 1.000 | 0.000 |",
        "| battle/3m (success) | 9,000 | 1.000 | - |",
        "| navigation (return) | 2,000 | -3.500 | - |",
    ]


def test_a_claim_is_of_the_seeds_that_both_have(reported, monkeypatch):
    """All-to-all of seed 4 is missing: neither the wins in the note nor the raw files are of it."""
    rows = []
    monkeypatch.setattr(table, "ROOT", reported[0].parent)
    monkeypatch.setattr(table, "HERE", reported[0].parent)
    monkeypatch.setattr(table, "write_claim", lambda **row: rows.append(row))
    paths = [path for path in reported if path.stem != "ac-4"]
    measured = table.read(paths)
    table.claims(paths, measured, table.claimed(measured))
    by = {row["id"]: row for row in rows}
    assert "tmc 88.5 %, ac 89.5 %" in by["tmc.win_gap_points"]["note"]
    assert len(by["tmc.win_gap_points"]["raw"]) == 8
    assert "(without ac: not on every seed)" in by["tmc.rank_heavy_loss"]["note"]


def test_a_world_whose_teams_were_trained_twice_is_claimed_once(reported):
    """With the longer training, once it has all seeds; TMC of another training is no rival of TMC."""
    long = [json.loads(path.read_text()) | {"env": f"{ENV} {sweep.LONG}"} for path in reported]
    measured = table.read(reported)
    assert table.claimed([*measured, *long]) == [f"{ENV} {sweep.LONG}"]
    assert table.claimed([*measured, *(m for m in long if m["seed"] < 2)]) == [ENV]
    own = [m | {"agent": "tmc(heavy)"} for m in measured if m["agent"] == "ac"]
    assert "tmc(heavy)" not in table._ranked([*measured, *own], "heavy")
    assert table.losses([*measured, *own]).axes
