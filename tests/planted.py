"""Photos with scores of our choice, for tests of what is done with scores."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anomaly.bundle import read_bundle
from anomaly.tuning.scores import ScoreCache

Rows = Sequence[tuple[float, str, str]]
"""(score, label, group) of photos."""


def planted(model: Path, folder: Path, rows: Rows) -> Path:
    """A manifest of photos whose scores lie in the cache. They are no photos: scoring one would fail."""
    folder.mkdir(parents=True)
    cache = ScoreCache(read_bundle(model)).folder
    cache.mkdir(parents=True, exist_ok=True)
    with open(folder / "photos.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "split", "label", "group"))
        for i, (score, label, group) in enumerate(rows):
            content = f"{folder} {i}".encode()
            (folder / f"{i}.png").write_bytes(content)
            table.writerow((f"{i}.png", "test", label, group))
            np.savez(
                cache / f"{hashlib.sha256(content).hexdigest()}.npz",
                map=np.full((12, 16), score, np.float32),
                size=np.array([96, 128]),
                image_score=np.float64(score),
            )
    return folder / "photos.csv"


def rows_of(good: Sequence[float], bad: Sequence[float], group: str = "") -> list[tuple[float, str, str]]:
    return [(s, "normal", group) for s in good] + [(s, "anomalous", group) for s in bad]


def overlapping(n_good: int, n_bad: int, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    return rows_of(rng.normal(0, 1, n_good).tolist(), rng.normal(3, 1, n_bad).tolist())
