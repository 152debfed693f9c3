"""The health of a cell's encoder, in numbers and in words. None of them shows that a defect is visible."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anomaly.data.augmentation import ViewMaker
from anomaly.data.foreground import foregrounds
from anomaly.detector import Detector, Photo
from anomaly.diagnostics.encoder_health import (
    alignment,
    chance_accuracy,
    effective_rank,
    nearest_neighbour_accuracy,
    read_alignment,
    read_collapse,
    read_effective_rank,
    read_uniformity,
    uniformity,
)
from anomaly.diagnostics.subspace import (
    read_alignment_curve,
    read_score_share,
    reconstruction_alignment,
    score_share,
)
from anomaly.errors import DataError
from anomaly.models.training import Checkpoints
from anomaly.probes import drawn_defects
from anomaly.scorers.reconstruction import Reconstruction
from anomaly.spread import evenly
from anomaly.study.cells import Task
from anomaly.visibility.measure import generator

STAGE = "contrastive"
EVERY = 25
"""Steps between two snapshots; the first ones are closer together."""
SNAPSHOT = "snapshot_{}.safetensors"
TIMES = 4
"""Snapshots that are looked at."""
MOST = 40
"""Photos whose groups are followed."""
PATCHES = 2000
THUMBNAIL = 16
"""Side in px of the photos for the closed-form reconstruction."""

Floats = NDArray[np.float64]


@dataclass
class Snapshots(Checkpoints):
    """Checkpoints that keep the weights of the projection at some steps of its training, and at the last.

    They lie in `folder` as well, so that a cell that was stopped ends with those of one that was not.
    """

    taken: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    _step: int = 0

    def due(self) -> bool:
        self._step += 1
        return super().due() or _regular(self._step)

    def save(
        self, stage: str, step: int, losses: list[float], module: nn.Module, optimizer: torch.optim.AdamW
    ) -> None:
        if stage == STAGE:
            self._take(step, {name: value.clone() for name, value in module.state_dict().items()})
            if self.folder is not None and _regular(step):
                path = self.folder / SNAPSHOT.format(step)
                save_file(self.taken[step], path.with_suffix(".new"))
                os.replace(path.with_suffix(".new"), path)
        super().save(stage, step, losses, module, optimizer)

    def load(self, stage: str, module: nn.Module, optimizer: torch.optim.AdamW) -> tuple[int, list[float]]:
        self._step, losses = super().load(stage, module, optimizer)
        if stage == STAGE and self.folder is not None and self._step:
            for step in filter(_regular, range(1, self._step)):
                if (path := self.folder / SNAPSHOT.format(step)).exists():
                    self._take(step, load_file(path))
            self._take(self._step, {name: value.clone() for name, value in module.state_dict().items()})
        return self._step, losses

    def _take(self, step: int, weights: dict[str, Tensor]) -> None:
        """Keep `weights`; those of an odd moment, at which time was up, only until the next ones come."""
        self.taken = {one: kept for one, kept in self.taken.items() if _regular(one)} | {step: weights}


def _regular(step: int) -> bool:
    return step % EVERY == 0 or step & (step - 1) == 0


def diagnose(detector: Detector, task: Task, snapshots: Snapshots) -> dict[str, Any]:
    """name -> {value, reading}; what these photos cannot tell is left out."""
    photos = [detector.read(sample.path) for sample in task.photos.held_out]
    strength = task.cell.dials.augmentation_strength
    first = [_whole(detector, photo) for photo in photos]
    patches = torch.cat([_embedding(detector, photo).flatten(1).T for photo in photos])
    some = patches[:: max(1, len(patches) // PATCHES)].double().numpy()
    even, rank = uniformity(first), effective_rank(some)
    out = {
        "uniformity": _told(even, read_uniformity(even)),
        "effective_rank": _told(rank, read_effective_rank(rank, task.cell.dials.embedding_size)),
    }
    if strength:  # without augmentation two views are one
        views = ViewMaker(strength, task.cell.seed)
        second = [_whole(detector, views.view(photo)[0]) for photo in photos]
        out["alignment"] = _told(alignment(first, second), read_alignment(alignment(first, second)))
    course = _collapse(detector, task, snapshots)
    if course:
        by_step, chance = course
        out["group_accuracy"] = _told(by_step[max(by_step)], read_collapse(by_step, chance, "step"))
        out["group_accuracy"]["by_step"] = by_step
    shares = _shares(detector, photos)
    if shares:
        out["score_in_top_subspace"] = _told(shares[0], read_score_share(*shares))
    return out


def reconstruction_reading(photos: Sequence[Photo], bottleneck: int) -> dict[str, Any] | None:
    """How much of "a defect is drawn here" the best linear autoencoder keeps; None where it cannot be told.

    The same for all cells: a property of the product and of the probes, at thumbnails of 16 x 16 px.
    """
    defects = drawn_defects()
    areas = foregrounds(photos)
    rows, drawn = [], []
    for i, (photo, area) in enumerate(zip(photos, areas, strict=True)):
        rows.append(_thumbnail(photo))
        drawn.append(0)
        for one in defects:
            level = one.levels(photo.shape[:2])[-2]
            rows.append(_thumbnail(one.apply(photo, area, level, generator(0, one.name, i))[0]))
            drawn.append(1)
    try:
        curve = reconstruction_alignment(np.stack(rows), np.array(drawn))
    except (DataError, np.linalg.LinAlgError):
        return None
    if len(curve) < 2 * bottleneck:
        return None  # so few photos are rebuilt whole by any bottleneck
    reading = read_alignment_curve(curve, bottleneck)
    return {"curve": curve.tolist(), **_told(float(curve[bottleneck - 1]), reading)}


def _told(value: float, reading: str) -> dict[str, Any]:
    return {"value": value, "reading": reading}


def _embedding(detector: Detector, photo: Photo) -> Tensor:
    """(D, h, w) of a working photo."""
    return detector.encoder.embed(detector.encoder.features_of(photo))


def _whole(detector: Detector, photo: Photo) -> Floats:
    """(D,) mean embedding of a photo's patches."""
    mean: Floats = _embedding(detector, photo).flatten(1).mean(1).double().numpy()
    return mean


