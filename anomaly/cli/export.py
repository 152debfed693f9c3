"""anomaly export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomaly.cli.terminal import result, say


def command(
    model: Annotated[Path, typer.Option("--model", help="Folder made by `anomaly fit`.")],
    format_: Annotated[str, typer.Option("--format", help="onnx or openvino.")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to make; by default inside the model, where `inspect` finds it."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Write a model for a faster runtime, kept only if it judges the reference photos as the model does."""
    from anomaly.bundle import read_bundle
    from anomaly.export.write import export

    made = export(read_bundle(model), format_, out, overwrite=overwrite)
    found = made.facts["verification"]
    if json_:
        result({"export": str(made.path), "runtime": made.runtime, **found})
        return
    say(
        f"{made.path}: verified on {found['photos']} photos, no verdict changed, scores within "
        f"{max(found['deviation'], found['map_deviation']):.1e} of torch\n"
        f"one photo takes {made.milliseconds[made.runtime]:g} ms in {made.runtime}, "
        f"{made.milliseconds['torch']:g} ms in torch"
    )
