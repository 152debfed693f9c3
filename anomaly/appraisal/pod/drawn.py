"""Trials from defects that probes draw, at graded size and contrast, on held-out normal photos."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from anomaly.appraisal.judging import called, judge_photo, judged, threshold_in_force
from anomaly.appraisal.pod.study import Album, Blanks, Options, PodStudy, Trial, blank_notes, fit_curves
from anomaly.appraisal.sizes import defect_size
from anomaly.bundle import Bundle
from anomaly.data.foreground import foreground
from anomaly.data.images import one_line
from anomaly.detector import Photo
from anomaly.errors import ConfigError, DataError
from anomaly.evaluation import refuse_seen
from anomaly.models.training import Progress, Silent
from anomaly.probes import Probe, chosen, drawn_defects
from anomaly.records import Sample

ALL = "all"
CONTRASTS = (0.5, 1.0, 2.0)
"""Times a probe's own contrast, where none is asked for."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """One defect to be drawn."""

    probe: Probe
    contrast: float | None
    size: float
    """Share of the way from the probe's smallest size to its largest, on a log scale."""
    seed: int

    @property
    def kind(self) -> str:
        return self.probe.name + ("" if self.contrast is None else f" of {self.contrast:g} grey levels")

    def magnitude(self, photo: Photo) -> float:
        levels = self.probe.levels((photo.shape[0], photo.shape[1]))
        return math.exp((1 - self.size) * math.log(levels[0]) + self.size * math.log(levels[-1]))


def defect_probes(names: Sequence[str]) -> list[Probe]:
    """The probes named, or all that draw a defect. Raises ConfigError for one that draws none."""
    if ALL in names:
        return drawn_defects()
    probes = chosen(names)
    for probe in probes:
        if probe.kind != "defect":
            known = ", ".join(p.name for p in drawn_defects())
            raise ConfigError(f"{probe.name} changes the whole photo and has no size: choose from {known}")
    return probes


def pod_of_drawings(
    bundle: Bundle,
    samples: Sequence[Sample],
    names: Sequence[str],
    options: Options,
    *,
    contrasts: Sequence[float] = (),
    defects: int = 60,
    progress: Progress | None = None,
) -> PodStudy:
    """POD of drawn defects, `defects` of each kind and contrast, spread evenly over log size.

    The photos are the normal test photos, or all normal photos of a set without a test part. Raises
    DataError where there are none that can be read, or the model was fitted on one of them.
    """
    if defects < 2:
        raise ConfigError(f"{defects} defects of a kind show no curve: draw 60 or more")
    progress = progress or Silent()
    plan = list(_plan(defect_probes(names), contrasts, defects, bundle.detector.config.seed))
    normal = [s for s in samples if s.label == "normal"]
    normal = [s for s in normal if s.split == "test"] or normal
    if not normal:
        raise DataError("no normal photos to draw defects on: give photos of good parts that were held out")
    refuse_seen(bundle, normal)

    total, done = len(normal) + len(plan), 0
    left_out: dict[str, str] = {}
    readable: list[Sample] = []
    calls = 0
    for sample, look in zip(normal, judged(bundle, normal), strict=True):
        done += 1
        progress.step("photos", done, total)
        if look.photo is None or look.verdict.image_score is None:
            left_out[str(sample.path)] = look.verdict.error or "it has no score"
        else:
            readable.append(sample)
            calls += called(look.verdict)
    if not readable:
        first, reason = next(iter(left_out.items()))
        raise DataError(f"none of the {len(normal)} normal photos can be used; {one_line(first)}: {reason}")

    trials: list[Trial] = []
    album = Album(bundle)
    for index, sample in enumerate(readable):
        path = sample.path
        photo = bundle.detector.read(path)
        product = foreground(photo)
        for drawing in plan[index :: len(readable)]:
            done += 1
            progress.step("photos", done, total)
            magnitude = drawing.magnitude(photo)
            rng = np.random.default_rng(drawing.seed)
            changed, mask = drawing.probe.apply(photo, product, magnitude, rng, drawing.contrast)
            size = defect_size(mask & (changed != photo).any(axis=2), options.measure)
            if size is None:
                left_out[f"{path}, {drawing.kind}, {magnitude:.3g} px"] = "it does not show on this photo"
                continue
            look = judge_photo(bundle, changed, sample)
            if look.verdict.image_score is None:
                left_out[f"{path}, {drawing.kind}"] = look.verdict.error or "it has no score"
                continue
            found, score = called(look.verdict), look.verdict.image_score
            side = max(changed.shape[:2])
            trials.append(Trial(str(path), drawing.kind, size, found, score, side, drawing.contrast))
            album.offer(trials[-1], look, mask)
    if not trials:
        raise DataError("no drawn defect shows on these photos: choose other kinds, or a higher contrast")
    blanks = Blanks(len(readable), calls)
    return PodStudy(
        options=options,
        threshold=threshold_in_force(bundle),
        curves=fit_curves(trials, blanks, options, progress),
        blanks=blanks,
        left_out=left_out,
        missed=album.pictures(),
        source=(
            f"Drawn defects on {len(readable)} normal photos that the model was not fitted on, at random "
            "places of the product, sized by the pixels that were changed; the same photos without them are "
            "the blanks."
        ),
        notes=tuple(_notes(blanks, defects, len(readable))),
        limits=(
            "Drawn defects show which changes of a photo the model sees. Real defects of the same size may "
            "be easier or harder: confirm the figures with real ones before they are relied on.",
        ),
    )


def _plan(probes: Sequence[Probe], contrasts: Sequence[float], defects: int, seed: int) -> Iterator[Drawing]:
    for probe in probes:
        levels: list[float | None] = [None]
        if probe.contrast is not None:
            levels = [*contrasts] or [factor * probe.contrast for factor in CONTRASTS]
        for level in levels:
            stream = zlib.crc32(f"{seed} {probe.name} {level}".encode())
            sizes = np.random.default_rng(stream).permutation(np.linspace(0, 1, defects))
            for index, size in enumerate(sizes):
                yield Drawing(probe, level, float(size), stream + index)


def _notes(blanks: Blanks, defects: int, photos: int) -> Iterator[str]:
    yield from blank_notes(blanks)
    if defects > photos:
        yield (
            f"{defects} defects of a kind were drawn on {photos} photos. Those on one photo are alike, so "
            f"the bounds are somewhat too narrow: bring up to {defects} normal photos."
        )
