"""`marl doctor`: every optional part, whether it can be used here, and what to do where it cannot.

Each part is looked at in a process of its own (`python -m marl.doctor <part>`), so that a package that
crashes, hangs or prints cannot disturb the others. Nothing is downloaded, and what packages write when they
are imported (caches, settings) goes to a temporary folder.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import marl

State = Literal["ok", "missing", "broken", "warning"]
_TIMEOUT_S = 60.0  # CHOICE: importing torch from a cold disk takes half of it
_WORKERS = 4  # processes at a time; CHOICE
_MARK = "marl-doctor:"  # before the answer, since packages print when they are imported
# Folders that packages write to when they are imported; the child's lie in a temporary folder.
_CACHES = [
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR", "TRITON_CACHE_DIR"),
    *("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "CUDA_CACHE_PATH"),
]
_SIMD = {"avx2": "AVX2", "avx512f": "AVX-512", "asimd": "NEON"}  # flags of /proc/cpuinfo


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found of a part.

    Args:
        state: ok; missing: not there; broken: there, and cannot be used; warning: works, with a risk.
        version: of what is there, or "".
        detail: a note where it is ok, else why it cannot be used, in one line.
    """

    state: State
    version: str = ""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Part:
    """One optional part.

    Args:
        name: of the part.
        purpose: what it is for.
        fix: the command that installs or repairs it.
        module: what is imported.
        package: its name on the index, where that differs.
        look: looks; by default imports the module.
        note: said of it where it is ok.
    """

    name: str
    purpose: str
    fix: str
    module: str = ""
    package: str = ""
    look: Callable[[Part], Finding] | None = None
    note: str = ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _line(error: BaseException | str) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else ""
    return said if isinstance(error, str) else f"{type(error).__name__}: {said}".rstrip(": ")


# Looking at one part


def _imports(part: Part) -> Finding:
    """Whether a package is there and imports."""
    version = _version(part.package or part.module)
    if importlib.util.find_spec(part.module.split(".")[0]) is None:
        return Finding("missing", version, "not installed")
    importlib.import_module(part.module)
    return Finding("ok", version, part.note)


