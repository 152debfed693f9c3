"""Score held-out normal photos untouched and changed by every probe at every magnitude."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anomaly import distributed
from anomaly.data.foreground import foregrounds
from anomaly.detector import Detector, Photo
from anomaly.errors import DataError
from anomaly.models.training import Progress, Silent
from anomaly.probes import Probe
from anomaly.probes.scene import Mask
from anomaly.spread import evenly
from anomaly.visibility.index import (
    Interval,
    Seen,
    seen,
    suppression_index,
    suppression_interval,
    visibility_of,
)

Floats = NDArray[np.float64]
FUSED = "fused"
"""The score that the verdict is made from, beside those of the branches."""


@dataclass(frozen=True)
class Graded:
    """One probe at its magnitudes."""

    probe: Probe
    magnitudes: tuple[float, ...]
    scores: dict[str, Floats]
    """Scorer -> (K, N)."""
    seen: dict[str, Seen]
    """Scorer -> how it sees this probe."""


@dataclass(frozen=True)
class Measured:
    """All scores, and what follows from them."""

    untouched: dict[str, Floats]
    """Scorer -> (N,)."""
    graded: list[Graded]
    without_effect: list[str] = field(default_factory=list)
    """Probes that change nothing on these photos, such as colour on grey ones; they do not count."""

    @property
    def scorers(self) -> list[str]:
        return list(self.untouched)

    def index(self, scorer: str = FUSED) -> float:
        """Suppression index of one scorer."""
        return suppression_index([graded.seen[scorer].visibility for graded in self.graded])

    def interval(self, scorer: str = FUSED) -> Interval:
        """95 % interval of `index`, over photos."""
        changed = {graded.probe.name: graded.scores[scorer] for graded in self.graded}
        return suppression_interval(self.untouched[scorer], changed)

    def without_each(self, scorer: str = FUSED) -> list[float]:
        """`index` with each photo left out in turn: how much it hangs on single photos. Three or more."""
        before = self.untouched[scorer]
        return [
            suppression_index(
                [
                    visibility_of(np.delete(before, i), np.delete(graded.scores[scorer], i, axis=1))
                    for graded in self.graded
                ]
            )
            for i in range(len(before))
        ]


def measure(
    detector: Detector,
    photos: Sequence[Photo],
    probes: Sequence[Probe],
    *,
    seed: int = 0,
    most_magnitudes: int | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Grade `probes` on `photos` (H, W, 3) uint8, at least two.

    A photo keeps its place and shape of a defect from magnitude to magnitude, and from model to model.
    With `most_magnitudes` only so many, evenly spread, are tried. Raises DataError where no probe shows,
    ImageError where region rules were drawn for photos of another shape.
    """
    if len(photos) < 2:
        raise DataError(f"probes need at least 2 held-out normal photos, got {len(photos)}: give more")
    progress = progress or Silent()
    areas = foregrounds(photos)
    height, width = np.median([photo.shape[:2] for photo in photos], axis=0)
    levels = {one.name: _some(one.levels((int(height), int(width))), most_magnitudes) for one in probes}

    def changed(one: Probe, magnitude: float, i: int) -> tuple[Photo, Mask]:
        return one.apply(photos[i], areas[i], magnitude, generator(seed, one.name, i))

    def shows(one: Probe) -> bool:
        return any(changed(one, levels[one.name][-1], i)[1].any() for i in range(len(photos)))

    shown = [one for one in probes if shows(one)]
    if not shown:
        names = ", ".join(one.name for one in probes)
        raise DataError(f"none of the probes ({names}) shows on these photos: choose others")
    versions: list[tuple[Probe | None, float]] = [(None, 0.0)]
    versions += [(one, magnitude) for one in shown for magnitude in levels[one.name]]
    jobs = [(one, magnitude, i) for one, magnitude in versions for i in range(len(photos))]

    def scored(job: tuple[Probe | None, float, int]) -> dict[str, float]:
        one, magnitude, i = job
        photo = photos[i] if one is None else changed(one, magnitude, i)[0]
        scores = detector.score(photo)
        return {**scores.branch_scores, FUSED: detector.judged_score(scores, photo.shape[:2])}

    found = distributed.each(scored, jobs, lambda done: progress.step("probes", done, len(jobs)))
    table = {
        name: np.array([row[name] for row in found]).reshape(len(versions), len(photos)) for name in found[0]
    }
    untouched = {name: rows[0] for name, rows in table.items()}
    graded, first = [], 1
    for one in shown:
        magnitudes = levels[one.name]
        last = first + len(magnitudes)
        scores = {name: rows[first:last] for name, rows in table.items()}
        views = {name: seen(untouched[name], scores[name], magnitudes) for name in untouched}
        graded.append(Graded(one, magnitudes, scores, views))
        first = last
    without = [one.name for one in probes if one not in shown]
    return Measured(untouched, graded, without)


def generator(seed: int, probe: str, photo: int) -> np.random.Generator:
    """The chance by which `probe` is drawn on the photo of that number."""
    return np.random.default_rng([seed, zlib.crc32(probe.encode()), photo])


def _some(levels: tuple[float, ...], most: int | None) -> tuple[float, ...]:
    if most is None or most >= len(levels):
        return levels
    return tuple(evenly(levels, most))
