"""Training photos that lie farther from the others than good ones do: a defect there is learnt as good."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from anomaly import distributed
from anomaly.maps import top_mean
from anomaly.neighbours import Floats, MemoryBank
from anomaly.quality.outliers import standing_out

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
            patches = _patches(maps[int(photo)])
            drawn.append(patches[rng.permutation(len(patches))[:share]])
        scores[asking] = _scores(np.concatenate(drawn), maps, asking.tolist(), top_share)
    return standing_out(scores)


def _scores(answers: Floats, maps: Sequence[Tensor], asking: list[int], top_share: float) -> list[float]:
    """How far those of `maps` at `asking` lie from the patches `answers` (N, D)."""
    bank = distributed.from_first(lambda: MemoryBank.build(answers))

    def far(photo: int) -> float:
        return top_mean(bank.distance(_patches(maps[photo])), top_share)

    return distributed.each(far, asking)


def _patches(values: Tensor) -> Floats:
    """(D, h, w) -> (h * w, D)."""
    patches: Floats = values.flatten(1).T.float().numpy()
    return patches
