"""anomaly watch"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from anomaly.cli.terminal import TerminalProgress, result, say


def command(
    folder: Annotated[Path, typer.Argument(help="Folder that photos arrive in, searched recursively.")],
    model: Annotated[Path, typer.Option("--model", help="Folder made by `anomaly fit`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for verdicts, heatmaps and counters.")],
    group: Annotated[
        str | None,
        typer.Option("--group", help="Product, camera or lot, as tuned, of photos that name none."),
    ] = None,
    group_by_folder: Annotated[
        bool, typer.Option("--group-by-folder", help="A photo's sub-folder is its group.")
    ] = False,
    settle: Annotated[
        float, typer.Option(min=0.0, help="Seconds that a file must not have changed for.")
    ] = 1.0,
    patience: Annotated[
        float, typer.Option(min=0.0, help="Seconds after which a file that stays unreadable is an error.")
    ] = 30.0,
    every: Annotated[float, typer.Option(min=0.01, help="Seconds between two looks at the folder.")] = 0.5,
    webhook: Annotated[
        str | None, typer.Option("--webhook", help="Address that every verdict is POSTed to as JSON.")
    ] = None,
    runtime: Annotated[
        str,
        typer.Option("--runtime", help="auto, torch, onnxruntime, openvino-int8 ...; see `anomaly export`."),
    ] = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print every verdict as a line of JSON.")] = False,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="Stop as soon as nothing waits to be judged.")
    ] = False,
) -> None:
    """Judge photos as they arrive, until Ctrl-C or SIGTERM; started again, it goes on where it stopped."""
    from anomaly.bundle import read_bundle
    from anomaly.inspection.groups import without_threshold
    from anomaly.inspection.identity import watch_of
    from anomaly.inspection.scoring import choose_scorer
    from anomaly.inspection.watch import Watch, check_folders
    from anomaly.inspection.webhook import Webhook
    from anomaly.inspection.writer import WATCHING, Writer
    from anomaly.lock import sole_writer

    check_folders(folder, out)
    hook = Webhook(webhook, say) if webhook else None
    bundle = read_bundle(model, late=runtime != "torch")
    with sole_writer(out):
        cores = os.cpu_count() or 1
        score = choose_scorer(bundle, runtime, threads=1, calls=cores, say=say)
        progress = TerminalProgress()
        if group is not None and (sentence := without_threshold(bundle.detector.policy, [group])):
            say(sentence)
        run = watch_of(bundle, folder, group, group_by_folder)
        with (
            Writer(out, bundle, resume=True, group=group, run=run, advice=WATCHING) as writer,
            progress.running(),
        ):
            watch = Watch(
                folder, writer, score, workers=cores, settle=settle, patience=patience, webhook=hook,
                by_folder=group_by_folder, waiting_for=progress.waiting_for, say=say,
            )  # fmt: skip
            say(f"watching {folder}, {writer.done} photos judged so far; stop with Ctrl-C")
            try:
                while True:
                    for verdict in watch.poll():
                        if json_:
                            result(verdict.to_dict())
                    if until_empty and not watch.arrivals.waiting:
                        break
                    progress.pause(every)
            except KeyboardInterrupt:
                pass
            watch.close()
            summary = writer.finish(interrupted=True)
    say(
        f"stopped; {summary['photos']} photos so far: {summary['normal']} normal, {summary['review']} to "
        f"review, {summary['anomalous']} anomalous, {summary['error']} could not be read"
        f"{f'; webhook: {hook.counts}' if hook else ''}\nreport: {out / 'report.html'}"
    )
    if summary["shapes"]["sentence"]:
        say(summary["shapes"]["sentence"])
