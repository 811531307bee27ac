"""The program `mambaseg`: its commands, and how every error ends."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated, Any

import typer

import mambaseg
from mambaseg._courtesy import wait_quietly
from mambaseg._errors import Cancelled, DatasetProblems, UserError
from mambaseg.cli import (
    bench,
    demo,
    ensemble,
    estimate,
    evaluate,
    export,
    finetune,
    import_,
    models,
    plan,
    segment,
    train,
)
from mambaseg.cli._console import say_error
from mambaseg.cli._engine import stop_talking
from mambaseg.words import NO_MEMORY

__all__ = ["app", "main"]

EXAMPLES = """\
Mamba networks that segment cells and organs, on a plain CPU or a GPU. Three things to try:

    mambaseg demo                                    segments a real picture and says where to look
    mambaseg segment cells.tif -m nuclei-2d          finds the nuclei in your own picture
    mambaseg train MY-DATA --network umamba-bot -o MY-MODEL --minutes 30

mambaseg --help lists all commands; mambaseg models lists the models that come along."""

DONE, UNUSABLE, CANCELLED = 0, 2, 130

# Typer carries its own copy of click in some versions and imports it in others; either way this is the common base,
# which has no name to type it by
_UsageError: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(name="mambaseg", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                  context_settings={"help_option_names": ["-h", "--help"]})
app.command()(demo.demo)
app.command()(segment.segment)
app.command()(estimate.estimate)
app.command()(train.train)
app.command()(finetune.finetune)
app.command()(plan.plan)
app.command()(evaluate.evaluate)
app.command("import")(import_.import_)
app.command()(export.export)
app.command()(ensemble.ensemble)
app.add_typer(models.app, name="models")
app.add_typer(bench.app, name="bench")


@app.callback(invoke_without_command=True)
def start(context: typer.Context,
          version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    """Mamba networks that segment cells and organs, on a plain CPU or a GPU."""
    if version:
        typer.echo(f"mambaseg {mambaseg.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(EXAMPLES)
    if version:
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process: 0 done, 2 wrong use or unusable input, 130 cancelled."""
    wait_quietly()
    warnings.simplefilter("ignore")  # for developers; what matters to the user is raised or noted in the record
    logging.captureWarnings(capture=True)
    status = run(sys.argv[1:] if arguments is None else arguments)
    stop_talking()
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Run the command line; the exit status. Every mistake of the user's ends in one line on stderr."""
    try:
        status = app(arguments, prog_name="mambaseg", standalone_mode=False)
    except _UsageError as error:
        message = error.format_message()
        say_error(f"{message.rstrip('.')}; see mambaseg --help.")
        return UNUSABLE
    except DatasetProblems as error:
        for line in (f"{error.headline}:", *error.problems):
            say_error(line)
        return UNUSABLE
    except UserError as error:
        say_error(str(error))
        return UNUSABLE
    except MemoryError:
        say_error(NO_MEMORY)
        return UNUSABLE
    except BrokenPipeError:  # whoever read our output has seen enough, as in `mambaseg models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Cancelled as error:
        say_error(str(error) or "Cancelled; nothing half-finished was left.")
        return CANCELLED
    except (KeyboardInterrupt, typer.Abort):
        status = CANCELLED
    if status == CANCELLED:
        say_error("Cancelled; nothing half-finished was left.")
    return status if isinstance(status, int) else DONE
