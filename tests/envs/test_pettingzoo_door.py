"""Any ParallelEnv as a world: the same episodes as a plain loop over it; a broken promise is one sentence."""

import importlib.util
import os
import re
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from marl.envs.pettingzoo import Config
from marl.errors import EnvError, FieldError
from marl.foreign.group import whose
from marl.pettingzoo import parallel
from marl.rng import Rng
from marl.types import Box, Discrete

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PettingZoo's tests import one of its own old games
    from pettingzoo.test import parallel_api_test

CPU = torch.device("cpu")
SOURCE = Path(__file__).with_name("camp.py")


@pytest.fixture(autouse=True)
def camp(tmp_path, monkeypatch):
    """The environment as a module in a folder outside the repository; logs of failures there too."""
    (tmp_path / "camp.py").write_text(SOURCE.read_text())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "logs"))
    (tmp_path / "logs").mkdir()
    monkeypatch.delitem(sys.modules, "camp", raising=False)
    spec = importlib.util.find_spec("camp")
    assert spec is not None
    return importlib.import_module("camp")


def build(num_envs=1, workers=0, **settings):
    settings = {"target": "camp:make", "limit": 20} | settings
    return Config(workers=workers, **settings).build(num_envs=num_envs, device=CPU)


def legal(ts, generator):
    """A random legal action of every agent, drawn per env so that it does not depend on the batch."""
    weights = ts.avail_BNA.float().flatten(0, 1)
    return torch.multinomial(weights, 1, generator=generator).view(ts.avail_BNA.shape[:2])


def cycle(ts):
    """The first legal action at even steps, the last at odd ones."""
    A = ts.avail_BNA.shape[-1]
    last = A - 1 - ts.avail_BNA.flip(-1).to(torch.uint8).argmax(-1)
    return torch.where(ts.t_B[:, None] % 2 == 0, ts.avail_BNA.to(torch.uint8).argmax(-1), last)


def test_the_spec_holds_true_sizes():
    spec = build(limit=0, kwargs={"steps": 5}).spec
    assert spec.agents == ("scout", "guard", "late")
    assert (spec.obs_size, spec.state_size, spec.n_actions) == (7, 3 + 5 + 7, 4)
    assert spec.action_spaces == (Discrete(n=2), Discrete(n=4), Discrete(n=3))
    assert (spec.reward, spec.episode_limit) == ("agent", 1000)
    slices = {
        agent: [(s.name, s.start, s.stop, s.kind) for s in parts] for agent, parts in spec.obs_slices.items()
    }
    assert slices["guard"] == [("observation", 0, 5, "real")]
    assert sorted(slices["late"]) == [("image", 0, 4, "real"), ("place", 4, 7, "onehot")]


def test_it_says_where_it_cuts_an_endless_episode_off(caplog):
    kwargs = {"steps": 7}
    target = "camp:Camp"  # another name than elsewhere: the sentence comes once per process and target
    build(target=target, limit=0, kwargs=kwargs)
    assert (
        "camp:Camp does not say how long an episode may last: it is cut off after 1000 steps" in caplog.text
    )


def expected_rows(camp, observations, agents):
    """Observation, state and availability of the agents shown, by hand."""
    obs, avail = np.zeros((3, 7), np.float32), np.zeros((3, 4), bool)
    avail[:, 0] = True
    if "scout" in agents:
        obs[0, :3], avail[0, :2] = observations["scout"], True
    if "guard" in agents:
        obs[1, :5] = observations["guard"]["observation"]
        avail[1] = observations["guard"]["action_mask"]
    if "late" in agents:
        late = observations["late"]
        obs[2, :7] = [*late["image"].reshape(-1), *np.eye(3)[late["place"]]]
        avail[2, :3] = True
    return obs, np.concatenate([obs[0, :3], obs[1, :5], obs[2, :7]]), avail


