"""One run, from its config to results.json.

`run` builds env, agent and loop, drives the loop, and between two of its iterates evaluates, logs,
writes checkpoints and listens to signals. What is computed lives in the loop; what is written, here.
"""

from __future__ import annotations

import dataclasses
import inspect
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from marl import checkpoint, files, report, results
from marl.channel import PerfectLink
from marl.checkpoint import Saved
from marl.config import RunConfig, label
from marl.errors import EnvError, FieldError, Interrupted, NonFiniteError
from marl.evaluate import evaluate, kept
from marl.loggers import Config as LoggerConfig
from marl.loggers import JsonLines, Logger, jsonl, open_loggers
from marl.process import Signals, global_state, prepare_process, set_global_state
from marl.progress import Progress
from marl.resume import refuse_existing
from marl.rng import Rng
from marl.sparse.pictures import record

SPARSITY = "sparsity.jsonl"  # a row per evaluation: kept weights and group sizes of every sparse layer


def run(cfg: RunConfig, saved: Saved | None = None) -> dict[str, Any]:
    """Train, evaluate and write the run's folder.

    Args:
        cfg: the run.
        saved: checkpoint to continue from (from `marl.resume.resume`), or None to start.

    Returns:
        The content of results.json.

    Raises:
        Interrupted: SIGTERM or SIGINT came; a checkpoint was written.
        NonFiniteError: a loss or gradient was NaN or infinite; the state before it was written.
        EnvError: a foreign environment failed; the checkpoints are as they were.
        MarlError: the run exists already, the device is missing, the disk is full.
    """
    files.make_folder(cfg.folder)
    with files.lock(cfg.folder), Signals() as signals:
        if saved is None:
            refuse_existing(cfg)
        files.sweep(cfg.folder)
        prepare_process(cfg)
        session = _Session(cfg, saved)
        try:
            session.train(signals)
            return session.finish(signals)
        except NonFiniteError as error:
            path = session.checkpoint()
            session.write_results("failed", None)
            where = f"step {session.loop.steps}, {cfg.run_id} stopped; the state before it is in {path}"
            detail = f"{where}; check the rewards' size, or train anew with a lower learning rate"
            raise NonFiniteError(error.tensor, detail) from error
        except EnvError as error:
            session.write_results("failed", None)
            raise EnvError(f"{error}; {session.stopped_at()}") from error
        except Interrupted:
            session.write_results("interrupted", None)
            raise
        finally:
            session.close()


@dataclasses.dataclass(kw_only=True)
class _Schedule:
    """What the trainer itself must remember; part of every checkpoint, all plain numbers."""

    next_log: int
    next_evaluation: int = 0
    next_checkpoint: int
    sums: dict[str, float] = dataclasses.field(default_factory=dict)  # train metrics since the last row
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    wall_s: float = 0.0  # seconds of training before this process
    metrics_bytes: int = 0
    evaluations_bytes: int = 0
    sparsity_bytes: int = 0


