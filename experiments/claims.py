"""Every published number is a row with a raw file behind it: check the rows, write the tables.

    python -m experiments.claims            check everything, print the table, write it into the pages
    python -m experiments.claims --check    check only, the tables in the pages included

Each system keeps `experiments/<system>/claims.json`, written by its scripts through `write_claim`.
A row names the function that computes it from its raw files (`derive`), and the check computes it
again: a raw row that was changed, or a number that was typed, makes it fail. A page holds a table
between `<!-- claims:ground -->` and `<!-- /claims -->`; the name may be longer to show fewer rows.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import importlib
import json
import math
import operator
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from marl.errors import MarlError
from marl.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
SEEDS = 5  # a claim with fewer seeds or repetitions is a trial: house rule 15
TOLERANCE = 1e-9  # relative; the last bits of a sum may differ between machines

Row = dict[str, Any]
Derived = tuple[float, float | None, float | None, int]  # value, low, high, n

_NUMBER = (int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "value": _NUMBER,
    "low": (*_NUMBER, type(None)),
    "high": (*_NUMBER, type(None)),
    "unit": (str,),
    "test": (str,),
    "n": (int,),
    "derive": (str,),
    "command": (str,),
    "raw": (list,),
    "commit": (str,),
    "hardware": (str,),
    "date": (str,),
    "note": (str,),
}
_MADE = ("commit", "hardware", "date")  # say where and when the raw files were made
_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}
_BLOCK = re.compile(r"(<!-- claims:([\w.]+) -->\n).*?(<!-- /claims -->)", re.DOTALL)


def evaluate(test: str, row: Mapping[str, Any]) -> bool:
    """Whether a row meets its test: comparisons of value, low, high and numbers, `and`, `or`, + - * /.

    Raises:
        MarlError: the test uses anything else, or an end of an interval that the row does not have.
    """
    names = {name: row[name] for name in ("value", "low", "high")}

    def walk(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return number
            case ast.Name(id=name) if names.get(name) is not None:
                return names[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -walk(operand)
            case ast.BinOp(op=op) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](walk(node.left), walk(node.right))
            case ast.Compare(left=left, ops=ops, comparators=comparators) if all(
                type(op) in _OPERATORS for op in ops
            ):
                terms = [walk(left), *map(walk, comparators)]
                pairs = zip(ops, terms[:-1], terms[1:], strict=True)
                return all(_OPERATORS[type(op)](a, b) for op, a, b in pairs)
            case ast.BoolOp(op=op, values=values):
                results = [walk(value) for value in values]
                return all(results) if isinstance(op, ast.And) else any(results)
        raise MarlError(f"{row['id']}: test {test!r} may only compare value, low, high and numbers")

    try:
        result = walk(ast.parse(test, mode="eval").body)
    except SyntaxError as error:
        raise MarlError(f"{row['id']}: test {test!r} is not an expression") from error
    if not isinstance(result, bool):
        raise MarlError(f"{row['id']}: test {test!r} is a number, not a comparison")
    return result


def derive(function: str, raw: Sequence[str], root: Path = ROOT) -> Derived:
    """Compute (value, low, high, n) from raw files with the function "experiments.module:name"."""
    module, _, name = function.partition(":")
    if not re.fullmatch(r"experiments(\.\w+)+", module) or not name.isidentifier():
        raise MarlError(f"derive {function!r} must read experiments.<module>:<function>")
    value, low, high, n = getattr(importlib.import_module(module), name)(*(root / path for path in raw))
    return float(value), None if low is None else float(low), None if high is None else float(high), int(n)


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-12)


def check_row(row: Row, system: str, root: Path = ROOT) -> list[str]:
    """What is wrong with a row; an empty list when it holds."""
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        return [f"{system}: every row is an object with an id"]
    name = row["id"]
    wrong = [
        f"{name}: {field} is missing or of the wrong type"
        for field, kinds in _TYPES.items()
        if field not in row or not isinstance(row[field], kinds) or isinstance(row[field], bool)
    ]
    wrong += [f"{name}: unknown field {field}" for field in row if field not in _TYPES and field != "trial"]
    if wrong:
        return wrong
    if not re.fullmatch(rf"{system}\.\w+", name):
        wrong.append(f"{name}: an id of this file reads {system}.<name>")
    if row.get("trial") not in (None, True):
        wrong.append(f"{name}: trial is true or absent")
    wrong += [
        f"{name}: {field} is empty" for field in ("command", "commit", "date", "note") if not row[field]
    ]
    if not row["raw"]:
        wrong.append(f"{name}: raw names no file")
    missing = [path for path in row["raw"] if not isinstance(path, str) or not (root / path).is_file()]
    if missing:
        return [*wrong, f"{name}: raw file {missing[0]} is missing"]
    trial = row.get("trial") is True
    if row["n"] < SEEDS and not trial:
        wrong.append(f"{name}: n={row['n']} is below {SEEDS}, so it must carry trial: true")
    if (row["low"] is None or row["high"] is None) and not trial:
        wrong.append(f"{name}: a claim without an interval must carry trial: true")
    try:
        evaluate(row["test"], row)
        derived = derive(row["derive"], row["raw"], root)
    except Exception as error:  # whatever the function of a broken row raises is a fault of the row
        return [*wrong, f"{name}: {type(error).__name__}: {error}"]
    for field, again in zip(("value", "low", "high", "n"), derived, strict=True):
        if not _close(row[field], again):
            wrong.append(f"{name}: {field} is {row[field]}, but its raw files give {again}")
    return wrong


def read(root: Path = ROOT) -> tuple[list[Row], list[str]]:
    """All rows of all systems that hold, and what is wrong with the others."""
    rows: list[Row] = []
    wrong: list[str] = []
    for path in sorted((root / "experiments").glob("*/claims.json")):
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            wrong.append(f"{path.parent.name}: claims.json is not JSON: {error}")
            continue
        for row in found:
            faults = check_row(row, path.parent.name, root)
            wrong += faults
            rows += [] if faults else [row]
    ids = [row["id"] for row in rows]
    wrong += [f"{name}: two rows have this id" for name in sorted(set(ids)) if ids.count(name) > 1]
    return rows, wrong


def state(row: Row) -> str:
    """met or missed; a trial says so."""
    met = "met" if evaluate(row["test"], row) else "missed"
    return f"trial, {met}" if row.get("trial") else met


def number(value: float) -> str:
    """Four significant digits, thousands separated; never an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def table(rows: Iterable[Row]) -> str:
    """Markdown table, nothing for no rows; the raw file and the command stand in claims.json."""
    rows = sorted(rows, key=lambda row: str(row["id"]))
    if not rows:
        return ""
    lines = ["| claim | value | interval | n | goal | | what was compared |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        ends = [row["low"], row["high"]]
        interval = "-" if None in ends else " to ".join(number(end) for end in ends)
        unit = "" if row["unit"] == "1" else f" {row['unit']}"
        goal = row["test"].replace("|", "\\|")
        note = row["note"].replace("|", "\\|")
        lines.append(
            f"| `{row['id']}` | {number(row['value'])}{unit} | {interval} | {row['n']} | `{goal}` "
            f"| {state(row)} | {note} |"
        )
    return "\n".join(lines) + "\n"


def fill(text: str, rows: Sequence[Row]) -> str:
    """The page with every block between markers replaced by the table of the rows it names."""

    def block(match: re.Match[str]) -> str:
        named = re.compile(rf"{re.escape(match[2])}([._]|$)")
        return match[1] + table(row for row in rows if named.match(row["id"])) + match[3]

    return _BLOCK.sub(block, text)


def pages(root: Path = ROOT) -> list[Path]:
    """The pages that may hold tables."""
    found = [root / "README.md", *(root / "docs").rglob("*.md"), *(root / "experiments").glob("*/README.md")]
    return sorted(page for page in found if page.is_file())


def commit(root: Path = ROOT) -> str:
    """The commit that is checked out, and whether code differs from it."""
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    code = ["*.py", "*.yaml", "*.cpp", "*.hpp"]
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *code], check=False).returncode != 0
    return head.stdout.strip() + (" with changes" if changed else "")


