"""The commands of `marl`: read the words, call the module that does the work.

Nothing heavy is imported before a command needs it: `marl --help` answers at once.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from marl.errors import FieldError, MarlError

HELP = """marl: train, evaluate and compare teams of learning agents

usage: marl <command> key=value ...

  train       marl train env=battle/3m agent=qmix          train one team
              marl train agent=vdn seeds=0-4 workers=2     one run per seed; -m also takes agent=vdn,qmix
              marl train resume=runs/<run_id>              continue a run, bit for bit (docs: where not)
  evaluate    marl evaluate run=runs/<run_id> episodes=320 measure a trained team
  attack      marl attack run=runs/<run_id> attack=owr     attack a trained team, report what is left
  export      marl export run=runs/<run_id> format=packed  write a trained policy for other programs
  export-dataset  marl export-dataset run=<run> out=<path>  episodes of trained teams, for offline learning
  study       marl study study.yaml                        run a grid of runs, resumable
  doctor      marl doctor                                  what is installed, what is not, and how to get it

'marl <command> --help' lists the settings of a command."""

_TRAIN_HELP = """marl train key=value ...: train one team, or several with seeds= or -m

  {groups}

  run_id, runs_dir, seed, device, threads, num_envs, total_steps, evaluation.every_steps, video,
  checkpoint.every_steps, logger.wandb ...: marl/conf/train.yaml has them all, with defaults. A component's
  own settings are the fields of its Config (env.map=8m, agent.<field>=..., loop.<field>=...).

  seeds=0-9 or seeds=0,3,5   one run per seed, by worker processes (workers=<n>)
  -m                         one run per value: agent=vdn,qmix
  resume=<run folder>        continue a run; total_steps may be raised
  trust=[package]            allow _target_ to name classes of that package"""

_EVALUATE_HELP = """marl evaluate run=<run folder> key=value ...: measure a trained team

  run=<folder>     the run; its newest checkpoint is used, or checkpoint=<step>
  episodes=320     how many, 1 or more
  seed=<n>         other episodes than the run's own final evaluation
  explore=0        0 acts greedily; above 0 a policy samples, and a team of action values takes random
                   actions with this probability
  channel=<name>   another link between the agents: {channels}
  channel.<field>=<value>, agent.<field>=<value>   settings of the link, and of the team
  talk=true        also a picture of who talks to whom in the first episode
  video=mp4        also a video, of a few episodes from the first one on; or video=gif
  device=cpu, threads=<n>, trust=[package]"""

_ATTACK_HELP = """marl attack run=<run folder> attack=<name> key=value ...: attack a trained team

  run=<folder>     the victim's run; its newest checkpoint is used, or checkpoint=<step>
  attack=<name>    {attacks}
  attack.<field>=<value>   its settings (attack.force=pgd, attack.budget.linf=0.1, attack.agents=[0,1], ...)
  attack.adversary=<folder>   a trained adversary; without it one is trained once and kept beside the victim
  episodes=32      how many, clean, attacked, and at every point of the curve
  curve=auto       budgets of the robustness curve: none, or as linf:0,0.1,0.2 (steps, linf, l2, l1, l0)
  seed=<n>         other episodes than the run's own final evaluation
  video=true       also a GIF of a clean and an attacked episode
  device=cpu, threads=<n>, trust=[package]"""

_DATASET_HELP = """marl export-dataset run=<run folder> out=<folder> key=value ...: write a Minari data set

  run=<folder>,... one run, or several of one world; their newest checkpoints are used, or checkpoint=<step>
  out=<folder>     the data set's folder, made here
  episodes=100     how many in all, shared equally by every pair of a run and a degree of exploration
  explore=0,...    degrees: 0 acts greedily; above 0 a policy samples, and a team of action values takes
                   random actions with this probability
  random=0,...     probability that an action is replaced by a random one: one number, or one per agent
  scaled=0         else: probability that a real action is multiplied by a number in [0.35, 1.65]
  memory=true      write what the run's memory holds, all of it, instead of playing
  env.<field>=<value>   a setting in which the data's world differs from that of training (its rewards)
  seed=0           other episodes
  trust=[package]"""

_EXPORT_HELP = """marl export run=<run folder> format=<format> key=value ...: write a trained policy

  run=<folder>     the run; its newest checkpoint is used, or checkpoint=<step>
  format=packed    policy.json and weights.safetensors; marl.sparse.export.load(<folder>) reads it back
  format=onnx      one .onnx file; needs pip install 'marl-suite[export]'
  format=torch     one .pt2 file for torch.export.load
  out=<path>       what to write; without it policy-<step> in the run's folder
  trust=[package]"""

_STUDY_HELP = """marl study <file.yaml> key=value ...: run a grid of runs, resumable by the same command

  workers=<n>      runs at a time
  threads=<n>      threads of each run
  runs_dir=<path>  where run folders are made
  seeds=0-9        other seeds than the file's
  part=<a>,<b>     the runs of these parts alone
  <key>=<value>    an override of every run

