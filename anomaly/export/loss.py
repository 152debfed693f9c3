"""What an export costs on labelled photos: AUROC, and verdicts that change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anomaly.bundle import Bundle
from anomaly.errors import DataError, ImageError
from anomaly.export.runtimes import FULL
from anomaly.export.verify import TOLERANCE, Score, decision, deviation
from anomaly.metrics import image_auroc
from anomaly.models.training import Progress, Silent
from anomaly.records import Sample

LARGEST_LOSS = 0.005
"""AUROC that a lower precision may cost."""
LARGEST_CHANGE = 0.02
"""Share of verdicts that it may change."""


@dataclass(frozen=True)
class Loss:
    """An export beside torch on the same labelled photos."""

    photos: int
    deviation: float
    """Largest deviation of an image score, relative, or absolute for scores below 1."""
    verdicts_changed: int
    image_auroc: dict[str, float | None]
    """In torch and in the runtime; None where the photos are all of one kind."""
    precision: str = FULL

    @property
    def auroc_loss(self) -> float | None:
        """AUROC in torch less that of the export."""
        here, there = self.image_auroc.values()
        return None if here is None or there is None else here - there

    @property
    def trouble(self) -> str | None:
        """Why the export is not to be used, or None."""
        if self.precision == FULL and not self.deviation <= TOLERANCE:
            return f"its scores deviate by {self.deviation:.2g}, more than {TOLERANCE:g}"
        if not math.isfinite(self.deviation):
            return "some of its scores are no numbers"
        allowed = 0 if self.precision == FULL else int(LARGEST_CHANGE * self.photos)
        if self.verdicts_changed > allowed:
            return f"it changes {self.verdicts_changed} of {self.photos} verdicts, at most {allowed} may"
        if self.auroc_loss is None:
            return (
                None
                if self.precision == FULL
                else "its loss cannot be told from photos that are all normal or all anomalous"
            )
        if self.auroc_loss > LARGEST_LOSS:
            return f"it costs {self.auroc_loss:.4f} of AUROC, more than {LARGEST_LOSS:g}"
        return None


def measure_losses(
    bundle: Bundle,
    samples: Sequence[Sample],
    runtimes: Mapping[str, Score],
    progress: Progress | None = None,
) -> dict[str, Loss]:
    """Score the labelled test photos among `samples` in torch and by each of `runtimes`, named as VARIANTS;
    photos that cannot be read are left out. Raises DataError where there are none."""
    progress = progress or Silent()
    detector = bundle.detector
    test = [sample for sample in samples if sample.split == "test" and sample.label is not None]
    scores: dict[str, list[float]] = {name: [] for name in ("torch", *runtimes)}
    changed = dict.fromkeys(runtimes, 0)
    labels = []
    for done, sample in enumerate(test, start=1):
        try:
            photo = detector.read(sample.path)
            here = detector.score(photo)
            verdict = decision(detector, here, photo, sample.group)
        except ImageError:
            continue
        labels.append(sample.label == "anomalous")
        scores["torch"].append(detector.judged_score(here, photo.shape[:2]))
        for name, score in runtimes.items():
            there = score(photo)
            scores[name].append(detector.judged_score(there, photo.shape[:2]))
            changed[name] += decision(detector, there, photo, sample.group) != verdict
        progress.step("measuring the loss", done, len(test))
    if not labels:
        raise DataError("no labelled test photos that can be read: give an MVTec folder with test/")
    auroc = {name: image_auroc(values, labels) for name, values in scores.items()}
    return {
        name: Loss(
            len(labels),
            deviation(scores[name], scores["torch"]),
            changed[name],
            {"torch": auroc["torch"], name: auroc[name]},
            name.partition("-")[2] or FULL,
        )
        for name in runtimes
    }