@pytest.mark.parametrize("workers", [0, 2])
def test_every_env_is_a_plain_loop_over_one_copy(camp, workers):
    B = 3
    env = build(B, workers, kwargs={"steps": 4})
    ts, episode = env.reset(Rng(5)), [0] * B
    seeds = Rng(5).stream("foreign", B)

    def fresh(b):
        number = torch.full((B,), episode[b])
        return copies[b].reset(seed=int(seeds.fold(number).integers(2**31 - 1)[b]))[0]

    copies = [camp.make(steps=4) for _ in range(B)]
    seen = [fresh(b) for b in range(B)]
    ends = set()
    for _ in range(25):
        actions = cycle(ts)
        before = ts
        ts = env.step(actions)
        for b, copy in enumerate(copies):
            acted = list(copy.agents)
            for i, agent in enumerate(copy.possible_agents):
                assert bool(before.alive_BN[b, i]) == (agent in acted)
            given = {a: int(actions[b, copy.possible_agents.index(a)]) + (a == "late") for a in acted}
            seen[b], rewards, _, truncated, _ = copy.step({a: np.int64(v) for a, v in given.items()})
            assert ts.agent_reward_BN[b].tolist() == [rewards.get(a, 0.0) for a in copy.possible_agents]
            over = not copy.agents
            cut = any(truncated.values())
            assert (bool(ts.terminated_B[b]), bool(ts.truncated_B[b])) == (over and not cut, over and cut)
            shown, rows = list(copy.agents), (ts.obs_BNO, ts.state_BS, ts.avail_BNA)
            if over:
                ends.add("cut" if cut else "over")
                final = expected_rows(camp, seen[b], [a for a in acted if truncated[a] or not cut])
                for mine, by_hand in zip(
                    (ts.final_obs_BNO, ts.final_state_BS, ts.final_avail_BNA), final, strict=True
                ):
                    np.testing.assert_array_equal(mine[b].numpy(), by_hand)
                episode[b] += 1
                seen[b], shown = fresh(b), ["scout", "guard"]
            assert int(ts.t_B[b]) == copy.t
            for mine, by_hand in zip(rows, expected_rows(camp, seen[b], shown), strict=True):
                np.testing.assert_array_equal(mine[b].numpy(), by_hand)
            present = [True, True, copy.t >= 2]
            assert ts.present_BN[b].tolist() == present
            assert ts.alive_BN[b].tolist() == [a in copy.agents for a in copy.possible_agents]
    assert ends == {"cut", "over"}
    env.close()


def test_rows_depend_neither_on_the_batch_nor_on_workers():
    envs = [build(5, 2), build(2, 0), build(3, 1)]
    steps = [env.reset(Rng(2)) for env in envs]
    for _ in range(20):
        for other in steps[1:]:
            B = len(other.t_B)
            for name, value in other.state_dict().items():
                assert torch.equal(value, steps[0].state_dict()[name][:B]), name
        steps = [env.step(cycle(ts)) for env, ts in zip(envs, steps, strict=True)]
    for env in envs:
        env.close()


def test_reset_plays_the_same_episodes_again():
    """As `marl.evaluate.Kept` needs it."""
    env, runs = build(3, 1), []
    for _ in range(2):
        ts = env.reset(Rng(2))
        runs.append([ts.state_dict()])
        for _ in range(20):
            ts = env.step(cycle(ts))
            runs[-1].append(ts.state_dict())
    for first, second in zip(*runs, strict=True):
        done = first["terminated_B"] | first["truncated_B"]
        for name, value in first.items():
            rows = done if name.startswith("final") else slice(None)  # a final row is valid where done
            assert torch.equal(value[rows], second[name][rows]), name
    env.close()


def test_our_limit_truncates_and_keeps_those_in_play():
    env = build(2, limit=3)
    ts = env.reset(Rng(0))
    for _ in range(3):
        ts = env.step(cycle(ts))
    assert ts.truncated_B.tolist() == [True, True]
    assert ts.terminated_B.tolist() == [False, False]
    shown = (ts.final_obs_BNO != 0).any(-1)
    assert shown.tolist() == [[False, True, True]] * 2  # the scout terminated in this very step
    assert ts.t_B.tolist() == [0, 0]
    assert ts.present_BN.tolist() == [[True, True, False]] * 2


@pytest.mark.parametrize(
    ("reward", "team"), [("sum", lambda r, n: r.sum(1)), ("mean", lambda r, n: r.sum(1) / n)]
)
def test_team_rewards(reward, team):
    own, ours = build(3), build(3, reward=reward)
    a, b = own.reset(Rng(1)), ours.reset(Rng(1))
    for _ in range(15):
        acted_B = a.alive_BN.sum(1)
        a, b = own.step(cycle(a)), ours.step(cycle(b))
        torch.testing.assert_close(b.reward_B, team(a.agent_reward_BN, acted_B))
    assert ours.spec.reward == "team"
    assert b.agent_reward_BN is None


