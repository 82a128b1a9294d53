"""The promise of the wheel: one top-level name, everything of the tree, and it works elsewhere."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"marl": "marl", "agents": "marl/agents", "envs": "marl/envs", "conf": "marl/conf"}
DATA = {".py", ".yaml", ".json", ".cpp", ".hpp", ".typed"}


def source_files() -> dict[str, Path]:
    """Every file that the wheel has to carry, by its name in the wheel."""
    out = {}
    for folder, target in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                out[f"{target}/{path.relative_to(ROOT / folder)}"] = path
    return out


def run(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree so that no earlier build leaves anything in it."""
    copy = tmp_path_factory.mktemp("source") / "marl-suite"
    skip = shutil.ignore_patterns("__pycache__", "*.so", ".*", "raw", "plots")
    for folder in (*FOLDERS, "experiments", "tests", "docs"):
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, copy / folder, ignore=skip)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, copy)
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ".", cwd=copy)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the repository that holds the installed wheel and its `bin/marl`."""
    target = tmp_path_factory.mktemp("elsewhere") / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run(*pip, "--no-deps", "--no-index", "--target", target, wheel, cwd=target.parent)
    return target


def test_wheel_carries_the_tree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert wheel.name.startswith("marl_suite-")
    assert names == set(source_files())
    unknown = {path.suffix for path in source_files().values()} - DATA
    assert not unknown, f"files of kinds {unknown} need an entry in [tool.setuptools.package-data]"


def test_wheel_owns_one_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (top,) = (name for name in names if name.endswith("top_level.txt"))
        assert archive.read(top).decode().split() == ["marl"]
        assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"marl"}


def test_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    (sdist,) = wheel.parent.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    run(*pip, "--no-build-isolation", "--no-index", "--wheel-dir", tmp_path, sdist, cwd=tmp_path)
    (again,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())


def test_installed_copy_trains_elsewhere(installed: Path, tmp_path: Path) -> None:
    """`marl train` of the installed wheel, far from the repository, leaves a finished run."""
    words = ["agent=qmix", "env=battle/3m", "run_id=trial", "total_steps=200", "num_envs=2", "logger=none"]
    words += ["video=false", "evaluation.every_steps=200", "evaluation.episodes=2", "threads=1"]
    words += ["evaluation.final_episodes=2"]
    program = installed / "bin" / "marl"
    run(sys.executable, program, "train", *words, cwd=tmp_path, PYTHONPATH=str(installed))
    results = json.loads((tmp_path / "runs/trial/results.json").read_text())
    assert results["status"] == "finished"
    assert results["steps"] >= 200
    code = "import marl, marl.agents, marl.envs, marl.conf; print(marl.__file__, marl.agents.__file__)"
    shown = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).stdout.split()
    assert all(Path(name).is_relative_to(installed) for name in shown), shown


def test_installed_copy_is_typed(installed: Path, tmp_path: Path) -> None:
    """mypy reads the types of the installed copy: it accepts a right call and refuses a wrong one."""
    assert (installed / "marl/py.typed").is_file()
    text = "from marl.rng import Rng\nfrom marl.agents.qmix import Config\nrng: Rng = Rng({})\n"
    text += "config: Config = Config()\n"
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache"]
    mypy += ["--follow-imports", "silent", "--ignore-missing-imports"]
    (tmp_path / "right.py").write_text(text.format("1"))
    (tmp_path / "wrong.py").write_text(text.format("'one'"))
    checked = subprocess.run(
        [*map(str, mypy), "right.py", "wrong.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in checked.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 1, checked.stdout
    assert errors[0].startswith("wrong.py:")
    assert 'expected "int"' in errors[0]


@pytest.mark.parametrize("name", ["agents", "envs", "conf"])
def test_code_folders_refuse_another_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two copies of a class would break isinstance, so a folder has one import name."""
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(ImportError, match=rf"marl\.{name}"):
        importlib.import_module(name)
    assert importlib.import_module(f"marl.{name}").__name__ == f"marl.{name}"


def test_constraints_pin_every_dependency() -> None:
    """Each requirement of the core and of dev, video and tensorboard has one exact version."""
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["video"], *extras["tensorboard"]]
    lines = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in ("#", "")
    ]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    for requirement in map(Requirement, wanted):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} has no pin in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement} excludes its own pin {version}"
