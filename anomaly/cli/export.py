"""anomaly export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anomaly.cli.terminal import TerminalProgress, result, say


def command(
    model: Annotated[Path, typer.Option("--model", help="Folder made by `anomaly fit`.")],
    format_: Annotated[str, typer.Option("--format", help="onnx or openvino.")] = "onnx",
    precision: Annotated[
        str, typer.Option("--precision", help="float32, int8, or with openvino bfloat16.")
    ] = "float32",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="MVTec folder or CSV manifest: its labelled test photos tell what the export costs.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to make; by default inside the model, where `inspect` finds it."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Write a model for a faster runtime, kept only if it judges the reference photos as the model does."""
    from anomaly.bundle import read_bundle
    from anomaly.data.layouts import read_samples
    from anomaly.evaluation import refuse_seen
    from anomaly.export.write import export

    bundle = read_bundle(model)
    samples = read_samples(data, bundle.detector.config.data.layout) if data else []
    refuse_seen(bundle, [sample for sample in samples if sample.split == "test"])
    progress = TerminalProgress()
    with progress.running():
        made = export(
            bundle, format_, out, precision=precision, samples=samples, overwrite=overwrite, progress=progress
        )
    found, loss = made.facts["verification"], made.facts["loss"]
    if json_:
        result({"export": str(made.path), "runtime": made.runtime, **found, "loss": loss})
        return
    say(
        f"{made.path}: verified on {found['photos']} photos, {found['verdicts_changed']} verdicts changed, "
        f"scores within {found['deviation']:.1e} of torch, maps within {found['map_deviation']:.1e}\n"
        f"one photo takes {made.milliseconds[made.runtime]:g} ms in {made.runtime}, "
        f"{made.milliseconds['torch']:g} ms in torch"
    )
    if made.facts["photo"]["window"]:
        say("programs of your own do not see what lies beside the product, as `anomaly inspect` does")
    if made.facts["region_rules"] or made.facts["upright"]:
        what = "region rules" if made.facts["region_rules"] else "photos turned upright"
        say(f"{what} are judged by `anomaly inspect` alone: programs of your own cannot use this export")
    if loss is not None:
        say(_sentence(loss))
    elif not made.trusted:
        say("its loss was not measured: `--runtime auto` leaves it alone until it is exported with --data")


def _sentence(loss: dict[str, Any]) -> str:
    aurocs = [
        f"{name} {'cannot be told' if value is None else f'{value:.4f}'}"
        for name, value in loss["image_auroc"].items()
    ]
    return (
        f"on {loss['photos']} labelled photos: AUROC {', '.join(aurocs)}, "
        f"{loss['verdicts_changed']} verdicts changed, scores within {loss['deviation']:.1e}"
    )
