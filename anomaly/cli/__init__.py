"""The command line: parse, call one function, print. Heavy rooms are imported inside the commands."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from anomaly.cli import (
    audit,
    compare,
    components,
    evaluate,
    export,
    fit,
    gauge,
    inspect,
    pod,
    probe,
    study,
    tune,
    watch,
)
from anomaly.cli.terminal import show
from anomaly.errors import AnomalyError

EXIT_CODES = """Exit codes: 0 ran, 2 usage or configuration, 3 input data, 4 model, 5 calibration impossible,
10 anomalies found with --fail-on-anomaly, 130 interrupted; 1 only for a crash."""

# Idle OpenMP threads sleep instead of spinning: torch and faiss each keep a team of them, and on a machine
# that does other work as well spinning teams slow each other down many times over.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        show(f"anomaly {version('anomaly')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Learns what normal looks like from good photos alone, and judges every new photo."""


app.command("fit")(fit.command)
app.command("inspect")(inspect.command)
app.command("watch")(watch.command)
app.command("export")(export.command)
app.command("evaluate")(evaluate.command)
app.add_typer(tune.app, name="tune")
app.add_typer(audit.app, name="audit")
app.command("probe")(probe.command)
app.command("gauge")(gauge.command)
app.command("pod")(pod.command)
app.command("compare")(compare.command)
app.command("study")(study.command)
app.command("components")(components.command)


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence on stderr and its exit code."""
    try:
        app()
    except AnomalyError as error:
        sys.stderr.write(f"anomaly: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("anomaly: interrupted\n")
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
