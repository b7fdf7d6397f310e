"""The `runoff` command: its verbs, its exit codes, and how errors reach a person.

Exit codes: 0 done, 1 the job failed, 2 wrong usage, 130 interrupted. No traceback unless `--debug`.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from runoff.cli import advise, cache, describe, env, explain, export, models, quantize, race, targets, verify
from runoff.cli import run as run_verb
from runoff.cli.console import print_error
from runoff.errors import RunoffError, SettingInvalid, UnknownName

_INTERRUPTED = 130

app = typer.Typer(
    name="runoff",
    help="One front door to every inference runtime: the fastest one that stays correct serves your model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("env")(env.env)
app.command("describe")(describe.describe)
app.command("verify")(verify.verify)
app.command("export")(export.export)
app.command("quantize")(quantize.quantize)
app.command("race")(race.race)
app.command("run")(run_verb.run)
app.command("explain")(explain.explain)
app.command("targets")(targets.targets)
app.command("models")(models.models)
app.command("advise")(advise.advise)
app.add_typer(cache.app, name="cache")
app.add_typer(models.app, name="registry")


def _print_version(value: bool) -> None:
    if value:
        from runoff import __version__

        typer.echo(f"runoff {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Flags for every verb: --json prints data, --debug shows tracebacks."""


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    as_json = "--json" in given
    given = [word for word in given if word != "--debug"]
    try:
        code = app(args=given, standalone_mode=False)
        if code == _INTERRUPTED:
            raise KeyboardInterrupt  # which typer took for an ordinary exit
    except typer.TyperException as error:
        typer.echo(f"error: {error.format_message()}", err=True)
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        if debug:
            raise
        typer.echo("interrupted; what was finished is kept", err=True)
        code = _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output, such as `head`, has had enough; nothing can be printed to it any more.
        sys.stdout = None
        code = 1
    except Exception as error:
        if debug:
            raise
        print_error(_as_runoff_error(error), as_json=as_json)
        code = 2 if isinstance(error, (UnknownName, SettingInvalid)) else 1
    sys.exit(code if isinstance(code, int) else 0)


def _as_runoff_error(error: Exception) -> RunoffError:
    """The error itself, or one that says that this is a defect of ours or of the machine."""
    if isinstance(error, RunoffError):
        return error
    return RunoffError(f"{type(error).__name__}: {error}", hint="run it again with --debug for the traceback")
