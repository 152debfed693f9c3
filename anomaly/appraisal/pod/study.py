"""Curves of detection against size from trials.

A defect counts as found when its photo is called. That a call may be chance is what blanks are for: they
give the false-call rate from which each curve starts.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anomaly.appraisal.pictures import heat_picture, mask_picture, photo_picture
from anomaly.appraisal.sizes import Measure, check_scale
from anomaly.bundle import Bundle
from anomaly.errors import DataError
from anomaly.inspection.stream import Judged
from anomaly.models.training import Progress
from anomaly.quality.pod import Link, PodFit, check_confidence, fit_pod
from anomaly.report.filed import Pictures

POOLED = "all types"
CURVE_POINTS = 21
SHOWN = 6
"""Missed defects that the report shows: the largest."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Options:
    """How sizes are taken and curves are fitted."""

    measure: Measure = "length"
    link: Link = "logit"
    confidence: float = 0.95
    px_per_mm: float | None = None

    def __post_init__(self) -> None:
        check_scale(self.px_per_mm)
        check_confidence(self.confidence)


@dataclass(frozen=True, slots=True)
class Trial:
    """One defect, and whether it was found."""

    path: str
    kind: str
    size: float
    """px of the photo."""
    found: bool
    score: float
    side: float
    """Long side of the photo, px."""
    contrast: float | None = None
    """Grey levels, of a drawn defect that declares them."""


@dataclass(frozen=True, slots=True)
class Blanks:
    """Photos without a defect, and how many of them were called."""

    photos: int = 0
    calls: int = 0


@dataclass(frozen=True)
class Curve:
    """What the trials of one type, or all, say; without a `fit`, `problem` says why."""

    name: str
    trials: tuple[Trial, ...]
    fit: PodFit | None
    problem: str | None
    sizes: Floats
    """(n,) px at which `pod` is given."""
    pod: tuple[Floats, Floats, Floats]
    """Fitted, lower bound, upper bound; empty without a fit."""

    @property
    def found(self) -> int:
        return sum(trial.found for trial in self.trials)

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.fit.warnings if self.fit else (self.problem or "",)


@dataclass(frozen=True)
class PodStudy:
    """The curve of all types first, then of each."""

    options: Options
    threshold: float
    curves: tuple[Curve, ...]
    blanks: Blanks
    left_out: dict[str, str]
    """Photo -> why it does not count."""
    missed: tuple[Pictures, ...]
    source: str
    """Where defects and blanks come from, in words."""
    notes: tuple[str, ...] = ()
    """What else to be warned of."""
    limits: tuple[str, ...] = ()
    """What figures from this source do not say."""


def fit_curves(
    trials: Sequence[Trial], blanks: Blanks, options: Options, progress: Progress
) -> tuple[Curve, ...]:
    """The pooled curve where there are several types, and the curve of each type."""
    kinds = sorted({trial.kind for trial in trials})
    parts = [(POOLED, tuple(trials))] if len(kinds) > 1 else []
    parts += [(kind, tuple(trial for trial in trials if trial.kind == kind)) for kind in kinds]
    curves = []
    for done, (name, given) in enumerate(parts, start=1):
        curves.append(_curve(name, given, blanks, options))
        progress.step("curves", done, len(parts))
    return tuple(curves)


def _curve(name: str, trials: tuple[Trial, ...], blanks: Blanks, options: Options) -> Curve:
    given = np.array([trial.size for trial in trials])
    sizes = np.geomspace(given.min(), given.max(), CURVE_POINTS)
    empty = np.empty(0)
    try:
        fit = fit_pod(
            given,
            [trial.found for trial in trials],
            link=options.link,
            false_calls=(blanks.calls, blanks.photos) if blanks.photos else None,
            confidence=options.confidence,
            unit="px",
            most=max(trial.side for trial in trials),
        )
    except DataError as error:
        return Curve(name, trials, None, f"No curve: {error}.", sizes, (empty, empty, empty))
    return Curve(name, trials, fit, None, sizes, fit.curve(sizes))


def blank_notes(blanks: Blanks) -> Iterator[str]:
    """What the photos without a defect cannot support."""
    if not blanks.photos:
        yield (
            "There is no readable normal photo, so the curves take it that no photo is called by chance: add "
            "normal test photos."
        )
    elif blanks.calls:
        share = blanks.calls / blanks.photos
        yield f"{blanks.calls} of {blanks.photos} normal photos ({share:.1%}) were called too."


@dataclass
class Album:
    """Keeps pictures of the largest missed defects while photos pass by."""

    bundle: Bundle
    _kept: list[tuple[float, int, Pictures]] = field(default_factory=list)
    _count: int = 0

    def offer(self, trial: Trial, look: Judged, mask: NDArray[np.bool_]) -> None:
        """Take pictures if this defect was missed and is among the largest such."""
        self._count += 1
        if trial.found or (len(self._kept) == SHOWN and trial.size <= self._kept[0][0]):
            return
        pictures = [photo_picture(look), mask_picture(look, mask), heat_picture(self.bundle, look)]
        note = f"{trial.kind}, {trial.size:.3g} px, score {trial.score:.4g}"
        heapq.heappush(self._kept, (trial.size, -self._count, Pictures(trial.path, pictures, note)))
        if len(self._kept) > SHOWN:
            heapq.heappop(self._kept)

    def pictures(self) -> tuple[Pictures, ...]:
        """Largest first."""
        return tuple(picture for _, _, picture in sorted(self._kept, key=lambda kept: -kept[0]))
