"""Fair teams: own rewards as objectives, uneven data, FairDICE with Nash welfare against the sum.

    python -m experiments.fairdice.teams           all stages, from where they stood
    python -m experiments.fairdice.teams --report  only table, plot and claims, from the raw files

1. `behaviour.yaml` trains two teams per world, one of them stopped early.
2. Both play, each agent spoiled to another degree (`RANDOM`): data sets below runs/fair_teams/data.
3. `study.yaml` learns from them; every run is measured on 320 episodes in which the policy itself acts,
   because fair policies may have to mix: raw/<world>/<run_id>.json.
4. Table, plot and claims.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.fairdice import stages
from experiments.fairdice.teams import report

WORLDS = {
    "hunt": ("env=predator_prey_continuous", "env.n_agents=3", "env.reward=own"),
    "navigation": ("env=navigation", "env.reward=own"),
}
RANDOM = (0.0, 0.5, 0.9)  # share of random actions of agent 0, 1, 2; CHOICE: members as unequal as that
EPISODES, MEASURED = 600, 320  # of a data set, and of a measured run
DATA = Path("runs/fair_teams/data")  # below the folder in which the command runs: the repository's root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--report", action="store_true", help="only table, plot and claims")
    parser.add_argument("--seeds", default="", help="other than the study file's: 0, or 0-4")
    given = parser.parse_args()
    if not given.report:
        for world, words in WORLDS.items():
            _run(world, words, given.seeds)
    report.main()


def _run(world: str, words: tuple[str, ...], seeds: str) -> None:
    raw, data = report.RAW / world, DATA / world

    def runs() -> list[Path]:
        jobs = stages.train(report.HERE / "behaviour.yaml", raw, only=world)
        return [job.cfg.folder for job in jobs]

    def collect() -> None:
        stages.export(runs, data, report.RAW / "data", episodes=EPISODES, explore=[1.0], random=RANDOM)

    given = [*words, f"loop.data={data}"]
    jobs = stages.train(report.HERE / "study.yaml", raw, given, seeds=seeds, before=collect)
    stages.measure(jobs, raw, episodes=MEASURED, explore=1.0)


if __name__ == "__main__":
    main()
