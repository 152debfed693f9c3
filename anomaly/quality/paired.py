"""Two models on the same labelled photos: which one is better, and is it more than chance?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from anomaly.errors import ConfigError, DataError
from anomaly.metrics import (
    Bools,
    Floats,
    as_groups,
    as_labelled,
    as_labels,
    as_scores,
    auroc_interval,
    placements,
)
from anomaly.quality.intervals import clopper_pearson, exact_share


@dataclass(frozen=True, slots=True)
class AurocDifference:
    """AUROC of A minus that of B. Interval and p-value are None where the photos cannot tell."""

    auroc_a: float
    auroc_b: float
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    """Two-sided, of no difference."""
    confidence: float
    interval_a: tuple[float, float] | None = None
    interval_b: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class McNemar:
    """Photos that one model alone judged rightly, and the exact two-sided p-value of equal error rates."""

    only_a_right: int
    only_b_right: int
    p_value: float
    groups: int | None = None
    """Groups in which the models differ, where whole groups count; None where photos do."""


def delong_test(
    scores_a: npt.ArrayLike, scores_b: npt.ArrayLike, labels: npt.ArrayLike, confidence: float = 0.95
) -> AurocDifference:
    """DeLong, DeLong and Clarke-Pearson (1988) for correlated AUROCs; photos count as independent.

    Without any variance (both separate perfectly, or rank alike) there is no interval; the p-value is then
    1 if the AUROCs are equal, None if not.
    """
    exact_share("confidence", confidence)
    a, b, anomalous = _checked(scores_a, scores_b, labels)
    if min(anomalous.sum(), (~anomalous).sum()) < 2:
        raise DataError(
            f"DeLong's test needs 2 photos or more of each label, got {(~anomalous).sum()} normal and "
            f"{anomalous.sum()} anomalous: add photos"
        )
    of_a, of_b = placements(a, anomalous), placements(b, anomalous)
    auroc_a, auroc_b = float(of_a[0].mean()), float(of_b[0].mean())
    of_each = tuple(auroc_interval(scores, anomalous, confidence) for scores in (a, b))
    difference = auroc_a - auroc_b
    error = math.sqrt(sum((x - y).var(ddof=1) / x.size for x, y in zip(of_a, of_b, strict=True)))
    if error < 1e-12:
        return _without_variance(auroc_a, auroc_b, confidence, *of_each)
    half = float(special.ndtri((1 + confidence) / 2)) * error
    p_value = float(2 * special.ndtr(-abs(difference) / error))
    interval = (difference - half, difference + half)
    return AurocDifference(auroc_a, auroc_b, difference, interval, p_value, confidence, *of_each)


def bootstrap_difference(
    scores_a: npt.ArrayLike,
    scores_b: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: Sequence[str | None] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> AurocDifference:
    """Percentile bootstrap that draws whole groups (lots, parts), as photos of one group are alike.

    Normal, mixed and anomalous groups are drawn each among their own kind, so no draw lacks a label. The
    p-value is twice the smaller share of draws on either side of zero, at least 2 / (resamples + 1). Below
    some ten groups of each label both are too sure of themselves. Without variance: as in `delong_test`.
    """
    exact_share("confidence", confidence)
    if resamples < 100:
        raise ConfigError(f"resamples must be 100 or more, got {resamples}")
    a, b, anomalous = _checked(scores_a, scores_b, labels)
    group = as_groups(groups, anomalous.size)
    for label, photos in (("normal", ~anomalous), ("anomalous", anomalous)):
        if np.unique(group[photos]).size < 2:
            raise DataError(
                f"a bootstrap by group needs {label} photos from 2 groups or more: add photos of another lot "
                "or part, or leave out the groups if every photo shows another part"
            )
    ranks_a, ranks_b = (np.unique(scores, return_inverse=True)[1] for scores in (a, b))
    once = np.ones(anomalous.size)
    auroc_a, auroc_b = (_weighted_auroc(ranks, anomalous, once) for ranks in (ranks_a, ranks_b))
    difference = auroc_a - auroc_b
    rng = np.random.default_rng(seed)
    each = np.empty((resamples, 2))
    kinds = _kinds(group, anomalous)
    for i in range(resamples):
        picked = np.concatenate([rng.choice(members, members.size) for members in kinds])
        weights = np.bincount(picked, minlength=group.max() + 1)[group].astype(float)
        each[i] = [_weighted_auroc(ranks, anomalous, weights) for ranks in (ranks_a, ranks_b)]
    fewest = min(np.unique(group[anomalous]).size, np.unique(group[~anomalous]).size)
    of_each = tuple(_percentiles(values, confidence, fewest) for values in each.T)
    drawn = each[:, 0] - each[:, 1]
    if np.ptp(drawn) < 1e-12:
        return _without_variance(auroc_a, auroc_b, confidence, *of_each)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    side = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p_value = min(1.0, float(2 * (side + 1) / (resamples + 1)))
    interval = (float(low), float(high))
    return AurocDifference(auroc_a, auroc_b, difference, interval, p_value, confidence, *of_each)


def mcnemar_test(
    anomalous_a: npt.ArrayLike,
    anomalous_b: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: Sequence[str | None] | None = None,
) -> McNemar:
    """Exact test on the photos that one model judges rightly and the other wrongly (McNemar 1947).

    With `groups` whole groups count, as their photos are alike: were both models as good, each group's
    balance could as well have had the other sign, and the p-value is the share of all signs that leave a
    balance as large. Fewer than six groups that differ cannot show a difference at 5 %.

    Decisions and labels are 1 for anomalous. Give the photos of one label alone to compare escapes or
    overkills.
    """
    n = np.size(labels)
    truth = as_labels(labels, n)
    right_a, right_b = (as_labels(decisions, n) == truth for decisions in (anomalous_a, anomalous_b))
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    if groups is None:
        differ = only_a + only_b
        return McNemar(only_a, only_b, float(stats.binomtest(only_a, differ).pvalue) if differ else 1.0)
    balance = np.bincount(as_groups(groups, n), right_a.astype(float) - right_b).astype(int)
    balance = balance[balance != 0]
    return McNemar(only_a, only_b, _sign_flips(balance), int(balance.size))


def _sign_flips(balance: npt.NDArray[np.int_]) -> float:
    """Share of all choices of signs whose sum is at least as far from 0 as that of `balance`."""
    reach = int(np.abs(balance).sum())
    chances = np.zeros(2 * reach + 1)  # of the sums from -reach to reach
    chances[reach] = 1.0
    for size in np.abs(balance):
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    far = np.abs(np.arange(-reach, reach + 1)) >= abs(int(balance.sum()))
    return min(1.0, float(chances[far].sum()))


def _percentiles(drawn: Floats, confidence: float, groups: int) -> tuple[float, float]:
    """Percentile interval; where no draw differs, the exact one of so many independent groups."""
    if np.ptp(drawn) < 1e-12:
        value = float(drawn[0])
        low = clopper_pearson(math.floor(value * groups + 1e-9), groups, confidence)[0]
        return low, clopper_pearson(math.ceil(value * groups - 1e-9), groups, confidence)[1]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _without_variance(
    auroc_a: float,
    auroc_b: float,
    confidence: float,
    interval_a: tuple[float, float] | None,
    interval_b: tuple[float, float] | None,
) -> AurocDifference:
    p_value = 1.0 if abs(auroc_a - auroc_b) < 1e-12 else None
    difference = auroc_a - auroc_b
    return AurocDifference(auroc_a, auroc_b, difference, None, p_value, confidence, interval_a, interval_b)


def _checked(
    scores_a: npt.ArrayLike, scores_b: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[Floats, Floats, Bools]:
    a, anomalous = as_labelled(scores_a, labels)
    b = as_scores(scores_b)
    if a.size != b.size:
        raise DataError(f"model A scored {a.size} photos, model B {b.size}: compare them on the same photos")
    return a, b, anomalous


def _kinds(group: npt.NDArray[np.int64], anomalous: Bools) -> list[npt.NDArray[np.intp]]:
    """Groups with anomalous photos only, with both, with normal ones only."""
    n_anomalous, n = np.bincount(group, anomalous), np.bincount(group)
    kind = (n_anomalous < n).astype(int) + (n_anomalous == 0)
    return [np.flatnonzero(kind == k) for k in np.unique(kind)]


def _weighted_auroc(ranks: npt.NDArray[np.intp], anomalous: Bools, weights: Floats) -> float:
    """AUROC where each photo counts `weights` times; `ranks` are dense, from 0."""
    bad, good = np.bincount(ranks, weights * anomalous), np.bincount(ranks, weights * ~anomalous)
    below = np.cumsum(good) - good / 2
    return float(bad @ below / (bad.sum() * good.sum()))
