"""Nested state survives JSON with its types."""

import json
import math

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from marl import tree

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(
            st.text(max_size=3) | st.integers() | st.sampled_from(["$dict", "$x"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


def same(a: object, b: object) -> bool:
    """Equal with equal types; NaN equals NaN; dicts in the same order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return len(a) == len(b) and all(
            same(k, m) and same(v, w) for (k, v), (m, w) in zip(a.items(), b.items(), strict=True)
        )
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@hypothesis.given(TREES)
@hypothesis.settings(deadline=None)
def test_any_tree_comes_back_as_it_was(value: object) -> None:
    text = json.dumps(tree.encode(value), allow_nan=False)
    assert same(tree.decode(json.loads(text), {}), value)


def test_tensors_are_replaced_by_names_with_their_path() -> None:
    kept: dict[str, torch.Tensor] = {}

    def place(path: tuple[str, ...], tensor: torch.Tensor) -> str:
        kept["/".join(path)] = tensor
        return "/".join(path)

    state = {"a": [torch.zeros(2), {3: torch.ones(1)}]}
    encoded = tree.encode(state, place)
    assert set(kept) == {"a/0", "a/1/3"}
    decoded = tree.decode(json.loads(json.dumps(encoded)), kept)
    assert decoded["a"][0] is state["a"][0]
    assert decoded["a"][1][3] is state["a"][1][3]  # type: ignore[index]


@pytest.mark.parametrize("value", [np.float32(1), np.zeros(2), object(), {1, 2}, torch.float32])
def test_other_types_are_refused_with_their_place(value: object) -> None:
    with pytest.raises(TypeError, match=r"a\.1 is a "):
        tree.encode({"a": [0, value]})


def test_unknown_marks_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown mark"):
        tree.decode({"$code": "print()"}, {})
