"""The photos of each part judged, and what their agreement says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from anomaly.appraisal.gauge.parts import PartPhotos
from anomaly.appraisal.judging import called, judged, threshold_in_force
from anomaly.appraisal.pictures import heat_picture
from anomaly.bundle import Bundle
from anomaly.data.images import duplicates, one_line
from anomaly.errors import DataError
from anomaly.evaluation import refuse_seen
from anomaly.models.training import Progress, Silent
from anomaly.quality.agreement import Part
from anomaly.quality.gauge import GaugeStudy, gauge_study
from anomaly.quality.intervals import exact_share
from anomaly.records import Sample
from anomaly.report.filed import Pictures

SHOWN = 6
"""Parts judged both ways that the report shows."""


@dataclass(frozen=True)
class GaugeResult:
    """The study, the decisions it rests on, and what it had to leave out."""

    study: GaugeStudy
    parts: tuple[Part, ...]
    photos: dict[str, list[Sample]]
    """Part -> its photos, in the order of its decisions."""
    threshold: float
    left_out: dict[str, str]
    """Photo or part -> why it does not count."""
    notes: tuple[str, ...]
    flipping: tuple[Pictures, ...]
    """Photos of parts that were judged both ways."""

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self.notes, *self.study.warnings)


def gauge_of(
    bundle: Bundle,
    given: Sequence[PartPhotos],
    *,
    confidence: float = 0.95,
    progress: Progress | None = None,
) -> GaugeResult:
    """Judge all photos of the parts. Raises DataError where none can be read, or one is from the fit."""
    exact_share("confidence", confidence)
    progress = progress or Silent()
    samples = [photo for part in given for photo in part.photos]
    refuse_seen(bundle, samples)
    left_out: dict[str, str] = {}
    parts: list[Part] = []
    photos: dict[str, list[Sample]] = {}
    looks = judged(bundle, samples)
    done = 0
    for part in given:
        decisions: list[bool] = []
        scores: list[float] = []
        photos[part.name] = []
        for sample in part.photos:
            look = next(looks)
            done += 1
            progress.step("photos", done, len(samples))
            if look.verdict.image_score is None:
                left_out[str(sample.path)] = look.verdict.error or "it has no score"
                continue
            photos[part.name].append(sample)
            decisions.append(called(look.verdict))
            scores.append(look.verdict.image_score)
        if decisions:
            own = bundle.detector.policy.cut_of(part.photos[0].group).lowest
            parts.append(Part(part.name, decisions, scores, part.defective, part.manual, own))
        else:
            left_out[f"part {part.name}"] = "none of its photos can be read"
    if not parts:
        first, reason = next(iter(left_out.items()))
        raise DataError(f"none of the {len(samples)} photos can be used; {one_line(first)}: {reason}")
    threshold = threshold_in_force(bundle)
    return GaugeResult(
        study=gauge_study(parts, threshold=threshold, confidence=confidence),
        parts=tuple(parts),
        photos=photos,
        threshold=threshold,
        left_out=left_out,
        notes=tuple(_notes(given)),
        flipping=tuple(_flipping(bundle, parts, photos)),
    )


def _notes(given: Sequence[PartPhotos]) -> Iterator[str]:
    paths = [photo.path for part in given for photo in part.photos]
    copies = sum(len(indices) - 1 for indices in duplicates(paths))
    if copies:
        yield (
            f"{copies} photos are byte for byte copies of another one. A copy measures nothing: place and "
            "photograph the part anew."
        )


def _flipping(bundle: Bundle, parts: Sequence[Part], photos: dict[str, list[Sample]]) -> Iterator[Pictures]:
    """The lowest and the highest scored photo of parts that were judged both ways."""
    both = [part for part in parts if len(set(part.rejected)) > 1]
    for part in both[:SHOWN]:
        order = sorted(range(len(part.scores)), key=lambda index: part.scores[index])
        ends = [order[0], order[-1]]
        shown = []
        for index, look in zip(ends, judged(bundle, [photos[part.name][i] for i in ends]), strict=True):
            word = "rejected" if part.rejected[index] else "passed"
            if look.photo is not None:
                shown.append(heat_picture(bundle, look, f"{word}, score {part.scores[index]:.4g}"))
        yield Pictures(part.name, shown, f"{sum(part.rejected)} of {len(part.rejected)} photos rejected")
