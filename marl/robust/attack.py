"""`marl attack`: a trained team under attack, beside the same team left alone.

An attack is a Config of conf/attack whose `build` gives an agent that acts in the team's place (the protocol
below). What it did at a step stands in its act's extras, (B,) each: `attack.attacked` (victims attacked),
and summed over those `attack.misled`, `attack.hit`, `attack.l0`, `attack.l1`, `attack.linf`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from marl import compose, config, files
from marl.checkpoint import Saved
from marl.config import RunConfig
from marl.errors import FieldError, MarlError
from marl.measure import load_agent, load_run, play
from marl.process import prepare_process
from marl.progress import duration
from marl.types import Act, Agent, Env

PREFIX = "attack."
SUMS = ("attacked", "misled", "hit", "l0", "l1", "linf")


class AttackConfig(Protocol):
    """The Config of any attack."""

    @property
    def label(self) -> str:
        """A short name."""
        ...

    @property
    def hash(self) -> str:
        """Hex digest of every setting."""
        ...

    @property
    def budgets(self) -> tuple[str, tuple[float, ...]]:
        """What the robustness curve runs over: a budget's name and values from 0 on."""
        ...

    def within(self, name: str, value: float) -> AttackConfig:
        """The same attack with another budget."""
        ...

    def build(self, *, cfg: RunConfig, saved: Saved, agent: Any) -> Agent:
        """The team under attack.

        It may have `attach(env)` if the attack looks into the worlds, `count_only(worlds_B)` if it can leave
        worlds alone that nobody looks at, `within(name, value)` if another budget needs no new building, and
        `victims`, the indices of the agents under attack.
        """
        ...


@dataclass(kw_only=True)
class Measured:
    """What E episodes gave.

    Args:
        episodes: per episode; those of `marl.evaluate` and, of a team under attack, the sums over its steps.
        seconds: wall time of playing them.
    """

    episodes: dict[str, list[float]]
    seconds: float

    def mean(self, name: str) -> float | None:
        return float(np.mean(self.episodes[name])) if name in self.episodes else None

    def numbers(self) -> dict[str, float | None]:
        """Means over episodes, and rates and sizes per attacked step; None where nothing was attacked."""
        out = {"return": self.mean("return"), "success": self.mean("success"), "length": self.mean("length")}
        count = sum(self.episodes.get(PREFIX + "attacked", [0.0]))
        names = {"misled": "misclassified", "hit": "target_reached", "l0": "l0", "l1": "l1", "linf": "linf"}
        for name, shown in names.items():
            known = PREFIX + name in self.episodes
            out[shown] = sum(self.episodes[PREFIX + name]) / count if known and count else None
        return out | {"steps_attacked": self.mean(PREFIX + "attacked"), "seconds": self.seconds}


@dataclass
class _Sums:
    """Adds up what an attack did in every world's first episode."""

    agent: Any
    rows: list[dict[str, Tensor]] = field(default_factory=list)

    def begin(self, env: Env) -> None:
        if hasattr(self.agent, "attach"):
            self.agent.attach(env)
        self.rows.append({})

    def step(self, act: Act, playing_B: Tensor) -> None:
        for name in SUMS:
            if PREFIX + name in act.extras:
                value_B = torch.where(playing_B, act.extras[PREFIX + name].cpu(), 0.0)
                row = self.rows[-1]
                row[name] = row[name] + value_B if name in row else value_B
        if hasattr(self.agent, "count_only"):
            self.agent.count_only(playing_B)

    def episodes(self) -> dict[str, list[float]]:
        return {PREFIX + name: torch.cat([row[name] for row in self.rows]).tolist() for name in self.rows[0]}


def measure(agent: Any, cfg: RunConfig, *, episodes: int, seed: int, batch: int | None = None) -> Measured:
    """Play the episodes of `marl evaluate` with the same seed.

    Args:
        agent: a team, or one under attack.
        cfg: of the team's run.
        episodes, batch: as `marl.evaluate.evaluate`.
        seed: which episodes.
    """
    sums, started = _Sums(agent), time.monotonic()
    played = play(agent, cfg, episodes=episodes, seed=seed, batch=batch, watcher=sums)
    if hasattr(agent, "count_only"):
        agent.count_only(None)
    return Measured(episodes=played.lists() | sums.episodes(), seconds=time.monotonic() - started)


