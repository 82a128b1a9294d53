"""The options that benchmarks against a peer's checkout share."""

from __future__ import annotations

import argparse


def racing(command: str, about: str | None, peer: str) -> argparse.ArgumentParser:
    """A parser with --peer-source, --smoke and --table.

    Args:
        command: as it is typed.
        about: the module's text.
        peer: repository of which --peer-source is a checkout, owner/name.
    """
    parser = argparse.ArgumentParser(prog=command, description=about)
    parser.add_argument("--peer-source", help=f"checkout of {peer}: its learners are in no package")
    parser.add_argument("--smoke", action="store_true", help="tiny, on a busy machine; keeps nothing")
    parser.add_argument(
        "--table", action="store_true", help="claims and tables from the raw files as they are"
    )
    return parser


def need_source(parser: argparse.ArgumentParser, arguments: argparse.Namespace, peer: str) -> str:
    """The checkout; ends the program where none was given."""
    if arguments.peer_source is None:
        parser.error(f"give --peer-source <checkout of {peer}>: its learners are in no package")
    return str(arguments.peer_source)
