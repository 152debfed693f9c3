"""How large a score normal patches of such surroundings have: a linear model of its logarithm.

Some surfaces repeat themselves closely and others never do: the same score is odd on the one and ordinary on
the other. Surroundings are asked, not the patch alone, lest a defect excuse itself by its own look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
LARGEST_LOG = 80.0
"""The exponential of a larger number is none in float32."""


@dataclass(frozen=True)
class Expected:
    """The expected logarithm of a patch's score, from what the patch looks like (D,), relative to the mean
    over normal patches."""

    weights: Floats
    """(D,)"""
    offset: float
    low: float
    high: float
    """The range over normal patches; expectations outside it are clamped."""

    @classmethod
    def of(cls, patches: Floats, scores: Floats) -> Expected:
        """From normal patches (N, D) and their scores (N,), 0 or more; of no patches nothing is learnt."""
        from sklearn.linear_model import Ridge
        from threadpoolctl import threadpool_limits

        if not len(patches):
            return cls(np.zeros(patches.shape[1], np.float32), 0.0, 0.0, 0.0)
        with threadpool_limits(1, user_api="blas"):  # sums in one order, whatever ran before
            x = patches.astype(np.float64)
            y = np.log(np.maximum(scores, 1e-3 * scores.mean() + 1e-12)).astype(np.float64)
            model = Ridge(RIDGE * len(x) * (x.var(0).mean() + 1e-12)).fit(x, y - y.mean())
            found, weights = model.predict(x), np.asarray(model.coef_, dtype=np.float32)
        return cls(weights, float(model.intercept_), float(found.min()), float(found.max()))

    @classmethod
    def of_distances(cls, photos: list[Floats], seed: int) -> Expected:
        """From the patches of two or more normal photos, (n, D) each: distances of those of the first half of
        the photos to those of the second half, and the other way round; of one photo nothing is learnt."""
        from threadpoolctl import threadpool_limits

        if len(photos) < 2:
            return cls.of(photos[0][:0], np.empty(0, np.float32))
        with threadpool_limits(1, user_api="blas"):
            rng = np.random.default_rng(seed)
            middle = len(photos) // 2
            halves = [np.concatenate(part) for part in (photos[:middle], photos[middle:])]
            patches, distances = [], []
            for asking, answering in (halves, halves[::-1]):
                bank = MemoryBank.build(rng.permutation(answering)[:ANSWERS])
                patches.append(rng.permutation(asking)[:QUERIES])
                distances.append(bank.distance(patches[-1]))
        return cls.of(np.concatenate(patches), np.concatenate(distances))

    def around(self, values: Floats) -> Floats:
        """(D, h, w) -> the expected log score (h, w), its mean around each patch."""
        expected = np.tensordot(self.weights, values, 1) + np.float32(self.offset)
        expected = np.clip(expected, self.low, self.high).astype(np.float32)
        sums, counts = (
            cv2.boxFilter(part, -1, (AROUND, AROUND), normalize=False, borderType=cv2.BORDER_CONSTANT)
            for part in (expected, np.ones_like(expected))
        )
        return np.asarray(sums / counts, np.float32)

    def of_surroundings(self, values: Tensor) -> Tensor:
        """The same for (B, D, h, w) in torch, (B, 1, h, w)."""
        import torch
        import torch.nn.functional as F

        weights = torch.from_numpy(self.weights)[None, :, None, None]
        expected = (F.conv2d(values, weights) + self.offset).clamp(self.low, self.high)
        return F.avg_pool2d(expected, AROUND, 1, AROUND // 2, count_include_pad=False)

    def state(self) -> dict[str, Tensor]:
        """The model as tensors, under names that begin with "expected."."""
        import torch

        limits = torch.tensor([self.offset, self.low, self.high], dtype=torch.float64)
        return {"expected.weights": torch.from_numpy(self.weights), "expected.range": limits}

    @classmethod
    def restored(cls, state: Mapping[str, Any], width: int) -> Expected:
        """Undo `state`, of numpy's arrays, for patches of `width`. Raises ValueError where it is none."""
        weights, limits = state["expected.weights"], state["expected.range"]
        if weights.shape != (width,) or limits.shape != (3,):
            raise ValueError("the expected score does not fit the patches")
        if not (np.abs(limits) < LARGEST_LOG).all() or limits[1] > limits[2]:
            raise ValueError("the range of the expected score is no range")
        return cls(weights, *limits.tolist())
