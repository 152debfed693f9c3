"""One cell: a short fit, its probes, its steadiness on held-out photos, and the health of its encoder."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from anomaly.detector import Detector
from anomaly.fitting.stages import Fit, FitResult
from anomaly.metrics import image_auroc
from anomaly.models.backbones import Backbone, build_backbone
from anomaly.models.training import Progress, Silent
from anomaly.probes import chosen
from anomaly.report.filed import finite
from anomaly.study.cells import Task
from anomaly.study.diagnose import Snapshots, diagnose
from anomaly.study.features import Remembering
from anomaly.visibility.measure import FUSED, measure

ALIKE = "reconstruction.safetensors"
"""A trained network that does not depend on the dials while the backbone is frozen, once for each seed."""


def run_cell(
    task: Task, progress: Progress | None = None, more: Callable[[Detector], Any] | None = None
) -> dict[str, Any]:
    """The result of a cell, from its file where it was run before. Progress is kept, as in a fit.

    What `more` makes of the fitted detector is kept in the result under that name.
    """
    if task.result.exists():
        found: dict[str, Any] = json.loads(task.result.read_text())
        return found
    start = time.monotonic()
    config = task.cell.config(task.photos.config)
    work = task.folder / "work" / task.cell.name
    work.mkdir(parents=True, exist_ok=True)
    backbone, alike = build_backbone(config.backbone, seed=config.seed), None
    if backbone.pretrained and not config.contrastive.fine_tune:
        backbone = Remembering(backbone, task.folder / "shared" / "features")
        alike = task.folder / "shared" / f"{task.cell.seed}_{ALIKE}"
    result, snapshots = _fitted(task, work, backbone, alike, progress or Silent())
    found = _found(task, result, snapshots, progress or Silent())
    if more is not None:
        found["more"] = more(result.detector)
    found["seconds"] = round(time.monotonic() - start, 2)
    task.result.parent.mkdir(parents=True, exist_ok=True)
    _replace(task.result, json.dumps(finite(found), indent=1, allow_nan=False))
    shutil.rmtree(work, ignore_errors=True)
    return found


def _fitted(
    task: Task, work: Path, backbone: Backbone, alike: Path | None, progress: Progress
) -> tuple[FitResult, Snapshots]:
    if alike is not None and alike.exists() and not (work / ALIKE).exists():
        shutil.copyfile(alike, work / ALIKE)
    snapshots = Snapshots(work)
    fit = Fit(task.cell.config(task.photos.config), snapshots, progress, backbone=backbone)
    result = fit.run(task.photos.train)
    if alike is not None and (work / ALIKE).exists():
        fresh = alike.with_name(f"{alike.name}.{os.getpid()}.new")
        shutil.copyfile(work / ALIKE, fresh)
        os.replace(fresh, alike)
    return result, snapshots


def _found(task: Task, result: FitResult, snapshots: Snapshots, progress: Progress) -> dict[str, Any]:
    detector = result.detector
    held_out = np.array(
        [detector.score(detector.read(sample.path)).image_score for sample in task.photos.held_out]
    )
    measured = measure(
        detector,
        [detector.read(sample.path) for sample in task.photos.probed],
        chosen(task.probes),
        most_magnitudes=task.magnitudes,
        progress=progress,
    )
    scores = detector.calibration.scores
    labels = np.repeat([False, True], [len(scores), len(held_out)])
    return {
        "cell": task.cell.name,
        **asdict(task.cell.dials),
        "seed": task.cell.seed,
        "suppression_index": measured.index(),
        "suppression_interval": measured.interval(),
        "suppression_without_each": measured.without_each() if len(measured.untouched[FUSED]) > 2 else [],
        "suppression_by_scorer": {name: measured.index(name) for name in measured.scorers},
        "visibility": {graded.probe.name: graded.seen[FUSED].visibility for graded in measured.graded},
        "visibility_by_scorer": {
            name: {graded.probe.name: graded.seen[name].visibility for graded in measured.graded}
            for name in measured.scorers
        },
        "magnitudes": {graded.probe.name: graded.magnitudes for graded in measured.graded},
        "auroc_by_scorer": {
            name: {graded.probe.name: graded.seen[name].auroc for graded in measured.graded}
            for name in measured.scorers
        },
        "overkill": int((held_out > detector.calibration.threshold).sum()),
        "held_out": len(held_out),
        "held_out_auroc": image_auroc(np.concatenate([scores, held_out]), labels),
        "losses": {name: [values[0], values[-1]] for name, values in result.losses.items() if values},
        "weights": dict(detector.weights),
        "diagnostics": diagnose(detector, task, snapshots) if task.diagnosed else {},
    }


def _replace(path: Path, text: str) -> None:
    """Write `path` as a whole or not at all."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fresh.write_text(text)
    os.replace(fresh, path)
