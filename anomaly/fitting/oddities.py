"""Training photos that lie farther from the others than good ones do: a defect there is learnt as good."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from anomaly import distributed
from anomaly.data.images import one_line
from anomaly.maps import top_mean
from anomaly.neighbours import Floats, MemoryBank
from anomaly.quality.outliers import standing_out
from anomaly.records import Sample
from anomaly.scorers.embedding import patches_of

ANSWERS = 20_000
"""Patches of either half of the photos that those of the other half are held against, at most."""


def odd_photos(maps: Sequence[Tensor], top_share: float, seed: int) -> list[int]:
    """Indices of the photos whose embeddings (D, h, w), `maps`, stand out, the oddest first.

    Each half of the photos is held against a memory bank of the other; a photo counts by the mean of the
    `top_share` of its distances.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(maps))
    halves = [order[: len(order) // 2], order[len(order) // 2 :]]
    scores = np.zeros(len(maps))
    for asking, answering in (halves, halves[::-1]):
        if not len(answering):
            return []
        share = -(-ANSWERS // len(answering))
        drawn = []
        for photo in answering:
            patches = patches_of(maps[int(photo)])
            drawn.append(patches[rng.permutation(len(patches))[:share]])
        scores[asking] = _scores(np.concatenate(drawn), maps, asking.tolist(), top_share)
    return standing_out(scores)


def _scores(answers: Floats, maps: Sequence[Tensor], asking: list[int], top_share: float) -> list[float]:
    """How far those of `maps` at `asking` lie from the patches `answers` (N, D)."""
    bank = distributed.from_first(lambda: MemoryBank.build(answers))

    def far(photo: int) -> float:
        return top_mean(bank.distance(patches_of(maps[photo])), top_share)

    return distributed.each(far, asking)


def to_look_at(
    odd: Sequence[Sample], calibration: Sequence[Sample], scores: Sequence[float]
) -> Iterator[str]:
    """What is to be said of training photos that stand out, `odd`, and of calibration photos by `scores`."""
    again = "take such photos out and fit again"
    if odd:
        yield (
            f"look at {_named(odd)}: of the training photos, and farther from the others than good "
            f"ones lie from each other. A defect there would be learnt as good; {again}"
        )
    if found := standing_out(scores):
        named = _named([calibration[i] for i in found])
        rest = max(score for i, score in enumerate(scores) if i not in found)
        yield (
            f"look at {named}: of the calibration photos, and scored {scores[found[-1]]:.3g} or more, where "
            f"the others reach {rest:.3g}. A defect there makes the threshold too high; {again}"
        )


def _named(samples: Sequence[Sample]) -> str:
    """ "a.png and b.png" with their folders."""
    *rest, last = [one_line(sample.path) for sample in samples]
    return f"{', '.join(rest)} and {last}" if rest else last