def _compiler(part: Part) -> Finding:
    name = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")  # as marl.native does
    simd = ", ".join(_instruction_sets()) or "no vector instructions that are known"
    if name is None:
        return Finding("missing", "", f"no g++ or clang++ on the PATH; processor: {simd}")
    try:
        done = subprocess.run([name, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return Finding("broken", "", f"{name} cannot be run ({_line(error)})")
    return Finding("ok", _line(done.stdout), f"{name}; processor: {simd}")


def _instruction_sets() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    line = next((row for row in text.splitlines() if row.startswith(("flags", "Features"))), "")
    return [name for flag, name in _SIMD.items() if flag in line.split()]


def _cuda(part: Part) -> Finding:
    import torch

    if torch.version.cuda is None:
        return Finding("missing", "", f"torch {torch.__version__} is built without CUDA")
    if not torch.cuda.is_available():
        return Finding(
            "missing", torch.version.cuda, "torch is built with CUDA, but sees no GPU or no driver"
        )
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("ok", torch.version.cuda, ", ".join(names))


def _pysc2(part: Part) -> Finding:
    """Through the world's own import, which repairs pysc2's; by name, since marl imports no world."""
    imports = importlib.import_module("marl.envs.starcraft.imports")
    if missing := imports.missing_package():
        return Finding("missing", _version("pysc2"), missing.split(":")[0])
    imports.load()
    return Finding("ok", _version("pysc2"), part.note)


def _starcraft(part: Part) -> Finding:
    usable, sentence = importlib.import_module("marl.envs.starcraft.install").check()
    where = os.environ.get("SC2PATH")
    hint = f"SC2PATH={where}" if where else "SC2PATH is not set"
    return (
        Finding("ok", "", f"{sentence}; {hint}") if usable else Finding("missing", "", f"{sentence}; {hint}")
    )


def _smac(part: Part) -> Finding:
    if importlib.import_module("marl.envs.starcraft.imports").find_smac() is not None:
        return Finding(
            "ok", _version("smac"), "smac.env.StarCraft2Env is used instead of pysc2's raw interface"
        )
    if importlib.util.find_spec("smac") is not None:
        return Finding(
            "missing", _version("smac"), "the package smac that is installed has no smac.env (SMAC3?)"
        )
    return Finding("missing", "", "not installed; pysc2's raw interface is used")


def _ffmpeg(part: Part) -> Finding:
    found = _imports(part)
    if found.state == "ok":
        return Finding("ok", found.version, importlib.import_module(part.module).get_ffmpeg_exe())
    return found


def _peer(part: Part) -> Finding:
    """A peer of the benchmarks: in the environment of its own that a checkout gives it, or here."""
    python = Path(marl.__file__).resolve().parents[1] / ".benchmark-venvs" / part.module / "bin" / "python"
    if not python.exists():
        return _imports(part)
    code = f"import importlib.metadata as m, {part.module}; print('\\n' + m.version('{part.module}'))"
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", code], env=own, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return Finding("broken", "", (done.stderr.strip().splitlines() or ["it ends Python"])[-1])
    return Finding("ok", done.stdout.split()[-1], f"in {python.parents[1]}")


def _pygame(part: Part) -> Finding:
    plain, edition = _version("pygame"), _version("pygame-ce")
    if not plain and not edition:
        return Finding("missing", "", "not installed; only peers and pysc2's own viewer draw with it")
    module = importlib.import_module("pygame")
    version = plain or f"{edition} (pygame-ce)"
    if not hasattr(module, "init"):  # uninstalling one of the two takes the folder of the other with it
        return Finding("broken", version, "its folder is empty, as after one of two packages was uninstalled")
    if plain and edition:
        both = "pygame and pygame-ce are both installed and own the same folder: uninstalling one breaks both"
        return Finding("warning", f"{plain} and {edition} (pygame-ce)", both)
    return Finding("ok", version)


PARTS = (
    Part(
        "C++ compiler",
        "native worlds and kernels; the torch forms are slower",
        "apt install g++ (or set CXX; xcode-select --install on a Mac)",
        look=_compiler,
    ),
    Part(
        "CUDA",
        "device=cuda",
        "install torch for your CUDA version as pytorch.org says; the driver comes from the GPU's vendor",
        look=_cuda,
    ),
    Part(
        "triton",
        "grouped layers on device=cuda; comes with torch's CUDA builds",
        "pip install 'marl-suite[triton]'",
        "triton",
    ),
    Part(
        "stable-baselines3",
        "agent=sb3",
        "pip install 'marl-suite[sb3]'",
        "stable_baselines3",
        "stable-baselines3",
    ),
    Part("pysc2", "env=starcraft", "pip install 'marl-suite[starcraft]'", look=_pysc2),
    Part(
        "StarCraft II",
        "env=starcraft",
        "export SC2PATH=<the folder that holds Versions and Maps>",
        look=_starcraft,
    ),
    Part(
        "SMAC",
        "env=starcraft through smac.env.StarCraft2Env",
        "pip install --no-deps git+https://github.com/oxwhirl/smac.git",
        look=_smac,
    ),
    Part(
        "carla",
        "worlds on the CARLA simulator, of which this version has none yet",
        "pip install 'marl-suite[carla]'",
        "carla",
        note="the client; a CARLA server is a download of its own",
    ),
    Part(
        "pynq",
        "policies on a PYNQ board, which this version cannot run yet",
        "pip install pynq, on the board and in an environment of its own (it needs numpy < 2)",
        "pynq",
    ),
    *(
        Part(name, purpose, "pip install 'marl-suite[morl]'", module, name)
        for name, module, purpose in (
            ("cvxpy", "cvxpy", "exact FairDICE by the conic solver; Newton's needs nothing"),
            ("h5py", "h5py", "reading and writing Minari data sets"),
            ("minari", "minari", "Minari's own tools on our data sets"),
            ("mo-gymnasium", "mo_gymnasium", "env=mo_gymnasium, worlds with several objectives"),
            ("mujoco", "mujoco", "env=d4morl, robots with several objectives"),
        )
    ),
    Part("wandb", "logger=wandb", "pip install wandb", "wandb", note="runs offline unless told otherwise"),
    Part(
        "imageio-ffmpeg",
        "videos as mp4",
        "pip install 'marl-suite[video]'",
        "imageio_ffmpeg",
        "imageio-ffmpeg",
        _ffmpeg,
    ),
    Part("tensorboard", "logger=tensorboard", "pip install 'marl-suite[tensorboard]'", "tensorboard"),
    Part("onnx", "marl export format=onnx", "pip install 'marl-suite[export]'", "onnx"),
    Part("onnxscript", "marl export format=onnx", "pip install 'marl-suite[export]'", "onnxscript"),
    *(
        Part(
            name,
            "a peer of the benchmarks",
            f"python -m experiments.benchmarks.peers {name}",
            name,
            look=_peer,
        )
        for name in ("mpe2", "vmas", "jaxmarl")
    ),
    Part("pygame", "drawing of peers' worlds", "pip install --force-reinstall pygame", look=_pygame),
)


def look(part: Part) -> Finding:
    """Look at one part, in this process."""
    try:
        return (part.look or _imports)(part)
    except (Exception, SystemExit) as error:  # whatever a broken package raises is its reason
        return Finding("broken", _version(part.package or part.module or part.name), _line(error))


# Looking at all, from outside


def examine(part: Part, folder: Path, timeout_s: float = _TIMEOUT_S) -> Finding:
    """Look at one part in a process of its own.

    Args:
        part: of PARTS.
        folder: for what the process writes.
        timeout_s: seconds after which it is given up.
    """
    path = os.pathsep.join([str(Path(marl.__file__).resolve().parent.parent), *filter(None, sys.path)])
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "PYGAME_HIDE_SUPPORT_PROMPT": "1", "WANDB_MODE": "offline"}
    caches = dict.fromkeys(_CACHES, str(folder))
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "marl.doctor", part.name],
            cwd=folder,
            env=os.environ | quiet | caches | {"PYTHONPATH": path, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return Finding("broken", "", f"it does not import within {timeout_s:g} s")
    answer = next((row for row in done.stdout.splitlines() if row.startswith(_MARK)), None)
    if answer is not None:
        return Finding(**json.loads(answer.removeprefix(_MARK)))
    if done.returncode < 0:
        return Finding("broken", "", f"importing it ends Python with {signal.Signals(-done.returncode).name}")
    return Finding("broken", "", f"importing it ends Python: {_line(done.stderr) or done.returncode}")


def run(parts: Sequence[Part] = PARTS) -> list[dict[str, Any]]:
    """Every part with its state, version, detail, purpose and fix ("" where nothing is to be done)."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(_WORKERS) as pool:
        found = list(pool.map(lambda part: examine(part, Path(folder)), parts))
    return [
        {
            "name": part.name,
            "purpose": part.purpose,
            **dataclasses.asdict(finding),
            "fix": "" if finding.state == "ok" else part.fix,
        }
        for part, finding in zip(parts, found, strict=True)
    ]


def heading() -> str:
    versions = f"Python {sys.version.split()[0]}, torch {_version('torch')}, numpy {_version('numpy')}"
    return f"marl {marl.__version__}, {versions}"


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Plain text, one line a part."""
    out = [heading()]
    for row in rows:
        said = [row["purpose"], row["detail"], row["fix"] and f"fix: {row['fix']}"]
        out.append(f"{row['state']:<8} {' '.join(filter(None, (row['name'], row['version'])))}")
        out[-1] += "".join(f"; {text}" for text in said if text)
    return out


_COLOURS = {"ok": "green", "missing": "yellow", "broken": "red", "warning": "magenta"}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """A table on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        print("\n".join(lines(rows)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=heading(), title_justify="left")
    for column in ("part", "state", "version", "what it is for, what is wrong, how to get it"):
        table.add_column(column)
    for row in rows:
        said = Text("\n".join(filter(None, (row["purpose"], row["detail"]))))
        if row["fix"]:
            said.append(f"\n{row['fix']}", style="bold")
        table.add_row(row["name"], Text(row["state"], style=_COLOURS[row["state"]]), row["version"], said)
    Console().print(table)


if __name__ == "__main__":  # the process that looks at one part
    chosen = next(part for part in PARTS if part.name == sys.argv[1])
    print(f"\n{_MARK}{json.dumps(dataclasses.asdict(look(chosen)))}", flush=True)
    os._exit(0)  # a package's clean-up at exit may hang or crash
