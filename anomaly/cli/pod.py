"""anomaly pod"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from anomaly.cli.filing import track, typed_command
from anomaly.cli.shares import share_option
from anomaly.cli.terminal import TerminalProgress, result, say


def command(
    data: Annotated[Path, typer.Argument(help="Labelled test photos: MVTec folder or CSV manifest.")],
    model: Annotated[Path, typer.Option("--model", help="Folder made by `anomaly fit`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html and result.json.")],
    size: Annotated[
        Literal["length", "root-area"],
        typer.Option(help="Size of a defect: longest extent of its mask, or the root of its area."),
    ] = "length",
    synthetic: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Draw defects of this kind on normal photos, or all; repeatable."),
    ] = None,
    contrast: Annotated[
        list[float] | None,
        typer.Option(metavar="GREY", help="Contrast of drawn defects, grey levels; repeatable."),
    ] = None,
    defects: Annotated[int, typer.Option(help="Drawn defects of each kind and contrast.")] = 60,
    px_per_mm: Annotated[float | None, typer.Option(help="Pixels on a millimetre, to give mm too.")] = None,
    link: Annotated[Literal["logit", "probit"], typer.Option(help="Shape of the curve.")] = "logit",
    confidence: Annotated[float, share_option("Of each bound, one-sided.")] = 0.95,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier report.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    track_: Annotated[bool, typer.Option("--track/--no-track", help="Log to the model's MLflow run.")] = True,
) -> None:
    """Probability of detection against defect size: a50, a90, a90/95 of each type, with a report."""
    from anomaly.appraisal.pod.drawn import pod_of_drawings
    from anomaly.appraisal.pod.masks import pod_of_masks
    from anomaly.appraisal.pod.report import answer, figures, lines, metrics, report
    from anomaly.appraisal.pod.study import Options
    from anomaly.bundle import read_bundle
    from anomaly.data.layouts import read_samples
    from anomaly.errors import ConfigError
    from anomaly.report.filed import claim_folder, file_report, finite

    if contrast and not synthetic:
        raise ConfigError("--contrast is for drawn defects: add --synthetic KIND, or leave it out")
    options = Options(size, link, confidence, px_per_mm)
    bundle = read_bundle(model)
    samples = read_samples(data, bundle.detector.config.data.layout)
    claim_folder(out, overwrite=overwrite)
    progress = TerminalProgress()
    with progress.running():
        if synthetic:
            study = pod_of_drawings(
                bundle, samples, synthetic, options,
                contrasts=contrast or (), defects=defects, progress=progress,
            )  # fmt: skip
        else:
            study = pod_of_masks(bundle, samples, options, progress)
    found = figures(study, bundle)
    page = file_report(out, report(study, bundle, typed_command()), found)
    if track_:
        track(bundle, metrics(study), page)
    if json_:
        result(finite(found))
    else:
        typer.echo(answer(study))
        for line in lines(study):
            typer.echo(line)
    say(f"report: {page}")