def _thumbnail(photo: Photo) -> Floats:
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float64).ravel() / 255


def _collapse(detector: Detector, task: Task, snapshots: Snapshots) -> tuple[dict[int, float], float] | None:
    """Step of the contrastive training -> nearest-neighbour accuracy of the groups; and that of chance."""
    known = [sample for sample in (*task.photos.held_out, *task.photos.train) if sample.group is not None][
        :MOST
    ]
    groups = [str(sample.group) for sample in known]
    if len(set(groups)) < 2 or max(groups.count(group) for group in groups) < 2 or not snapshots.taken:
        return None
    encoder = detector.encoder
    features = (encoder.features_of(detector.read(sample.path)) for sample in known)
    pooled = [encoder.projection.pool(one[None]) for one in features]
    final = {name: value.clone() for name, value in encoder.projection.state_dict().items()}
    steps = sorted(snapshots.taken)
    wanted = evenly(steps, TIMES)
    by_step = {}
    try:
        for step in wanted:
            encoder.projection.load_state_dict(snapshots.taken[step])
            with torch.inference_mode():
                rows = [encoder.projection.of_pooled(one)[0].flatten(1).mean(1) for one in pooled]
            by_step[step] = nearest_neighbour_accuracy(torch.stack(rows).numpy(), np.array(groups))
    finally:
        encoder.projection.load_state_dict(final)
    return by_step, chance_accuracy(np.array(groups))


def _shares(detector: Detector, photos: Sequence[Photo]) -> tuple[float, float] | None:
    """Share of the reconstruction's squared residual in the top and in the bottom subspace of features."""
    scorer = detector.scorers.get("reconstruction")
    if not isinstance(scorer, Reconstruction) or scorer.input != "features":
        return None
    features, residuals = [], []
    for photo in photos:
        maps = detector.encoder.features_of(photo)
        with torch.inference_mode():
            rebuilt = scorer.network(maps[None])[0]
        features.append(maps.flatten(1).T)
        residuals.append((maps - rebuilt).flatten(1).T)
    x, e = torch.cat(features), torch.cat(residuals)
    every = max(1, len(x) // PATCHES)
    return score_share(e[::every].numpy(), x[::every].numpy())
