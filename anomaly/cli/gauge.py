"""anomaly gauge"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomaly.cli.filing import track, typed_command
from anomaly.cli.shares import share_option
from anomaly.cli.terminal import TerminalProgress, result, say


def command(
    parts: Annotated[
        Path,
        typer.Argument(help="A folder for each part (below good/ and bad/, if known), or a CSV manifest."),
    ],
    model: Annotated[Path, typer.Option("--model", help="Folder made by `anomaly fit`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html and result.json.")],
    confidence: Annotated[float, share_option("Of the intervals.")] = 0.95,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier report.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    track_: Annotated[bool, typer.Option("--track/--no-track", help="Log to the model's MLflow run.")] = True,
) -> None:
    """Repeatability and correctness on repeated photos of the same parts, with a report."""
    from anomaly.appraisal.gauge.parts import read_parts
    from anomaly.appraisal.gauge.report import answer, figures, metrics, report
    from anomaly.appraisal.gauge.study import gauge_of
    from anomaly.bundle import read_bundle
    from anomaly.report.filed import claim_folder, file_report, finite

    given = read_parts(parts)
    bundle = read_bundle(model)
    claim_folder(out, overwrite=overwrite)
    progress = TerminalProgress()
    with progress.running():
        study = gauge_of(bundle, given, confidence=confidence, progress=progress)
    found = figures(study, bundle)
    page = file_report(out, report(study, bundle, typed_command()), found)
    if track_:
        track(bundle, metrics(study), page)
    if json_:
        result(finite(found))
    else:
        typer.echo(answer(study))
        for warning in study.warnings:
            say(warning)
    say(f"report: {page}")
