"""Every wrong input of a user is one sentence that names the field, the value and the fix; no traceback."""

from pathlib import Path

import pytest

from marl import cli

CASES = [
    ("trian", ["there is no command 'trian'", "did you mean train?"]),
    ("train agnet=qmix", ["agnet is not a setting of a run", "did you mean agent?"]),
    ("train agent=qmx", ["agent=qmx does not exist", "did you mean"]),
    ("train env=batle/3m", ["env=batle/3m does not exist", "did you mean battle/3m?"]),
    ("train env.map=4m", ["env.map='4m'", "did you mean"]),
    ("train env.mpa=3m", ["env.mpa is not a setting of", "did you mean env.map?"]),
    (
        "train agent=ippo settings=pymarl",
        ["settings=pymarl sets agent.returns", "this agent does not have", "leave settings=pymarl out"],
    ),
    ("train agent=ippo settings=pymarl agent.returns=nstep", ["agent.returns is not a setting of"]),
    ("train agent=commnet agent.clip=0.1", ["agent.clip=0.1", "learner=reinforce does not read it"]),
    ("train agent.gama=0.9", ["agent.gama is not a setting of", "did you mean agent.gamma?"]),
    ("train agent.gamma=2", ["agent.gamma=2.0 cannot be used", "give a number in [0, 1]"]),
    ("train agent.learning_rate=inf", ["agent.learning_rate=inf cannot be used", "give a finite number"]),
    ("train agent=sb3 agent.kwargs.a.b=-inf", ["agent.kwargs", "give a finite number"]),
    (
        "train agent=ippo loop=off_policy",
        ["loop=off_policy keeps settings=fast", "sets agent.returns", "leave loop out"],
    ),
    ("train agent.gamma=abc", ["agent.gamma='abc' cannot be used", "give a number"]),
    ("train seed=-1", ["seed=-1 cannot be used", "0 or more"]),
    ("train seed=a", ["seed='a' cannot be used", "give a whole number"]),
    ("train seeds=3-1", ["seeds='3-1' cannot be used", "0-9"]),
    ("train hydra.run.dir=x", ["hydra.run.dir is not a setting of a run", "only hydra.searchpath is read"]),
    ("train seeds=", ["seeds='' cannot be used", "0-9"]),
    ("train total_steps=0", ["total_steps=0 cannot be used", "1 or more"]),
    ("train threads=0", ["threads=0 cannot be used", "1 or more"]),
    ("train num_envs=0", ["num_envs=0 cannot be used", "1 or more"]),
    ("train num_envs=2.5", ["num_envs=2.5 cannot be used", "give a whole number"]),
    ("train device=tpu", ["device='tpu' cannot be used", "give cpu, cuda"]),
    ("train run_id=12e45678", ["run_id='12e45678' cannot be used", "start with a letter"]),
    ("train run_id=../up", ["run_id='../up' cannot be used"]),
    ("train evaluation.episodes=0", ["evaluation.episodes=0 cannot be used"]),
    ("train evaluation.epsiodes=3", ["did you mean evaluation.episodes?"]),
    ("train checkpoint.keep=0", ["checkpoint.keep=0 cannot be used"]),
    ("train logger=wandbb", ["logger=wandbb does not exist", "did you mean wandb?"]),
    ("train logger.wandb_mode=maybe", ["logger.wandb_mode='maybe'", "give offline or online"]),
    ("train agent=qmix,vdn", ["agent has several values", "add -m"]),
    ("train agent=[1,2", ["the command line cannot be read"]),
    ("train fast", ["'fast' is not a setting", "write name=value"]),
    ("train agent._target_=os.system", ["only marl.* may be named", "trust=[os]"]),
    ("train trust=os agent._target_=os.system", ["trust='os'", "trust=[mypackage]"]),
    ("train trust=[os] agent._target_=os.system", ["os has no dataclass system"]),
    ("train groups=4", ["agent.sparsity.groups: say what kind", "grouped"]),
    ("train sparsity=grouped groups=0", ["agent.sparsity.groups=0 cannot be used"]),
    ("train sparsity=groupd", ["sparsity=groupd does not exist", "did you mean grouped?"]),
    ("train sparsity=magnitude agent.sparsity.end=0", ["agent.sparsity.end=0 cannot be used", "start=0"]),
    ("train sparsity=grouped agent=sb3", ["agent.sparsity is not a setting of"]),
    ("train defence=smoth", ["defence=smoth does not exist", "did you mean smooth?"]),
    ("train defence.epsilon=1", ["agent.defence.epsilon: say what kind of defence", "adversarial"]),
    ("train channel.loss=0.3", ["channel.loss: say what kind of channel", "channel=<one of bernoulli, "]),
    ("train train_channel.loss=0.3", ["train_channel.loss: say what", "train_channel=<one of bernoulli, "]),
    ("train agent=tmc channel=heavy channel.loss=0.3", ["channel.loss is not a setting of", "returns"]),
    ("train agent=tmc agent.mixer=vdn agent.embed=8", ["agent.embed=8", "mixer=vdn does not read it"]),
    ("train defence=smooth defence.epsilon=0", ["agent.defence.epsilon=0.0 cannot be used", "above 0"]),
    ("train defence=byzantine defence.budget=3", ["agent.defence.budget=3", "action=worst does not read it"]),
    ("train defence=ablation", ["agent.defence='ablation'", "this team sends no messages"]),
    ("train agent=ic3net agent.messages=false defence=message_dropout", ["this team sends no messages"]),
    ("train agent=sb3 defence=smooth", ["defence='smooth'", "our own online learners"]),
    ("train agent=bc loop.data=x defence=byzantine", ["defence='byzantine'", "our own online learners"]),
    ("train resume=nowhere", ["resume='nowhere' cannot be used", "no run in this folder"]),
    ("train seeds=0-1 workers=x", ["workers='x' cannot be used", "1 or more"]),
    ("evaluate", ["run is missing", "give run=<run folder>"]),
    ("evaluate run=nowhere", ["run='nowhere' cannot be used", "no checkpoint"]),
    ("evaluate run=nowhere episodes=0", ["episodes='0' cannot be used", "1 or more"]),
    ("evaluate run=nowhere explore=2", ["explore='2' cannot be used", "[0, 1]"]),
    ("attack", ["run is missing", "give run=<run folder>"]),
    ("attack run=nowhere", ["attack is missing", "attack=owr"]),
    ("attack run=nowhere attack=owr", ["run='nowhere' cannot be used", "no checkpoint"]),
    ("attack run=nowhere attack=randm", ["attack=randm does not exist", "did you mean random?"]),
    ("attack run=nowhere attack=owr attack.forse=pgd", ["did you mean attack.force?"]),
    ("attack run=nowhere attack=owr attack.force=gpd", ["attack.force='gpd' cannot be used"]),
    ("attack run=nowhere attack=owr attack.force=fgsm", ["attack.budget.linf=inf cannot be used", "step"]),
    ("attack run=nowhere attack=owr attack.budget.l1=-1", ["attack.budget.l1=-1.0 cannot be used", ">= 0"]),
    ("attack run=nowhere attack=owr attack.thetas=[0.5,0.1]", ["attack.thetas=", "give rising numbers"]),
    ("attack run=nowhere attack=owr attack.force=message", ["attack.choose='owr'", "give none"]),
    ("attack run=nowhere attack=random attack.adversary=x", ["attack.adversary='x'", "leave it out"]),
    ("attack run=nowhere attack=owr episodes=0", ["episodes='0' cannot be used", "1 or more"]),
    ("attack run=nowhere attack=owr agent=qmix", ["agent is not a setting of marl attack"]),
    ("train channel=havy", ["channel=havy does not exist", "did you mean heavy?"]),
    ("train train_channel=havy", ["channel=havy does not exist", "did you mean heavy?"]),
    ("train channel=null", ["channel='null' cannot be used", "leave it out, or give one of bernoulli"]),
    ("train train_channel=null", ["train_channel='null' cannot be used", "leave it out"]),
    ("train agent=", ["agent='' cannot be used", "leave it out, or give one of ac"]),
    ("train channel=bernoulli channel.loss=2", ["channel.loss=2.0 cannot be used", "[0, 1]"]),
    ("train channel=bernoulli channel.los=0", ["did you mean channel.loss?"]),
    ("train train_channel=heavy train_channel.delay=2", ["train_channel.delay=2 cannot be used"]),
    ("evaluate run=nowhere talk=maybe", ["talk='maybe' cannot be used", "true or false"]),
    ("evaluate run=nowhere video=avi", ["video='avi' cannot be used", "give mp4 or gif"]),
    ("evaluate rnu=x", ["rnu is not a setting of marl evaluate"]),
    ("study", ["one study file"]),
    ("study nowhere.yaml", ["study='nowhere.yaml' cannot be used", "no such file"]),
]

