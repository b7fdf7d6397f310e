"""`runoff env`: what this machine can run."""

from __future__ import annotations

from typing import Annotated

import typer

from runoff.cli.console import console, print_json


def env(as_json: Annotated[bool, typer.Option("--json", help="Print data instead of tables.")] = False) -> None:
    """Describe this machine: processor, memory, GPUs, installed runtimes, and how to add the missing ones."""
    from runoff.environment.describe import describe_environment

    environment = describe_environment()
    if as_json:
        print_json(environment.to_dict())
    else:
        console().print(environment)
