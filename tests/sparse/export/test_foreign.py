"""Files of other programs, read by those programs: torch.export, and ONNX's own evaluator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from marl.errors import MarlError
from marl.sparse.export import foreign, packed

needs_onnx = pytest.mark.skipif(
    not foreign.has_onnx(), reason="the extra `export` (onnx, onnxscript) is not installed"
)


def close(ours, theirs) -> bool:
    return all(
        a.to(torch.float64).allclose(torch.as_tensor(b).to(torch.float64), 1e-4, 1e-4)
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.export.load, of torch's own
def test_torch_reads_a_grouped_policy(make_grouped_policy, tmp_path: Path) -> None:
    policy = make_grouped_policy()
    foreign.write_torch(policy, tmp_path / "policy.pt2")
    extra = {"policy.json": ""}
    program = torch.export.load(tmp_path / "policy.pt2", extra_files=extra)
    assert json.loads(extra["policy.json"]) == json.loads(json.dumps(packed.describe(policy)))
    for rows in (1, 5):
        inputs = policy.example(rows, seed=2)
        assert close(policy(*inputs), program.module()(*inputs))
    sizes = {tuple(value.shape) for value in program.state_dict.values()}
    assert (12, 5) not in sizes  # no dense weight is in the file
    assert tuple(policy.layers["encoder"].packed.shape) in sizes


def test_torch_reads_a_team_that_talks(make_team, tmp_path: Path) -> None:
    policy = make_team("env=predator_prey/easy", "agent=ic3net")[1].export()
    foreign.write_torch(policy, tmp_path / "policy.pt2")
    program = torch.export.load(tmp_path / "policy.pt2").module()
    for rows in (1, 5):
        inputs = policy.example(rows, seed=2)
        assert close(policy(*inputs), program(*inputs))


@needs_onnx
def test_onnx_reads_a_grouped_policy(make_grouped_policy, tmp_path: Path) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    policy = make_grouped_policy(hidden=32, groups=8)
    foreign.write_onnx(policy, tmp_path / "policy.onnx")
    model = onnx.load(tmp_path / "policy.onnx")
    names = [f.name for f in policy.inputs]
    assert [value.name for value in model.graph.input] == names
    assert [value.name for value in model.graph.output] == list(policy.outputs)
    for rows in (1, 5):
        inputs = policy.example(rows, seed=2)
        fed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        assert close(policy(*inputs), ReferenceEvaluator(model).run(None, fed))
    (about,) = (entry.value for entry in model.metadata_props if entry.key == "policy.json")
    assert json.loads(about) == json.loads(json.dumps(packed.describe(policy)))
    shapes = {tuple(tensor.dims) for tensor in model.graph.initializer}
    dense = [(x.layouts[0].outputs, x.layouts[0].inputs) for x in policy.layers.values()]
    assert not shapes & {shape for o, i in dense for shape in ((o, i), (i, o))}


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("env=relay_game", "agent=qmix"),
        ("env=predator_prey/easy", "agent=ic3net"),
        ("env=traffic_junction/easy", "agent=tarmac"),
        ("env=battle/3m", "agent=ac", "agent.dead_talk=false"),
        ("env=navigation", "env.actions=continuous", "agent=ippo"),
    ],
    ids=" ".join,
)
def test_onnx_reads_every_kind_of_team(words: tuple[str, ...], make_team, tmp_path: Path) -> None:
    foreign.write_onnx(make_team(*words)[1].export(), tmp_path / "policy.onnx")
    assert (tmp_path / "policy.onnx").is_file()


def test_without_onnx_one_sentence_says_so(make_grouped_policy, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(foreign, "has_onnx", lambda: False)
    with pytest.raises(
        MarlError, match=r"format=onnx needs onnx and onnxscript: pip install 'marl-suite\[export\]'"
    ):
        foreign.write_onnx(make_grouped_policy(), tmp_path / "policy.onnx")


def test_a_program_with_other_numbers_is_not_written(
    make_grouped_policy, tmp_path: Path, monkeypatch
) -> None:
    policy = make_grouped_policy()
    wrong = foreign._program(make_grouped_policy(groups=2))
    monkeypatch.setattr(foreign, "_program", lambda _: wrong)
    with pytest.raises(MarlError, match="other numbers than the policy in scores_BNA"):
        foreign.write_torch(policy, tmp_path / "policy.pt2")
    assert not (tmp_path / "policy.pt2").exists()
