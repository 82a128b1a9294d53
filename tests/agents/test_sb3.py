"""The bridge to Stable-Baselines3: what it is given, how it acts, learns, is stored and goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from marl import checkpoint
from marl.agents import qmix
from marl.agents.sb3 import Config, LoopConfig
from marl.agents.sb3.rows import ActionMap, Rows, row_spaces
from marl.config import make
from marl.envs import matrix_game, relay_game
from marl.errors import FieldError, MarlError, NonFiniteError
from marl.rng import Rng
from marl.types import Box, Discrete, EnvSpec, TimeStep

CPU = torch.device("cpu")
ALGORITHMS = ("PPO", "DQN", "A2C")
QUICK = {
    "PPO": {"n_steps": 8, "n_epochs": 3},
    "DQN": {"learning_starts": 16, "buffer_size": 4096, "gradient_steps": 1, "target_update_interval": 48},
    "A2C": {},
}
ROOT = Path(__file__).resolve().parents[2]


_THREE = (Discrete(n=3), Discrete(n=3))


class Clock:
    """Two envs of two agents that see (env, agent, step, episode).

    Env 0 terminates at step 2, env 1 is cut off at step 3. Reward: (10 env + step) for the team, and 100 more
    for agent 1 where rewards are per agent.
    """

    num_envs, device = 2, CPU
    end_B = torch.tensor([2, 3])

    def __init__(self, reward="team", spaces=_THREE):
        self.spec = EnvSpec(
            name="clock",
            agents=("a", "b"),
            agent_types=("any",) * 2,
            obs_size=4,
            state_size=1,
            action_spaces=spaces,
            reward=reward,
            episode_limit=3,
        )

    def reset(self, rng):
        self.t_B = torch.zeros(2, dtype=torch.int64)
        self.episode_B = torch.zeros(2, dtype=torch.int64)
        return self._timestep(torch.zeros(2), torch.zeros(2, dtype=torch.bool))

    def step(self, actions):
        self.actions = actions
        self.t_B = self.t_B + 1
        reward_B, final = 10.0 * torch.arange(2) + self.t_B, self._look()
        done_B = self.t_B == self.end_B
        self.t_B, self.episode_B = self.t_B * ~done_B, self.episode_B + done_B
        ts = self._timestep(reward_B, done_B)
        ts.final_obs_BNO, ts.final_state_BS, ts.final_avail_BNA = final, torch.zeros(2, 1), ts.avail_BNA
        return ts

    def _look(self):
        env, agent = torch.arange(2)[:, None].expand(2, 2), torch.arange(2).expand(2, 2)
        parts = env, agent, self.t_B[:, None].expand(2, 2), self.episode_B[:, None].expand(2, 2)
        return torch.stack(parts, -1).float()

    def _timestep(self, reward_B, done_B):
        yes = torch.ones(2, 2, dtype=torch.bool)
        team = self.spec.reward == "team"
        return TimeStep(
            obs_BNO=self._look(),
            state_BS=torch.zeros(2, 1),
            avail_BNA=torch.ones(2, 2, self.spec.n_actions, dtype=torch.bool),
            terminated_B=done_B & torch.tensor([True, False]),
            truncated_B=done_B & torch.tensor([False, True]),
            present_BN=yes,
            alive_BN=yes,
            t_B=self.t_B,
            reward_B=reward_B if team else None,
            agent_reward_BN=None if team else reward_B[:, None] + torch.tensor([0.0, 100.0]),
        )


def _relay(B=6, **config):
    return relay_game.Config(**config).build(num_envs=B, device=CPU)


def _game(B=16, game="monotone"):
    return matrix_game.Config(game=game).build(num_envs=B, device=CPU)


def _build(env, algorithm="PPO", seed=0, total_steps=4000, **config):
    config.setdefault("kwargs", QUICK[algorithm])
    settings = {"hidden": (16,)} | config
    rng = Rng(seed)
    team = Config(algorithm=algorithm, **settings).build(spec=env.spec, rng=rng.child("agent"), device=CPU)
    return team, LoopConfig(total_steps=total_steps).build(env=env, agent=team, rng=rng.child("loop"))


def _run(loop, steps):
    out = []
    while loop.steps < steps:
        out.append(loop.iterate())
    return out


def _tensors(team):
    state = team.state_dict()
    return {**state["networks"], **state["targets"]}


def _same(one, two):
    return all(torch.equal(value, two[name]) for name, value in one.items())


# What SB3 is given


def _row(env, agent, step, episode):
    return [env, agent, step, episode, 1 - agent, agent]


def test_rows_equal_those_made_by_hand():
    rows = Rows(Clock(), agent_ids=True, scores=None, rng=Rng(0))
    order = ((0, 0), (0, 1), (1, 0), (1, 1))
    np.testing.assert_array_equal(rows.reset(), [_row(*o, 0, 0) for o in order])
    seen = [rows.step(np.zeros(4, dtype=np.int64)) for _ in range(3)]
    steps = [((1, 0), (1, 0)), ((0, 1), (2, 0)), ((1, 1), (0, 1))]  # (step, episode) of env 0 and 1
    rewards = [[1, 1, 11, 11], [2, 2, 12, 12], [1, 1, 13, 13]]
    dones = [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]
    for (obs, reward, done, _), step, r, d in zip(seen, steps, rewards, dones, strict=True):
        np.testing.assert_array_equal(obs, [_row(e, i, *step[e]) for e, i in order])
        np.testing.assert_array_equal(reward, r)
        np.testing.assert_array_equal(done, d)
        assert obs.dtype == reward.dtype == np.float32
    infos = [info for *_, info in seen]
    assert infos[0] == [{}] * 4
    for step, env, ended, cut in ((1, 0, 2, False), (2, 1, 3, True)):
        for agent in (0, 1):
            info = infos[step][2 * env + agent]
            np.testing.assert_array_equal(info["terminal_observation"], _row(env, agent, ended, 0))
            assert info["TimeLimit.truncated"] is cut
            assert infos[step][2 * (1 - env) + agent] == {}
    assert (rows.team_steps, rows.episodes) == (6, 2)
    assert rows.means.take("") == {"return": (1 + 2 + 11 + 12 + 13) / 2, "length": 2.5}


def test_rewards_per_agent_go_to_their_own_rows():
    rows = Rows(Clock("agent"), agent_ids=False, scores=None, rng=Rng(0))
    assert rows.reset().shape == (4, 4)
    np.testing.assert_array_equal(rows.step(np.zeros(4, dtype=np.int64))[1], [1, 101, 11, 111])


def test_actions_reach_their_agents():
    env = Clock()
    rows = Rows(env, agent_ids=True, scores=None, rng=Rng(0))
    rows.reset()
    rows.step(np.array([0, 1, 2, 1]))
    assert env.actions.tolist() == [[0, 1], [2, 1]]


def test_the_replay_memory_holds_final_observations_and_knows_what_was_cut_off():
    _, loop = _build(Clock(), "DQN")
    _run(loop, 8)  # four vector steps
    m = loop.model.replay_buffer
    np.testing.assert_array_equal(m.next_observations[1, 0], _row(0, 0, 2, 0))
    np.testing.assert_array_equal(m.next_observations[2, 3], _row(1, 1, 3, 0))
    np.testing.assert_array_equal(m.observations[2, 0], _row(0, 0, 0, 1))
    np.testing.assert_array_equal(m.dones[:4], [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0]])
    np.testing.assert_array_equal(m.timeouts[:4], [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])


def test_truncation_bootstraps_and_termination_does_not():
    team, loop = _build(Clock(), "PPO", kwargs={"n_steps": 3, "batch_size": 12, "gamma": 0.5})
    loop._collect_on_policy()
    final = torch.tensor([_row(1, i, 3, 0) for i in (0, 1)], dtype=torch.float32)
    with torch.no_grad():
        value = team.model.policy.predict_values(final).flatten()
    assert (value.abs() > 1e-3).all()
    rewards = loop.model.rollout_buffer.rewards
    np.testing.assert_array_equal(rewards[1], [2, 2, 12, 12])
    np.testing.assert_allclose(rewards[2], [1, 1, *(13 + 0.5 * value).tolist()], rtol=1e-6)


# Masks


def test_an_unavailable_action_becomes_the_best_available_one():
    mapping = ActionMap(Clock().spec, CPU)
    avail = torch.tensor([[[True, True, False], [False, True, True]]])
    scores = torch.tensor([[[1.0, 2.0, 9.0], [9.0, 1.0, 2.0]]])
    for given, wanted in (([0, 1], [0, 1]), ([2, 1], [1, 1]), ([0, 0], [0, 2]), ([2, 0], [1, 2])):
        assert mapping.available(torch.tensor([given]), avail, lambda: scores).tolist() == [wanted]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_world_is_never_given_an_unavailable_action(algorithm):
    env = _relay()
    team, loop = _build(env, algorithm)
    step, replaced = env.step, []

    def checked(actions_BN):
        avail_BNA = loop.rows.ts.avail_BNA
        assert avail_BNA.gather(-1, actions_BN[..., None]).all()
        replaced.append(int((~avail_BNA).sum()))
        return step(actions_BN)

    env.step = checked
    _run(loop, 300)
    assert sum(replaced) > 0
    for explore in (0.0, 0.5, 1.0):
        ts = loop.rows.ts
        act = team.act(ts, {}, rng=Rng(1).stream("act", 6), explore=explore)
        assert ts.avail_BNA.gather(-1, act.actions_BN[..., None]).all()


@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_acting_is_greedy_without_exploration_and_random_with_it(algorithm):
    env = _game(B=4000, game="qtran")
    team = Config(algorithm=algorithm).build(spec=env.spec, rng=Rng(0), device=CPU)
    ts = env.reset(Rng(0))
    scores_BNA = team.scores(ts, {}).detach()
    greedy = team.act(ts, {}, rng=Rng(0).stream("act", 4000), explore=0.0).actions_BN
    assert torch.equal(greedy, scores_BNA.argmax(-1))
    for agent in (0, 1):
        drawn = team.act(ts, {}, rng=Rng(0).stream("act", 4000), explore=1.0).actions_BN[:, agent]
        share_A = torch.bincount(drawn, minlength=3) / 4000
        p_A = scores_BNA[0, agent].softmax(-1) if algorithm == "PPO" else torch.full((3,), 1 / 3)
        torch.testing.assert_close(share_A, p_A, atol=0.03, rtol=0)


# Box actions


def _boxes():
    return Box(low=(-2.0, 0.0), high=(2.0, 4.0)), Box(low=(1.0,), high=(3.0,))


def test_box_actions_are_scaled_to_each_agents_range():
    env = Clock(spaces=_boxes())
    assert row_spaces(env.spec, True)[1].shape == (2,)
    given = torch.tensor([[[-1.0, 1.0], [0.5, 7.0]], [[0.0, -3.0], [9.0, 0.0]]])
    wanted = [[[-2.0, 4.0], [2.5, 0.0]], [[0.0, 0.0], [3.0, 0.0]]]
    assert ActionMap(env.spec, CPU).scaled(given).tolist() == wanted


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
def test_box_worlds_train_and_act_within_bounds(algorithm):
    env = Clock(spaces=_boxes())
    team, loop = _build(env, algorithm)
    _run(loop, 40)
    ts = loop.rows.ts
    one, two = (team.act(ts, {}, rng=Rng(s).stream("act", 2), explore=1.0).actions_BN for s in (0, 1))
    assert not torch.equal(one, two)
    low, high = torch.tensor([[-2.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 4.0], [3.0, 0.0]])
    for actions in (one, env.actions):
        assert actions.shape == (2, 2, 2)
        assert ((actions >= low) & (actions <= high)).all()


def test_what_a_world_must_not_have_is_one_sentence():
    def build(algorithm="PPO", **changes):
        return Config(algorithm=algorithm).build(spec=Clock(**changes).spec, rng=Rng(0), device=CPU)

    with pytest.raises(MarlError, match="continuous actions; give PPO or A2C"):
        build("DQN", spaces=_boxes())
    with pytest.raises(MarlError, match="vector reward"):
        build(reward="vector")
    with pytest.raises(MarlError, match="without bounds"):
        build(spaces=(Box(low=(-np.inf,), high=(0.0,)),) * 2)
    with pytest.raises(MarlError, match="mixes discrete and continuous"):
        build(spaces=(Discrete(n=2), Box(low=(0.0,), high=(1.0,))))


# Learning


def _greedy_return(team, env):
    return float(
        env.step(
            team.act(env.reset(Rng(9)), {}, rng=Rng(9).stream("act", 16), explore=0.0).actions_BN
        ).reward_B.mean()
    )


@pytest.mark.parametrize(
    ("algorithm", "kwargs"),
    [
        ("PPO", {"n_steps": 16, "n_epochs": 4, "batch_size": 64, "learning_rate": 3e-3, "ent_coef": 0.01}),
        ("A2C", {"ent_coef": 0.01}),
        ("DQN", QUICK["DQN"] | {"learning_rate": 3e-3, "gradient_steps": 4, "exploration_fraction": 0.5}),
    ],
)
def test_it_learns_a_game_and_without_learning_does_not(algorithm, kwargs):
    """The best joint action earns 8, a random one 8/3."""
    env = _game()
    team, loop = _build(env, algorithm, kwargs=kwargs)
    _run(loop, 4000)
    assert _greedy_return(team, env) == 8.0
    env = _game()
    team, loop = _build(env, algorithm, kwargs=kwargs | {"learning_rate": 1e-12})
    _run(loop, 400)
    assert _greedy_return(team, env) < 8.0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_same_seed_same_run(algorithm):
    runs = []
    for seed in (0, 0, 1):
        team, loop = _build(_relay(), algorithm, seed=seed)
        runs.append((_run(loop, 300), _tensors(team)))
    assert runs[0][0] == runs[1][0]
    assert _same(runs[0][1], runs[1][1])
    assert not _same(runs[0][1], runs[2][1])


def test_defaults_follow_the_number_of_rows():
    _, ppo = _build(_relay(), "PPO", kwargs={})
    assert (ppo.model.n_steps, ppo.model.batch_size) == (128, 128 * 18 // 32)
    _, dqn = _build(_relay(), "DQN", kwargs={})
    assert (dqn.model.gradient_steps, dqn.model.train_freq.frequency) == (18, 4)
    _, given = _build(_relay(), "DQN", kwargs={"gradient_steps": 2})
    assert given.model.gradient_steps == 2


def test_exploration_of_dqn_runs_over_the_runs_steps():
    _, loop = _build(_relay(), "DQN", total_steps=1000, kwargs=QUICK["DQN"] | {"exploration_fraction": 0.5})
    rates = [row["train/exploration_rate"] for row in _run(loop, 1000)]
    assert loop.model.num_timesteps == 3 * loop.steps
    assert rates[0] > 0.9
    assert abs(rates[len(rates) // 4] - 0.525) < 0.05
    assert rates[len(rates) // 2 + 1] == pytest.approx(0.05)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_loss_that_is_not_finite_changes_nothing(algorithm):
    env = _relay()
    team, loop = _build(env, algorithm)
    _run(loop, 100)
    before, step = _tensors(team), env.step

    def broken(actions_BN):
        ts = step(actions_BN)
        ts.reward_B = ts.reward_B * torch.nan
        return ts

    env.step = broken
    with pytest.raises(NonFiniteError):
        _run(loop, 10_000)
    assert (
        _same(before, _tensors(team)) or algorithm == "DQN"
    )  # it may have learned from sane transitions first
    assert all(value.isfinite().all() for value in _tensors(team).values())


# Storing and going on


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_stored_team_acts_the_same(algorithm, tmp_path):
    env = _relay()
    team, loop = _build(env, algorithm)
    _run(loop, 300)
    path = checkpoint.write(tmp_path, loop.steps, loop.state_dict(), loop.segments(), info={})
    assert {p.suffix for p in path.rglob("*") if p.is_file()} == {".json", ".safetensors"}
    saved = checkpoint.read(path)
    other = team.config.build(spec=env.spec, rng=Rng(5), device=CPU)
    ts, stream = loop.rows.ts, Rng(3).stream("act", 6)
    other.load_state_dict(saved.state["agent"])
    assert torch.equal(other.scores(ts, {}), team.scores(ts, {}))
    for explore in (0.0, 1.0):
        one, two = (t.act(ts, {}, rng=stream, explore=explore).actions_BN for t in (team, other))
        assert torch.equal(one, two)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_resume_goes_on_with_fresh_episodes(algorithm, caplog):
    team, loop = _build(_relay(), algorithm)
    _run(loop, 300)
    state = loop.state_dict()
    runs = []
    for _ in range(2):
        other, resumed = _build(_relay(), algorithm)
        resumed.load_state_dict(state, lambda name: {})
        assert (resumed.steps, resumed.episodes, resumed.updates) == (loop.steps, loop.episodes, loop.updates)
        assert resumed.model.num_timesteps == loop.model.num_timesteps
        assert _same(_tensors(other), _tensors(team))
        if algorithm == "DQN":
            assert resumed.model.exploration_rate == loop.model.exploration_rate
            before = resumed.updates
            resumed.iterate()  # 4 steps of 18 rows: above learning_starts=16 only now
            assert resumed.updates == before + 1
        runs.append((_run(resumed, 500), _tensors(other)))
        assert not torch.equal(
            resumed.rows.rng.stream("relay", 6).key_B,
            Rng(0).child("loop").child("env").stream("relay", 6).key_B,
        )
    assert _same(runs[0][1], runs[1][1])
    assert "not bit for bit" in caplog.text


def test_dqn_fills_its_memory_anew_after_a_resume():
    kwargs = QUICK["DQN"] | {"learning_starts": 200}
    _, loop = _build(_relay(), "DQN", kwargs=kwargs)
    _run(loop, 300)
    assert loop.updates > 0
    _, resumed = _build(_relay(), "DQN", kwargs=kwargs)
    resumed.load_state_dict(loop.state_dict(), lambda name: {})
    for _ in range(2):  # 72 transitions each
        resumed.iterate()
    assert resumed.updates == loop.updates
    resumed.iterate()
    assert resumed.updates == loop.updates + 1


# Settings


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"algorithm": "SAC"}, "agent.algorithm='SAC'"),
        ({"hidden": [0]}, "agent.hidden="),
        (
            {"kwargs": {"n_step": 4}},
            r"agent.kwargs.n_step=4 .*PPO has no such setting here; did you mean n_steps\?",
        ),
        ({"kwargs": {"seed": 4}}, "agent.kwargs.seed=4.*no such setting here"),
        (
            {"kwargs": {"use_sde": True}},
            "agent.kwargs.use_sde=True.*no such setting here; it has batch_size, ",
        ),
        ({"kwargs": {"n_steps": "many"}}, "agent.kwargs.n_steps='many'.*whole number"),
        ({"kwargs": {"n_steps": 0}}, "agent.kwargs.n_steps=0.*1 or more"),
        ({"kwargs": {"gamma": 2}}, r"agent.kwargs.gamma=2.0.*\[0, 1\]"),
        ({"kwargs": {"learning_rate": -1}}, "agent.kwargs.learning_rate=-1.0.*0 or more"),
        ({"algorithm": "DQN", "kwargs": {"n_epochs": 3}}, "agent.kwargs.n_epochs=3.*DQN has no such setting"),
        ({"algorithm": "DQN", "kwargs": {"gradient_steps": -2}}, "agent.kwargs.gradient_steps=-2"),
    ],
)
def test_wrong_settings_are_one_sentence(node, message):
    with pytest.raises(MarlError, match=message):
        make({"_target_": "marl.agents.sb3.Config", **node}, where="agent")


def test_right_settings_become_their_types():
    given = {"learning_rate": 1, "n_steps": 1e2, "target_kl": None, "normalize_advantage": False}
    config = make({"_target_": "marl.agents.sb3.Config", "kwargs": given}, where="agent")
    assert config.kwargs == {
        "learning_rate": 1.0,
        "n_steps": 100,
        "target_kl": None,
        "normalize_advantage": False,
    }
    assert type(config.kwargs["learning_rate"]) is float
    assert config.label == "sb3_ppo"


def test_what_sb3_itself_refuses_is_one_sentence():
    with pytest.raises(FieldError, match=r"agent\.kwargs.*stable-baselines3 says"):
        _build(_relay(), kwargs={"batch_size": 1})


def test_agent_and_loop_belong_together():
    env = _relay()
    team = qmix.Config().build(spec=env.spec, rng=Rng(0), device=CPU)
    with pytest.raises(FieldError, match="for agent=sb3 only"):
        LoopConfig(total_steps=10).build(env=env, agent=team, rng=Rng(0))
    team = Config().build(spec=env.spec, rng=Rng(0), device=CPU)
    with pytest.raises(MarlError, match="leave loop out"):
        team.update(None, rng=None)


# The command line


_COMMANDS = """
import json, sys
from marl.cli import main
for words in json.loads(sys.argv[1]):
    assert main(words) == 0, words
"""


def test_marl_train_evaluate_and_resume(tmp_path):
    """In one process of their own, which spares five starts."""
    small = {
        "PPO": "agent.kwargs.n_steps=8",
        "DQN": "agent.kwargs.learning_starts=50",
        "A2C": "agent.hidden=[8]",
    }
    common = ["env=battle/3m", "num_envs=4", "evaluation.episodes=2", "evaluation.final_episodes=2"]
    common += ["logger=none", "threads=1", "video=false", "total_steps=160", "agent=sb3"]
    commands = [
        ["train", *common, f"run_id={name}", f"agent.algorithm={name}", word] for name, word in small.items()
    ]
    commands.append(["evaluate", "run=runs/DQN", "episodes=2"])
    commands.append(["train", "resume=runs/DQN", "total_steps=320"])
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", _COMMANDS, json.dumps(commands)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in small:
        results = json.loads((tmp_path / "runs" / name / "results.json").read_text())
        assert (results["status"], results["steps"]) == ("finished", 320 if name == "DQN" else 160)
        assert results["updates"] > 0
        assert len(results["final"]["return"][0]) == 2
    assert "DQN, checkpoint 160, 2 episodes" in done.stdout
    assert "not bit for bit" in done.stderr
