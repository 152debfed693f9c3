"""anomaly fit"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomaly.cli.terminal import TerminalProgress, result, say

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Change one field of the configuration; repeatable."
    ),
]


def command(
    data: Annotated[Path, typer.Argument(help="MVTec folder, folder of good photos, or CSV manifest.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the model that is made.")],
    config: Annotated[Path | None, typer.Option("--config", help="YAML file, see configs/.")] = None,
    set_: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from an interrupted fit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Learn a product from its good photos and store the model."""
    from anomaly import distributed
    from anomaly.config import RunConfig
    from anomaly.fitting.run import describe_fit, fit

    with distributed.joined() as first, TerminalProgress(quiet=not first).running() as progress:
        tell = say if first else lambda text: None
        settings = RunConfig.load(config, set_ or [])
        try:
            fitted = fit(data, out, settings, resume=resume, overwrite=overwrite, progress=progress, say=tell)
        except KeyboardInterrupt:
            tell(f"stopped; go on with: anomaly fit {data} --out {out} --resume (and the same options)")
            raise
    facts = describe_fit(fitted)
    if fitted.tracking.trouble and settings.tracking.enabled:
        say(f"not tracked: {fitted.tracking.trouble}; the model is complete")
    if json_:
        result(facts)
        return
    weights = ", ".join(f"{name} {100 * weight:.0f} %" for name, weight in facts["weights"].items())
    say(
        f"{facts['model']}: backbone {facts['backbone']}, photos judged at {facts['image_size']} px, "
        f"trained on {facts['n_train']} photos, calibrated on {facts['n_calibration']} others\n"
        f"its branches count: {weights}\n"
        f"threshold {facts['threshold']:.4g}: {facts['guarantee']}"
    )
    if fitted.tracking.run_id:
        say(f"tracked in MLflow at {facts['mlflow']['uri']}, run {facts['mlflow']['run_id']}")
    say(f"next: anomaly inspect PHOTOS --model {out} --out RESULTS")
