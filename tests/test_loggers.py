"""Every sink holds the rows it was given; nothing leaves the run folder."""

import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from marl.errors import FieldError, MarlError
from marl.loggers import Config, JsonLines, jsonl, open_loggers

ROWS = [(step, {"train/loss": 1.0 / (step + 1), "eval/success": step / 100}) for step in range(0, 100, 10)]


def test_lines_of_json(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "m.jsonl", 0)
    for step, row in ROWS:
        log.log(step, row)
    log.log(100, {"train/loss": math.nan})
    log.close()
    rows = jsonl.read(tmp_path / "m.jsonl")
    assert rows[:-1] == [{"step": s, **r} for s, r in ROWS]
    assert rows[-1] == {"step": 100, "train/loss": None}


def wandb_history(path: Path) -> list[dict[str, Any]]:
    """History rows of a .wandb file: LevelDB log blocks of protobuf records."""
    from wandb.proto import wandb_internal_pb2

    data, rows, position, pending = path.read_bytes(), [], 7, b""
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:  # the tail of a block holds no header
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        pending += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(pending)
            pending = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    return rows


def test_wandb_runs_offline_and_holds_the_history(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (log,) = open_loggers(Config(wandb=True), tmp_path, "qmix-s0", {"agent": {"lr": 0.1}})
    for step, row in ROWS:
        log.log(step, row)
    log.close()
    assert capfd.readouterr() == ("", "")  # silent
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    history = wandb_history(path)
    assert [(r["_step"], {k: r[k] for k in ("train/loss", "eval/success")}) for r in history] == ROWS
    assert b"qmix-s0" in path.read_bytes()


def test_tensorboard_holds_the_scalars(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (log,) = open_loggers(Config(tensorboard=True), tmp_path, "a", {})
    for step, row in ROWS:
        log.log(step, row)
    Image.new("RGB", (3, 2), (255, 0, 0)).save(tmp_path / "curves.png")
    log.media("curves", tmp_path / "curves.png")
    log.media("team", tmp_path / "team.gif")  # no video from a file
    log.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("eval/success")] == [
        (step, pytest.approx(row["eval/success"])) for step, row in ROWS
    ]
    assert events.Tags()["images"] == ["curves"]
    (picture,) = events.Images("curves")
    assert (picture.step, picture.width, picture.height) == (ROWS[-1][0], 3, 2)


def test_no_optional_sink_is_opened_unasked(tmp_path: Path) -> None:
    assert open_loggers(Config(), tmp_path, "a", {}) == []
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delitem(sys.modules, "marl.loggers.tensorboard", raising=False)
    with pytest.raises(MarlError, match=r"needs TensorBoard: pip install 'marl-suite\[tensorboard\]'"):
        open_loggers(Config(tensorboard=True), tmp_path, "a", {})


def test_ranges_are_checked() -> None:
    with pytest.raises(FieldError, match="every_steps=0 cannot be used"):
        Config(every_steps=0)
    with pytest.raises(FieldError, match="project=' ' cannot be used"):
        Config(project=" ")
