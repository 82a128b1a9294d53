"""FairDICE on robots with D4MORL-like rewards: experts, data, a sweep on one seed, the chosen on five others.

    python -m experiments.fairdice.robots            all stages, from where they stood
    python -m experiments.fairdice.robots hopper     of these robots alone
    python -m experiments.fairdice.robots --full     the code's own sizes in the last stage, on a GPU
    python -m experiments.fairdice.robots --report   only tables, plots and claims, from the raw files

1. `experts.yaml` trains five policies per robot, each on another weighted sum of its objectives.
2. Those of them that no other dominates play amateurs' episodes with the vector of rewards:
   runs/fair_robots/data.
3. `sweep.yaml` varies beta and penalty of FairDICE on seed 100, `linear.yaml` then 30 linear weights on it.
4. `final.yaml` runs the methods below on seeds 0 to 4. All are measured on 32 episodes of the mean action.

CHOICE: amateurs alone, where welfare can differ from cloning; 400 episodes; every expert plays as many
(D4MORL draws a preference per episode and takes the nearest expert).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from experiments.fairdice import stages
from experiments.fairdice.robots import report
from marl.datasets import collect
from marl.measure import load_agent, load_run
from marl.offline.outcomes import front
from marl.rng import Rng
from marl.study import Job

ROBOTS = ("hopper", "halfcheetah", "swimmer")
# D4MORL's amateurs: share of random actions, and of scaled ones among the rest (marl/datasets/behaviour.py).
AMATEUR = {"hopper": (0.0, 0.65), "halfcheetah": (0.0, 0.65), "swimmer": (0.35, 1.0)}
EPISODES, MEASURED = 400, 32  # of a data set; of a measured run: starts differ by 1e-3 alone
DATA = Path("runs/fair_robots/data")  # below the folder in which the command runs: the repository's root

# With {updates}, and {beta}, {penalty}, {weights} as chosen.
UPDATES = ("loop=transitions", "total_steps={updates}")
FAIR = (
    *UPDATES,
    "agent=fairdice",
    "agent.policy_decay={updates}",
    "agent.beta={beta}",
    "agent.penalty={penalty}",
)
# Conditioned ones learn from whole episodes: 2 of 500 steps in every update, so fewer updates. CHOICE
TOLD = ("total_steps=4000", "loop.batch.sequences=2")
METHODS: dict[str, tuple[str, ...]] = {
    "cloning": (*UPDATES, "agent=bc"),
    "fairdice": FAIR,
    "linear": (*FAIR, "agent.weights={weights}"),
    "wrong_broadcast": (*FAIR, "agent.policy_loss=wrong_broadcast"),
    "bc_p": (*TOLD, "agent=bc", "agent.condition=preference"),
    "rvs_p": (*TOLD, "agent=bc", "agent.condition=outcome"),
    "modt_p": ("total_steps=4000", "loop.batch.sequences=16", "agent=decision_transformer"),
}

FULL = ("device=cuda", "agent.hidden=768", "agent.layers=3")  # the code's run script
FULL_METHODS = ("cloning", "fairdice", "linear", "wrong_broadcast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("robots", nargs="*", help=f"of {', '.join(ROBOTS)}; all without")
    parser.add_argument("--full", action="store_true", help="768 x 3 networks and 100,000 updates, on a GPU")
    parser.add_argument("--report", action="store_true", help="only tables, plots and claims")
    given = parser.parse_args()
    unknown = set(given.robots) - set(ROBOTS)
    if unknown:
        parser.error(f"there is no robot {', '.join(sorted(unknown))}: give of {', '.join(ROBOTS)}")
    if not given.report:
        for robot in given.robots or ROBOTS:
            _run(robot, full=given.full)
    report.main()


def _run(robot: str, *, full: bool) -> None:
    raw, data = report.RAW / robot, DATA / robot

    def stage(file: str, name: str, words: list[str]) -> None:
        given = [f"env=d4morl/{robot}", f"loop.data={data}", *words]
        jobs = stages.train(report.HERE / file, raw / name, given, before=lambda: _collect(robot, data))
        stages.measure(jobs, raw / name, episodes=MEASURED, explore=0.0)

    stage("sweep.yaml", "sweep", [])
    best = report.chosen(robot)
    stage("linear.yaml", "sweep_linear", [f"agent.beta={best['beta']}", f"agent.penalty={best['penalty']}"])
    best = report.chosen(robot)
    profile, updates = (FULL, 100_000) if full else ((), 20_000)
    for name in FULL_METHODS if full else METHODS:
        words = [word.format(**best, updates=updates) for word in METHODS[name]]
        stage("final.yaml", f"{name}_768x3" if full else name, [*words, *profile])


def _collect(robot: str, data: Path) -> None:
    """Train the experts and write the data set, unless that is there."""

    def runs() -> list[Path]:
        raw = report.RAW / robot / "experts"
        return undominated(stages.train(report.HERE / "experts.yaml", raw, only=robot))

    random, scaled = AMATEUR[robot]
    how = {"random": [random], "scaled": scaled, "world": ["env.weights=[]"]}
    stages.export(runs, data, report.RAW / "data", episodes=EPISODES, **how)


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
