"""Scores of photos, kept beside the model: tuning again never scores a photo again.

The cache is `<model>.scores/<model hash>/<SHA-256 of the photo>.npz` with the map of patches, from which any
region rules take their score. It may be deleted at any time; it costs nothing but the scoring.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly.bundle import Bundle
from anomaly.data.images import fingerprint, one_line
from anomaly.data.window import Window
from anomaly.detector import Scores
from anomaly.errors import DataError, ImageError
from anomaly.maps import Map
from anomaly.models.training import Progress
from anomaly.policy.policy import Policy
from anomaly.records import Sample


@dataclass(frozen=True)
class Known:
    """What is kept of one photo: its map (h, w) float32 decides under whatever rules."""

    image_score: float
    anomaly_map: Map
    size: tuple[int, int]
    """(H, W) of the photo."""
    window: Window | None = None
    """The part of it that the map shows; None: all."""

    def score(self, policy: Policy, top_share: float) -> float:
        """What `policy` holds against its thresholds. Raises ImageError where its mask does not fit."""
        return policy.score(self.image_score, self.anomaly_map, self.size, top_share, self.window)


@dataclass
class ScoreCache:
    """Scored photos of one model. A folder that cannot be written costs only time; `trouble` says why."""

    bundle: Bundle
    trouble: str | None = None
    scored: int = 0
    """Photos that had to be scored."""

    @property
    def folder(self) -> Path:
        model = self.bundle.path.resolve()
        return model.with_name(model.name + ".scores") / self.bundle.model_hash[:32]

    @property
    def window(self) -> Window | None:
        return self.bundle.detector.geometry.window

    def known(self, sample: Sample) -> tuple[str, Known]:
        """SHA-256 of the photo and what is known of it, scored if need be. Raises ImageError."""
        sha256 = fingerprint(sample.path)
        known = self._load(sha256)
        if known is None:
            detector = self.bundle.detector
            photo = detector.read(sample.path)
            scores = detector.score(photo)
            known = self._store(sha256, scores, photo.shape[:2])
        return sha256, known

    def calibration(self) -> list[Known]:
        """The calibration photos in the order of the bundle, each as the fit scored it: standardised by the
        others, and before the model took it in."""
        rows, maps = self.bundle.calibration_photos, self.bundle.calibration_maps
        return [
            Known(float(row["image_score"]), values, (int(row["size"][0]), int(row["size"][1])), self.window)
            for row, values in zip(rows, maps, strict=True)
        ]

    def _load(self, name: str) -> Known | None:
        path = self.folder / f"{name}.npz"
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
                height, width = kept["size"].tolist()
                known = Known(float(kept["image_score"]), kept["map"], (height, width), self.window)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return known if known.anomaly_map.ndim == 2 and known.anomaly_map.dtype == np.float32 else None

    def _store(self, name: str, scores: Scores, size: tuple[int, int]) -> Known:
        known = Known(scores.image_score, scores.anomaly_map, size, self.window)
        self.scored += 1
        fresh = self.folder / f"{name}.{os.getpid()}.new"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(fresh, "wb") as file:
                np.savez_compressed(
                    file,
                    map=known.anomaly_map,
                    size=np.array(size),
                    image_score=np.float64(known.image_score),
                )
            os.replace(fresh, self.folder / f"{name}.npz")
        except OSError as error:
            self.trouble = f"scores cannot be kept in {self.folder} ({error.strerror})"
        return known


@dataclass(frozen=True)
class Row:
    """One photo that a threshold is chosen by."""

    path: str
    sha256: str
    anomalous: bool
    group: str | None
    known: Known | None
    """None for a calibration photo that is taken at the score of the fit."""
    score: float
    """Under the rules that are tuned."""


@dataclass(frozen=True)
class Photos:
    """The photos that a threshold is chosen by, and what was left out."""

    rows: tuple[Row, ...]
    unreadable: dict[str, str]
    duplicates: int
    """Photos that are byte for byte another one; each content counts once."""
    source: str
    """What they are, in words."""

    @property
    def groups(self) -> set[str]:
        return {row.group for row in self.rows if row.group is not None}

    @property
    def mixed_groups(self) -> set[str]:
        """Groups with normal and with anomalous photos: a lot rather than a part."""
        good, bad = ({row.group for row in self.rows if row.anomalous is label} for label in (False, True))
        return {group for group in good & bad if group is not None}


def labelled_photos(
    cache: ScoreCache, samples: Sequence[Sample], policy: Policy, progress: Progress
) -> Photos:
    """The scores of labelled samples under `policy`. Raises DataError where one content has two labels."""
    share = cache.bundle.detector.config.fusion.top_share
    rows: dict[str, Row] = {}
    unreadable: dict[str, str] = {}
    duplicates = 0
    for done, sample in enumerate(samples, start=1):
        anomalous = sample.label == "anomalous"
        try:
            sha256, known = cache.known(sample)
            score = known.score(policy, share)
        except ImageError as error:
            unreadable[str(sample.path)] = str(error)
            continue
        if not np.isfinite(score):
            unreadable[str(sample.path)] = f"{one_line(sample.path)} has no finite score: report this photo"
            continue
        before = rows.get(sha256)
        if before is not None:
            if before.anomalous != anomalous:
                raise DataError(
                    f"{one_line(before.path)} and {one_line(sample.path)} are the same photo with different "
                    "labels: one of them is wrong, correct it"
                )
            duplicates += 1
            continue
        rows[sha256] = Row(str(sample.path), sha256, anomalous, sample.group, known, score)
        progress.step("scoring", done, len(samples))
    if not rows:
        reason = next(iter(unreadable.values()), "there are none")
        raise DataError(f"none of the {len(samples)} photos can be used: {reason}")
    return Photos(tuple(rows.values()), unreadable, duplicates, "labelled photos")


def calibration_photos(cache: ScoreCache, policy: Policy) -> Photos:
    """The calibration photos of the fit. Without rules their stored scores do, and no photo is opened."""
    stored = cache.bundle.calibration_photos
    known: list[Known | None] = [None] * len(stored)
    scores = [float(row["image_score"]) for row in stored]
    if policy.rules is not None:
        share = cache.bundle.detector.config.fusion.top_share
        known = list(cache.calibration())
        scores = [one.score(policy, share) for one in known if one is not None]
    rows = tuple(
        Row(row["path"], row["sha256"], False, row["group"], one, score)
        for row, one, score in zip(stored, known, scores, strict=True)
    )
    return Photos(rows, {}, 0, "calibration photos of the fit")
