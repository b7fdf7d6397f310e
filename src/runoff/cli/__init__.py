"""The command line: one file per verb, wired in app.py."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `runoff` command."""
    from runoff.cli.app import run

    run()