STUDIES = [
    ("name: 3m", ["name='3m' cannot be used", "start with a letter"]),
    ("name: true\noverrides: [agent=qmx]", ["agent=qmx does not exist"]),
    ("nme: a", ["nme is not a setting of", "did you mean name?"]),
    ("workers: 0", ["workers=0 cannot be used"]),
    ("overrides: agent=qmix", ["overrides='agent=qmix' cannot be used", "a list"]),
    ("grid: [env=battle/3m]", ["grid=", "one list of overrides per axis"]),
    ("parts: [{sede: 3}]", ["parts.sede is not a setting", "did you mean parts.seeds?"]),
    ("seeds: x", ["seeds='x' cannot be used"]),
    ("time_limit_min: 0", ["time_limit_min=0 cannot be used"]),
    ("overrides: [agent=qmx]", ["agent=qmx does not exist"]),
    ("overrides: [run_id=a]\nseeds: 0-1", ["two runs of the list would be", "leave run_id out"]),
    ("- 1", ["it holds no mapping"]),
    ("a: [", ["is not a study file"]),
]


def fail(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints before it exits with 2."""
    code = cli.main(words)
    shown = capsys.readouterr()
    assert code == 2, shown
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert shown.err.startswith("marl: ")
    assert shown.err.count("\n") == 1, shown.err
    return shown.err


@pytest.mark.parametrize(("line", "parts"), CASES, ids=[line for line, _ in CASES])
def test_a_wrong_command_is_one_sentence(
    line: str,
    parts: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = fail(line.split(), capsys)
    for part in parts:
        assert part in shown
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_a_place_that_cannot_be_written_to_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    shown = fail(["train", f"runs_dir={tmp_path}/file/runs"], capsys)
    assert f"{tmp_path}/file/runs" in shown
    assert "cannot be written to (Not a directory): give another place" in shown


@pytest.mark.parametrize(("text", "parts"), STUDIES, ids=[text.split("\n")[0] for text, _ in STUDIES])
def test_a_wrong_study_file_is_one_sentence(
    text: str, parts: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(text)
    shown = fail(["study", str(tmp_path / "study.yaml")], capsys)
    for part in parts:
        assert part in shown
    assert [p.name for p in tmp_path.iterdir()] == ["study.yaml"]


def test_a_studys_folder_is_no_second_study_file(capsys):
    shown = fail(["study", "nowhere/s.yaml", "runs_dir=/tmp/runs"], capsys)
    assert "study='nowhere/s.yaml' cannot be used" in shown
