"""anomaly compare"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomaly.cli.filing import track, typed_command
from anomaly.cli.shares import share_option
from anomaly.cli.terminal import TerminalProgress, result, say


def command(
    a: Annotated[Path, typer.Argument(help="Model A, a folder made by `anomaly fit`.")],
    b: Annotated[Path, typer.Argument(help="Model B.")],
    labelled: Annotated[Path, typer.Argument(help="Labelled test photos: MVTec folder or CSV manifest.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html and result.json.")],
    confidence: Annotated[float, share_option("Of the intervals.")] = 0.95,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier report.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    track_: Annotated[bool, typer.Option("--track/--no-track", help="Log to both MLflow runs.")] = True,
) -> None:
    """Two models on the same photos: which is better, and is it more than chance? With a report."""
    from anomaly.appraisal.compare.report import answer, figures, metrics, report
    from anomaly.appraisal.compare.study import compare
    from anomaly.bundle import read_bundle
    from anomaly.data.layouts import read_samples
    from anomaly.report.filed import claim_folder, file_report, finite

    bundles = read_bundle(a), read_bundle(b)
    samples = read_samples(labelled, bundles[0].detector.config.data.layout)
    claim_folder(out, overwrite=overwrite)
    progress = TerminalProgress()
    with progress.running():
        study = compare(bundles, samples, confidence=confidence, progress=progress)
    found = figures(study, bundles)
    page = file_report(out, report(study, bundles, typed_command()), found)
    if track_:
        for side in (0, 1):
            track(bundles[side], metrics(study, side, bundles[1 - side]), page)
    if json_:
        result(finite(found))
    else:
        typer.echo(answer(study))
        for note in study.notes:
            say(note)
    say(f"report: {page}")
