"""TMC's sweep: thresholds chosen on other seeds, what is measured of a run, and who may be measured."""

import json
from types import SimpleNamespace

import pytest
import torch

from experiments.tmc import sweep, table
from marl import cli, compose
from marl.channel import PerfectLink
from marl.errors import MarlError
from tests.experiments.tmc_made import ENV, entry, on_both, run


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