def load(name: str, words: Sequence[str], trust: tuple[str, ...] = ()) -> AttackConfig:
    """The attack of a file of conf/attack with settings changed.

    Args:
        name: of the file.
        words: `attack.<field>=<value>`.
        trust: packages besides marl that its `_target_` may name.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    given = []
    for word in words:
        key, equals, _ = word.partition("=")
        if not equals or not key.startswith("attack."):
            raise MarlError(f"{word!r} is not a setting of an attack: write attack.<field>=<value>")
        given.append(word.removeprefix("attack."))
    try:
        node = OmegaConf.merge(compose.read_option("attack", name), OmegaConf.from_dotlist(given))
        made: AttackConfig = config.make(OmegaConf.to_container(node), trust=trust, where="attack")
    except OmegaConfBaseException as error:
        raise MarlError(f"the attack's settings cannot be read: {str(error).splitlines()[0]}") from error
    return made


def curve_of(text: str, attack: AttackConfig) -> tuple[str, tuple[float, ...]]:
    """`curve=` of the command line: "auto", "none", or <budget>:<value>,<value>,..."""
    if text == "auto":
        return attack.budgets
    if text == "none":
        return "", ()
    name, colon, rest = text.partition(":")
    try:
        values = tuple(float(v) for v in rest.split(","))
    except ValueError:
        values = ()
    if not colon or not values or min(values) < 0:
        raise FieldError("curve", text, "give auto, none or <budget>:<value>,..., as linf:0,0.1,0.2")
    return name, tuple(sorted(values))


def attack_run(
    folder: Path,
    *,
    attack: AttackConfig,
    episodes: int,
    seed: int | None = None,
    step: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    trust: tuple[str, ...] = (),
    curve: str = "auto",
    video: bool = True,
) -> dict[str, Any]:
    """Attack a run's team, print the table and write the report beside the run's results.

    Args:
        folder: the victim's run folder.
        attack: which attack.
        episodes: how many, 1 or more.
        seed: other than the run's own, for other episodes.
        step, device, threads, trust: as `marl.measure.load_run`.
        curve: see `curve_of`; every point plays as many episodes.
        video: also a GIF of a clean and an attacked episode side by side, where the world can be drawn.

    Returns:
        The content of report.json.
    """
    from marl.robust import report

    cfg, saved = load_run(folder, step=step, trust=trust, device=device, threads=threads)
    prepare_process(cfg)
    chosen, agent = cfg.seed if seed is None else seed, load_agent(cfg, saved)
    name, values = curve_of(curve, attack)
    inside = [attack.within(name, value) for value in values]
    team: Any = attack.build(cfg=cfg, saved=saved, agent=agent)  # first: what does not fit is said at once
    clean = measure(agent, cfg, episodes=episodes, seed=chosen)
    _say("left alone", clean)
    attacked = measure(team, cfg, episodes=episodes, seed=chosen)
    _say("under attack", attacked, parts_left=len(values))
    points = []
    for value, one in zip(values, inside, strict=True):
        again = hasattr(team, "within")
        other = team.within(name, value) if again else one.build(cfg=cfg, saved=saved, agent=agent)
        points.append((value, measure(other, cfg, episodes=episodes, seed=chosen)))
        _say(f"{name} {value:g}", points[-1][1], parts_left=len(values) - len(points))
    out = report.content(cfg, saved, attack, chosen, clean, attacked, name, points)
    out["victims"] = list(getattr(team, "victims", ()))
    out["learned_on"] = getattr(team, "learned_on", "")
    where = cfg.folder / "attacks" / f"{attack.label}-{saved.step}-s{chosen}-e{episodes}-{attack.hash[:8]}"
    files.make_folder(where)
    report.show(out)
    for path in report.write(where, out, film=(cfg, agent, team, chosen) if video else None):
        print(f"  written to {path}")
    return out


def _say(part: str, measured: Measured, parts_left: int = 0) -> None:
    """A line per part that is played; the parts left are taken to last as long as this one."""
    left = f", about {duration(parts_left * measured.seconds)} left" if parts_left else ""
    numbers = measured.numbers()
    line = f"{part}: return {numbers['return']:.2f} in {duration(measured.seconds)}{left}"
    print(line, file=sys.stderr, flush=True)