def machine(hardware: Mapping[str, Any]) -> str:
    """What `marl.results.hardware` found, in one line."""
    return ", ".join(f"{name} {what}" for name, what in hardware.items() if what)


def made_now(root: Path = ROOT) -> dict[str, str]:
    """Commit, hardware and date of a measurement that has just ended."""
    from marl.results import hardware

    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"commit": commit(root), "hardware": machine(hardware()), "date": today}


def made_before(id: str, root: Path = ROOT) -> dict[str, str] | None:
    """Those of a row as it stands, for a row that is computed again from its old raw files."""
    path = root / "experiments" / id.partition(".")[0] / "claims.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    return next(({name: row[name] for name in _MADE} for row in rows if row["id"] == id), None)


def write_claim(
    *,
    id: str,
    unit: str,
    test: str,
    derive_with: str,
    raw: Sequence[str],
    command: str,
    note: str,
    trial: bool = False,
    made: Mapping[str, str] | None = None,
    root: Path = ROOT,
) -> Row:
    """Compute a row from its raw files and put it into the claims.json of its system.

    Args:
        id: "<system>.<name>"; a row of this id is replaced.
        unit: of the value; "1" for a share or a count.
        test: what makes the claim met, over value, low and high.
        derive_with: "experiments.<module>:<function>", maps the raw paths to (value, low, high, n).
        raw: raw files, relative to the repository.
        command: makes the raw files.
        note: one sentence: what was compared with what, and what limits it.
        trial: fewer than five seeds or repetitions, or no interval.
        made: commit, hardware and date of the measurement; None: it was made just now, here.

    Raises:
        MarlError: the row would not pass the check.
    """
    value, low, high, n = derive(derive_with, raw, root)
    row: Row = {"id": id, "value": value, "low": low, "high": high, "unit": unit, "test": test, "n": n}
    row |= {"derive": derive_with, "command": command, "raw": list(raw)}
    row |= {**(made or made_now(root)), "note": note}
    row |= {"trial": True} if trial else {}
    system = id.partition(".")[0]
    if wrong := check_row(row, system, root):
        raise MarlError("; ".join(wrong))
    path = root / "experiments" / system / "claims.json"
    rows = [old for old in json.loads(path.read_text()) if old["id"] != id] if path.is_file() else []
    rows = sorted([*rows, row], key=lambda row: str(row["id"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(rows, indent=1, allow_nan=False).encode() + b"\n")
    return row


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Entry point; returns 1 when anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m experiments.claims", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; a stale table is a fault")
    check = parser.parse_args(arguments).check
    rows, wrong = read(root)
    print(table(rows))
    for page in pages(root):
        text = page.read_text()
        filled = fill(text, rows)
        if filled != text and check:
            wrong.append(f"{page.relative_to(root)}: the table is stale: run python -m experiments.claims")
        elif filled != text and not wrong:
            write_atomic(page, filled.encode())
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
