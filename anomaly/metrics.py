"""How well raw scores and anomaly maps tell good from bad. Higher scores are more anomalous.

Labels are True (anomalous) or False (normal), masks are True on the defect. Every metric is None where
it is not defined: without a normal or without an anomalous photo (pixel, for the two of maps).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from anomaly.errors import DataError
from anomaly.quality.intervals import clopper_pearson, exact_share

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
BLOCK = 2**25
"""Normal pixels that are sorted at a time: 128 MB of float32, whatever the number of maps."""


def image_auroc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Area under the ROC curve in [0, 1]; a tie counts one half."""
    from sklearn import metrics as sk  # here, for whoever judges photos needs no metrics

    values, anomalous = as_labelled(scores, labels)
    return float(sk.roc_auc_score(anomalous, values)) if _both(anomalous) else None


def image_ap(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Average precision in (0, 1]; its floor is the share of anomalous photos."""
    from sklearn import metrics as sk

    values, anomalous = as_labelled(scores, labels)
    return float(sk.average_precision_score(anomalous, values)) if _both(anomalous) else None


def image_f1_max(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Largest F1 over all thresholds. Optimistic: these very photos choose the threshold."""
    from sklearn import metrics as sk

    values, anomalous = as_labelled(scores, labels)
    if not _both(anomalous):
        return None
    precision, recall, _ = sk.precision_recall_curve(anomalous, values)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)))


def auroc_interval(
    scores: npt.ArrayLike, labels: npt.ArrayLike, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Interval of the AUROC from DeLong's variance on the logit scale (DeLong et al. 1988, Pepe 2003).

    Where that variance is zero or undefined (perfect separation, constant scores, one photo of a label) the
    exact binomial interval of min(n_normal, n_anomalous) independent pairs stands in; it is wider.
    """
    from scipy import special

    exact_share("confidence", confidence)
    values, anomalous = as_labelled(scores, labels)
    if not _both(anomalous):
        return None
    by_anomalous, by_normal = placements(values, anomalous)
    auroc = float(by_anomalous.mean())
    pairs = min(by_anomalous.size, by_normal.size)
    variance = sum(v.var(ddof=1) / v.size for v in (by_anomalous, by_normal)) if pairs > 1 else 0.0
    if variance < np.finfo(float).eps ** 2 or not 0 < auroc < 1:
        low = clopper_pearson(int(np.floor(auroc * pairs)), pairs, confidence)[0]
        return low, clopper_pearson(int(np.ceil(auroc * pairs)), pairs, confidence)[1]
    half = special.ndtri((1 + confidence) / 2) * np.sqrt(variance) / (auroc * (1 - auroc))
    low, high = special.expit(special.logit(auroc) + np.array([-half, half]))
    return float(low), float(high)


def placements(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Share of normal photos below each anomalous one, and of anomalous photos above each normal one.

    Both average to the AUROC; their variances are DeLong's (midranks: Sun and Xu 2014).
    """
    from scipy import stats

    values, anomalous = as_labelled(scores, labels)
    rank = stats.rankdata(values)
    below = rank[anomalous] - stats.rankdata(values[anomalous])
    not_above = rank[~anomalous] - stats.rankdata(values[~anomalous])
    n_anomalous = anomalous.sum()
    return below / (anomalous.size - n_anomalous), 1 - not_above / n_anomalous


def pixel_auroc(maps: Sequence[npt.ArrayLike], masks: Sequence[npt.ArrayLike]) -> float | None:
    """AUROC over the pixels of all maps, each (H, W) of its own size. Exact."""
    return _partial_area(maps, masks, 1.0, lambda mask: np.ones(np.count_nonzero(mask)))


def aupro(maps: Sequence[npt.ArrayLike], masks: Sequence[npt.ArrayLike], limit: float = 0.3) -> float | None:
    """Area under the per-region overlap up to a false positive rate of `limit` in (0, 1], over `limit`.

    Overlap: share of a defect's pixels above the threshold, averaged over all regions (8-connected) of all
    masks; false positive rate: over all normal pixels, those of good photos included (Bergmann et al. 2021).
    Exact: every pixel value is a threshold, ties and the limit are interpolated linearly.
    """
    return _partial_area(maps, masks, 1.0 if limit == 1 else float(exact_share("limit", limit)), _by_region)


def _by_region(mask: Bools) -> Floats:
    """Weight of each defect pixel, so that each connected region weighs 1 in sum."""
    region = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1][mask]
    weights: Floats = 1 / np.bincount(region)[region] if region.size else np.zeros(0)
    return weights


