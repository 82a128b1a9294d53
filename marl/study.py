"""Many runs from one list: a grid of overrides times seeds, run by local worker processes.

A study file:

    name: battle                     folder below runs_dir; letters, digits, '_' and '-'
    overrides: [agent=qmix]          of every run
    workers: 2                       runs at a time; default: cores / threads
    threads: 1                       of each run
    time_limit_min: 120              a run that takes longer is stopped with a checkpoint; default none
    parts:                           each part is a grid of its own; a file may also have one, unnamed
      - name: easy
        overrides: [total_steps=1e6]
        grid:                        one list per axis; an item is one override or a list of them
          - [env=battle/3m, env=battle/8m]
          - [agent=iql, agent=qmix]
        seeds: 0-4
        trial: true                  too few seeds for a claim; marked in the table

Every run is a process of its own (`python -m marl.cli train`) in <runs_dir>/<name>/<run_id>. Run ids
follow from the configs, so that the same file started again skips what is finished and continues
what is not. Finished runs leave raw/<run_id>.json beside the study file, small enough to commit; a run
whose file is there counts as finished, so that a study may be spread over machines and days.

At the end stand table.md (every setting, and the probability that one method beats another) and, in plots/,
the learning curves and each part's performance profiles.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marl import compose
from marl.config import RunConfig, unknown
from marl.errors import FieldError, MarlError, require

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,59}")
_PART_KEYS = ("name", "overrides", "grid", "seeds", "trial", "time_limit_min")
_FILE_KEYS = (*_PART_KEYS, "workers", "threads", "runs_dir", "parts")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a study.

    Args:
        cfg: its config, checked before anything starts.
        overrides: words for `marl train`.
        label: the overrides in which it differs from other runs of the list, its seed left out.
        part: name of its part of the study; "" when there is one.
        trial: fewer seeds than a claim needs.
        time_limit_s: seconds it may run in one go, or None.
    """

    cfg: RunConfig
    overrides: tuple[str, ...]
    label: str = ""
    part: str = ""
    trial: bool = False
    time_limit_s: float | None = None


@dataclass(kw_only=True)
class Study:
    """A checked list of jobs.

    Args:
        name: of the study.
        jobs: in the order in which they start.
        folder: where raw/, the table and the plot go.
        raw: whether finished runs leave a compact copy in folder/raw.
        workers: runs at a time, or None for cores / threads.
        threads: of each run.
        after: called in this process with every finished job, the others running on; also with those that had
            finished before.
        only: names of the parts whose runs are started, all if empty; the table is of every finished run.
    """

    name: str
    jobs: list[Job]
    folder: Path
    raw: bool = True
    workers: int | None = None
    threads: int = 1
    after: Callable[[Job], None] | None = None
    only: tuple[str, ...] = ()

    @property
    def asked(self) -> list[Job]:
        """The jobs that are to be run."""
        return [job for job in self.jobs if not self.only or job.part in self.only]


def from_jobs(jobs: Sequence[Sequence[str]]) -> Study:
    """The study behind `marl train seeds=...` and `-m`: no file, no raw copies."""
    made = [Job(cfg=compose.compose(overrides), overrides=tuple(overrides)) for overrides in jobs]
    made = _labelled(made)
    threads = max(job.cfg.threads for job in made)
    return Study(name="runs", jobs=made, folder=made[0].cfg.runs_dir, raw=False, threads=threads)


def from_file(path: Path, overrides: Sequence[str] = (), given: Mapping[str, Any] | None = None) -> Study:
    """Read and check a study file.

    Args:
        path: the YAML file.
        overrides: of every run; they win over the file's for the same key.
        given: settings of the command line that win over the file's: workers, threads, runs_dir, seeds; and
            part, names of parts with commas between them, whose runs alone are started.

    Raises:
        MarlError: names the file's key or the override that is wrong.
    """
    from omegaconf import OmegaConf

    if not path.is_file():
        raise FieldError("study", str(path), "there is no such file")
    try:
        node = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except Exception as error:  # the YAML parser has many
        raise MarlError(f"{path} is not a study file: {str(error).splitlines()[0]}") from error
    if not isinstance(node, dict):
        raise MarlError(f"{path} is not a study file: it holds no mapping")
    for key in node:
        if key not in _FILE_KEYS:
            raise unknown(str(key), _FILE_KEYS, "", str(path))
    given = dict(given or {})
    only = tuple(name for name in str(given.pop("part", "")).split(",") if name)
    node = {str(k): v for k, v in node.items()} | given
    name, workers, threads = str(node.get("name", path.stem)), node.get("workers"), node.get("threads", 1)
    require(_NAME.fullmatch(name) is not None, "name", name, "start with a letter; letters, digits, _ and -")
    require(workers is None or _is_whole(workers), "workers", workers, "give a whole number of 1 or more")
    require(_is_whole(threads), "threads", threads, "give a whole number of 1 or more")
    runs_dir = Path(node.get("runs_dir") or "runs") / name
    about = {"threads": f"threads={threads}", "runs_dir": f"runs_dir={runs_dir}"}
    every = [*_words(node, "overrides"), *about.values()]
    last = [*overrides, *(about[name] for name in about if name in given)]
    jobs = [job for part in _parts(node, path, given) for job in _part_jobs(part, every, last)]
    there = list(dict.fromkeys(job.part for job in jobs))
    for part in only:
        require(part in there, "part", part, f"the file has: {', '.join(there)}")
    sizes: dict[str, Any] = {"workers": workers, "threads": threads, "only": only}
    return Study(name=name, jobs=_labelled(jobs), folder=path.parent, **sizes)