class _Session:
    """Everything that is open while a run runs."""

    def __init__(self, cfg: RunConfig, saved: Saved | None) -> None:
        self.cfg, self.folder = cfg, cfg.folder
        self.log_config = cfg.logger or LoggerConfig()
        self.schedule = _Schedule(
            next_log=self.log_config.every_steps, next_checkpoint=cfg.checkpoint.every_steps
        )
        rng = Rng(cfg.seed)
        rng.seed_globals()
        device = torch.device(cfg.device)
        env = cfg.env.build(num_envs=cfg.num_envs, device=device, threads=cfg.threads)
        self.measured_in = kept(cfg.env)
        self.agent = cfg.agent.build(spec=env.spec, rng=rng.child("agent"), device=device)
        parts: dict[str, Any] = {"env": env, "agent": self.agent, "rng": rng.child("loop")}
        link = _train_link(cfg, device)
        self.train_link: PerfectLink | None = link.get("link")
        self.loop = cfg.loop.build(**parts, **link)
        if saved is not None:
            self._restore(saved)
        files.write_json(self.folder / "config.json", cfg.to_dict())  # a resume may have changed it
        self.metrics = JsonLines(self.folder / "metrics.jsonl", self.schedule.metrics_bytes)
        self.evaluations = JsonLines(self.folder / "evaluations.jsonl", self.schedule.evaluations_bytes)
        self.pruners = getattr(self.agent, "pruners", {})  # of a team with sparse layers
        self.sparsity = None
        if self.pruners:
            self.sparsity = JsonLines(self.folder / SPARSITY, self.schedule.sparsity_bytes)
        sinks = open_loggers(self.log_config, self.folder, cfg.run_id, cfg.to_dict())
        self.loggers: list[Logger] = [self.metrics, *sinks]
        self.progress = Progress(cfg.total_steps, self.loop.steps)
        self._started, self._steps_at_start = time.monotonic(), self.loop.steps

    @property
    def wall_s(self) -> float:
        """Seconds of training so far, over all parts of the run."""
        return self.schedule.wall_s + time.monotonic() - self._started

    def train(self, signals: Signals) -> None:
        """Drive the loop to its last step; everything else happens between two iterates."""
        s, cfg = self.schedule, self.cfg
        while True:
            self._after_iterate()
            if signals.received is not None:
                self.checkpoint()
                self._stop(signals.received)
            if self.loop.steps >= cfg.total_steps:
                return
            for name, value in self.loop.iterate().items():
                s.sums[name] = s.sums.get(name, 0.0) + value
                s.counts[name] = s.counts.get(name, 0) + 1

    def _stop(self, number: int) -> NoReturn:
        """After a checkpoint of the step at which the loop stands."""
        path = self.folder / "checkpoints" / str(self.loop.steps)
        done = f"{signal.Signals(number).name} at step {self.loop.steps:,}: checkpoint {path} is written"
        raise Interrupted(number, f"{done}; continue with 'marl train resume={self.folder}'")

    def _after_iterate(self) -> None:
        s, cfg, step = self.schedule, self.cfg, self.loop.steps
        self.progress.advance(step)
        if step >= s.next_log:
            self._log_training()
            s.next_log = _next(step, self.log_config.every_steps)
        if step >= s.next_evaluation:
            self._evaluate()
            s.next_evaluation = _next(step, cfg.evaluation.every_steps)
        if step >= s.next_checkpoint:
            s.next_checkpoint = _next(step, cfg.checkpoint.every_steps)
            self.checkpoint()

    def _log_training(self) -> None:
        """One row of means over the iterates since the last row."""
        s, loop = self.schedule, self.loop
        row = {_grouped(name): total / s.counts[name] for name, total in s.sums.items()}
        row |= {"train/episodes": loop.episodes, "train/updates": loop.updates}
        elapsed = time.monotonic() - self._started
        row |= {
            "time/wall_s": round(self.wall_s, 3),
            "time/steps_per_s": round((loop.steps - self._steps_at_start) / max(elapsed, 1e-9), 1),
        }
        s.sums, s.counts = {}, {}
        self._log(row)

    def _log(self, row: Mapping[str, float]) -> None:
        for logger in self.loggers:
            logger.log(self.loop.steps, row)
        self.progress.show(row)

    def _evaluate(self) -> None:
        """Measure the greedy policy on the same episodes each time."""
        episodes = self._measure(self.cfg.evaluation.episodes, "evaluation")
        self.evaluations.append({"step": self.loop.steps, "wall_s": round(self.wall_s, 3), **episodes})
        self._log({f"eval/{name}": float(np.mean(values)) for name, values in episodes.items()})
        if self.sparsity is not None:
            self.sparsity.append({"step": self.loop.steps, "layers": record(self.pruners)})

    def _measure(self, episodes: int, name: str) -> dict[str, list[float]]:
        cfg = self.cfg
        measured = evaluate(
            self.agent,
            self.measured_in,
            episodes=episodes,
            rng=Rng(cfg.seed, name),
            device=torch.device(cfg.device),
            threads=cfg.threads,
            channel=cfg.channel,
        )
        return measured.lists()

    def checkpoint(self) -> Path:
        """Write everything that the rest of the run depends on."""
        s, cfg, loop = self.schedule, self.cfg, self.loop
        s.metrics_bytes, s.evaluations_bytes = self.metrics.sync(), self.evaluations.sync()
        s.sparsity_bytes = 0 if self.sparsity is None else self.sparsity.sync()
        info = {
            "run_id": cfg.run_id,
            "config": cfg.to_dict(),
            "config_hash": cfg.hash,
            "counters": self._counters(),
            "versions": results.versions(),
            "trainer": dataclasses.asdict(s) | {"wall_s": self.wall_s},
        }
        state = {**loop.state_dict(), "globals": global_state()}
        return checkpoint.write(
            self.folder, loop.steps, state, loop.segments(), info=info, keep=cfg.checkpoint.keep
        )

    def stopped_at(self) -> str:
        """Where the run stands and from where it can go on, as a clause."""
        there = checkpoint.steps(self.folder)
        left = "it has no checkpoint yet"
        if there:
            left = f"continue from its checkpoint of step {there[0]} with 'marl train resume={self.folder}'"
        return f"{self.cfg.run_id} stopped at step {self.loop.steps}: {left}"

    def _restore(self, saved: Saved) -> None:
        state = dict(saved.state)
        set_global_state(state.pop("globals"))
        self.loop.load_state_dict(state, saved.read_segment)
        self.schedule = _Schedule(**saved.info["trainer"])

    def _counters(self) -> dict[str, int]:
        return {"steps": self.loop.steps, "episodes": self.loop.episodes, "updates": self.loop.updates}

    def finish(self, signals: Signals) -> dict[str, Any]:
        """Last checkpoint, last evaluation, pictures and results.json; a signal ends the last two at once."""
        self.checkpoint()
        with signals.at_once(self._stop):
            final, wall_s = self._final_evaluation()
            for picture in report.pictures(self.cfg, self.agent, self._curve(), self._sparsity_rows()):
                for logger in self.loggers:
                    logger.media(picture.stem, picture)
        out = self.write_results("finished", final, wall_s)
        for line in report.summary(self.cfg, out, self.train_link):
            self.progress.say(line)
        return out

    def _final_evaluation(self) -> tuple[dict[str, Any] | None, float]:
        """Its numbers, if it was asked for, and the seconds of training before it."""
        if self.schedule.sums:  # after the checkpoint: a run that goes on from it keeps its own rhythm
            self._log_training()
        self.progress.close()
        cfg, final = self.cfg, None
        wall_s = self.wall_s
        if cfg.evaluation.final_episodes:
            self.progress.say(f"final evaluation over {cfg.evaluation.final_episodes} episodes")
            final = {k: [v] for k, v in self._measure(cfg.evaluation.final_episodes, "final").items()}
            self._log({f"final/{name}": float(np.mean(values)) for name, values in final.items()})
        self.metrics.sync()
        return final, wall_s

    def write_results(
        self, status: results.Status, final: dict[str, Any] | None, wall_s: float | None = None
    ) -> dict[str, Any]:
        names = ("config.json", "metrics.jsonl", "evaluations.jsonl", SPARSITY, *report.PICTURES)
        metas = [self.folder / "checkpoints" / str(s) / "meta.json" for s in checkpoint.steps(self.folder)]
        out = results.build(
            self.cfg,
            status=status,
            counters=self._counters(),
            wall_s=self.wall_s if wall_s is None else wall_s,
            curve=self._curve(),
            final=final,
            paths=[*(self.folder / name for name in names), *metas],
        )
        results.write(self.folder, out)
        return out

    def _curve(self) -> list[dict[str, Any]]:
        """One entry per evaluation; episodes get the leading seeds axis."""
        self.evaluations.sync()
        rows = jsonl.read(self.folder / "evaluations.jsonl")
        return [{k: [v] if isinstance(v, list) else v for k, v in row.items()} for row in rows]

    def _sparsity_rows(self) -> list[dict[str, Any]]:
        if self.sparsity is None:
            return []
        self.sparsity.sync()
        return jsonl.read(self.folder / SPARSITY)

    def close(self) -> None:
        self.progress.close()
        for log in (*self.loggers, self.evaluations, *([] if self.sparsity is None else [self.sparsity])):
            log.close()


def _train_link(cfg: RunConfig, device: torch.device) -> dict[str, Any]:
    """What a loop is built with where the training link is not the perfect one."""
    if cfg.train_channel is None:
        return {}
    if "link" not in inspect.signature(cfg.loop.build).parameters:
        fix = f"loop={label(cfg.loop)} has no link: leave it out, or use loop=off_policy or on_policy"
        raise FieldError("train_channel", type(cfg.train_channel).__name__, fix)
    return {"link": cfg.train_channel.build(device=device)}


def _next(step: int, every: int) -> int:
    """The first multiple of `every` after `step`: a schedule that does not depend on the past."""
    return (step // every + 1) * every


def _grouped(name: str) -> str:
    return name if "/" in name else f"train/{name}"
