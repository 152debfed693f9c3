"""Agreement of repeated decisions: rates with exact intervals and AIAG limits, Cohen's and Fleiss' kappa.

A part is the unit of evidence: photos of one part are not independent, so every interval counts parts.
AIAG, Measurement Systems Analysis (attribute study).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special, stats

Level = Literal["acceptable", "marginal", "unacceptable"]
Verdict = Literal["good", "fair", "poor"]

LIMITS = {"effectiveness": (0.90, 0.80), "miss rate": (0.02, 0.05), "false-alarm rate": (0.05, 0.10)}
"""AIAG: acceptable up to the first limit, marginal up to the second (effectiveness: down to)."""
KAPPA_GOOD, KAPPA_POOR = 0.75, 0.40
SKEWED = 0.10
"""With one decision or reference rarer than this, chance agreement is so high that kappa is deflated."""


@dataclass(frozen=True)
class Part:
    """One part, photographed again and again; True is rejected."""

    name: str
    rejected: Sequence[bool]
    scores: Sequence[float] = ()
    """As many as decisions, or none."""
    defective: bool | None = None
    """The reference; None where unknown."""
    manual: tuple[int, int] | None = None
    """Rejections by people, and their looks."""
    threshold: float | None = None
    """Score above which its photos do not pass, where that is not the threshold of the study."""


@dataclass(frozen=True)
class Rate:
    """`count` of `total` opportunities on `parts` parts. The interval is Clopper and Pearson's for
    value * parts of `parts`: exact where the photos of a part are judged alike, else conservative."""

    count: int
    total: int
    parts: int
    value: float
    lower: float
    upper: float
    verdict: Level | None = None
    """By the AIAG limit, at `value`."""
    verdict_at_bound: Level | None = None
    """At the worse end of the interval: what the number of parts supports."""


@dataclass(frozen=True)
class Kappa:
    """Agreement beyond chance. No asymptotic interval exists where nothing disagrees or one part is left."""

    value: float
    lower: float | None
    upper: float | None
    agreement: float
    """Observed share of pairs that agree."""
    verdict: Verdict
    skewed: bool
    """One side is so rare that kappa is deflated: go by `agreement`."""


def share_of(events: Sequence[Sequence[bool]], alpha: float, name: str | None = None) -> Rate | None:
    """Share of events, listed by part."""
    if not events:
        return None
    count, total, parts = int(sum(map(sum, events))), sum(map(len, events)), len(events)
    value = count / total
    failures, rest = value * parts, (1 - value) * parts
    lower = float(special.betaincinv(failures, rest + 1, alpha / 2)) if count else 0.0
    upper = float(special.betainccinv(failures + 1, rest, alpha / 2)) if count < total else 1.0
    if name is None:
        return Rate(count, total, parts, value, lower, upper)
    worse = lower if name == "effectiveness" else upper
    return Rate(count, total, parts, value, lower, upper, _level(name, value), _level(name, worse))


def _level(name: str, value: float) -> Level:
    acceptable, marginal = LIMITS[name]
    if name == "effectiveness":
        return "acceptable" if value >= acceptable else "marginal" if value >= marginal else "unacceptable"
    return "acceptable" if value <= acceptable else "marginal" if value <= marginal else "unacceptable"


def cohen_kappa(parts: Sequence[Part], alpha: float) -> Kappa:
    """Large-sample error of Fleiss, Cohen & Everitt, Psychol. Bull. 72 (1969), its linear terms added up by
    part first, as photos of a part are not independent (Yang & Zhou, Stat. Med. 33 (2014))."""
    index = np.repeat(np.arange(len(parts)), [len(p.rejected) for p in parts])
    decision = np.concatenate([np.asarray(p.rejected, dtype=float) for p in parts])
    reference = np.array([float(bool(p.defective)) for p in parts])[index]
    rejected, defective = decision.mean(), reference.mean()
    agrees = decision == reference
    observed, chance = agrees.mean(), rejected * defective + (1 - rejected) * (1 - defective)
    value = (observed - chance) / (1 - chance)
    expected = np.where(reference == 1, rejected, 1 - rejected)
    expected = expected + np.where(decision == 1, defective, 1 - defective)
    linear = (agrees - observed - (1 - value) * (expected - 2 * chance)) / (1 - chance)
    error = np.sqrt(np.sum(np.bincount(index, weights=linear) ** 2)) / len(decision)
    rarest = min(rejected, 1 - rejected, defective, 1 - defective)
    quantile = float(special.ndtri(1 - alpha / 2))
    return _kappa(float(value), float(error), quantile, float(observed), float(rarest))


def fleiss_kappa(parts: Sequence[Part], alpha: float) -> Kappa | None:
    """Fleiss, Psychol. Bull. 76 (1971), for parts with two photos or more, each with equal weight; the error
    by Gwet, Br. J. Math. Stat. Psychol. 61 (2008), whose sample is the parts."""
    n = len(parts)
    photos = np.array([len(p.rejected) for p in parts], dtype=float)
    share = np.array([sum(p.rejected) for p in parts], dtype=float) / np.maximum(photos, 1)
    rejected = float(share.mean()) if n else 0.0
    if rejected in (0.0, 1.0):
        return None
    agreement = 1 - 2 * share * (1 - share) * photos / (photos - 1)
    chance = rejected**2 + (1 - rejected) ** 2
    value = (agreement.mean() - chance) / (1 - chance)
    expected = rejected * share + (1 - rejected) * (1 - share)
    linear = (agreement - chance - 2 * (1 - value) * (expected - chance)) / (1 - chance)
    error = np.sqrt(np.sum((linear - value) ** 2) / (n * (n - 1))) if n > 1 else 0.0
    quantile = float(stats.t.ppf(1 - alpha / 2, n - 1)) if n > 1 else 0.0
    return _kappa(float(value), float(error), quantile, float(agreement.mean()), min(rejected, 1 - rejected))


def _kappa(value: float, error: float, quantile: float, agreement: float, rarest: float) -> Kappa:
    verdict: Verdict = "good" if value > KAPPA_GOOD else "poor" if value < KAPPA_POOR else "fair"
    lower = upper = None
    if error > 1e-12:
        lower, upper = max(value - quantile * error, -1.0), min(value + quantile * error, 1.0)
    return Kappa(value, lower, upper, agreement, verdict, skewed=rarest < SKEWED)