def _parts(node: Mapping[str, Any], path: Path, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts, each with what the file says once for all."""
    parts = node.get("parts") or [{k: v for k, v in node.items() if k in ("grid", "seeds", "trial")}]
    if not isinstance(parts, list) or not all(isinstance(p, dict) for p in parts):
        raise FieldError("parts", parts, "give a list of mappings")
    shared = {k: node[k] for k in ("grid", "seeds", "trial", "time_limit_min") if k in node}
    for part in parts:
        for key in part:
            if key not in _PART_KEYS:
                raise unknown(str(key), _PART_KEYS, "parts", str(path))
    own = {"seeds": given["seeds"]} if "seeds" in given else {}
    return [shared | part | own for part in parts]


def _part_jobs(part: Mapping[str, Any], every: Sequence[str], last: Sequence[str]) -> list[Job]:
    """The part's jobs; a word of `last` takes the place of every other for its key."""
    grid = part.get("grid") or []
    if not isinstance(grid, list) or not all(isinstance(axis, list) and axis for axis in grid):
        raise FieldError("grid", grid, "give one list of overrides per axis: [[env=a, env=b], [agent=c]]")
    limit = part.get("time_limit_min")
    require(
        limit is None or (_is_number(limit) and limit > 0), "time_limit_min", limit, "give minutes above 0"
    )
    jobs = []
    for choice in itertools.product(*grid):
        chosen = [str(w) for item in choice for w in (item if isinstance(item, list) else [item])]
        words = [w for w in (*every, *_words(part, "overrides"), *chosen) if _key(w) not in map(_key, last)]
        seeds = compose.parse_seeds(part.get("seeds", 0))
        for cfg in compose.with_seeds([*words, *last], seeds):
            jobs.append(
                Job(
                    cfg=cfg,
                    overrides=(*words, *last, f"seed={cfg.seed}"),
                    part=str(part.get("name", "")),
                    trial=bool(part.get("trial", False)),
                    time_limit_s=60.0 * limit if limit is not None else None,
                )
            )
    return jobs


def _words(node: Mapping[str, Any], key: str) -> list[str]:
    words = node.get(key) or []
    if not isinstance(words, list) or not all(isinstance(w, str) and "=" in w for w in words):
        raise FieldError(key, words, "give a list of key=value")
    return words


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _labelled(jobs: Sequence[Job]) -> list[Job]:
    """The jobs with their labels; refuses two runs that would share a folder."""
    seen: set[Path] = set()
    for job in jobs:
        if job.cfg.folder in seen:
            fix = "remove the one that is there twice, and leave run_id out"
            raise MarlError(f"two runs of the list would be {job.cfg.folder}: {fix}")
        seen.add(job.cfg.folder)
    common = set.intersection(*(set(job.overrides) for job in jobs)) if jobs else set()
    words = [[w for w in j.overrides if w not in common and not w.startswith("seed=")] for j in jobs]
    return [replace(job, label=" ".join(w)) for job, w in zip(jobs, words, strict=True)]


def run(study: Study, workers: int | None = None) -> list[dict[str, Any]]:
    """Run what is not finished, then write the table and the plot.

    Args:
        study: the jobs.
        workers: runs at a time; wins over the study's own.

    Returns:
        results.json of every finished run.

    Raises:
        Interrupted: SIGTERM or SIGINT; every worker has written a checkpoint.
        MarlError: runs failed twice; the others are finished.
    """
    from marl import summary
    from marl import workers as pool

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = workers or study.workers or max(1, cores // study.threads)
    problems = pool.drain(study, count)
    found = pool.finished(study)
    if found:
        summary.write(study, found)
    if problems:
        raise MarlError("; ".join(problems))
    return [result for _, result in found]
