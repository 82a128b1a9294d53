"""TMC's sweep and table: thresholds chosen on other seeds, claims by hand from made-up measurements."""

import json
from types import SimpleNamespace

import pytest
import torch

from experiments.claims import derive
from experiments.tmc import sweep, table
from marl import cli, compose
from marl.channel import PerfectLink
from marl.errors import MarlError

ENV = "battle/3s5z"


def entry(won, sent, words=(), channel="perfect", episodes=2000):
    """All episodes of eight agents have 10 steps; so many are won, and so many messages go per step.

    Three in four pairs are of the living, who send half of what TMC's and rivals' teams send.
    """
    wins = round(won * 100)
    return {
        "words": list(words),
        "channel": channel,
        "episodes": episodes,
        "pairs": 56,
        "living": [42_000 if sent == 56 else 500 * sent, 42_000],
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
    assert "| 5.60 [5.60, 5.60] | fewer |" in shown


# Choosing


def on_both(agent, entries, part="battle_tune", env=ENV):
    """The same measurements on both tuning seeds."""
    return [run(agent, seed, entries, part, env) for seed in sweep.TUNE_SEEDS]


def test_the_threshold_with_the_fewest_messages_that_costs_little():
    grid = [(0.90, 50, "0"), (0.89, 20, "0.1"), (0.88, 9, "0.2"), (0.80, 5, "0.5")]

    def tuned(shift=0.0):
        mine = [entry(won + shift, sent, [f"agent.delta={d}"], episodes=500) for won, sent, d in grid]
        other = [entry(0.1, 1, ["agent.delta=0.9"], episodes=500)]
        return [
            *on_both("tmc", mine),
            *on_both("ac", [entry(0.90, 56, episodes=500)]),
            run("tmc", 0, other),  # a reported seed, which must not matter
            *on_both("tmc", other, env="battle/3m"),
        ]

    assert sweep.choose(tuned(), ENV, "tmc") == ("agent.delta=0.1",)
    assert sweep.choose(tuned(-0.1), ENV, "tmc") == ("agent.delta=0.1",)  # none is enough: of its own best
    assert sweep.choose(tuned(), ENV, "ac") == ()
    with pytest.raises(MarlError, match=r"vbc .*sweep tune"):
        sweep.choose(tuned(), ENV, "vbc")


def test_settings_are_compared_on_both_tuning_seeds():
    """Seed 101 of TMC lacks a setting; seed 102 is nobody's tuning seed; VBC has one of the two alone."""
    few = [entry(0.9, 50, ["agent.delta=0"]), entry(0.8, 9, ["agent.delta=1"])]
    measured = [
        run("tmc", 100, few, "battle_tune"),
        run("tmc", 101, [entry(0.7, 40, ["agent.delta=0"])], "battle_tune"),
        run("tmc", 102, [entry(0.1, 1, ["agent.delta=0"])], "battle_tune"),
        run("vbc", 100, few, "battle_tune"),
        *on_both("ac", [entry(0.9, 56)]),
    ]
    assert sweep.tuned(measured, ENV, "tmc") == {("agent.delta=0",): (pytest.approx(0.8), 45.0)}
    with pytest.raises(MarlError, match=r"vbc .*not tuned on seed 101: .*sweep tune"):
        sweep.tuned(measured, ENV, "vbc")
    with pytest.raises(MarlError, match=r"ac .*not tuned on seed 100"):
        sweep.choose(measured[:4], ENV, "tmc")


def test_nothing_is_chosen_before_all_tuning_runs_of_a_world_are_measured(monkeypatch):
    """Whose absence would move the choice after the reported seeds were measured at it."""
    there = [run(a, s, [], "battle_tune") for a in ("tmc", "ac") for s in (100, 101)]
    there.append(run("tmc", 200, [], "grids_tune", env="navigation"))
    monkeypatch.setattr(sweep, "runs", lambda: there)

    def of(agent, seed, words):
        return run(agent, seed, [entry(0.9, 5, w, episodes=1000) for w in words], "battle_tune")

    half = [of(a, 100, sweep.settings(a)) for a in ("tmc", "ac")] + [of("ac", 101, [()])]
    part = [*half, of("tmc", 101, sweep.settings("tmc")[:-1])]
    whole = [*half, of("tmc", 101, sweep.settings("tmc"))]
    for measured in (half, part):
        with pytest.raises(MarlError, match=r"tmc-101 is not tuned: .*sweep tune"):
            sweep.decided(run("tmc", 0, []), measured)
        assert sweep.decided(run("ac", 0, []), measured) == {"chosen": [], "matched": {}}
    assert sweep.decided(run("tmc", 0, []), whole)["chosen"]


def test_two_methods_are_compared_at_the_fewest_messages_that_win_what_both_can():
    def tuning(name, grid):
        return on_both(name, [entry(won, sent, [f"agent.x={x}"], episodes=500) for won, sent, x in grid])

    measured = [
        *tuning("tmc", [(0.95, 50, 0), (0.90, 20, 1), (0.71, 9, 2), (0.60, 5, 3)]),
        *tuning("schednet", [(0.70, 14, 1), (0.72, 28, 2)]),
        *tuning("vbc", [(0.96, 40, 0), (0.94, 30, 1)]),
        *on_both("ac", [entry(0.95, 56, episodes=500)]),
    ]
    words = {rival: sweep.matched(measured, ENV, rival) for rival in ("schednet", "vbc")}
    assert words["schednet"] == {"tmc": ("agent.x=2",), "schednet": ("agent.x=2",)}  # 72 % less the margin
    assert words["vbc"] == {"tmc": ("agent.x=0",), "vbc": ("agent.x=1",)}
    with pytest.raises(MarlError, match="schednet"):
        sweep.matched([m for m in measured if m["agent"] != "schednet"], ENV, "schednet")


def test_what_is_measured_of_a_run():
    data = {"agent": "tmc", "chosen": ["agent.delta=0.5", "agent.timeout=6", "agent.window=12"]}
    data["matched"] = {"vbc": data["chosen"], "schednet": ["agent.delta=1e+06"]}
    jobs = sweep._jobs(data, "report")
    whole = [(words, channel) for words, channel, episodes in jobs if episodes == sweep.REPORT_EPISODES]
    assert whole[: len(sweep.CHANNELS)] == [(tuple(data["chosen"]), c) for c in sweep.CHANNELS]
    every = sweep.EVERY_MESSAGE["tmc"]
    assert whole[len(sweep.CHANNELS) :] == [(("agent.delta=1e+06",), "perfect"), (every, "perfect")]
    assert every in sweep.settings("tmc")
    assert len(jobs) == len(set(jobs)) == 7 + len(sweep.settings("tmc")) - 2
    assert sweep._jobs({"agent": "qmix", "chosen": [], "matched": {}}, "report") == [((), "perfect", 2000)]
    assert len(sweep._jobs({"agent": "ac(heavy)", "chosen": [], "matched": {}}, "report")) == 5
    for own in ("tmc encoder=mlp", "tmc(heavy)"):
        assert sweep.settings(own) == sweep.settings("tmc")
        assert len(sweep._jobs({"agent": own}, "tune")) == len(sweep.settings("tmc"))


def test_a_sweep_leaves_out_what_cannot_be_measured_yet(tmp_path, monkeypatch, capsys):
    raw = {"study": "tmc", "run_id": "tmc-s0", "part": "battle", "seed": 0, "label": ""}
    raw["overrides"] = ["env=battle/3s5z", "env.cone=true", "agent=tmc"]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "tmc-s0.json").write_text(json.dumps(raw))
    monkeypatch.setattr(sweep, "runs", lambda own=sweep.runs: own(tmp_path / "raw"))
    monkeypatch.setattr(sweep, "evaluations", list)
    monkeypatch.setattr(sweep, "HERE", tmp_path)
    assert sweep.runs()[0]["env"] == "battle/3s5z cone=true"
    sweep.sweep("report", tmp_path)
    assert "tmc-s0 is left out: tmc on battle/3s5z cone=true is not tuned" in capsys.readouterr().out
    with pytest.raises(MarlError, match="share"):
        sweep._share("3/2")
    assert sweep._share("2/3") == (2, 3)