def test_real_actions_states_and_kinds_of_agents():
    env = build(2, target="camp:Arms", limit=0)
    assert env.spec.action_spaces == (*[Box(low=(-1, -1), high=(1, 1))] * 2, Box(low=(0,), high=(3,)))
    assert env.spec.agent_types == ("arm", "arm", "crane")
    assert (env.spec.episode_limit, env.spec.state_size) == (4, 2)
    ts = env.reset(Rng(0))
    assert ts.avail_BNA[0].tolist() == [[True, True], [True, True], [True, False]]
    actions = torch.tensor([[0.5, 9.0], [-9.0, 0.25], [-1.0, 5.0]]).repeat(2, 1, 1)
    ts = env.step(actions)
    assert ts.obs_BNO[1].tolist() == [[0.5, 1.0], [-1.0, 0.25], [0.0, 0.0]]  # cut to the Box
    assert ts.state_BS.tolist() == [[1.0, 7.0]] * 2
    for _ in range(3):
        ts = env.step(actions)
    assert ts.truncated_B.all()
    assert ts.final_state_BS.tolist() == [[4.0, 7.0]] * 2


def test_a_loaded_env_cuts_the_running_episodes_off_and_goes_on_with_the_next():
    env, other = build(3), build(3)
    ts = env.reset(Rng(0))
    for _ in range(2):
        ts = env.step(cycle(ts))
    other.reset(Rng(0))
    other.load_state_dict(env.state_dict())
    for name, value in other.state_dict().items():
        assert torch.equal(value, env.state_dict()[name]), name
    cut = other.step(cycle(ts))
    assert cut.truncated_B.all()
    assert not cut.terminated_B.any()
    assert (cut.agent_reward_BN == 0).all()
    assert torch.equal(cut.final_obs_BNO, ts.obs_BNO)
    assert torch.equal(cut.final_avail_BNA, ts.avail_BNA)
    while not ts.done_B[0]:
        ts = env.step(cycle(ts))
    assert torch.equal(cut.obs_BNO[0], ts.obs_BNO[0])  # the first step of episode 1
    assert not other.step(cycle(cut)).truncated_B.any()


