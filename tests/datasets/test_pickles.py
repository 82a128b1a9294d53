"""Pickles of arrays: honest ones of all ages are read, hostile ones run and crash nothing."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from numpy._core import multiarray

from marl.datasets import pickles
from marl.errors import CorruptFileError


def loaded(tmp_path, data):
    (tmp_path / "set.pkl").write_bytes(data)
    return pickles.load(tmp_path / "set.pkl")


def of_numpy_1(data):
    """The same pickle with numpy 1's names; from protocol 4 on they carry their length, and so does all."""
    for name in (b"numpy._core.multiarray", b"numpy._core.numeric"):
        old = name.replace(b"_core", b"core")
        data = data.replace(b"c" + name + b"\n", b"c" + old + b"\n")
        text = bytes([0x8C, len(name)]) + name
        if data.count(text):
            start, size = data[:3], int.from_bytes(data[3:11], "little")
            assert start[2] == 0x95
            size -= data.count(text)
            rest = data[11:].replace(text, bytes([0x8C, len(old)]) + old)
            data = start + size.to_bytes(8, "little") + rest
    return data


ARRAYS = {
    **{
        kind: np.arange(6).reshape(2, 3).astype(kind) for kind in ("f2", "f4", "f8", ">f8", "i8", "u1", ">i2")
    },
    "bool": np.array([[True, False]]),
    "fortran": np.arange(6.0).reshape(2, 3).T,
    "strided": np.arange(12.0).reshape(2, 6)[:, ::2],
    "axes": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "empty": np.zeros((0, 3), np.float32),
    "point": np.array(2.5),
}


@pytest.mark.parametrize("age", ["numpy 1", "numpy 2"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ARRAYS)
def test_honest_arrays_are_read(name, protocol, age, tmp_path):
    data = pickle.dumps([ARRAYS[name], ARRAYS[name]], protocol)
    data = of_numpy_1(data) if age == "numpy 1" else data
    assert (b"numpy._core" in data) == (age == "numpy 2")
    for read in loaded(tmp_path, data):
        array = pickles.numbers(read)
        assert array.dtype == ARRAYS[name].dtype
        assert np.array_equal(array, ARRAYS[name])
        assert array.shape == ARRAYS[name].shape
        assert array.flags.writeable


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_honest_numbers_are_read(protocol, tmp_path):
    """numpy's own and Python's, alone and in lists."""
    kinds = (np.float32(1.5), np.float64(2.5), np.int64(-3), np.bool_(True))
    content = {
        "numpy": list(kinds),
        "rows": [[1, 2.5], [np.float32(3), True]],
        "mixed": [np.zeros(2), [1, 2]],
    }
    read = loaded(tmp_path, pickle.dumps(content, protocol))
    assert [(type(x), x) for x in read["numpy"]] == [(type(x), x) for x in kinds]
    assert pickles.numbers(read["rows"]).tolist() == [[1, 2.5], [3, 1]]
    assert pickles.numbers(read["mixed"]).tolist() == [[0, 0], [1, 2]]


class Calls:
    """Pickled as the call of a function, with a state where one is given."""

    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts


def structured(kind, offset):
    """A dtype of 8 bytes whose state claims a field."""
    return Calls(
        np.dtype, "V8", False, True, state=(3, "|", None, ("a",), {"a": (np.dtype(kind), offset)}, 8, 1, 0)
    )


def array_of(dtype, raw, shape=(1,), kind=np.ndarray):
    return Calls(multiarray._reconstruct, kind, (0,), b"b", state=(1, shape, dtype, False, raw))


EIGHT, PLAIN = b"A" * 8, np.dtype("f8")
HOSTILE = {
    "object field": Calls(list, Calls(multiarray.scalar, structured("O", 0), EIGHT)),
    "far field": Calls(list, Calls(multiarray.scalar, structured("f8", 1 << 40), EIGHT)),
    "array of object fields": array_of(structured("O", 0), EIGHT),
    "called array": Calls(np.ndarray, (1,), structured("O", 0), EIGHT),
    "object": Calls(multiarray.scalar, np.dtype("O"), EIGHT),
    "objects": np.array([{}, []], dtype=object),
    "text": Calls(np.dtype, "U2", False, True, state=(3, "<", None, None, None, 1 << 30, 4, 8)),
    "large number": Calls(np.dtype, "f8", False, True, state=(3, "<", None, None, None, 1 << 30, 4, 0)),
    "part": Calls(np.dtype, "f8", False, True, state=(3, "|", (PLAIN, (1,)), None, None, -1, -1, 0)),
    "flags": Calls(np.dtype, "f8", False, True, state=(3, "<", None, None, None, -1, -1, 63)),
    "no dtype": Calls(np.dtype, "b8", False, True),
    "strides": Calls(np.ndarray, (4,), PLAIN, EIGHT, 0, (1 << 40,)),
    "short": array_of(PLAIN, EIGHT, (2,)),
    "long": array_of(PLAIN, EIGHT * 3),
    "huge": array_of(PLAIN, EIGHT, (1 << 62, 4)),
    "negative": array_of(PLAIN, EIGHT * 2, (-1, -2)),
    "no bytes": array_of(PLAIN, [1.0]),
    "fraction of an array": array_of(PLAIN, EIGHT, (1.0,)),
    "subclass": array_of(PLAIN, EIGHT, kind=list),
    "short scalar": Calls(multiarray.scalar, PLAIN, b"A"),
    "buffer": Calls(np._core.numeric._frombuffer, EIGHT, PLAIN, (2,), "C"),
    "axes": Calls(np._core.numeric._frombuffer, EIGHT, PLAIN, (1,), "K", (3,)),
    "a tebibyte of text": b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00abc.",
    "state of a function": b"\x80\x02]cnumpy._core.multiarray\nscalar\n}(X\x01\x00\x00\x00aK\x01uba.",
}


def test_hostile_arrays_are_refused_and_crash_nothing(tmp_path):
    """In a process of its own, which would be the one to crash."""
    for name, content in HOSTILE.items():
        data = content if isinstance(content, bytes) else pickle.dumps([{"x": content}], 2)
        (tmp_path / f"{name}.pkl").write_bytes(data)
    code = f"""
import pathlib
from marl.datasets import pickles
from marl.errors import CorruptFileError
for name in {list(HOSTILE)}:
    path = pathlib.Path({str(tmp_path)!r}, name + ".pkl")
    print(path, end=" ", flush=True)
    try:
        print("was read:", pickles.load(path))
    except CorruptFileError as error:
        print(error.reason, error.path == path)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-500:]} {done.stderr[-500:]}"
    for name, line in zip(HOSTILE, done.stdout.splitlines(), strict=True):
        assert line.startswith(f"{tmp_path}/{name}.pkl it was refused: "), line
        assert line.endswith(" True"), line
        assert line.removesuffix(" True").split("it was refused: ")[1].strip(), line  # says why


def test_arrays_without_content_are_no_numbers(tmp_path):
    (empty,) = loaded(tmp_path, pickle.dumps([Calls(multiarray._reconstruct, np.ndarray, (0,), b"b")]))
    for value in (empty, {}, "text", [["text"]], [[[1.0]]]):
        with pytest.raises(ValueError, match="among its numbers"):
            pickles.numbers(value)


def test_files_that_are_no_pickles_are_refused(tmp_path):
    with pytest.raises(CorruptFileError, match="No such file"):
        pickles.load(tmp_path / "none.pkl")
    for data in (b"", b"text", pickle.dumps([np.zeros(3)])[:40]):
        with pytest.raises(CorruptFileError, match="it was refused"):
            loaded(tmp_path, data)
