"""What the studies of robots and teams share: train, write data sets, measure; all go on where they were.

A measured run leaves one raw file that says all: its settings, what made it, and of every episode the length
and the return of each objective (or agent). A run whose file is there is neither trained nor measured again,
so that a study may be spread over machines and days.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.claims import ROOT
from experiments.fairdice.metrics import scaled
from marl import config, files, results, stats, study
from marl.datasets import collect, minari
from marl.errors import CorruptFileError, Interrupted, MarlError
from marl.evaluate import for_evaluation
from marl.measure import load_agent, load_run
from marl.offline import objectives_of
from marl.rng import Rng
from marl.study import Job

HERE = ROOT / "experiments" / "fairdice"
_BATCH = 64  # worlds at a time; CHOICE
_DIGITS = 5  # decimals kept of a return


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measured run.

    Args:
        words: its settings as typed, by key.
        return_EK, length_E: of its episodes, in the world's own units; none of a run that diverged.
    """

    part: str
    words: dict[str, str]
    seed: int
    objectives: tuple[str, ...]
    return_EK: np.ndarray
    length_E: np.ndarray
    path: Path


def train(path: Path, *, only: str, workers: int | None = None) -> list[Job]:
    """Run the jobs of one part of a study file, which are finished where their run folders say so."""
    whole = study.from_file(path)
    jobs = [job for job in whole.jobs if job.part == only]
    # Its table of greedy returns goes beside the run folders, not into the repository.
    study.run(replace(whole, jobs=jobs, raw=False, folder=jobs[0].cfg.runs_dir), workers)
    return jobs


def measured(
    path: Path,
    raw: Path,
    words: Sequence[str] = (),
    *,
    episodes: int,
    explore: float,
    only: str = "",
    seeds: str = "",
    workers: int | None = None,
    before: Callable[[], object] = lambda: None,
) -> None:
    """Run and measure those jobs of a study file that have no file in `raw`, each as soon as it has finished.

    Args:
        path: the study file.
        raw: folder of the measured runs.
        words: overrides of every run.
        episodes, explore: of `measure`.
        only: the name of a part; "": all.
        seeds: other than the file's; "": its own.
        workers: runs at a time; None: the file's own.
        before: called if there is anything to run.

    Raises:
        MarlError: a run failed for another reason than that its numbers diverged, which is a result.
    """
    whole = study.from_file(path, words, {"seeds": seeds} if seeds else {})
    jobs = [job for job in whole.jobs if only in ("", job.part)]
    left = [job for job in jobs if not raw_file(job, raw).is_file()]
    print(f"{raw}: {len(left)} of {len(jobs)} runs left", flush=True)
    if not left:
        return
    before()

    def after(job: Job) -> None:
        measure(job, raw, episodes=episodes, explore=explore)

    try:
        study.run(replace(whole, jobs=left, raw=False, folder=left[0].cfg.runs_dir, after=after), workers)
    except Interrupted:
        raise
    except MarlError:
        missing = [job for job in left if not raw_file(job, raw).is_file()]
        whys = [_diverged(job) for job in missing]
        if not all(whys):
            raise
        for job, why in zip(missing, whys, strict=True):
            _write(job, raw, {"failed": why, "explore": explore}, [])


def raw_file(job: Job, raw: Path) -> Path:
    return raw / f"{job.cfg.run_id}.json"


def measure(job: Job, raw: Path, *, episodes: int, explore: float) -> None:
    """Play a job's team and write its file, unless that is there.

    Args:
        explore: 0 for the mean of a Gaussian; 1 for the policy itself, which may have to mix.
    """
    path = raw_file(job, raw)
    if path.is_file():
        return
    torch.set_num_threads(1)
    cfg, saved = load_run(job.cfg.folder, device="cpu")
    env = for_evaluation(cfg.env).build(num_envs=min(episodes, _BATCH), device=torch.device("cpu"), threads=1)
    rng = Rng(cfg.seed, "measure")
    played = collect.play(env, load_agent(cfg, saved), episodes=episodes, rng=rng, explore=explore)
    rows = [[e.length, *(round(float(v), _DIGITS) for v in e.reward_LK.double().sum(0))] for e in played]
    _write(job, raw, {"explore": explore}, rows)
    print(f"{path}: {episodes} episodes", flush=True)


def _diverged(job: Job) -> str:
    """The last line of a run whose numbers left all bounds; "" of any other."""
    log = job.cfg.folder / "log.txt"
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    last = lines[-1].removeprefix("marl: ") if lines else ""
    return last if "is NaN or infinite: step" in last or "exceeds mu_limit=" in last else ""


def _write(job: Job, raw: Path, extra: dict[str, Any], rows: list[list[float]]) -> None:
    kept = ("run_id", "config_hash", "steps", "wall_s", "threads", "versions", "git", "hardware", "date")
    try:
        out = results.read(job.cfg.folder)
    except CorruptFileError:  # there is none: the run ended before it wrote any
        out = _made_now(job)
    words = [w for w in job.overrides if not w.startswith("runs_dir=")]
    env = job.cfg.env.build(num_envs=1, device=torch.device("cpu"), threads=1)
    about = {"part": job.part, "seed": job.cfg.seed, "overrides": words}
    about |= {name: out[name] for name in kept} | extra | {"columns": ["length", *objectives_of(env.spec)]}
    head = json.dumps(about, allow_nan=False, indent=1)[:-2]
    body = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    files.make_folder(raw)
    files.write_atomic(raw_file(job, raw), f'{head},\n "episodes": [\n{body}\n ]\n}}\n'.encode())


