"""What the recommended dials are worth on real defects, against the fixed ones and against blind ones.

Cells of a set are compared on the same test photos. Photos are drawn again for the intervals, normal and
defective ones each among their own kind, whole places at a time where places are known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly.config import RunConfig
from anomaly.study.cells import Dials
from anomaly.study.choice import recommend, summarise

DRAWS = 2000
Floats = NDArray[np.float64]
Result = dict[str, Any]
AGAINST = ("default", "most visible", "least visible", "worst", "best")
"""The fixed dials; the cells of lowest and highest suppression index, named without a look at defects; the
cells of lowest and highest AUROC on the defects, which chance has helped to choose."""


def margins(
    found: dict[str, list[Result]], scorer: str, dials_of: Callable[[Result], Dials], config: RunConfig
) -> dict[str, Any]:
    """By set and on the mean over sets: AUROC at the recommended dials, and minus that of others, those of
    `config` among them.

    AUROC is the mean over defect types, and over seeds; `drawn` intervals are 95 %.
    """
    fixed = Dials.of(config)
    by_set: dict[str, Any] = {}
    drawn: dict[str, list[Floats]] = {name: [] for name in AGAINST}
    for number, (name, results) in enumerate(found.items()):
        by_dials: dict[Dials, list[Result]] = {}
        for one in results:
            by_dials.setdefault(dials_of(one), []).append(one)
        weights = _weights(results[0]["more"]["photos"], number)
        real = {
            dials: np.mean([_aurocs(one["more"]["photos"], scorer, weights) for one in cells], axis=0)
            for dials, cells in by_dials.items()
        }
        index = {
            dials: float(np.mean([one["suppression_by_scorer"][scorer] for one in cells]))
            for dials, cells in by_dials.items()
        }
        chosen = recommend(summarise(results), fixed, config.calibration.target_fpr).best.dials
        others = {
            "default": fixed if fixed in real else None,
            "most visible": min(index, key=lambda dials: (index[dials], dials)),
            "least visible": max(index, key=lambda dials: (index[dials], dials)),
            "worst": min(real, key=lambda dials: real[dials][0]),
            "best": max(real, key=lambda dials: real[dials][0]),
        }
        by_set[name] = {
            "recommended": str(chosen),
            "auroc": float(real[chosen][0]),
            "surface": {str(dials): float(values[0]) for dials, values in real.items()},
            "suppression_index": {str(dials): value for dials, value in index.items()},
            "against": {},
        }
        for what, dials in others.items():
            if dials is not None:
                difference = real[chosen] - real[dials]
                drawn[what].append(difference)
                by_set[name]["against"][what] = {"dials": str(dials), **_told(difference)}
    mean = {
        what: _told(np.mean(values, axis=0)) for what, values in drawn.items() if len(values) == len(found)
    }
    return {"by_set": by_set, "mean over sets": mean}


def _told(values: Floats) -> dict[str, Any]:
    """The first value is that of the photos as they are, the rest of those drawn again."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {"margin": float(values[0]), "interval": (float(low), float(high))}


def _weights(photos: list[dict[str, Any]], seed: int) -> Floats:
    """(1 + DRAWS, photos): how often each is drawn; first each once."""
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + DRAWS, len(photos)))
    kinds = [photo["type"] for photo in photos]
    for kind in dict.fromkeys(kinds):
        rows = [i for i, other in enumerate(kinds) if other == kind]
        names, place = np.unique([photos[i]["place"] for i in rows], return_inverse=True)
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
        weights[1:, rows] = times[:, place]
    return weights


def _aurocs(photos: list[dict[str, Any]], scorer: str, weights: Floats) -> Floats:
    """(1 + DRAWS,): AUROC under each row of `weights`, mean over defect types."""
    scores = np.array([photo[scorer] for photo in photos])
    kinds = np.array([photo["type"] or "" for photo in photos])
    good = kinds == ""
    out = []
    for kind in np.unique(kinds[~good]):
        bad = kinds == kind
        above = (scores[bad] > scores[good][:, None]) + 0.5 * (scores[bad] == scores[good][:, None])
        pairs = ((weights[:, good] @ above) * weights[:, bad]).sum(1)
        out.append(pairs / (weights[:, good].sum(1) * weights[:, bad].sum(1)))
    return np.asarray(np.mean(out, axis=0), np.float64)