def test_navigation_is_measured_by_its_return(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["agent=ac", "agent.hidden=8", "env=navigation", "run_id=run", "total_steps=50", "num_envs=2"]
    words += ["logger=none", "video=false", "threads=1", "evaluation.final_episodes=2"]
    assert cli.main(["train", *words]) == 0
    found = sweep.measure(tmp_path / "runs" / "run", (), "perfect", 3)
    assert "success" not in found
    assert sweep.wins(found) == pytest.approx(sum(found["return"]) / 3)
    assert sweep.wins(found) < 0


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

    for name, least in (("study.yaml", 150), ("scout/study.yaml", 14)):
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
    assert loud["pairs"] == 6
    sent, pairs = loud["living"]
    assert 0 < sent == pairs <= sum(loud["link.messages"])  # who has handed over is not alive
    assert quiet["living"][0] < quiet["living"][1]
    assert sweep.measure(folder, ("agent.delta=0",), "perfect", 7) == loud


def test_messages_between_living_agents_are_counted_by_hand():
    """Two worlds of three; agent 2 of world 0 is dead, and world 1 is in its second episode."""

    class Team:
        def act(self, ts, carry, *, rng, explore, link):
            wanted = torch.zeros(2, 3, 3, dtype=torch.bool)
            wanted[:, :, 0] = wanted[:, 0] = True  # 0 tells everybody, and everybody tells 0
            for _ in range(2):
                link.send(torch.zeros(2, 3, 1), wanted, carry)

    witness, link = sweep.Witness(Team(), 3), PerfectLink(torch.device("cpu"))
    ts = SimpleNamespace(alive_BN=torch.tensor([[True, True, False], [True, True, True]]))
    for playing in ([True, False], [True, True]):
        witness.act(ts, {}, rng=None, explore=0.0, link=link)
        witness.step(None, torch.tensor(playing))
    assert (witness.sent, witness.pairs) == (2 * (2 + 2 + 4), 2 * (2 + 2 + 6))


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


def test_an_entry_of_another_commit_says_so(tmp_path, monkeypatch):
    """Three settings, the first at commit a, the others at b: the file keeps a, they carry b."""
    commits = iter("abb")
    monkeypatch.setattr(sweep.results, "git", lambda: {"commit": next(commits), "dirty": False})
    monkeypatch.setattr(sweep, "measure", lambda folder, words, channel, episodes: entry(0.9, 5, words))
    monkeypatch.setattr(sweep, "settings", lambda agent: [(), ("agent.k=1",), ("agent.k=2",)])
    data = run("schednet", 100, []) | {"part": "battle_tune"}
    for name in ("git", "hardware", "date"):
        del data[name]
    path = tmp_path / "schednet-100.json"
    sweep._measure_missing(path, data, "tune", tmp_path, changed=False)
    found = json.loads(path.read_text())
    assert found["git"]["commit"] == "a"
    assert [e.get("git", {}).get("commit") for e in found["entries"]] == [None, "b", "b"]
    assert table.made([path])["commit"] == "a, b"


def test_worlds_that_were_looked_at_are_shown_with_every_seed():
    shown = table.looked_at()
    assert "| battle/3m cone=true (success) | 0.997" in shown
    assert "| battle/3s_vs_4z (success) | 0.109" in shown


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