WRONG = {
    "nan": "the observation of agent 'scout' holds nan (feature 1)",
    "shape": "the observation of agent 'scout' has shape (2,), its space says (3,)",
    "dtype": "the observation of agent 'scout' has dtype <U1, its space says float32",
    "mask": "the action_mask of agent 'guard' allows no action",
    "reward": "the reward of agent 'guard' is inf",
    "leaves": "agent 'guard' left env.agents with neither termination nor truncation",
    "stranger": "env.agents has 'nobody', who is not in possible_agents",
    "mask of nan": "the action_mask of agent 'guard' is [nan, 1.0, 0.0, 0.0]: give 0 and 1",
    "twice": "env.agents has 'scout' more than once",
    "no list": "env.agents is None: it must be the list of agents in play",
    "seen": "an observation is for 'nobody', who is not in possible_agents",
    "ends": "the truncation of agent 'guard' is array([False,  True]): it must be True or False",
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_broken_promise_names_agent_and_step(fault):
    env = build(2, kwargs={"fault": fault})
    ts = env.reset(Rng(0))
    ts = env.step(cycle(ts))
    with pytest.raises(EnvError) as raised:
        env.step(cycle(ts))
    assert str(raised.value) == f"env 0 of camp:make, step 2 of its episode 0: {WRONG[fault]}"


CRASHES = {
    "crash": "ZeroDivisionError: the camp is on fire",
    "exit": "SystemExit: the camp is closed",  # which would end the run without a word
    "stumble": "LookupError: a tent has no food, where who is 'guard'",
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", CRASHES)
def test_a_crash_names_the_agent_where_the_traceback_tells(fault, workers):
    env = build(1, workers, kwargs={"fault": fault})
    ts = env.step(cycle(env.reset(Rng(0))))
    with pytest.raises(EnvError) as raised:
        env.step(cycle(ts))
    where = "env 0 of camp:make, step 2 of its episode 0: it crashed with "
    assert str(raised.value).partition(" (traceback: ")[0] == where + CRASHES[fault]


def test_whose_crash_it_was():
    def step(agent, text, other):
        raise ValueError(text, other)

    def loop(agents):
        for agent in agents:
            if agent == "lamb":
                raise ValueError(agent)

    def after(agents):
        for agent in agents:  # when it is over, its variable says nothing
            assert agent
        raise ValueError(agent)

    def comprehended(agents):
        return [int(a) for a in agents]

    def told(agents, crash, *values):
        with pytest.raises(ValueError) as raised:  # noqa: PT011 - whatever they say
            crash(*values)
        return whose(raised.value, agents)

    names, numbers = ["dog", "lamb"], [0, 1]
    assert told(names, step, "lamb", "dog", 1) == ", where agent is 'lamb'"
    assert told(names, step, np.zeros(2), "dog", 1) == ", where text is 'dog'"
    assert told(names, step, None, "dog", "lamb") == ""
    assert told(numbers, step, 1, "dog", 0) == ", where agent is '1'"
    assert told(numbers, step, True, "dog", 0) == ""
    assert told(names, loop, names) == ", where agent is 'lamb'"
    assert told(names, after, names) == ""
    if sys.version_info < (3, 12):  # later ones keep no variables of a comprehension
        assert told(names, comprehended, names) == ", where a is 'dog'"


def test_a_factory_that_fails_is_one_sentence():
    opened = "^env.target='camp:make' could not be opened: "
    with pytest.raises(EnvError, match=opened + "RuntimeError: not yet, where agent is 'late'"):
        build(kwargs={"fault": "undeclared"})
    with pytest.raises(EnvError, match=opened.replace("camp:make", "camp:leave") + "SystemExit: 2"):
        build(target="camp:leave")


def test_changed_spaces_are_refused():
    env = build(1, kwargs={"fault": "space", "steps": 3}, limit=1)
    ts = env.reset(Rng(0))
    changed = (
        r"step 0 of its episode 1: the observation_space of agent 'scout' has changed from Box\(.* to Box\("
    )
    with pytest.raises(EnvError, match=changed):
        env.step(cycle(ts))


REFUSED = {
    "nowhere:make": "there is no module nowhere; install its package or put its folder into PYTHONPATH",
    "camp:forgotten": "camp has no function or class forgotten",
    "camp:number": "camp has no function or class number",
    "camp:Turns": "pettingzoo.utils.conversions.aec_to_parallel(env)",
    "camp:Single": "it makes a gymnasium.Env; use env=gymnasium",
    "builtins:dict": "dict belongs to Python's own builtins",
    "broken:make": "importing broken failed: RuntimeError: not today",
    "camp:WithoutAgents": "possible_agents is empty or missing",
    "camp": "not found in registry; write package.module:factory",
    "camp:Combination": "only Discrete and a Box of real numbers can be used",
}


@pytest.mark.parametrize("target", REFUSED)
def test_a_target_that_cannot_be_used_is_one_sentence(target, tmp_path):
    (tmp_path / "broken.py").write_text("raise RuntimeError('not today')")
    with pytest.raises((FieldError, EnvError)) as raised:
        build(target=target)
    assert str(raised.value).startswith(f"env.target={target!r} cannot be used: ")
    assert REFUSED[target] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_agents_of_two_kinds_of_actions_are_refused():
    kinds = r"different kinds of actions \(arm_0: Box, arm_1: Box, crane: Discrete\)"
    with pytest.raises(EnvError, match=kinds):
        build(target="camp:Arms", kwargs={"discrete": True})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("workers", -1),
        ("limit", -1),
        ("timeout_s", 0.0),
        ("reward", "none"),
        ("target", ""),
        ("target", "a b:c"),
    ],
)
def test_bad_settings_name_the_field(field, value):
    with pytest.raises(FieldError, match=rf"^{field}="):
        build(**{field: value})


def test_workers_say_the_same_as_this_process_does():
    with pytest.raises(FieldError, match=r"^env.target='nowhere:make' cannot be used: there is no module"):
        build(workers=1, target="nowhere:make")
    with pytest.raises(EnvError, match=r"^env.target='camp:make' could not be opened: TypeError: "):
        build(workers=1, kwargs={"unknown": 1})


