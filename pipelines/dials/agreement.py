"""What probes predict of each defect type under each setting of the dials, and how it ranks with AUROC."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from anomaly.config import RunConfig
from anomaly.metrics import image_auroc
from anomaly.probes import PROBES
from anomaly.study.cells import Dials
from anomaly.visibility.measure import FUSED
from pipelines.dials.margins import margins
from pipelines.dials.sets import SETS

EMBEDDING = "embedding"
SCORERS = (EMBEDDING, FUSED)
DRAWS = 1000

Result = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One defect type as one scorer of one model sees it, and what probes had said."""

    set: str
    type: str
    probe: str
    dials: str
    seed: int
    scorer: str
    auroc: float
    """Of the real defects against the normal test photos."""
    standing: float
    """Visibility of the probe that stands for the type, mean over magnitudes."""
    at_size: float
    """The same at the size of the type's defects, between magnitudes on a log scale."""
    mean: float
    """Mean visibility over all probes: 1 minus the suppression index."""
    twins: float
    """AUROC of drawn twins of the type's defects against untouched held-out photos."""


PREDICTIONS = {
    "standing": "its probe",
    "at_size": "at its size",
    "mean": "all probes",
    "twins": "drawn twins",
}
"""What is held against the AUROC of a type."""


def dials_of(result: Result) -> Dials:
    return Dials(**{dial: result[dial] for dial in Dials.__dataclass_fields__})


def points_of(name: str, result: Result) -> list[Point]:
    """All points of one cell. Types for which no probe stands, or whose probe does not show, are left out."""
    photos, sizes = result["more"]["photos"], result["more"]["sizes"]
    twins, untouched = result["more"]["twins"], result["more"]["untouched"]
    out = []
    for kind, probe in SETS[name].stands_for.items():
        shown = [photo for photo in photos if photo["type"] in (None, kind)]
        labels = [photo["type"] is not None for photo in shown]
        for scorer in SCORERS:
            auroc = image_auroc([photo[scorer] for photo in shown], labels)
            seen = result["visibility_by_scorer"][scorer].get(probe)
            predicted = _auroc(untouched, twins.get(kind, []), scorer)
            if auroc is None or seen is None or predicted is None:
                continue
            levels = result["magnitudes"][probe], result["auroc_by_scorer"][scorer][probe]
            sized = kind in sizes and PROBES.get(probe).unit == "px"
            out.append(
                Point(
                    name,
                    kind,
                    probe,
                    str(dials_of(result)),
                    result["seed"],
                    scorer,
                    auroc,
                    seen,
                    at_size(sizes[kind], *levels) if sized else seen,
                    1 - result["suppression_by_scorer"][scorer],
                    predicted,
                )
            )
    return out


def _auroc(untouched: list[Result], changed: list[Result], scorer: str) -> float | None:
    """AUROC of the scores of changed photos against those of untouched ones."""
    labels = np.repeat([False, True], [len(untouched), len(changed)])
    return image_auroc([row[scorer] for row in (*untouched, *changed)], labels)


def at_size(size: float, magnitudes: Sequence[float], aurocs: Sequence[float]) -> float:
    """max(0, 2 AUROC - 1) at `size`: between magnitudes on a log scale, beyond them as at the nearest."""
    return max(0.0, 2 * float(np.interp(np.log(size), np.log(magnitudes), aurocs)) - 1)


def summary(found: dict[str, list[Result]], config: RunConfig) -> dict[str, Any]:
    """Set -> results of its cells, to points, rank correlations, and margins over the dials of `config`."""
    points = [point for name, results in found.items() for one in results for point in points_of(name, one)]
    out: dict[str, Any] = {
        "cells": {name: len(results) for name, results in found.items()},
        "spearman": {
            scorer: {
                words: _correlations([p for p in points if p.scorer == scorer], key)
                for key, words in PREDICTIONS.items()
            }
            for scorer in SCORERS
        },
        "twins, mean error of AUROC": {
            scorer: _mean(abs(p.twins - p.auroc) for p in points if p.scorer == scorer) for scorer in SCORERS
        },
        "margins": {scorer: margins(found, scorer, dials_of, config) for scorer in SCORERS},
        "points": [asdict(point) for point in points],
    }
    return out


def _correlations(points: list[Point], key: str) -> dict[str, Any]:
    """Spearman's rank correlations of prediction `key` with the real AUROC, over all points and within."""
    kinds = _groups(points, lambda p: (p.set, p.type))
    models = _groups(points, lambda p: (p.set, p.dials, p.seed))
    by_model = [_mean_of(group, key) for group in models]
    within_sets = {name: _rank([m for m in by_model if m[0] == name]) for name, *_ in by_model}
    within_types = {" ".join((g[0].set, g[0].type)): _rank(_pairs(g, key)) for g in kinds}
    known = [value for value in within_types.values() if value is not None]
    between = [_mean_of(group, key) for group in kinds]
    return {
        "all points": _rank(_pairs(points, key)),
        "all points, 95 %": _interval(
            [_pairs(group, key) for group in kinds],
            lambda drawn: _rank([pair for group in drawn for pair in group]),
        ),
        "between types, mean over models": _rank(between),
        "between types, 95 %": _interval(between, _rank),
        "between models of a set, mean over its types": within_sets,
        "between models, for one type": within_types,
        "between models, for one type, mean": _mean(known),
        "between models, mean, 95 %": _interval(known, _mean),
    }


Pair = tuple[str, float, float]
"""(set, predicted, AUROC)"""


def _pairs(points: Iterable[Point], key: str) -> list[Pair]:
    return [(p.set, getattr(p, key), p.auroc) for p in points]


def _mean_of(points: list[Point], key: str) -> Pair:
    pairs = _pairs(points, key)
    return pairs[0][0], float(np.mean([p[1] for p in pairs])), float(np.mean([p[2] for p in pairs]))


def _groups(points: list[Point], of: Callable[[Point], Any]) -> list[list[Point]]:
    out: dict[Any, list[Point]] = {}
    for point in points:
        out.setdefault(of(point), []).append(point)
    return list(out.values())


def _rank(pairs: Sequence[Pair]) -> float | None:
    """Spearman's rank correlation; None for less than three pairs, or where one side never changes."""
    x: NDArray[np.float64] = np.array([pair[1:] for pair in pairs]).reshape(-1, 2)
    if len(x) < 3 or (np.ptp(x, axis=0) == 0).any():
        return None
    return float(np.corrcoef(rankdata(x, axis=0).T)[0, 1])


def _interval(
    of_types: Sequence[Any], value: Callable[[list[Any]], float | None]
) -> tuple[float, float] | None:
    """95 % of a bootstrap of `value` that draws whole defect types: models of one type, and scores on the
    same photos, are no independent points."""
    if len(of_types) < 3:
        return None
    rng = np.random.default_rng(0)
    draws = rng.integers(len(of_types), size=(DRAWS, len(of_types)))
    drawn = [value([of_types[i] for i in rows]) for rows in draws]
    known = [one for one in drawn if one is not None]
    if not known:
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
