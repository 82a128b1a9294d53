"""The world of the adversary: the team's own, with frozen mates; the victims are whoever learns here.

| symbol | name here | meaning |
|---|---|---|
| o | obs_BNO | the victims' observations, what the adversary knows |
| a | actions_BN | what the victims do in their place: any available action |
| r_adv | reward_B | -r_team, with penalty - lambda sum over victims of d(a)^2 |
| d(a) | info["gap"] | Q_victim(best) - Q_victim(a), or logits of an actor; after clean observations |

"Success" here is that the team had none. The adversary trains by `marl.train.run` like any other team, in a
run folder of its own: checkpoints, resume, progress. `ready` trains it once and keeps it beside the victim.

Reference: Lin et al. 2020; reward shaping is one of two reconstructions of its regulariser (adversary.py has
the other).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from marl import checkpoint, config, results
from marl.agents.cmarl_attack.choose import team_reward
from marl.agents.cmarl_attack.victim import Victim
from marl.checkpoint import Saved
from marl.config import RunConfig
from marl.errors import FieldError, MarlError, require
from marl.evaluate import for_evaluation, measuring_link
from marl.measure import load_agent, load_run
from marl.rng import Rng, Stream
from marl.rollout import Rollout
from marl.types import Act, Carry, Env, EnvSpec, Link, TimeStep

if TYPE_CHECKING:
    from marl.agents.cmarl_attack.config import Config

FOLDER = "adversaries"  # beside the victim's checkpoints


def adversary_spec(spec: EnvSpec, agents: tuple[int, ...]) -> EnvSpec:
    """What the adversary's world promises: the victims alone, one reward."""

    def own(value: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(value[n] for n in agents)

    return replace(
        spec,
        name=f"adversary/{spec.name}",
        agents=own(spec.agents),
        agent_types=own(spec.agent_types),
        action_spaces=own(spec.action_spaces),
        reward="team",
        objectives=(),
        costs=(),
        has_graph=False,
        image_shape=(),
    )


def view(ts: TimeStep, victim: Victim, reward_B: Tensor | None = None) -> TimeStep:
    """What the victims see of an entry."""

    def own(value: Tensor | None) -> Tensor | None:
        return None if value is None else victim.of_victims(value)

    return TimeStep(
        obs_BNO=victim.of_victims(ts.obs_BNO),
        state_BS=ts.state_BS,
        avail_BNA=victim.of_victims(ts.avail_BNA),
        terminated_B=ts.terminated_B,
        truncated_B=ts.truncated_B,
        present_BN=victim.of_victims(ts.present_BN),
        alive_BN=victim.of_victims(ts.alive_BN),
        t_B=ts.t_B,
        reward_B=reward_B,
        final_obs_BNO=own(ts.final_obs_BNO),
        final_state_BS=ts.final_state_BS,
        final_avail_BNA=own(ts.final_avail_BNA),
        info={"success": ~ts.info["success"]} if "success" in ts.info else {},
    )


@dataclass(kw_only=True)
class World:
    """Names a trained team and its victims."""

    run: Path  # the victim's run folder
    step: int  # its checkpoint, team steps
    agents: tuple[int, ...] = (0,)  # the victims
    penalty: float = 0.0  # lambda of the reward's penalty, >= 0
    gap: bool = False  # whether info["gap"] is given, for the soft penalty
    # Packages that the victim's config may name. Said by the process that builds the world, never by a stored
    # config: what lies in a run folder is data, not permission.
    trusted: tuple[str, ...] = field(default=(), init=False, repr=False)
    _team: tuple[RunConfig, Any] | None = field(default=None, init=False, repr=False)

    label = "adversary_world"

    def __post_init__(self) -> None:
        require(self.penalty >= 0, "penalty", self.penalty, "give a number >= 0")

    def build(self, *, num_envs: int, device: torch.device, threads: int) -> AdversaryWorld:
        if self._team is None:
            cfg, saved = load_run(self.run, step=self.step, trust=self.trusted, device=str(device))
            self._team = cfg, load_agent(cfg, saved)
        cfg, agent = self._team
        env = for_evaluation(cfg.env).build(num_envs=num_envs, device=device, threads=threads)
        return AdversaryWorld(self, env, cfg, Victim(agent, env.spec, self.agents))


class _Mates:
    """The frozen team, its victims doing what they are told."""

    extras_spec: Mapping[str, Any] = {}

    def __init__(self, victim: Victim) -> None:
        self.victim, self.spec = victim, victim.spec
        self.told_BK = torch.zeros(0, dtype=torch.int64)

    def initial_carry(self, rows: int) -> Carry:
        carry: Carry = self.victim.agent.initial_carry(rows)
        return carry

    def act(
        self, ts: TimeStep, carry: Carry, *, rng: Stream, explore: float, link: Link | None = None
    ) -> Act:
        from marl.agents.cmarl_attack.team import control

        act = self.victim.agent.act(ts, carry, rng=rng, explore=explore, link=link)
        return control(act, self.victim, self.told_BK, torch.ones_like(self.told_BK, dtype=torch.bool))


class AdversaryWorld:
    """B worlds in which a frozen team plays around its victims.

    Args:
        config: the settings.
        env: the team's world.
        cfg: of the team's run.
        victim: whom the adversary moves.
    """

    def __init__(self, config: World, env: Env, cfg: RunConfig, victim: Victim) -> None:
        self.config, self.env, self.victim, self._cfg = config, env, victim, cfg
        self.spec = adversary_spec(env.spec, config.agents)
        self.num_envs, self.device = env.num_envs, env.device
        self._mates = _Mates(victim)
        self._rollout: Rollout | None = None
        self._gap_BKA: Tensor | None = None

    def reset(self, rng: Rng) -> TimeStep:
        link = measuring_link(self._cfg.channel, self.device)
        self._rollout = Rollout(self.env, self._mates, rng, link=link)  # type: ignore[arg-type]
        return self._seen(None)

    def step(self, actions_BN: Tensor) -> TimeStep:
        rollout = self._acting()
        self._mates.told_BK = actions_BN
        penalty_B = self._penalty(actions_BN)
        rollout.step(0.0)
        return self._seen(-team_reward(rollout.ts) - penalty_B)

    def _acting(self) -> Rollout:
        assert self._rollout is not None, "reset comes first"
        return self._rollout

    def _penalty(self, actions_BN: Tensor) -> Tensor:
        """lambda sum d(a)^2 of what the victims are told (B,); the dead pay nothing."""
        if self.config.penalty == 0 or self._gap_BKA is None:
            return torch.zeros(self.num_envs, device=self.device)
        d_BK = self._gap_BKA.gather(-1, actions_BN[..., None]).squeeze(-1)
        return self.config.penalty * d_BK.square().sum(-1)

    def _seen(self, reward_B: Tensor | None) -> TimeStep:
        rollout = self._acting()
        out = view(rollout.ts, self.victim, reward_B)
        if self.config.penalty > 0 or self.config.gap:
            self._gap_BKA = gaps(self.victim, rollout.ts, rollout.carry)
        if self.config.gap:
            assert self._gap_BKA is not None
            out.info["gap"] = self._gap_BKA
        return out

    def state_dict(self) -> dict[str, Tensor]:
        """Of the world, of the frozen team's memory, and of what lies between two steps."""
        out = {f"env.{k}": v for k, v in self.env.state_dict().items()}
        for part, value in self._acting().state_dict().items():
            named = value if isinstance(value, Mapping) else {"": value}
            out |= {f"{part}.{k}": v for k, v in named.items()}
        return out if self._gap_BKA is None else out | {"gap.": self._gap_BKA.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            part, _, name = key.partition(".")
            parts.setdefault(part, {})[name] = value
        self.env.load_state_dict(parts.pop("env"))
        if "gap" in parts:
            self._gap_BKA = parts.pop("gap")[""].to(self.device).clone()
        held: dict[str, Any] = {name: parts.get(name, {}) for name in ("timestep", "carry", "tally", "link")}
        self._acting().load_state_dict(held | {"episode": parts["episode"][""]})

    def render(self, index: int = 0) -> np.ndarray:
        return self.env.render(index)


def gaps(victim: Victim, ts: TimeStep, carry: Carry) -> Tensor:
    """d(a) of every victim (B, K, A): best available score less the action's; 0 where unavailable."""
    avail_BKA = victim.of_victims(ts.avail_BNA)
    scores_BKA = victim.of_victims(victim.scores(ts, carry))
    best_BK1 = scores_BKA.masked_fill(~avail_BKA, -torch.inf).amax(-1, keepdim=True)
    return torch.where(avail_BKA, best_BK1 - scores_BKA, 0.0)


# Training and keeping the adversary


def run_config(attack: Config, cfg: RunConfig, step: int) -> RunConfig:
    """The adversary's run: a folder beside the victim's checkpoints, named after what makes it what it is."""
    c, regularised = attack.learner, attack.choose == "owr"
    soft = c.weight if regularised and c.regulariser == "soft" else 0.0
    shaped = c.weight if regularised and c.regulariser == "reward" else 0.0
    world = {
        "_target_": f"{World.__module__}.World",
        "run": str(cfg.folder.resolve()),
        "step": step,
        "agents": list(attack.agents),
        "penalty": shaped,
        "gap": soft > 0,
    }
    if c.kind == "sb3":
        kwargs = {"learning_rate": c.learning_rate}
        agent: dict[str, Any] = {
            "_target_": "marl.agents.sb3.Config",
            "algorithm": "DQN",
            "hidden": [c.hidden, c.hidden],
            "kwargs": kwargs,
        }
        loop: dict[str, Any] = {"_target_": "marl.agents.sb3.LoopConfig", "total_steps": c.total_steps}
    else:
        agent = {
            "_target_": "marl.agents.cmarl_attack.adversary.AdversaryConfig",
            "hidden": c.hidden,
            "learning_rate": c.learning_rate,
            "trace": 0.8,
            "target_every": 50,
            "penalty": soft,
            "temperature": c.temperature,
        }
        loop = {
            "_target_": "marl.loops.OffPolicyConfig",
            "batch": {"sequences": 32, "length": None},
            "updates": {"ratio": c.update_ratio, "per": "step"},
            "explore": {"steps": c.explore_steps},
        }
    node = {
        "seed": c.seed,
        "device": cfg.device,
        "threads": cfg.threads,
        "num_envs": c.num_envs,
        "total_steps": c.total_steps,
        "video": False,
        "evaluation": {"every_steps": max(c.total_steps // 5, 1), "final_episodes": 0},
        "checkpoint": {"every_steps": max(c.total_steps // 5, 1)},
        "env": world,
        "agent": agent,
        "loop": loop,
    }
    what = json.dumps({**node, "env": {**world, "run": ""}, "device": ""}, sort_keys=True)
    name = f"{attack.choose}_{c.kind}_s{c.seed}_{hashlib.sha256(what.encode()).hexdigest()[:8]}"
    return config.load(node | {"runs_dir": str(cfg.folder / FOLDER), "run_id": name})


def ready(attack: Config, cfg: RunConfig, saved: Saved, spec: EnvSpec) -> tuple[Any, str]:
    """The trained adversary: the one that was named, the one kept beside the victim, or one trained now.

    Returns:
        The adversary, and the name of the run whose team it was trained against.

    Raises:
        FieldError: the named run is none, or of other victims, or of a team in another world.
        Interrupted: a signal came while it was trained; the same command goes on from its checkpoint.
    """
    folder = attack.adversary
    if folder is None:
        wanted = run_config(attack, cfg, saved.step)
        folder = wanted.folder
        _train(wanted, cfg)
    elif not checkpoint.steps(folder):
        fix = "there is no checkpoint in this folder; give the run folder of an adversary"
        raise FieldError("attack.adversary", str(folder), fix)
    own, kept = load_run(folder, device=cfg.device)
    if not isinstance(own.env, World) or own.env.agents != attack.agents:
        victims = ", ".join(map(str, attack.agents))
        fix = f"give the run of an adversary of agents {victims}, or leave it out to train one"
        raise FieldError("attack.adversary", str(folder), fix)
    device = torch.device(cfg.device)
    made = own.agent.build(
        spec=adversary_spec(spec, attack.agents), rng=Rng(own.seed).child("agent"), device=device
    )
    try:
        made.load_state_dict(kept.state["agent"])
    except MarlError as error:
        fix = f"it was trained in another world than this team's ({error}); leave it out to train one"
        raise FieldError("attack.adversary", str(folder), fix) from error
    # One that lies beside its victim is its own, under whatever name the victim was moved to.
    return made, cfg.run_id if attack.adversary is None else own.env.run.name


def _train(cfg: RunConfig, victim: RunConfig) -> None:
    """Train what is not trained, go on with what was stopped, leave alone what is finished."""
    from marl import train
    from marl.resume import inexact, resume

    if (cfg.folder / "results.json").is_file() and results.read(cfg.folder)["status"] == "finished":
        return
    print(f"adversary {cfg.run_id}: trained in {cfg.folder}", file=sys.stderr)
    saved, place = None, cfg.env.run
    if checkpoint.steps(cfg.folder):
        cfg, saved, sentences = resume(cfg.folder)
        if not getattr(victim.env, "exact_resume", True):
            sentences.append(inexact(victim.env))  # the adversary's world is the team's
        for sentence in sentences:
            print(sentence, file=sys.stderr)
        cfg.env.run = place  # the victim may have been moved, and its adversaries with it
    cfg.env.trusted = victim.trust
    train.run(cfg, saved)
