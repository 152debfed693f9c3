"""Trials from real defects, whose masks give their sizes."""

from __future__ import annotations

from collections.abc import Sequence

from anomaly.appraisal.judging import called, judged, labelled_test, threshold_in_force
from anomaly.appraisal.pod.study import Album, Blanks, Options, PodStudy, Trial, blank_notes, fit_curves
from anomaly.appraisal.sizes import defect_size
from anomaly.bundle import Bundle
from anomaly.data.images import one_line
from anomaly.data.masks import defect_mask
from anomaly.errors import DataError, ImageError
from anomaly.evaluation import refuse_seen
from anomaly.inspection.stream import Judged
from anomaly.models.training import Progress, Silent
from anomaly.records import Sample


def pod_of_masks(
    bundle: Bundle, samples: Sequence[Sample], options: Options, progress: Progress | None = None
) -> PodStudy:
    """POD of the defects among the labelled test photos.

    Raises DataError where none of them can be sized, or the model was fitted on one of the photos.
    """
    progress = progress or Silent()
    test = labelled_test(samples)
    used = [s for s in test if s.label == "normal" or s.mask is not None]
    bad = sum(s.label == "anomalous" for s in used)
    if not bad:
        raise DataError(
            "no defective test photo has a mask, so no defect has a size: give masks (ground_truth/, or the "
            "manifest's column mask), or --synthetic all for drawn defects"
        )
    refuse_seen(bundle, used)
    left_out = {
        str(s.path): "it has no mask, so its defect has no size"
        for s in test
        if s.label == "anomalous" and s.mask is None
    }
    trials: list[Trial] = []
    album = Album(bundle)
    photos = calls = 0
    for done, (sample, look) in enumerate(zip(used, judged(bundle, used), strict=True), 1):
        progress.step("photos", done, len(used))
        try:
            if look.photo is None or look.verdict.image_score is None:
                raise ImageError(look.verdict.error or "it has no score")
            if sample.label == "normal":
                photos, calls = photos + 1, calls + called(look.verdict)
            else:
                trials.append(_trial(sample, look, options, album))
        except ImageError as error:
            left_out[str(sample.path)] = str(error)
    if not trials:
        first, reason = next(iter(left_out.items()))
        raise DataError(f"none of the {bad} defects can be used; {one_line(first)}: {reason}")
    blanks = Blanks(photos, calls)
    return PodStudy(
        options=options,
        threshold=threshold_in_force(bundle),
        curves=fit_curves(trials, blanks, options, progress),
        blanks=blanks,
        left_out=left_out,
        missed=album.pictures(),
        source="Real defects on labelled test photos, sized by their masks; the normal test photos are the "
        "blanks.",
        notes=tuple(blank_notes(blanks)),
        limits=(
            "A photo counts as one defect of the size of its largest connected area; smaller ones on the "
            "same photo may have helped to find it.",
        ),
    )


def _trial(sample: Sample, look: Judged, options: Options, album: Album) -> Trial:
    assert look.photo is not None and look.verdict.image_score is not None
    mask = defect_mask(sample, look.photo.shape[:2])
    size = None if mask is None else defect_size(mask, options.measure)
    if mask is None or size is None:
        raise ImageError("its mask marks no pixel, so its defect has no size")
    kind = sample.defect_type or "unnamed"
    found, score, side = called(look.verdict), look.verdict.image_score, max(look.photo.shape[:2])
    trial = Trial(str(sample.path), kind, size, found, score, side)
    album.offer(trial, look, mask)
    return trial
