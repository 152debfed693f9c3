"""From the results of cells to the dials: surfaces over seeds, and a recommendation with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from anomaly.quality.intervals import clopper_pearson
from anomaly.study.cells import Dials

Result = dict[str, Any]


@dataclass(frozen=True)
class Summary:
    """One setting of the dials, over its seeds."""

    dials: Dials
    by_seed: dict[int, float]
    """Seed -> suppression index."""
    without_each: tuple[float, ...]
    """The index with each probed photo left out, mean over seeds; empty where that is unknown."""
    index: float
    error: float
    """Standard error of `index`, over seeds and photos."""
    overkill: float
    """Share of held-out normal photos above the threshold, mean over seeds."""
    overkill_interval: tuple[float, float]
    steadiness: float
    """AUROC of held-out against calibration photos, mean over seeds: .5 where they score alike."""


@dataclass(frozen=True)
class Choice:
    """The recommended dials."""

    best: Summary
    fixed: Summary | None
    """The dials as they are configured, where they are in the grid."""
    reason: str


def summarise(results: Sequence[Result]) -> list[Summary]:
    """One summary for each setting among `results`, sorted."""
    by_dials: dict[Dials, list[Result]] = {}
    for found in results:
        dials = Dials(**{dial: found[dial] for dial in Dials.__dataclass_fields__})
        by_dials.setdefault(dials, []).append(found)
    return [_summary(dials, by_dials[dials]) for dials in sorted(by_dials)]


def recommend(summaries: Sequence[Summary], fixed: Dials, target_fpr: float) -> Choice:
    """The setting of least suppression among those whose overkill is not shown to exceed `target_fpr`.

    The configured dials stay where the best other setting is not shown to suppress less: where Student's
    lower bound of the difference (95 %, one-sided; the same seeds and photos in both) is not above 0.
    """
    steady = [one for one in summaries if one.overkill_interval[0] <= target_fpr]
    least = min(one.overkill for one in summaries)
    among = steady or [one for one in summaries if one.overkill == least]
    best = min(among, key=lambda one: (round(one.index, 9), one.dials != fixed, one.dials))
    level = sum(round(one.index, 9) == round(best.index, 9) for one in among) - 1
    now = next((one for one in summaries if one.dials == fixed), None)
    left_out = len(summaries) - len(among) - (now is not None and now not in among)
    reason = ""
    if now is not None and best.dials != now.dials:
        gain, error, bound = _difference(now, best)
        if now not in among:
            reason = (
                f"the configured dials ({fixed}) exceed the overkill that was asked for on held-out photos; "
                f"of the others it has the lowest suppression index, {best.index:.3f}"
            )
        elif bound <= 0:
            reason = (
                f"no setting is shown to be better than the configured one: the nearest, {best.dials}, has a "
                f"suppression index lower by {gain:.3f}, with a standard error of {error:.3f}; the lower "
                f"bound of that at 95 % confidence is {bound:.3f}, not above 0"
            )
            best = now
        else:
            reason = (
                f"its suppression index is {best.index:.3f}, against {now.index:.3f} of the configured dials "
                f"({fixed}); the standard error of the difference is {error:.3f}, and with 95 % confidence "
                f"it is at least {bound:.3f}"
            )
    else:
        who = "it has" if now is None else "the configured dials have"
        reason = f"{who} the lowest suppression index of the grid, {best.index:.3f}"
        if level:
            reason += f"; {level} other{'s are' if level > 1 else ' is'} level with it"
    seeds = len(best.by_seed)
    first = sum(
        all(best.by_seed[seed] <= one.by_seed.get(seed, np.inf) for one in among) for seed in best.by_seed
    )
    low, high = best.overkill_interval
    reason += (
        f". Among {seeds} seed{'s' if seeds > 1 else ''} it comes first in {first}. Overkill on held-out "
        f"normal photos is {best.overkill:.1%} ({low:.1%} to {high:.1%}), where {target_fpr:.1%} was asked "
        f"for"
    )
    if left_out and steady:
        reason += f"; {left_out} other setting{'s' if left_out > 1 else ''} exceeded that and were left out"
    elif not steady:
        reason += "; every setting exceeds that, so the one of least overkill was taken"
    return Choice(best, now, reason + ".")


def _summary(dials: Dials, results: Sequence[Result]) -> Summary:
    values = {int(found["seed"]): float(found["suppression_index"]) for found in results}
    photos = int(results[0]["held_out"])
    overkill = float(np.mean([found["overkill"] for found in results]))
    low, high = np.mean([found["suppression_interval"] for found in results], axis=0)
    probed = len(results[0].get("suppression_without_each") or (0, 0))
    over_photos = float(high - low) / (2 * float(stats.t.ppf(0.975, probed - 1)))  # Student's interval
    error = float(np.hypot(_seed_error(list(values.values())), over_photos))
    each = [found.get("suppression_without_each") or () for found in results]
    known = all(each) and len({len(one) for one in each}) == 1
    return Summary(
        dials,
        values,
        tuple(np.mean(each, axis=0).tolist()) if known else (),
        float(np.mean(list(values.values()))),
        error,
        overkill / photos,
        clopper_pearson(round(overkill), photos),
        float(np.mean([found["held_out_auroc"] for found in results])),
    )


def _difference(now: Summary, best: Summary) -> tuple[float, float, float]:
    """By how much `best` suppresses less, the standard error of that, and its lower bound at 95 %."""
    both = sorted(set(now.by_seed) & set(best.by_seed))
    gains = [now.by_seed[seed] - best.by_seed[seed] for seed in both]
    gain = float(np.mean(gains)) if gains else now.index - best.index
    photos = len(now.without_each)
    if photos > 1 and photos == len(best.without_each):
        apart = np.subtract(now.without_each, best.without_each)
        over_photos, freedom = float(np.sqrt((photos - 1) * np.var(apart))), photos - 1  # the jackknife's
    elif len(gains) > 1:
        over_photos, freedom = 0.0, len(gains) - 1
    else:
        over_photos, freedom = best.error, 1
    error = float(np.hypot(_seed_error(gains), over_photos))
    return gain, error, gain - float(stats.t.ppf(0.95, freedom)) * error


def _seed_error(values: Sequence[float]) -> float:
    """Standard error of the mean of `values`, one for each seed; 0 where there is one."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
