"""Fair teams: own rewards as objectives, uneven data, FairDICE with Nash welfare against the sum.

    python -m experiments.fairdice.teams               all stages, from where they stood
    python -m experiments.fairdice.teams navigation    of this world alone
    python -m experiments.fairdice.teams --plan        what is left, in core minutes; runs nothing
    python -m experiments.fairdice.teams --workers 1   runs at a time; two without
    python -m experiments.fairdice.teams --report      only tables, plot and claims, from the raw files

1. `behaviour.yaml` trains two teams per world, one of them stopped early.
2. Both play, each agent spoiled to another degree (`RANDOM`): data sets below runs/fair_teams/data.
3. `tune.yaml` learns from them on seed 100. Every alpha's beta is the one that serves its own welfare
   best, the sum's by the sum: the same beta is another strength for weights mu of another size.
4. `study.yaml`: cloning, and every alpha with its beta, on seeds 0 to 4, which are reported.

Every run is measured on 320 episodes in which the policy itself acts, because fair policies may have to mix,
and leaves its raw file as soon as it has ended: raw/<world>/<stage>/<run_id>.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.fairdice import stages
from experiments.fairdice.teams import report
from marl.datasets import minari

WORLDS = {
    "hunt": ("env=predator_prey_continuous", "env.n_agents=3", "env.reward=own"),
    "navigation": ("env=navigation", "env.reward=own"),
}
RANDOM = (0.0, 0.5, 0.9)  # share of random actions of agent 0, 1, 2; CHOICE: members as unequal as that
EPISODES, MEASURED = 600, 320  # of a data set, and of a measured run
DATA = Path("runs/fair_teams/data")  # below the folder in which the command runs: the repository's root
# CHOICE: 64 x 2 networks and 4,000 updates. At a rate of 0.0003 nu was far from its optimum after 1,200
# updates, and 4,000 steps of log mu could not leave [0.3, 3.3]. Gamma: episodes last 25 and 50 steps.
LEARNER = ("agent.hidden=64", "agent.learning_rate=0.001", "agent.policy_decay=4000")
CLONED = ("agent=bc", *LEARNER)
FAIR = ("agent=fairdice", *LEARNER, "agent.gamma=0.95", "agent.penalty=0", "agent.mu_learning_rate=0.003")
RUNS = {"tune": 12, "fair": 15, "cloned": 5}  # of a world
_MINUTES = {"tune": 0.7, "fair": 0.7, "cloned": 0.5, "data": 2.0}  # core minutes of a run, for the time left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("worlds", nargs="*", help=f"of {', '.join(WORLDS)}; all without")
    parser.add_argument("--workers", type=int, help="runs at a time; default: 2")
    parser.add_argument("--plan", action="store_true", help="say what is left to do, and run nothing")
    parser.add_argument("--report", action="store_true", help="only tables, plot and claims")
    given = parser.parse_args()
    unknown = set(given.worlds) - set(WORLDS)
    if unknown:
        parser.error(f"there is no world {', '.join(sorted(unknown))}: give of {', '.join(WORLDS)}")
    if given.workers is not None and given.workers < 1:
        parser.error(f"--workers {given.workers}: give 1 or more")
    names = given.worlds or list(WORLDS)
    if not given.report:
        if not given.plan:
            minari.import_h5py()  # said now and not after the teams' training
        for at, world in enumerate(names):
            minutes = sum(minutes_left(other) for other in names[at:])
            print(f"{world}: about {minutes:.0f} core minutes left in all", flush=True)
            if not given.plan:
                _run(world, given.workers)
    if not given.plan:
        report.main()


def minutes_left(world: str) -> float:
    """Core minutes of the runs without a raw file."""
    done = {part: len(list((report.RAW / world / part).glob("*.json"))) for part in RUNS}
    left = sum(_MINUTES[part] * max(0, runs - done[part]) for part, runs in RUNS.items())
    return left + _MINUTES["data"] * bool(left and not minari.is_dataset(DATA / world))


def _run(world: str, workers: int | None) -> None:
    raw, data = report.RAW / world, DATA / world

    def runs() -> list[Path]:
        jobs = stages.train(report.HERE / "behaviour.yaml", only=world, workers=workers)
        return [job.cfg.folder for job in jobs]

    def collect() -> None:
        stages.export(runs, data, report.RAW / "data", episodes=EPISODES, explore=[1.0], random=RANDOM)

    def stage(file: str, name: str, *words: str) -> None:
        stages.measured(
            report.HERE / file,
            raw / name,
            [*WORLDS[world], f"loop.data={data}", *words],
            episodes=MEASURED,
            explore=1.0,
            workers=workers,
            before=collect,
        )

    stage("tune.yaml", "tune", *FAIR)
    stage("study.yaml", "cloned", *CLONED)
    for alpha, beta in report.chosen(raw).items():
        stage("study.yaml", "fair", *FAIR, f"agent.alpha={alpha}", f"agent.beta={beta}")


if __name__ == "__main__":
    main()
