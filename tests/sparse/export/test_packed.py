"""The packed folder: it gives the same numbers, is as small as it should be, and a damaged one is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from marl import files, sealed
from marl.errors import CorruptFileError
from marl.sparse.cost import inference_memory
from marl.sparse.encoding import encode
from marl.sparse.export import load, packed

NAMES = ("policy.json", "weights.safetensors")


def same(one, other) -> bool:
    inputs = one.example(5, seed=3)
    return all(a.equal(b) for a, b in zip(one(*inputs), other(*inputs), strict=True))


@pytest.mark.parametrize(
    "words",
    [
        ("env=relay_game", "agent=qmix"),
        ("env=predator_prey/easy", "agent=tarmac", "agent.gate=learned"),
        ("env=relay_game", "agent=tmc", "agent.dead_talk=false"),
        ("env=navigation", "env.actions=continuous", "agent=ippo"),
    ],
    ids=" ".join,
)
def test_a_dense_team_comes_back_equal(words: tuple[str, ...], make_team, tmp_path: Path) -> None:
    policy = make_team(*words)[1].export()
    packed.write(policy, tmp_path / "out")
    again = load(tmp_path / "out")
    assert same(policy, again)
    assert (again.inputs, again.outputs) == (policy.inputs, policy.outputs)
    assert packed.describe(again) == packed.describe(policy)


def test_a_grouped_policy_comes_back_equal(make_grouped_policy, tmp_path: Path) -> None:
    policy = make_grouped_policy()
    packed.write(policy, tmp_path / "out")
    again = load(tmp_path / "out")
    assert same(policy, again)
    assert again.about == {"run_id": "made"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("groups", [2, 16])
def test_size_is_that_of_the_kept_weights_and_indices(groups: int, make_grouped_policy, tmp_path: Path):
    """The file against the account of `marl.sparse.cost`: bits there are bytes here, biases are extra."""
    policy = make_grouped_policy(hidden=128, groups=groups)
    packed.write(policy, tmp_path / "out")
    size = (tmp_path / "out" / "weights.safetensors").stat().st_size
    account = slack = dense = 0.0
    for layer in policy.layers.values():
        encoding = encode(layer.layouts[0])
        account += inference_memory(encoding)
        slack += encoding.rows + encoding.columns + 4 * encoding.columns  # whole bytes; float32 biases
        dense += 4 * encoding.rows * encoding.columns
    assert account < size < account + slack + 2048  # the file's own list of tensors
    assert policy.bytes == (
        sum(
            4 * encode(x.layouts[0]).nnz + x.layouts[0].inputs + 5 * x.layouts[0].outputs
            for x in policy.layers.values()
        ),
        dense + sum(4 * layer.layouts[0].outputs for layer in policy.layers.values()),
    )
    assert dense / size > 0.8 * (groups if groups == 2 else 12)


@pytest.mark.parametrize("name", NAMES)
def test_every_damage_is_found_and_named(name: str, make_grouped_policy, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    packed.write(make_grouped_policy(), folder)
    file = folder / name
    good = file.read_bytes()
    for bad in (good[:-1], good[:-1] + bytes([good[-1] ^ 1]), bytes([good[0] ^ 1]) + good[1:], b""):
        file.write_bytes(bad)
        with pytest.raises(CorruptFileError, match=name):
            load(folder)
    file.unlink()
    with pytest.raises(CorruptFileError, match=f"{name} cannot be used: No such file"):
        load(folder)
    file.write_bytes(good)
    load(folder)


def _change(folder: Path, change) -> None:
    """Rewrite policy.json with a right hash, as somebody who means it would."""
    content = json.loads((folder / "policy.json").read_bytes())
    del content["sha256"]
    change(content)
    content["sha256"] = files.sha256(sealed.dump(content))
    (folder / "policy.json").write_bytes(sealed.dump(content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(kind="marl checkpoint"), "not an exported policy"),
        (lambda c: c.update(schema=99), "schema 99"),
        (lambda c: c["steps"][0].update(op="os.system"), "op 'os.system' is unknown"),
        (lambda c: c["steps"][0].update(op="__init__"), "op '__init__' is unknown"),
        (lambda c: c["steps"][0].update(reads=["nothing"]), "nothing"),
        (lambda c: c["steps"][0].update(layers=["head"]), "fit"),
        (lambda c: c["steps"][0].update(settings={"more": 1}), "fit"),
        (lambda c: c["layers"][0].update(kind="pickle"), "kind 'pickle' is unknown"),
        (lambda c: c["layers"][0].update(format="int8"), "not as described"),
        (lambda c: c["layers"][0]["settings"].update(groups=2), "group_out"),
        (lambda c: c["layers"][0]["settings"].update(activation="eval"), "activation 'eval' is unknown"),
        (lambda c: c["layers"][0]["settings"].update(inputs=6), "shape"),
        (lambda c: c["inputs"][0].update(dtype="object"), "dtype 'object' is unknown"),
        (lambda c: c["inputs"][0].update(shape=[2, 6]), "fit"),
        (lambda c: c["inputs"][1].update(next="value"), "next 'value' is unknown"),
        (lambda c: c.update(outputs=["scores_BNA"]), "next"),
        (lambda c: c.pop("steps"), "fit"),
    ],
)
def test_a_foreign_description_is_refused(change, words: str, make_grouped_policy, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    packed.write(make_grouped_policy(), folder)
    _change(folder, change)
    with pytest.raises(CorruptFileError, match=rf"policy\.json.*{words}"):
        load(folder)


def test_groups_that_keep_other_weights_are_refused(make_grouped_policy, tmp_path: Path) -> None:
    policy = make_grouped_policy()
    layer = policy.layers["encoder"]
    layer.packed = torch.cat([layer.packed, torch.ones(1)])
    packed.write(policy, tmp_path / "out")
    with pytest.raises(CorruptFileError, match="its groups keep"):
        load(tmp_path / "out")
