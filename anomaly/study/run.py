"""study: a data set in; the dials to fit it with, their reason, and a report out. Goes on after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from anomaly.config import RunConfig
from anomaly.data.images import contents, one_line, read_image
from anomaly.data.layouts import describe, read_samples
from anomaly.detector import Photo
from anomaly.errors import ConfigError
from anomaly.fitting.photos import good_photos
from anomaly.models.training import Progress, Silent
from anomaly.probes import chosen
from anomaly.records import Sample
from anomaly.report.filed import claim_folder
from anomaly.study.cells import Cell, Dials, Task
from anomaly.study.choice import Choice, Summary, recommend, summarise
from anomaly.study.pool import Result, on_ray, run_all
from anomaly.study.prepare import prepare
from anomaly.tracking import Run

NOTE = "study.json"
CONFIG = "config.yaml"
FOLDERS = ("photos", "shared", "work")
"""What is of no use once the study is whole."""


@dataclass(frozen=True)
class Effort:
    """How much is tried in each cell."""

    good_photos: int = 80
    """Good photos used, trained on and held out, at most."""
    probed: int = 8
    """Held-out photos that are probed."""
    magnitudes: int = 3
    """Of each probe."""
    probes: tuple[str, ...] = ()
    """Empty: all."""


@dataclass(frozen=True)
class Studied:
    """All results, the recommendation, and what tracking said."""

    results: list[Result]
    summaries: list[Summary]
    choice: Choice
    config: RunConfig
    """What was asked for, with the recommended dials."""
    photos: list[Photo]
    """The probed photos at their working size."""
    known: int
    """How many of them are of lots that were trained on."""
    train: int
    held_out: int
    groups: int
    effort: Effort
    tracking: Run


def study(
    data: Path,
    out: Path,
    config: RunConfig,
    cells: Sequence[Cell],
    effort: Effort,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Studied:
    """Run `cells` on the good photos of `data`; finished ones are read from `out` again.

    Writes config.yaml into `out`. Raises AnomalyError where something cannot be used as it is.
    """
    progress = progress or Silent()
    probes = tuple(one.name for one in chosen(effort.probes or None))
    samples = read_samples(data, config.data.layout)
    say(f"{one_line(data)}: {describe(samples)}")
    good = good_photos(config, samples, data)
    claim_folder(out, overwrite=overwrite)
    note = _note(out, config, effort, probes, good, overwrite=overwrite)
    prepared = prepare(good, config, out / "photos", effort.good_photos, effort.probed, progress)
    tasks = [Task(cell, prepared, probes, effort.magnitudes, out.resolve()) for cell in cells]
    there = sum(task.result.exists() for task in tasks)
    if there:
        say(f"going on: {there} of {len(tasks)} cells are done")
    if on_ray():
        say(f"on the Ray cluster {os.environ['RAY_ADDRESS']}")
    parent = _parent(config, note)
    try:
        results = []
        for found in run_all(tasks, workers, progress):
            results.append(found)
            if found["cell"] not in note["logged"]:
                _log_cell(config, parent, found)
                note["logged"].append(found["cell"])
                _write(out / NOTE, note)
        results.sort(key=lambda found: [task.cell.name for task in tasks].index(found["cell"]))
        summaries = summarise(results)
        choice = recommend(summaries, Dials.of(config), config.calibration.target_fpr)
    except BaseException as error:
        parent.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    best = config.contrastive.model_copy(update=asdict(choice.best.dials))
    fixed = config.model_copy(update={"contrastive": best, "dials": "fixed"})
    text = yaml.safe_dump(fixed.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    (out / CONFIG).write_text(f"# {choice.reason}\n{text}", encoding="utf-8")
    photos = _photos(prepared.probed)
    parent.metrics(
        {
            "suppression_index": choice.best.index,
            "suppression_index.error": choice.best.error,
            "overkill_rate": choice.best.overkill,
        }
    )
    parent.tags({f"recommended.{name}": value for name, value in asdict(choice.best.dials).items()})
    return Studied(
        results,
        summaries,
        choice,
        fixed,
        photos,
        len(set(prepared.probed) - set(prepared.held_out)),
        len(prepared.train),
        len(prepared.held_out),
        len({sample.group for sample in good} - {None}),
        effort,
        parent,
    )


def clean(out: Path) -> None:
    """Remove what only a study that goes on would need."""
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)


def _note(
    out: Path,
    config: RunConfig,
    effort: Effort,
    probes: Sequence[str],
    good: Sequence[Sample],
    *,
    overwrite: bool,
) -> dict[str, Any]:
    """What `out` holds of this very study; that of another one is refused, or removed with `overwrite`."""
    fields = config.model_dump(mode="json")
    del fields["tracking"]
    for dial in asdict(Dials.of(config)):
        del fields["contrastive"][dial]
    photos = sorted([contents(sample.path), sample.group or ""] for sample in good)
    settings = [fields, asdict(effort), list(probes), photos]
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    fresh: dict[str, Any] = {"identity": key, "run_id": None, "logged": []}
    path = out / NOTE
    if path.exists():
        try:
            found: dict[str, Any] = json.loads(path.read_text())
            if found["identity"] == key:
                return fresh | found
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if not overwrite:
            raise ConfigError(
                f"{one_line(out)} holds a study of other photos, probes or settings: give another --out, "
                "or --overwrite"
            )
        for name in (*FOLDERS, "cells"):
            shutil.rmtree(out / name, ignore_errors=True)
    _write(path, fresh)
    return fresh


def _parent(config: RunConfig, note: dict[str, Any]) -> Run:
    """The study's MLflow run, the same one where the study goes on."""
    run = Run(config.tracking, note["run_id"])
    if note["run_id"] is None and run.run_id:
        note["run_id"] = run.run_id
        run.parameters({"kind": "study", **config.flat()})
    return run


def _log_cell(config: RunConfig, parent: Run, found: Result) -> None:
    """One cell as a run within the study's."""
    if parent.trouble:
        return
    run = Run(config.tracking, parent=parent.run_id)
    run.parameters({name: found[name] for name in (*Dials.__dataclass_fields__, "seed")})
    run.metrics(
        {
            "suppression_index": found["suppression_index"],
            "overkill_rate": found["overkill"] / found["held_out"],
            "held_out_auroc": found["held_out_auroc"],
            "seconds": found["seconds"],
            **{f"suppression_index.{name}": value for name, value in found["suppression_by_scorer"].items()},
            **{f"visibility.fused.{name}": value for name, value in found["visibility"].items()},
            **{f"diagnostics.{name}": told["value"] for name, told in found["diagnostics"].items()},
        }
    )
    run.end()
    if run.trouble:
        parent.trouble = run.trouble


def _photos(samples: Sequence[Sample]) -> list[Photo]:
    return [read_image(sample.path) for sample in samples]


def _write(path: Path, note: dict[str, Any]) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(note, indent=1))
    os.replace(fresh, path)
