"""Which agent a foreign environment was busy with when it crashed, as far as the traceback tells."""

from __future__ import annotations

import ast
import inspect
import textwrap
import traceback
from collections.abc import Iterable
from types import FrameType
from typing import Any

_AGENT = ("agent", "agent_id", "agent_name")  # what parameters and loops call one
_COMPREHENSIONS = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")


def whose(error: BaseException, agents: Iterable[Any]) -> str:
    """The agent as a clause (", where agent is 'dog'"); "" where it cannot be known.

    Of the innermost call in which a parameter, or the variable of a loop that was running, holds an agent:
    one named `agent` or the like, else one that is text. (Where agents are numbers, any 0 would be one.)
    """
    known, found = list(agents), ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        current = _current(frame, line)
        held = {n: v for n, v in frame.f_locals.items() if n in current and _is_one(v, known)}
        named = [n for n in _AGENT if n in held] or [n for n, v in held.items() if isinstance(v, str)]
        if named and len({held[n] for n in named}) == 1:
            found = f", where {named[0]} is {str(held[named[0]])!r}"
    return found


def _is_one(value: Any, agents: list[Any]) -> bool:
    return any(type(value) is type(agent) and bool(value == agent) for agent in agents)


def _current(frame: FrameType, line: int) -> set[str]:
    """Names of parameters and of the running loops' variables: a loop that is over leaves its last agent."""
    code = frame.f_code
    if code.co_name in _COMPREHENSIONS:
        return set(code.co_varnames)
    names = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    try:
        lines, first = inspect.getsourcelines(code)
        loops = ast.walk(ast.parse(textwrap.dedent("".join(lines))))
    except (OSError, SyntaxError):  # code without a source
        return names
    for loop in loops:
        if isinstance(loop, ast.For):
            begin, end = loop.body[0].lineno, loop.body[-1].end_lineno or 0
            if begin <= line - first + 1 <= end:
                names |= {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
    return names
