"""How far normal patches of such surroundings lie from other photos' patches: a linear model of its log.

Some surfaces repeat themselves closely and others never do: the same distance is odd on the one and ordinary
on the other. Surroundings are asked, not the patch alone, lest a defect excuse itself by its own look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.neighbours import MemoryBank

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]

QUERIES, ANSWERS = 4_000, 20_000
"""Patches of either half of the photos whose distances the model is fitted on, and those of the other half
that they are distances to, at most."""
AROUND = 9
"""Side of the surroundings, in patches."""
RIDGE = 0.01
"""Penalty of the regression, as a share of the mean variance of the patches."""


@dataclass(frozen=True)
class ExpectedDistance:
    """The expected log distance of a patch (D,), relative to the mean over normal patches."""

    weights: Floats
    """(D,)"""
    offset: float
    low: float
    high: float
    """The range over normal patches; expectations outside it are clamped."""

    @classmethod
    def of(cls, photos: list[Floats], seed: int) -> ExpectedDistance:
        """From the patches of two or more normal photos, (n, D) each: distances of those of the first half of
        the photos to those of the second half, and the other way round; of one photo nothing is learnt."""
        from sklearn.linear_model import Ridge
        from threadpoolctl import threadpool_limits

        if len(photos) < 2:
            return cls(np.zeros(photos[0].shape[1], np.float32), 0.0, 0.0, 0.0)
        with threadpool_limits(1, user_api="blas"):  # sums in one order, whatever ran before
            rng = np.random.default_rng(seed)
            middle = len(photos) // 2
            halves = [np.concatenate(part) for part in (photos[:middle], photos[middle:])]
            patches, distances = [], []
            for asking, answering in (halves, halves[::-1]):
                bank = MemoryBank.build(rng.permutation(answering)[:ANSWERS])
                patches.append(rng.permutation(asking)[:QUERIES])
                distances.append(bank.distance(patches[-1]))
            x, distance = np.concatenate(patches).astype(np.float64), np.concatenate(distances)
            y = np.log(np.maximum(distance, 1e-3 * distance.mean() + 1e-12)).astype(np.float64)
            model = Ridge(RIDGE * len(x) * (x.var(0).mean() + 1e-12)).fit(x, y - y.mean())
            found, weights = model.predict(x), np.asarray(model.coef_, dtype=np.float32)
        return cls(weights, float(model.intercept_), float(found.min()), float(found.max()))

    def around(self, embedding: Floats) -> Floats:
        """(D, h, w) -> the expected log distance (h, w), its mean around each patch."""
        expected = np.tensordot(self.weights, embedding, 1) + np.float32(self.offset)
        expected = np.clip(expected, self.low, self.high).astype(np.float32)
        sums, counts = (
            cv2.boxFilter(values, -1, (AROUND, AROUND), normalize=False, borderType=cv2.BORDER_CONSTANT)
            for values in (expected, np.ones_like(expected))
        )
        return np.asarray(sums / counts, np.float32)

    def of_surroundings(self, embedding: Tensor) -> Tensor:
        """The same for (B, D, h, w) in torch, (B, 1, h, w)."""
        import torch
        import torch.nn.functional as F

        weights = torch.from_numpy(self.weights)[None, :, None, None]
        expected = (F.conv2d(embedding, weights) + self.offset).clamp(self.low, self.high)
        return F.avg_pool2d(expected, AROUND, 1, AROUND // 2, count_include_pad=False)