def _made_now(job: Job) -> dict[str, Any]:
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    about = {"run_id": job.cfg.run_id, "config_hash": job.cfg.hash, "threads": job.cfg.threads, "date": date}
    made = {"versions": results.versions(), "git": results.git(), "hardware": results.hardware()}
    return about | made | {"steps": None, "wall_s": None}


def read(paths: Sequence[Path]) -> list[Cell]:
    """Measured runs from their files."""
    return [_cell(path) for path in paths]


def agree(cells: Sequence[Cell], varied: Sequence[str] = ()) -> None:
    """Refuse files of more than one setting of training, or two of one run.

    Args:
        cells: files that are one row of a table, or one sweep.
        varied: settings in which they differ besides the seed.

    Raises:
        MarlError: a file is of another study: settings were changed between the runs.
    """
    known: dict[tuple[str, ...], Cell] = {}
    for cell in cells:
        free = {*varied, "seed"}
        differ = {name for name in cells[0].words.keys() | cell.words.keys() if name not in free}
        other = [n for n in sorted(differ) if cells[0].words.get(n) != cell.words.get(n)]
        if other:
            what = f"{cell.path} has {other[0]}={cell.words.get(other[0], '-')}, {cells[0].path} has not"
            raise MarlError(f"{what}: remove the files of one setting")
        which = str(cell.seed), *(cell.words.get(name, "") for name in varied)
        twin = known.setdefault(which, cell)
        if twin is not cell:
            raise MarlError(f"{cell.path} and {twin.path} are the same run: remove one")


def _cell(path: Path) -> Cell:
    data = json.loads(path.read_text())
    table = np.array(data["episodes"], dtype=float).reshape(-1, len(data["columns"]))
    return Cell(
        part=data["part"],
        words=dict(word.split("=", 1) for word in data["overrides"]),
        seed=data["seed"],
        objectives=tuple(data["columns"][1:]),
        return_EK=table[:, 1:],
        length_E=table[:, 0],
        path=path,
    )


def export(runs: Callable[[], Sequence[Path]], out: Path, raw: Path, **settings: Any) -> None:
    """`marl export-dataset`, unless the data set is there; and its row in <raw>/<name>.json.

    The row holds its provenance, and the limits of the rewards by which returns are scaled. It stays where
    the data set is lost with its machine; one that is made again has to be the same.

    Args:
        runs: trains what plays and returns the run folders; called if the data set is not there.
        out: the data set's folder.
        raw: folder of the row.
        settings: of `marl.datasets.collect.export`.

    Raises:
        MarlError: runs were measured that learned from another data set.
    """
    if not minari.is_dataset(out):
        collect.export(runs(), out, **settings)
    row, found = raw / f"{out.name}.json", _described(out)
    if not row.is_file():
        files.make_folder(raw)
        files.write_json(row, found)
        return
    known = json.loads(row.read_text())
    for name in ("episodes", "steps", "low", "high", "mean_return"):
        if not np.allclose(known[name], found[name], rtol=1e-6):
            raise MarlError(
                f"{out} is not the data set behind {row}: its {name} is {found[name]}, not {known[name]}; "
                "runs measured so far learned from the other. Go on where that was made, or remove "
                f"{row} and those runs' raw files"
            )


def _described(data: Path) -> dict[str, Any]:
    said = minari.about(data)["marl"]
    env = config.make(said["world"]).build(num_envs=1, device=torch.device("cpu"), threads=1)
    episodes = list(minari.read(data, env.spec))
    reward_XK = torch.cat([episode.reward_LK for episode in episodes])
    low_K, high_K = reward_XK.amin(0).numpy(), reward_XK.amax(0).numpy()
    return_EK = np.array([episode.reward_LK.double().sum(0).tolist() for episode in episodes])
    length_E = np.array([episode.length for episode in episodes])
    return {
        **{name: said[name] for name in ("rewards", "world", "sources", "versions", "git")},
        "episodes": len(episodes),
        "steps": len(reward_XK),
        "low": low_K.tolist(),
        "high": high_K.tolist(),
        "mean_return": return_EK.mean(0).tolist(),
        "mean_scaled": scaled(return_EK, length_E, low_K, high_K).mean(0).tolist(),
    }


def at_edge(beta: str, tried: Iterable[Cell]) -> bool:
    """Whether nothing beyond a chosen beta was tried, so that the best may lie outside the grid."""
    betas = {float(cell.words["agent.beta"]) for cell in tried}
    return len(betas) > 1 and float(beta) in (min(betas), max(betas))


def mean(values: Sequence[float] | np.ndarray) -> tuple[float, float | None, float | None]:
    """Mean over seeds with its 95 % bootstrap interval."""
    return stats.interval(np.array(values), stats.mean, rng=np.random.default_rng(0)).numbers()


def shown(values: Sequence[float] | np.ndarray, form: str = ".3f") -> str:
    """The same as a table's cell; infinite values are counted, not averaged."""
    finite = [v for v in values if np.isfinite(v)]
    if not finite:
        return "-inf in all"
    value, low, high = mean(finite)
    out = format(value, form) if low is None else f"{value:{form}} [{low:{form}}, {high:{form}}]"
    return out + (f" and {len(values) - len(finite)} infinite" if len(finite) < len(values) else "")
