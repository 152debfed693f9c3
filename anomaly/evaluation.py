"""How well a model tells labelled test photos apart, at raw scores and as the policy in force decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.bundle import Bundle
from anomaly.data.images import fingerprint, one_line
from anomaly.data.masks import defect_mask
from anomaly.detector import Photo, Scores
from anomaly.errors import DataError, ImageError
from anomaly.maps import Map, resize
from anomaly.metrics import aupro, auroc_interval, image_ap, image_auroc, image_f1_max, pixel_auroc
from anomaly.models.training import Progress, Silent
from anomaly.quality.intervals import clopper_pearson
from anomaly.quality.likeness import exceedance_p_value
from anomaly.quality.shapes import Shapes
from anomaly.records import Sample

PIXEL_SIDE = 1024
"""Maps and masks with a longer side are compared at this long side, px."""


def evaluate(
    bundle: Bundle,
    samples: Sequence[Sample],
    *,
    pixels: bool = True,
    score: Callable[[Photo], Scores] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Metrics of the labelled test photos among `samples`; a figure that the photos cannot give is None.
    `score` None is the detector's own.

    `overkill_p_value` is the chance of so many false alarms, or more, were the normal test photos like those
    that the threshold rests on; of groups with a threshold of their own it says nothing. `shapes` counts
    those of another shape or size than the calibration photos.

    Raises DataError where there are none, or where one of them was trained on or calibrated with. A photo
    that cannot be read is left out and named under `unreadable`.
    """
    progress = progress or Silent()
    test = [sample for sample in samples if sample.split == "test" and sample.label is not None]
    if not test:
        raise DataError("no labelled test photos: give an MVTec folder with test/, or a manifest with labels")
    refuse_seen(bundle, test)
    detector = bundle.detector
    scored: list[tuple[Sample, Scores]] = []
    judged: list[float] = []
    maps: list[Map] = []
    masks: list[NDArray[np.bool_]] = []
    unreadable: dict[str, str] = {}
    shapes = Shapes.of_photos(bundle.calibration_photos)
    for done, sample in enumerate(test, start=1):
        try:
            photo = detector.read(sample.path)
            mask = defect_mask(sample, photo.shape[:2]) if pixels else None
        except ImageError as error:
            unreadable[str(sample.path)] = str(error)
            continue
        scores = (score or detector.score)(photo)
        try:
            judged.append(detector.judged_score(scores, photo.shape[:2]))
        except ImageError as error:
            unreadable[str(sample.path)] = str(error)
            continue
        scored.append((sample, scores))
        shapes.add(photo.shape[:2])
        if mask is not None:
            small = _compared_size(mask.shape)
            maps.append(resize(detector.full_map(scores, photo), small))
            masks.append(_shrink(mask, small))
        progress.step("evaluating", done, len(test))
    if not scored:
        raise DataError(f"none of the {len(test)} test photos can be read: {next(iter(unreadable.values()))}")
    labels = np.array([sample.label == "anomalous" for sample, _ in scored])
    image_scores = np.array(judged)
    cuts = [detector.policy.cut_of(sample.group) for sample, _ in scored]
    decisions = np.array([cut.decide(score) for cut, score in zip(cuts, judged, strict=True)])
    flagged, passed = decisions == "anomalous", decisions == "normal"
    pooled = ~labels & np.array([cut is detector.policy.cut for cut in cuts])
    with_masks = any(mask.any() for mask in masks)
    return {
        "image_auroc": image_auroc(image_scores, labels),
        "image_auroc_interval": auroc_interval(image_scores, labels),
        "image_ap": image_ap(image_scores, labels),
        "image_f1_max": image_f1_max(image_scores, labels),
        "pixel_auroc": pixel_auroc(maps, masks) if with_masks else None,
        "aupro_0.3": aupro(maps, masks, 0.3) if with_masks else None,
        "threshold": detector.policy.cut.threshold,
        "review_threshold": detector.policy.cut.review_threshold,
        "version": detector.policy.version,
        "promise": detector.policy.promise,
        "escape_rate": _rate(passed[labels]),
        "escape_rate_interval": _interval(passed[labels]),
        "overkill_rate": _rate(flagged[~labels]),
        "overkill_rate_interval": _interval(flagged[~labels]),
        "overkill_p_value": exceedance_p_value(
            detector.policy.normal_scores,
            detector.policy.cut.threshold,
            int(pooled.sum()),
            int(flagged[pooled].sum()),
        ),
        "normal_reviews": int((decisions[~labels] == "review").sum()),
        "anomalous_reviews": int((decisions[labels] == "review").sum()),
        "n_normal": int((~labels).sum()),
        "n_anomalous": int(labels.sum()),
        "n_groups": len({sample.group for sample, _ in scored if sample.group is not None}),
        "n_masks": sum(bool(mask.any()) for mask in masks),
        "per_defect_type": _per_type([sample for sample, _ in scored], image_scores, labels, passed),
        "branches": {
            name: image_auroc(np.array([scores.branch_scores[name] for _, scores in scored]), labels)
            for name in detector.scorers
        },
        "shapes": {"unlike": shapes.unlike, "sentence": shapes.sentence},
        "unreadable": unreadable,
    }


def refuse_seen(bundle: Bundle, samples: Sequence[Sample]) -> None:
    """Raise DataError where one of `samples` is, by content, a photo that the model was fitted on."""
    seen = set(bundle.manifest["data"]["sha256"])
    for sample in samples:
        try:
            known = fingerprint(sample.path) in seen
        except ImageError:
            continue
        if known:
            raise DataError(
                f"{one_line(sample.path)} was used to fit this model: remove it from the test photos, "
                "for a test on photos that were trained on proves nothing"
            )


def _compared_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, PIXEL_SIDE / max(size))
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def _shrink(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A pixel of the smaller mask is set where any of the pixels under it is."""
    if mask.shape == size:
        return mask
    return np.asarray(cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) > 0)


def _rate(wrong: NDArray[np.bool_]) -> float | None:
    return float(wrong.mean()) if wrong.size else None


def _interval(wrong: NDArray[np.bool_]) -> tuple[float, float] | None:
    return clopper_pearson(int(wrong.sum()), wrong.size) if wrong.size else None


def _per_type(
    samples: Sequence[Sample],
    scores: NDArray[np.float64],
    labels: NDArray[np.bool_],
    passed: NDArray[np.bool_],
) -> dict[str, Any]:
    """AUROC against all normal photos, and escapes, of each defect type."""
    types = np.array([sample.defect_type or "unnamed" for sample in samples])
    out: dict[str, Any] = {}
    for name in sorted(set(types[labels])):
        of_type = labels & (types == name)
        keep = of_type | ~labels
        out[str(name)] = {
            "n": int(of_type.sum()),
            "image_auroc": image_auroc(scores[keep], labels[keep]),
            "image_auroc_interval": auroc_interval(scores[keep], labels[keep]),
            "escapes": int(passed[of_type].sum()),
            "escape_rate": _rate(passed[of_type]),
            "escape_rate_interval": _interval(passed[of_type]),
        }
    return out