{file}"""

_DOCTOR_HELP = """marl doctor: every optional part, whether it can be used here, and how to get it

  json=true        a list for machines"""


def unknown_command(word: str, known: Iterable[str]) -> MarlError:
    """One sentence for a command that does not exist."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return MarlError(f"there is no command {word!r}: {hint}commands are {', '.join(names)}")


def take(words: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split off `name=value` words whose values are read literally (paths may hold '=')."""
    taken: dict[str, str] = {}
    rest: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in names:
            taken[name] = value
        else:
            rest.append(word)
    return taken, rest


def _refuse(words: Sequence[str], verb: str, known: Sequence[str]) -> None:
    """Raise MarlError if there are words that a verb does not know."""
    if words:
        name = words[0].split("=")[0]
        raise MarlError(f"{name} is not a setting of marl {verb}: use {', '.join(known)}")


def whole(name: str, text: str, low: int) -> int:
    """A whole number of at least `low` from a command line word."""
    if not text.isdecimal() or int(text) < low:
        raise FieldError(name, text, f"give a whole number of {low} or more")
    return int(text)


def _wants_help(words: Sequence[str], text: str) -> bool:
    if any(word in ("-h", "--help") for word in words):
        print(text)
        return True
    return False


def train(words: Sequence[str]) -> None:
    """`marl train`."""
    from marl import compose

    if any(word in ("-h", "--help") for word in words):
        lines = [f"{g}={' | '.join(compose.options(g))}" for g in compose.GROUPS]
        groups = "\n  ".join(textwrap.fill(line, 100, subsequent_indent=" " * 8) for line in lines)
        print(_TRAIN_HELP.format(groups=groups))
        return
    taken, rest = take(words, ("resume", "seeds", "workers"))
    multirun = any(word in ("-m", "--multirun") for word in rest)
    overrides = [word for word in rest if word not in ("-m", "--multirun")]
    if "resume" in taken:
        _resume(Path(taken["resume"]), taken, overrides)
        return
    jobs = compose.expand(overrides, seeds=taken.get("seeds"), multirun=multirun)
    if len(jobs) == 1:
        cfg = compose.compose(jobs[0])
        from marl import train as trainer

        trainer.run(cfg)
        return
    from marl import study as runner

    workers = whole("workers", taken["workers"], 1) if "workers" in taken else None
    runner.run(runner.from_jobs(jobs), workers=workers)


def _resume(folder: Path, taken: dict[str, str], overrides: Sequence[str]) -> None:
    for name in ("seeds", "workers"):
        if name in taken:
            raise FieldError(name, taken[name], "a resumed run has one seed and one process; leave it out")
    from marl import train as trainer
    from marl.resume import resume

    cfg, saved, skipped = resume(folder, overrides)
    for sentence in skipped:
        print(f"marl: {sentence}", file=sys.stderr)
    trainer.run(cfg, saved)


def evaluate(words: Sequence[str]) -> None:
    """`marl evaluate`."""
    if any(word in ("-h", "--help") for word in words):
        from marl import compose

        print(_EVALUATE_HELP.format(channels=", ".join(compose.options("channel"))))
        return
    what = ("run", "episodes", "seed", "explore", "checkpoint", "talk", "video")
    names = (*what, "device", "threads", "trust")
    taken, rest = take(words, names)
    if taken.get("video", "mp4") not in ("mp4", "gif"):
        raise FieldError("video", taken["video"], "give mp4 or gif")
    own = [word for word in rest if word.startswith(("channel=", "channel.", "agent."))]
    other = [word for word in rest if word not in own]
    _refuse(other, "evaluate", (*names, "channel", "agent.<field>"))
    if "run" not in taken:
        raise MarlError("run is missing: give run=<run folder>")
    from marl import measure

    measure.evaluate_run(
        Path(taken["run"]),
        episodes=whole("episodes", taken.get("episodes", "320"), 1),
        seed=whole("seed", taken["seed"], 0) if "seed" in taken else None,
        explore=_share("explore", taken.get("explore", "0")),
        step=whole("checkpoint", taken["checkpoint"], 0) if "checkpoint" in taken else None,
        device=taken.get("device"),
        threads=whole("threads", taken["threads"], 1) if "threads" in taken else None,
        trust=_packages(taken),
        words=own,
        talk=_flag("talk", taken.get("talk", "false")),
        film=taken.get("video", ""),
    )


def attack(words: Sequence[str]) -> None:
    """`marl attack`."""
    from marl import compose

    if any(word in ("-h", "--help") for word in words):
        print(_ATTACK_HELP.format(attacks=" | ".join(compose.options("attack"))))
        return
    what = ("run", "attack", "episodes", "curve", "seed", "checkpoint", "video")
    names = (*what, "device", "threads", "trust")
    taken, rest = take(words, names)
    other = [word for word in rest if not word.startswith("attack.")]
    _refuse(other, "attack", (*names, "attack.<field>"))
    for name, fix in (("run", "run=<run folder>"), ("attack", "attack=<name>, as attack=owr")):
        if name not in taken:
            raise MarlError(f"{name} is missing: give {fix}")
    from marl.robust import attack as attacks

    attacks.attack_run(
        Path(taken["run"]),
        attack=attacks.load(taken["attack"], rest, _packages(taken)),
        episodes=whole("episodes", taken.get("episodes", "32"), 1),
        seed=whole("seed", taken["seed"], 0) if "seed" in taken else None,
        step=whole("checkpoint", taken["checkpoint"], 0) if "checkpoint" in taken else None,
        device=taken.get("device"),
        threads=whole("threads", taken["threads"], 1) if "threads" in taken else None,
        trust=_packages(taken),
        curve=taken.get("curve", "auto"),
        video=_flag("video", taken.get("video", "true")),
    )


def _packages(taken: dict[str, str]) -> tuple[str, ...]:
    return tuple(t for t in taken.get("trust", "").strip("[]").split(",") if t)


def export(words: Sequence[str]) -> None:
    """`marl export`."""
    if _wants_help(words, _EXPORT_HELP):
        return
    names = ("run", "format", "out", "checkpoint", "trust")
    taken, rest = take(words, names)
    _refuse(rest, "export", names)
    for name, fix in (("run", "run=<run folder>"), ("format", "format=packed, onnx or torch")):
        if name not in taken:
            raise MarlError(f"{name} is missing: give {fix}")
    from marl.sparse.export.run import export_run

    export_run(
        Path(taken["run"]),
        format=taken["format"],
        out=Path(taken["out"]) if "out" in taken else None,
        step=whole("checkpoint", taken["checkpoint"], 0) if "checkpoint" in taken else None,
        trust=_packages(taken),
    )


def export_dataset(words: Sequence[str]) -> None:
    """`marl export-dataset`."""
    if _wants_help(words, _DATASET_HELP):
        return
    names = ("run", "out", "episodes", "explore", "random", "scaled", "memory", "seed", "checkpoint", "trust")
    taken, rest = take(words, names)
    world, rest = [w for w in rest if w.startswith("env.")], [w for w in rest if not w.startswith("env.")]
    _refuse(rest, "export-dataset", (*names, "env.<field>"))
    for name, fix in (("run", "run=<run folder>"), ("out", "out=<folder of the data set>")):
        if name not in taken:
            raise MarlError(f"{name} is missing: give {fix}")
    memory = _flag("memory", taken.get("memory", "false"))
    for name in ("episodes", "seed"):
        if memory and name in taken:
            raise FieldError(name, taken[name], "leave it out: memory=true stores all episodes as they are")
    from marl.datasets import collect

    collect.export(
        [Path(run) for run in taken["run"].split(",")],
        Path(taken["out"]),
        episodes=whole("episodes", taken.get("episodes", "100"), 1),
        explore=[_share("explore", text) for text in taken.get("explore", "0").split(",")],
        random=[_share("random", text) for text in taken.get("random", "0").split(",")],
        scaled=_share("scaled", taken.get("scaled", "0")),
        world=world,
        seed=whole("seed", taken.get("seed", "0"), 0),
        step=whole("checkpoint", taken["checkpoint"], 0) if "checkpoint" in taken else None,
        memory=memory,
        trust=_packages(taken),
    )


def _flag(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise FieldError(name, text, "give true or false")
    return text == "true"


def _share(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise FieldError(name, text, "give a number in [0, 1]")
    return value


def study(words: Sequence[str]) -> None:
    """`marl study`."""
    from marl import study as runner

    about = str(runner.__doc__).split("\n\n", 1)[1]
    if _wants_help(words, _STUDY_HELP.format(file=about)):
        return
    files = [word for word in words if not re.match(r"[\w.+~@-]+=|-", word)]
    if len(files) != 1:
        raise MarlError("marl study takes one study file: marl study <file.yaml> key=value ...")
    settings = [word for word in words if word != files[0]]
    taken, rest = take(settings, ("workers", "threads", "runs_dir", "seeds", "part"))
    given: dict[str, Any] = dict(taken)
    for name in ("workers", "threads"):
        if name in taken:
            given[name] = whole(name, taken[name], 1)
    runner.run(runner.from_file(Path(files[0]), rest, given))


def doctor(words: Sequence[str]) -> None:
    """`marl doctor`."""
    if _wants_help(words, _DOCTOR_HELP):
        return
    taken, rest = take(words, ("json",))
    if rest:
        raise MarlError(f"{rest[0].split('=')[0]} is not a setting of marl doctor: use json=true")
    as_json = _flag("json", taken.get("json", "false"))
    from marl import doctor as clinic

    rows = clinic.run()
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        clinic.show(rows)
