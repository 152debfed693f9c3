"""anomaly evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomaly.cli.filing import track as track_in_run
from anomaly.cli.terminal import TerminalProgress, result, say, show

REMARKS = {"image_f1_max": " at the threshold that is best on these very photos"}
"""What is said beside a figure."""


def command(
    data: Annotated[Path, typer.Argument(help="MVTec folder or CSV manifest with labelled test photos.")],
    model: Annotated[Path, typer.Option("--model", help="Folder made by `anomaly fit`.")],
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    runtime: Annotated[
        str,
        typer.Option("--runtime", help="As of `anomaly inspect`; what is measured with torch is tracked."),
    ] = "torch",
    track: Annotated[bool, typer.Option(help="Add the metrics to the model's MLflow run.")] = True,
) -> None:
    """Measure a model on labelled test photos."""
    from anomaly.bundle import read_bundle
    from anomaly.data.layouts import read_samples
    from anomaly.evaluation import evaluate
    from anomaly.inspection.scoring import choose_scorer
    from anomaly.quality.likeness import SURE

    bundle = read_bundle(model)
    samples = read_samples(data, bundle.detector.config.data.layout)
    progress = TerminalProgress()
    score = None
    if runtime != "torch":
        score = choose_scorer(bundle, runtime, threads=1, say=say)
    with progress.running():
        metrics = evaluate(bundle, samples, score=score, progress=progress)
    if track and score is None:
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        branches = {f"branch.{name}": value for name, value in metrics["branches"].items()}
        track_in_run(bundle, numbers | branches)
    if json_:
        result(metrics)
        return
    for name, value in metrics.items():
        if name == "per_defect_type":
            for kind, figures in value.items():
                auroc = _figure(figures["image_auroc"]) + _between(figures["image_auroc_interval"])
                escapes = f"{figures['escapes']} of {figures['n']}{_between(figures['escape_rate_interval'])}"
                show(f"  {kind}: AUROC {auroc}, escapes {escapes}")
        elif name == "branches":
            alone = ", ".join(f"{branch} {_figure(auroc)}" for branch, auroc in value.items())
            show(f"image_auroc of each branch alone: {alone}")
        elif not isinstance(value, dict | tuple) and (name, value) != ("review_threshold", None):
            note = REMARKS.get(name, "") if value is not None else ""
            show(f"{name}: {_figure(value)}{_between(metrics.get(f'{name}_interval'))}{note}")
    show("In brackets: two-sided intervals at 95 % confidence.")
    if metrics["n_groups"] > 1:
        say(
            f"the intervals take each photo for independent, and these come from {metrics['n_groups']} "
            "groups: where photos of a group are alike, they are too narrow"
        )
    if metrics["overkill_p_value"] < SURE:
        say(
            "the normal test photos are not like those that the threshold rests on: by chance so many false "
            f"alarms come with p = {metrics['overkill_p_value']:.1g}. Its promise is not about such photos; "
            "fit on photos taken as these were, and where photos come in lots, give the lots as groups"
        )
    if metrics["shapes"]["sentence"]:
        say(metrics["shapes"]["sentence"])
    for path, reason in metrics["unreadable"].items():
        say(f"left out {path}: {reason}")


def _figure(value: object) -> str:
    if value is None:
        return "cannot be told from these photos"
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 5e-5 else f"{value:.4f}"
    return str(value)


def _between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.4f} to {interval[1]:.4f})"
