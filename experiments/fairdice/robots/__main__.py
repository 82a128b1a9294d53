"""FairDICE on robots with D4MORL-like rewards: experts, data, sweeps on one seed, the chosen on five others.

    python -m experiments.fairdice.robots                 all robots at the small size, from where they stood
    python -m experiments.fairdice.robots hopper          of these robots alone
    python -m experiments.fairdice.robots --plan          what is left, in core minutes; runs nothing
    python -m experiments.fairdice.robots --workers 1     runs at a time; two without
    python -m experiments.fairdice.robots --size whole    20,000 updates, 30 weights, the broadcasting fault
    python -m experiments.fairdice.robots --told          of either size, and the baselines that are told
    python -m experiments.fairdice.robots --full          the code's own sizes at whole's choices, on a GPU
    python -m experiments.fairdice.robots --report        only tables, plots and claims, from the raw files

1. `experts.yaml` trains policies of each robot, each on another weighted sum of its objectives.
2. Those of them that no other dominates play amateurs' episodes with the vector of rewards:
   runs/fair_robots/<size>/data.
3. `sweep.yaml` varies beta on seed 100, of FairDICE and of linear welfare with equal weights; `linear.yaml`
   then the weights.
4. `final.yaml` runs the methods below on seeds 0 to 4. All are measured on 32 episodes of the mean action.

Every run leaves its raw file as soon as it has ended: raw/<size>/<robot>/<stage>/<run_id>.json.
CHOICE: amateurs alone, where welfare can differ from cloning; 400 episodes; every expert plays as many
(D4MORL draws a preference per episode and takes the nearest expert).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.fairdice import stages
from experiments.fairdice.robots import report
from marl.datasets import collect, minari
from marl.measure import load_agent, load_run
from marl.offline.outcomes import front
from marl.rng import Rng
from marl.study import Job

ROBOTS = ("halfcheetah", "hopper", "swimmer")
# D4MORL's amateurs: share of random actions, and of scaled ones among the rest (marl/datasets/behaviour.py).
AMATEUR = {"hopper": (0.0, 0.65), "halfcheetah": (0.0, 0.65), "swimmer": (0.35, 1.0)}
EPISODES, MEASURED = 400, 32  # of a data set; of a measured run: starts differ by 1e-3 alone
RUNS = Path("runs/fair_robots")  # below the folder in which the command runs: the repository's root

# With {updates} and {mu_rate} of the stage, and what the sweeps chose: {beta}, {penalty}, {weights}, ...
UPDATES = ("loop=transitions", "total_steps={updates}", "agent.policy_decay={updates}")
MU = "agent.mu_learning_rate={mu_rate}"
FAIR = (*UPDATES, "agent=fairdice", MU, "agent.beta={beta}", "agent.penalty={penalty}")
LINEAR = ("agent.beta={linear_beta}", "agent.penalty={linear_penalty}", "agent.weights={weights}")
# Conditioned ones learn from whole episodes: 2 of 500 steps in every update, so fewer updates. CHOICE
TOLD_UPDATES = 4_000
TOLD = ("total_steps={updates}", "loop.batch.sequences=2")
METHODS: dict[str, tuple[str, ...]] = {
    "cloning": (*UPDATES, "agent=bc"),
    "fairdice": FAIR,
    "linear": (*UPDATES, "agent=fairdice", *LINEAR),
    "wrong_broadcast": (*FAIR, "agent.policy_loss=wrong_broadcast"),
    "bc_p": (*TOLD, "agent=bc", "agent.condition=preference"),
    "rvs_p": (*TOLD, "agent=bc", "agent.condition=outcome"),
    "modt_p": ("total_steps={updates}", "loop.batch.sequences=16", "agent=decision_transformer"),
}
COMPARED = ("cloning", "fairdice", "linear")
WITH_FAULT = (*COMPARED, "wrong_broadcast")
FULL = ("device=cuda", "agent.hidden=768", "agent.layers=3")  # the code's run script
FULL_UPDATES = 100_000


@dataclass(frozen=True)
class Stage:
    """Runs of one study file that share a folder of raw files.

    Args:
        name: of the folder.
        file: the study file.
        runs: how many.
        updates: of each.
        words: settings, some to be filled in.
        mu_rate: learning rate of mu.
        gpu: it needs one, and its time was not measured.
    """

    name: str
    file: str
    runs: int
    updates: int
    words: tuple[str, ...] = ()
    mu_rate: float = 0.003  # the code's moves log mu by 0.6 at most in 2,000 updates: short runs need more
    gpu: bool = False


@dataclass(frozen=True)
class Size:
    """How large the study is, and what a run costs: for the time left, never for a result.

    Args:
        updates: of a reported run.
        swept: updates of a run that chooses.
        sweep, linear: runs of either.
        experts, steps: policies, and their steps.
        methods: that are reported.
    """

    updates: int
    swept: int
    sweep: int
    linear: int
    experts: int
    steps: int
    methods: tuple[str, ...]


SIZES = {
    "small": Size(5_000, 2_000, 5, 11, 3, 300_000, COMPARED),
    "whole": Size(20_000, 5_000, 10, 30, 5, 1_000_000, WITH_FAULT),
}
SEEDS = 5  # of final.yaml
# Per core second, measured on the author's machine on halfcheetah: PPO's steps, and updates.
_STEPS, _RATES, _RATE = 5000, {"cloning": 350, "modt_p": 50}, 130
_START = 12  # core seconds of any run for its start and its measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("robots", nargs="*", help=f"of {', '.join(ROBOTS)}; all without")
    parser.add_argument("--size", choices=SIZES, help="default: small, 1.2 core hours")
    parser.add_argument("--told", action="store_true", help="and the baselines that are told")
    parser.add_argument("--full", action="store_true", help="768 x 3, 100,000 updates, on a GPU, after whole")
    parser.add_argument("--workers", type=int, help="runs at a time; default: 2")
    parser.add_argument("--plan", action="store_true", help="say what is left to do, and run nothing")
    parser.add_argument("--report", action="store_true", help="only tables, plots and claims")
    given = parser.parse_args()
    unknown = set(given.robots) - set(ROBOTS)
    if unknown:
        parser.error(f"there is no robot {', '.join(sorted(unknown))}: give of {', '.join(ROBOTS)}")
    if given.workers is not None and given.workers < 1:
        parser.error(f"--workers {given.workers}: give 1 or more")
    if given.full and (given.told or given.size == "small"):
        parser.error("--full goes with size whole alone: leave --size and --told out")
    names, size = given.robots or ROBOTS, "whole" if given.full else given.size or "small"
    stages_ = plan(size, told=given.told, full=given.full)
    studies = [Study(robot, size, stages_, given.workers) for robot in names]
    if not given.report:
        if not given.plan:
            minari.import_h5py()  # said now and not after the experts' training
        for at, study in enumerate(studies):
            minutes = sum(other.minutes_left() for other in studies[at:])
            on_gpu = sum(other.gpu_runs_left() for other in studies[at:])
            rest = f", and {on_gpu} runs on a GPU" * bool(on_gpu)
            print(f"{study.robot}, {size}: about {minutes:.0f} core minutes left in all{rest}", flush=True)
            if not given.plan:
                study.run()
    if not given.plan:
        report.main()


def plan(size: str, *, told: bool, full: bool) -> list[Stage]:
    """What is run of one robot, in order: the sweeps that choose, then the reported methods."""
    one = SIZES[size]
    linear_beta = ("agent.beta={linear_beta}", "agent.penalty={linear_penalty}")
    out = [
        Stage("sweep", "sweep.yaml", one.sweep, one.swept),
        Stage("sweep_equal", "sweep.yaml", one.sweep, one.swept, ("agent.weights=[0.5,0.5]",)),
        Stage("sweep_linear", "linear.yaml", one.linear, one.swept, linear_beta),
    ]
    if full:
        for name in WITH_FAULT:
            words = (*METHODS[name], *FULL)
            out.append(Stage(f"{name}_768x3", "final.yaml", SEEDS, FULL_UPDATES, words, 0.0003, gpu=True))
        return out
    for name in one.methods + (report.TOLD if told else ()):
        updates = TOLD_UPDATES if name in report.TOLD else one.updates
        out.append(Stage(name, "final.yaml", SEEDS, updates, METHODS[name]))
    return out


class Study:
    """One robot at one size.

    Args:
        robot: its name.
        size: of `SIZES`.
        plan: its stages.
        workers: runs at a time; None: the study files' own.
    """

    def __init__(self, robot: str, size: str, plan: list[Stage], workers: int | None) -> None:
        self.robot, self.size, self.plan, self.workers = robot, size, plan, workers
        self.raw, self.data = report.RAW / size / robot, RUNS / size / "data" / robot

    def run(self) -> None:
        for stage in self.plan:
            best: dict[str, Any] = {"updates": stage.updates, "mu_rate": stage.mu_rate}
            if stage.name not in report.SWEEPS[:2]:
                best |= report.chosen(self.raw)
            self._stage(stage, [word.format(**best) for word in stage.words])

    def _stage(self, stage: Stage, words: list[str]) -> None:
        print(f"{self.robot}: about {self.minutes_left():.0f} core minutes left", flush=True)
        stages.measured(
            report.HERE / stage.file,
            self.raw / stage.name,
            [f"env=d4morl/{self.robot}", f"loop.data={self.data}", *words],
            episodes=MEASURED,
            explore=0.0,
            workers=self.workers,
            before=self._collect,
            only=self.size if stage.name in report.SWEEPS else "",
        )

    def minutes_left(self) -> float:
        """Core minutes of the runs without a raw file, and of experts whose data set is not there."""
        size, on_cpu = SIZES[self.size], [stage for stage in self.plan if not stage.gpu]
        each = {stage.name: stage.updates / _RATES.get(stage.name, _RATE) + _START for stage in on_cpu}
        seconds = sum(self._left(stage) * each[stage.name] for stage in on_cpu)
        if (seconds or self.gpu_runs_left()) and not minari.is_dataset(self.data):
            seconds += size.experts * (size.steps / _STEPS + _START)
        return seconds / 60

    def gpu_runs_left(self) -> int:
        """Runs without a raw file whose time was not measured."""
        return sum(self._left(stage) for stage in self.plan if stage.gpu)

    def _left(self, stage: Stage) -> int:
        return max(0, stage.runs - len(report.cells_of(self.raw, stage.name)))

    def _collect(self) -> None:
        """Train the experts and write the data set, unless that is there."""

        def runs() -> list[Path]:
            only = f"{self.size}_{self.robot}"
            return undominated(stages.train(report.HERE / "experts.yaml", only=only, workers=self.workers))

        random, scaled = AMATEUR[self.robot]
        how = {"random": [random], "scaled": scaled, "world": ["env.weights=[]"]}
        stages.export(runs, self.data, self.raw.parent / "data", episodes=EPISODES, **how)
        if report.policies(self.raw) < 2:
            print(f"{self.robot}: one expert dominates all others: its data hold no trade-off of objectives")


def undominated(jobs: list[Job]) -> list[Path]:
    """Run folders of the experts whose returns, vectors now, no other's are above in all objectives."""
    torch.set_num_threads(1)
    folders, returns = [job.cfg.folder for job in jobs], []
    for folder in folders:
        cfg, saved = load_run(folder)
        env = collect.changed_world(cfg.env, ["env.weights=[]"]).build(
            num_envs=4, device=torch.device("cpu"), threads=1
        )
        played = collect.play(env, load_agent(cfg, saved), episodes=4, rng=Rng(0, "experts"), explore=0.0)
        returns.append(np.mean([e.reward_LK.double().sum(0).tolist() for e in played], axis=0))
        print(f"{folder.name}: {dict(zip(env.spec.objectives, returns[-1].round(1).tolist(), strict=True))}")
    kept = front(torch.tensor(np.array(returns)))
    return [f for f, r in zip(folders, returns, strict=True) if bool((kept == torch.tensor(r)).all(-1).any())]


if __name__ == "__main__":
    main()
