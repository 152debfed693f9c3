"""anomaly inspect"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from anomaly.cli.terminal import TerminalProgress, result, say

ANOMALIES_FOUND = 10


def command(
    paths: Annotated[
        list[str], typer.Argument(help="Photos, folders of photos, CSV manifests with groups; s3:// too.")
    ],
    model: Annotated[Path, typer.Option("--model", help="Folder made by `anomaly fit`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for verdicts, heatmaps and the report.")],
    group: Annotated[
        str | None,
        typer.Option("--group", help="Product, camera or lot, as tuned, of photos that name none."),
    ] = None,
    group_by_folder: Annotated[
        bool, typer.Option("--group-by-folder", help="A photo's sub-folder is its group.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier inspection.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished inspection of the same photos.")
    ] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write verdicts.parquet as well.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print every verdict as a line of JSON.")] = False,
    runtime: Annotated[
        str,
        typer.Option("--runtime", help="auto, torch, onnxruntime, openvino-int8 ...; see `anomaly export`."),
    ] = "auto",
    engine: Annotated[
        str, typer.Option("--engine", help="local, or ray: a cluster, at RAY_ADDRESS or on this machine.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option("--workers", help="Photos judged at a time, by default one a core.")
    ] = None,
    fail_on_anomaly: Annotated[
        bool, typer.Option("--fail-on-anomaly", help="Exit with 10 if any photo is not normal.")
    ] = False,
) -> None:
    """Judge photos: normal, anomalous, to be reviewed where there is a review band, or not readable."""
    from anomaly.bundle import read_bundle
    from anomaly.data.addresses import locate
    from anomaly.errors import DataError
    from anomaly.inspection.engines import Work, open_engine
    from anomaly.inspection.groups import photos_of, without_threshold
    from anomaly.inspection.identity import begun_runtime, finished_run, run_of
    from anomaly.inspection.scoring import choose_scorer
    from anomaly.inspection.writer import Writer
    from anomaly.lock import sole_writer

    judging = open_engine(engine, workers, say)
    places = [locate(text) for text in paths]
    photos = photos_of(places, group, group_by_folder)
    bundle = read_bundle(model, late=runtime != "torch")
    with sole_writer(out):
        if resume and runtime == "auto":  # the runtime that it was begun with
            runtime = begun_runtime(out) or runtime
        score = choose_scorer(bundle, runtime, threads=1, calls=workers or os.cpu_count() or 1, say=say)
        policy = bundle.detector.policy
        asked = policy.groups or group is not None or group_by_folder
        if asked and (sentence := without_threshold(policy, (photo.group for photo in photos))):
            say(sentence)
        run = run_of(bundle, photos, score.runtime)
        summary = finished_run(out, run) if resume else None
        interrupted = False
        if summary is None:
            progress = TerminalProgress()
            with (
                judging as workforce,
                Writer(out, bundle, overwrite=overwrite, resume=resume, group=group, run=run) as writer,
                progress.running(),
            ):
                if writer.done:
                    say(f"going on after {writer.done} of {len(photos)} photos")
                try:
                    left = photos[writer.done :]
                    for drawn in workforce.drawn(Work(left, places, score, writer, progress.waiting_for)):
                        verdict = writer.write(drawn)
                        if json_:
                            result(verdict.to_dict())
                        progress.step("photos", writer.done, len(photos))
                except KeyboardInterrupt:
                    interrupted = True
                summary = writer.finish(interrupted=interrupted, parquet=parquet)
    reviews = f"{summary['review']} to review, " if policy.has_review else ""
    say(
        f"{summary['photos']} photos: {summary['normal']} normal, {summary['anomalous']} anomalous, {reviews}"
        f"{summary['error']} could not be read\nreport: {out / 'report.html'}"
    )
    for about in ("likeness", "shapes"):
        if (unlike := summary.get(about)) and unlike["sentence"]:
            say(unlike["sentence"])
    if interrupted:
        say(f"interrupted after {summary['photos']} of {len(photos)} photos; go on with --resume")
        raise KeyboardInterrupt
    if summary["error"] == summary["photos"]:
        raise DataError(f"none of the photos could be judged: see the reasons in {out / 'verdicts.csv'}")
    if fail_on_anomaly and summary["normal"] < summary["photos"]:
        raise typer.Exit(ANOMALIES_FOUND)
