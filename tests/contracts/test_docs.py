"""The pages tell the truth: their code blocks run, their links lead somewhere, their tables are fresh."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    text = (ROOT / "docs" / page).read_text()
    return [content for name, content in BLOCK.findall(text) if name == language]


def unpack(page: str, folder: Path) -> None:
    """Write every python and yaml block to the file that its first line names."""
    for block in blocks(page, "python") + blocks(page, "yaml"):
        name = re.match(r"# ([\w/.]+\.(?:py|yaml))", block)
        assert name, f"a block of {page} does not name its file: {block[:60]}"
        (folder / name[1]).parent.mkdir(parents=True, exist_ok=True)
        (folder / name[1]).write_text(block)


def shell(command: str, folder: Path) -> None:
    """Run a line of a page in a shell, with `marl` standing for this checkout's command line."""
    program = folder / "bin" / "marl"
    if not program.exists():
        program.parent.mkdir()
        program.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
            "from marl.cli import main\nsys.exit(main())\n"
        )
        program.chmod(0o755)
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"


def wins(folder: Path, run: str) -> float:
    """Share of won final episodes of a run."""
    results = json.loads((folder / "runs" / run / "results.json").read_text())
    assert results["status"] == "finished"
    (episodes,) = results["final"]["success"]
    assert len(episodes) == 320
    return sum(episodes) / len(episodes)


@pytest.mark.parametrize(
    ("page", "run", "least"),
    [("add_an_environment.md", "walkers", 0.9), ("add_an_agent.md", "first_hive", 0.95)],
)
def test_the_page_runs_as_it_stands(page: str, run: str, least: float, tmp_path: Path) -> None:
    unpack(page, tmp_path)
    commands = [block for block in blocks(page, "bash") if "marl train" in block]
    assert commands
    for command in commands:
        shell(command.replace("marl train", "marl train logger=none threads=1"), tmp_path)
    assert wins(tmp_path, run) >= least


def test_both_pages_together_learn_and_without_learning_do_not(tmp_path: Path) -> None:
    for page in ("add_an_agent.md", "add_an_environment.md"):
        unpack(page, tmp_path)
    train = "PYTHONPATH=. marl train agent=hive env=rendezvous settings=default 'trust=[hive,rendezvous]'"
    train += " 'hydra.searchpath=[file://conf]' logger=none threads=1 loop.rollout_steps=16 video=false"
    shell(f"{train} run_id=learned total_steps=40_000", tmp_path)
    shell(f"{train} run_id=asleep total_steps=2_000 agent.learning_rate=1e-12", tmp_path)
    assert wins(tmp_path, "learned") >= 0.9
    assert wins(tmp_path, "asleep") < 0.6


def test_the_example_resumes_bit_for_bit(tmp_path: Path) -> None:
    """State of example world and agent is whole: 600 steps are 200 steps, a new process and 400 more."""
    for page in ("add_an_agent.md", "add_an_environment.md"):
        unpack(page, tmp_path)
    train = "PYTHONPATH=. marl train agent=hive env=rendezvous settings=default 'trust=[hive,rendezvous]'"
    train += (
        " 'hydra.searchpath=[file://conf]' logger=none threads=1 num_envs=4 loop.rollout_steps=5 video=false"
    )
    train += " evaluation.every_steps=200"
    shell(f"{train} run_id=whole total_steps=600", tmp_path)
    shell(f"{train} run_id=parts total_steps=200", tmp_path)
    shell("PYTHONPATH=. marl train resume=runs/parts total_steps=600 'trust=[hive,rendezvous]'", tmp_path)
    whole, parts = (
        json.loads((tmp_path / "runs" / r / "results.json").read_text()) for r in ("whole", "parts")
    )
    assert whole["steps"] == parts["steps"] == 600
    assert whole["final"] == parts["final"]
    strip = [[{k: v for k, v in e.items() if k != "wall_s"} for e in r["curve"]] for r in (whole, parts)]
    assert strip[0] == strip[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, (
            f"docs/index.md does not link {page.name}"
        )


def test_the_settings_page_says_what_is_composed() -> None:
    """Every row of the table is the value that the two settings give QMIX."""
    from marl.compose import compose

    text = (ROOT / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| (\S+) \| (\S+) \|", text, re.MULTILINE)
    assert len(rows) > 10
    for column, name in enumerate(("fast", "pymarl")):
        cfg = compose([f"settings={name}", "agent=qmix", "env=battle/3m"])
        for field, *said in rows:
            value = cfg
            for part in field.split("."):
                value = getattr(value, part)
            assert said[column] == str(value), f"settings.md: {field} under {name} is {value}"


def test_the_split_of_training_time_is_fresh() -> None:
    from experiments.benchmarks import train

    text = (ROOT / "docs" / "benchmarks.md").read_text()
    assert train.fill_split(text) == text, "run python -m experiments.benchmarks.train --table"


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    assert re.search(r"^make test\b", readme, re.MULTILINE)
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.search(r"exec make test(\s|$)", script.read_text())
