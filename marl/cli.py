"""`marl <command> key=value ...`: the entry point; each command's work is done by its own module."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import marl
from marl import commands, runtime
from marl.errors import Interrupted, MarlError

COMMANDS = {
    "train": commands.train,
    "evaluate": commands.evaluate,
    "attack": commands.attack,
    "export": commands.export,
    "export-dataset": commands.export_dataset,
    "study": commands.study,
    "doctor": commands.doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for a user's error, 128 + n after signal n."""
    runtime.prepare()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(commands.HELP)
        return 0
    if words[0] == "--version":
        print(marl.__version__)
        return 0
    try:
        if words[0] not in COMMANDS:
            raise commands.unknown_command(words[0], COMMANDS)
        COMMANDS[words[0]](words[1:])
    except MarlError as error:
        print(f"marl: {error}", file=sys.stderr)
        return 128 + error.signal if isinstance(error, Interrupted) else 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
