"""The compact copy of a finished run that a repository keeps: one row per final episode, and the curve.

{"schema": 1, "study", "part", "trial", "label", "run_id", "seed", "config_hash", "steps", "wall_s",
 "threads", "num_envs", "versions", "git", "hardware", "date", "overrides": [...],
 "columns": ["return", "success", ...], "episodes": [[20.0, 1.0, ...], ...],   final evaluation
 "curve_columns": ["step", "wall_s", "return", ...], "curve": [[0, 0.1, 2.5, ...], ...]}   means
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marl import files, results
from marl.errors import CorruptFileError

if TYPE_CHECKING:
    from marl.study import Job, Study

SCHEMA = 1
_KEPT = (
    "run_id",
    "config_hash",
    "steps",
    "wall_s",
    "threads",
    "num_envs",
    "versions",
    "git",
    "hardware",
    "date",
)
_DIGITS = 6  # CHOICE: decimals kept of an episode's numbers


def compact(study: Study, job: Job, out: dict[str, Any]) -> dict[str, Any]:
    """The content of raw/<run_id>.json from results.json of one seed."""
    final = out["final"] or {}
    columns = sorted(final)
    curve_columns = [n for n in (out["curve"][0] if out["curve"] else {}) if n not in ("step", "wall_s")]
    return {
        "schema": SCHEMA,
        "study": study.name,
        "part": job.part,
        "trial": job.trial,
        "label": job.label,
        "seed": job.cfg.seed,
        **{name: out[name] for name in _KEPT},
        "overrides": [w for w in job.overrides if not w.startswith("runs_dir=")],
        "columns": columns,
        "episodes": [
            [round(v, _DIGITS) for v in row]
            for row in zip(*(final[name][0] for name in columns), strict=True)
        ],
        "curve_columns": ["step", "wall_s", *curve_columns],
        "curve": [
            [e["step"], e["wall_s"], *(round(sum(e[n][0]) / len(e[n][0]), _DIGITS) for n in curve_columns)]
            for e in out["curve"]
        ],
    }


def write(study: Study, job: Job) -> Path:
    """Write raw/<run_id>.json beside the study file, unless these results are there already."""
    path, out = study.folder / "raw" / f"{job.cfg.run_id}.json", results.read(job.cfg.folder)
    if not path.is_file() or read(path).get("date") != out["date"]:  # of a run that was made anew
        files.make_folder(path.parent)
        data = compact(study, job, out)
        lists = {name: data.pop(name) for name in ("episodes", "curve")}
        head = json.dumps(data, allow_nan=False, indent=1)[:-2]
        rows = [
            f' "{name}": [\n' + ",\n".join(f"  {json.dumps(r)}" for r in v) + "\n ]"
            for name, v in lists.items()
        ]
        files.write_atomic(path, (head + ",\n" + ",\n".join(rows) + "\n}\n").encode())
    return path


def read(path: Path) -> dict[str, Any]:
    """Read one such file; raises CorruptFileError when it is not one."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptFileError(path, "it is not JSON") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or "episodes" not in data:
        raise CorruptFileError(path, f"it is not a raw file of schema {SCHEMA}")
    return data


def outcome(study: Study, job: Job) -> dict[str, Any] | None:
    """What results.json of the job's run would say of its episodes, from its raw file; None without one.

    Raises:
        CorruptFileError: the file is there and is not one, or is of another run.
    """
    path = study.folder / "raw" / f"{job.cfg.run_id}.json"
    if not path.is_file():
        return None
    data = read(path)
    if (data["run_id"], data["config_hash"]) != (job.cfg.run_id, job.cfg.hash):
        raise CorruptFileError(path, "it is of another run: remove it, or name the run otherwise")
    episodes, names = data["episodes"], data["curve_columns"][2:]
    return {
        **{name: data[name] for name in _KEPT},
        "status": "finished",
        "final": {n: [[row[i] for row in episodes]] for i, n in enumerate(data["columns"])},
        "curve": [
            {"step": step, "wall_s": wall_s} | {n: [[x]] for n, x in zip(names, means, strict=True)}
            for step, wall_s, *means in data["curve"]
        ],
    }