def _partial_area(
    maps: Sequence[npt.ArrayLike],
    masks: Sequence[npt.ArrayLike],
    limit: float,
    weigh: Callable[[Bools], Floats],
) -> float | None:
    """Area under the weighted ROC curve of pixels up to `limit`, over `limit`.

    A defect pixel lifts the curve by its weight where as many normal pixels as its own value are passed,
    between `start` (those above it) and `stop` (those that tie with it as well).
    """
    checked = [_checked(i, *pair) for i, pair in enumerate(_zip(maps, masks))]
    defects = [values[mask] for values, mask in checked]
    if not any(part.size for part in defects):
        return None
    pixels = np.concatenate(defects)
    weights = np.concatenate([weigh(mask) for _, mask in checked])
    order = np.argsort(pixels)
    pixels, weights = pixels[order], weights[order]
    above, tied, n = np.zeros(pixels.size), np.zeros(pixels.size), 0
    for block in _normal_blocks(checked):
        block.sort()
        right = np.searchsorted(block, pixels, side="right")
        tied += right - np.searchsorted(block, pixels, side="left")
        above += block.size - right
        n += block.size
    if n == 0:
        return None
    start = np.minimum(above / n, limit)
    stop = np.minimum((above + tied) / n, limit)
    reached = np.divide((stop - start) * n, tied, out=np.ones(pixels.size), where=tied > 0)
    area = reached * (stop - start) / 2 + (limit - stop)
    return float(np.average(area, weights=weights) / limit)


def _normal_blocks(checked: Sequence[tuple[npt.NDArray[Any], Bools]]) -> Iterator[npt.NDArray[Any]]:
    parts: list[npt.NDArray[Any]] = []
    size = 0
    for values, mask in checked:
        parts.append(values[~mask])
        size += parts[-1].size
        if size >= BLOCK:
            yield np.concatenate(parts)
            parts, size = [], 0
    if size:
        yield np.concatenate(parts)


def _zip(
    maps: Sequence[npt.ArrayLike], masks: Sequence[npt.ArrayLike]
) -> Iterator[tuple[npt.ArrayLike, npt.ArrayLike]]:
    if len(maps) != len(masks):
        raise DataError(f"{len(maps)} anomaly maps but {len(masks)} masks: give an empty mask to good photos")
    return zip(maps, masks, strict=True)


def _checked(i: int, anomaly_map: npt.ArrayLike, mask: npt.ArrayLike) -> tuple[npt.NDArray[Any], Bools]:
    values, defect = np.asarray(anomaly_map), np.asarray(mask, dtype=bool)
    if values.ndim != 2 or values.shape != defect.shape:
        raise DataError(f"map {i} is {values.shape}, its mask {defect.shape}: both must be the same (H, W)")
    if not np.isfinite(values).all():
        raise DataError(f"map {i} holds NaN or infinite values: score that photo again, or leave it out")
    return values, defect


def as_scores(scores: npt.ArrayLike) -> Floats:
    """(N,) finite float64, or DataError."""
    try:
        values = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("scores must be numbers, one per photo: leave out photos without a score") from None
    if values.ndim != 1:
        raise DataError(f"scores must be one number per photo, got an array of shape {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise DataError(
            f"{bad.size} of {values.size} scores are NaN or infinite, the first at position {bad[0]}: "
            "score those photos again, or leave them out"
        )
    return values


def as_labels(labels: npt.ArrayLike, n: int) -> Bools:
    """(n,) bool, or DataError."""
    given = np.asarray(labels)
    if given.shape != (n,):
        raise DataError(f"{n} photos need {n} labels, got an array of shape {given.shape}: give one each")
    if n and (given.dtype.kind not in "biuf" or not np.isin(given, (0, 1)).all()):
        raise DataError("labels must be 1 (anomalous) or 0 (normal), one per photo: leave out photos without")
    return given.astype(bool)


def as_labelled(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Bools]:
    """`as_scores` and `as_labels` in one."""
    values = as_scores(scores)
    return values, as_labels(labels, values.size)


def as_groups(groups: Sequence[str | None] | None, n: int) -> npt.NDArray[np.int64]:
    """(n,) codes from 0 on; a photo without a group is a group of its own."""
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise DataError(f"{n} photos but {len(groups)} groups: give one group per photo, or none at all")
    codes: dict[object, int] = {}
    keys = [("alone", i) if group in (None, "") else group for i, group in enumerate(groups)]
    return np.array([codes.setdefault(key, len(codes)) for key in keys], dtype=np.int64)


def _both(anomalous: Bools) -> bool:
    return bool(anomalous.any() and not anomalous.all())
