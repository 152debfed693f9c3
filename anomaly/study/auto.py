"""`dials: auto`: a short study, run by the fit itself before it begins."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anomaly.config import RunConfig
from anomaly.models.training import Progress
from anomaly.probes import PROBES
from anomaly.records import Sample
from anomaly.study.cells import Dials, Task, grid
from anomaly.study.choice import recommend, summarise
from anomaly.study.pool import run_all
from anomaly.study.prepare import prepare

STRENGTHS = (0.1, 0.3, 0.6)
SIZES = (64, 128, 256)
"""The configured dials are tried as well."""
GOOD_PHOTOS, PROBED, MAGNITUDES = 60, 4, 2


def choose_dials(
    good: Sequence[Sample],
    config: RunConfig,
    folder: Path,
    progress: Progress,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The dials that a short study recommends, and what the manifest says of it, see `with_dials`.

    What was found is kept in `folder` until the study is whole, so that a resumed fit goes on from there.
    """
    photos = prepare(good, config, folder / "photos", GOOD_PHOTOS, PROBED, progress)
    now = Dials.of(config)
    strengths = sorted({*STRENGTHS, now.augmentation_strength})
    sizes = sorted({*SIZES, now.embedding_size})
    tasks = [
        Task(cell, photos, tuple(PROBES.names()), MAGNITUDES, folder)
        for cell in grid(config, strengths, sizes, [now.temperature], [now.supervised_weight], 1)
    ]
    results = list(run_all(tasks, 1, progress))
    choice = recommend(summarise(results), now, config.calibration.target_fpr)
    shutil.rmtree(folder, ignore_errors=True)
    say(f"dials: {choice.best.dials}: {choice.reason}")
    return {**asdict(choice.best.dials), "reason": choice.reason, "cells": len(results)}


def with_dials(config: RunConfig, told: dict[str, Any]) -> RunConfig:
    """`config` with the dials that `choose_dials` told."""
    dials = {name: told[name] for name in Dials.__dataclass_fields__}
    return config.model_copy(update={"contrastive": config.contrastive.model_copy(update=dials)})
