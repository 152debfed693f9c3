"""anomaly study"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from anomaly.cli.fit import Overrides
from anomaly.cli.terminal import TerminalProgress, result, say


def command(
    data: Annotated[Path, typer.Argument(help="MVTec folder, folder of good photos, or CSV manifest.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the report, config.yaml and the cells.")],
    config: Annotated[Path | None, typer.Option("--config", help="YAML file, see configs/.")] = None,
    set_: Overrides = None,
    strengths: Annotated[
        str, typer.Option("--strengths", help="Augmentation strengths; the configured one is added.")
    ] = "0,0.3,0.6",
    sizes: Annotated[
        str, typer.Option("--sizes", help="Embedding sizes, beside the configured one.")
    ] = "32,128,256",
    temperatures: Annotated[
        str | None, typer.Option("--temperatures", help="Temperatures; default the configured one.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--supervised-weights", help="Of the joint loss; default the configured one."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds for each setting.")] = 2,
    photos: Annotated[int, typer.Option("--photos", min=2, help="Held-out photos that are probed.")] = 8,
    probes: Annotated[
        str | None, typer.Option("--probes", metavar="A,B", help="Some of `anomaly components`; default all.")
    ] = None,
    magnitudes: Annotated[int, typer.Option("--magnitudes", min=2, help="Of each probe.")] = 3,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes; default one for each core.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier study.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Choose augmentation strength and embedding size: a grid of short fits, each probed."""
    from anomaly.config import RunConfig
    from anomaly.lock import sole_writer
    from anomaly.report.filed import file_report, filed_page
    from anomaly.study.cells import grid
    from anomaly.study.report import figures, study_report
    from anomaly.study.run import CONFIG, Effort, clean, study

    settings = RunConfig.load(config, set_ or [])
    now = settings.contrastive
    cells = grid(
        settings,
        sorted({*_numbers("--strengths", strengths), now.augmentation_strength}),
        sorted({*_whole("--sizes", sizes), now.embedding_size}),
        [now.temperature] if temperatures is None else _numbers("--temperatures", temperatures),
        [settings.supervised_weight] if weights is None else _numbers("--supervised-weights", weights),
        seeds,
    )
    names = () if probes is None else tuple(name.strip() for name in probes.split(","))
    effort = Effort(probed=photos, magnitudes=magnitudes, probes=names)
    lines: list[str] = []

    def tell(text: str) -> None:
        lines.append(text)
        say(text)

    progress = TerminalProgress()
    with sole_writer(out):
        with progress.running():
            try:
                studied = study(
                    data,
                    out,
                    settings,
                    cells,
                    effort,
                    workers=workers or os.cpu_count() or 1,
                    overwrite=overwrite,
                    progress=progress,
                    say=tell,
                )
            except KeyboardInterrupt:
                say("stopped; the same command goes on from here")
                raise
        report = study_report(studied, data.resolve().name, lines[0], str(out / CONFIG))
        found = figures(studied)
        page = file_report(out, report, found)
        studied.tracking.text(filed_page(report), "study.html")
        studied.tracking.end()
        clean(out)
    if studied.tracking.trouble and settings.tracking.enabled:
        say(f"not tracked: {studied.tracking.trouble}; the study is complete")
    if json_:
        result(found)
        return
    say(report.answer)
    say(f"Reason: {studied.choice.reason}")
    say(f"report: {page}\nnext: anomaly fit {data} --out MODEL --config {out / CONFIG}")


def _numbers(option: str, text: str) -> list[float]:
    from anomaly.errors import ConfigError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} takes numbers separated by commas, got {text!r}") from None


def _whole(option: str, text: str) -> list[int]:
    from anomaly.errors import ConfigError

    values = _numbers(option, text)
    if any(value != int(value) for value in values):
        raise ConfigError(f"{option} takes whole numbers separated by commas, got {text!r}")
    return [int(value) for value in values]
