"""anomaly probe"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomaly.cli.filing import track
from anomaly.cli.terminal import TerminalProgress, result, say, show


def command(
    images: Annotated[
        list[Path],
        typer.Argument(help="Normal photos not trained on: files, folders, or a labelled data set."),
    ],
    model: Annotated[Path, typer.Option("--model", help="Folder made by `anomaly fit`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the report and result.json.")],
    photos: Annotated[int, typer.Option("--photos", min=2, help="Photos used, evenly spread.")] = 12,
    probes: Annotated[
        str | None, typer.Option("--probes", metavar="A,B", help="Some of `anomaly components`; default all.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the places and shapes drawn.")] = 0,
    px_per_mm: Annotated[float | None, typer.Option(help="Pixels on a millimetre, to give mm too.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier report.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    track_: Annotated[
        bool, typer.Option("--track/--no-track", help="Add the metrics to the model's MLflow run.")
    ] = True,
) -> None:
    """Show which changes of the product a model sees and to which it is blind."""
    from anomaly.appraisal.sizes import check_scale
    from anomaly.bundle import read_bundle
    from anomaly.probes import chosen
    from anomaly.report.filed import claim_folder, file_report
    from anomaly.visibility.measure import FUSED, measure
    from anomaly.visibility.photos import held_out
    from anomaly.visibility.reading import magnitude, remedies
    from anomaly.visibility.report import figures, metrics, visibility_report

    check_scale(px_per_mm)
    selected = chosen(None if probes is None else [name.strip() for name in probes.split(",")])
    bundle = read_bundle(model)
    claim_folder(out, overwrite=overwrite)
    pictures, names, left_out = held_out(bundle, images, photos)
    for sentence in left_out:
        say(sentence)
    progress = TerminalProgress()
    with progress.running():
        measured = measure(bundle.detector, pictures, selected, seed=seed, progress=progress)
    report = visibility_report(
        bundle, measured, pictures, names, seed=seed, px_per_mm=px_per_mm, left_out=left_out
    )
    found = {
        **figures(measured, px_per_mm),
        "seed": seed,
        "model": str(model),
        "model_hash": bundle.model_hash,
    }
    page = file_report(out, report, found)
    if track_:
        track(bundle, metrics(measured), page, file="visibility.html")
    if json_:
        result(found)
        return
    show(report.answer)
    for graded in measured.graded:
        seen = graded.seen[FUSED]
        show(f"  {graded.probe.name}: {magnitude(graded, FUSED)}, visibility {seen.visibility:.2f}")
    for sentence in remedies(measured, bundle.detector.config, bundle.detector.geometry.image_size):
        show(sentence)
    say(f"report: {page}")