_AT = r"env [01] of camp:make, step 2 of its episode 0: "  # both workers fail; either may be heard first
FAILURES = {
    "crash": r"it crashed with ZeroDivisionError: the camp is on fire \(traceback: (\S+)\)",
    "kill": r"its worker process was killed by signal 9 while stepping \(log: (\S+)\)",
    "hang": r"no answer within 5 s of stepping; raise env.timeout_s if it only is slow \(log: (\S+)\)",
}


@pytest.mark.parametrize("fault", FAILURES)
def test_a_lost_worker_is_one_sentence_with_the_place_of_its_log(fault, tmp_path):
    env = build(2, 2, kwargs={"fault": fault}, timeout_s=5.0)
    processes = [p.pid for p in env._hands._hands.processes]
    ts = env.reset(Rng(0))
    ts = env.step(cycle(ts))
    with pytest.raises(EnvError) as raised:
        env.step(cycle(ts))
    match = re.fullmatch(_AT + FAILURES[fault], str(raised.value))
    assert match, str(raised.value)
    assert ("camp is on fire" in Path(match[1]).read_text()) == (fault == "crash")
    assert len(list((tmp_path / "logs").rglob("*.log"))) == 1
    assert all(gone(pid) for pid in processes)
    with pytest.raises(EnvError, match="were stopped"):
        env.step(cycle(ts))


def gone(pid):
    """Whether there is no such process, not even a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def left_open(folder):
    """The names there, each with where it leads to if it is a link; none where there is no such folder."""
    paths = [os.path.join(folder, name) for name in os.listdir(folder)] if os.path.isdir(folder) else []
    return {
        (path, os.readlink(path) if os.path.islink(path) else "") for path in paths if os.path.lexists(path)
    }


def test_nothing_is_left_when_nobody_holds_the_env(tmp_path):
    before, descriptors = left_open("/dev/shm"), left_open("/proc/self/fd")
    env = build(2, 2)
    env.reset(Rng(0))
    processes = [p.pid for p in env._hands._hands.processes]
    del env
    assert all(gone(pid) for pid in processes)
    assert list((tmp_path / "logs").iterdir()) == []
    # Fewer may be left: what an earlier test forgot can be collected meanwhile.
    assert left_open("/dev/shm") <= before
    assert left_open("/proc/self/fd") <= descriptors


def test_workers_do_not_outlive_a_run_that_was_killed(tmp_path):
    code = (
        "import sys, time, torch; from marl.envs.pettingzoo import Config; from marl.rng import Rng\n"
        "env = Config(target='camp:make', limit=9, workers=2).build(num_envs=2, device=torch.device('cpu'))\n"
        "env.reset(Rng(0)); print(*[p.pid for p in env._hands._hands.processes], flush=True); time.sleep(60)"
    )
    import subprocess

    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": f"{root}:{tmp_path}"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 2
        process.kill()
    deadline = time.monotonic() + 10
    while not all(map(ended, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(ended, pids))


def ended(pid):
    """Whether a process of somebody else's is gone, or waits only for its new parent to notice."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return gone(pid)
    return state == "Z"


def test_pictures_come_from_the_environment():
    for workers in (0, 1):
        env = build(2, workers, kwargs={"render_mode": "rgb_array"})
        env.step(cycle(env.reset(Rng(0))))
        assert env.render(1).tolist() == np.full((4, 6, 3), 1).tolist()
        env.close()
    with pytest.raises(NotImplementedError, match="render_mode=rgb_array"):
        build().render()


def test_wrapped_back_it_passes_pettingzoos_own_test(recwarn):
    """Agents of the world stay to the episode's end then (marl/pettingzoo.py)."""
    parallel_api_test(parallel(Config(target="camp:make", limit=20, workers=0)), num_cycles=60)


def test_pettingzoos_own_environments_play():
    """Needs pygame, which is no dependency of ours."""
    pytest.importorskip("pygame")
    target = "butterfly/knights_archers_zombies-v11"
    env = build(2, target=target, limit=0, kwargs={"max_cycles": 400})
    assert env.spec.n_agents == 4
    ts, generator, died = env.reset(Rng(0)), torch.Generator().manual_seed(0), False
    for _ in range(300):
        ts = env.step(legal(ts, generator))
        died = died or bool((ts.present_BN & ~ts.alive_BN).any())
    assert died
