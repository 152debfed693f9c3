"""Arithmetic of anomaly maps: standardise, limit, reduce to one score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
By = Literal["position", "radius", "whole"]
"""What maps are standardised by, see `MapStatistics`."""

LIMIT = ".limit"
"""Behind a branch's name: the map that limits it."""
LIMIT_MARGIN = 2.0
"""How far a branch may exceed its limit, both in units of the spread of good patches."""
REPEATS = -1.0
"""Limits below this are those of patches that repeat themselves more than good ones do, such as blank ones:
that excuses nothing, and the limit is lifted, by LIFT units for each unit below."""
LIFT = 10.0
FLOOR = 0.3
"""Smallest spread at a position, as a share of the spread of all positions together."""


def resize(values: Map, size: tuple[int, int]) -> Map:
    """(h, w) -> `size` (H, W), bilinear, cell centres on cell centres."""
    if values.shape == size:
        return values
    return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def limited(standard: Mapping[str, Map]) -> dict[str, Map]:
    """The standardised maps of the branches, none above its limit by more than LIMIT_MARGIN.

    A branch's limit is the map of its name and LIMIT, standardised likewise; limits are no branches, and
    left out of what is returned. What repeats itself more than good patches is hardly limited, see REPEATS.
    """
    branches = {name: values for name, values in standard.items() if not name.endswith(LIMIT)}
    for name in branches:
        if (limit := standard.get(name + LIMIT)) is not None:
            branches[name] = np.minimum(branches[name], np.maximum(*bounds(limit)))
    return branches


def bounds(limit: Any) -> tuple[Any, Any]:
    """What a branch may reach by its limit, and where that is lifted: the larger of both holds. The same in
    numpy and torch."""
    return limit + LIMIT_MARGIN, LIFT * (REPEATS - limit) + (REPEATS + LIMIT_MARGIN)


def top_mean(values: Map, share: float) -> float:
    """Mean of the largest `share` of all values, at least one of them."""
    flat = values.ravel()
    count = max(1, round(share * flat.size))
    return float(np.partition(flat, flat.size - count)[flat.size - count :].mean(dtype=np.float64))


@dataclass(frozen=True)
class MapStatistics:
    """Mean and spread of a branch's maps on held-out normal photos.

    By position, each has its own mean and spread. By radius, for products at any angle, spreads are those of
    all patches that lie as far from the middle of the photo, and the mean is that of all patches. As a whole,
    both are of all patches.

    Standardised values are deviations in units of the spread of all the branch's patches together, positions
    that vary a lot counting less than those that hardly do: so branches can be compared with each other.
    `mean` and `spread` are (h, w), or (1, 1) of all patches; a map of another size is met by statistics
    resized to it.
    """

    mean: Map
    spread: Map

    @classmethod
    def of(cls, maps: Sequence[Map], by: By) -> MapStatistics:
        """Statistics of `maps`, all brought to their median size; at least one map."""
        return _Moments.of(maps, by).statistics()

    def standardise(self, values: Map) -> Map:
        """(values - mean) / spread."""
        mean, spread = (
            part if part.shape == (1, 1) else resize(part, values.shape) for part in (self.mean, self.spread)
        )
        standard: Map = (values - mean) / spread
        return standard


def standardise_held_out(maps: Sequence[Map], by: By) -> list[Map]:
    """Each map standardised by the statistics of all the others, as a new photo's map will be.

    With statistics that had seen the map itself its scores would be too small, and so the threshold.
    """
    if len(maps) < 2:
        return [MapStatistics.of(maps, by).standardise(values) for values in maps]
    moments = _Moments.of(maps, by)
    return [moments.without(values).statistics().standardise(values) for values in maps]


@dataclass(frozen=True)
class _Moments:
    """Sums over maps from which one map can be taken away again. `first`, `second` are (h, w) float64."""

    count: int
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    by: By

    @classmethod
    def of(cls, maps: Sequence[Map], by: By) -> _Moments:
        height, width = np.median([values.shape for values in maps], axis=0).astype(int)
        first = np.zeros((height, width))
        second = np.zeros((height, width))
        for values in maps:
            same = resize(values, (height, width)).astype(np.float64)
            first += same
            second += same**2
        return cls(len(maps), first, second, by)

    def without(self, values: Map) -> _Moments:
        same = resize(values, self.first.shape).astype(np.float64)
        return _Moments(self.count - 1, self.first - same, self.second - same**2, self.by)

    def statistics(self) -> MapStatistics:
        mean = self.first / self.count
        overall = mean.mean()
        square = self.second / self.count
        total = max(float(np.sqrt(max(square.mean() - overall**2, 0.0))), 1e-12)
        one_mean = np.full((1, 1), overall, np.float32)
        if self.by == "whole":
            return MapStatistics(one_mean, np.full((1, 1), total, np.float32))
        if self.by == "position":
            variance = _smooth(np.maximum(square - mean**2, 0))
        else:
            variance = _by_radius(square) - _by_radius(mean) ** 2
        # Running sums round to below 0 where all is even.
        spread = np.sqrt(np.maximum(variance, 0)) + FLOOR * total
        spread *= total * (1 / spread).mean()
        means = _smooth(mean).astype(np.float32) if self.by == "position" else one_mean
        return MapStatistics(means, spread.astype(np.float32))


def _by_radius(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of all (h, w) positions that lie as far from the middle, give or take a patch or two."""
    height, width = values.shape
    rows, columns = np.ogrid[:height, :width]
    radius = np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2)
    ring = radius.astype(int)
    farther = radius - ring
    rings = int(ring.max()) + 3

    def sums(weighted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Over each ring and half of its neighbours; a position counts for the two that it lies between."""
        found = np.bincount(ring.ravel(), ((1 - farther) * weighted).ravel(), rings)
        found += np.bincount(ring.ravel() + 1, (farther * weighted).ravel(), rings)
        return np.convolve(found, (0.5, 1, 0.5), "same")

    means = sums(values) / np.maximum(sums(np.ones_like(values)), 1e-12)
    return np.asarray((1 - farther) * means[ring] + farther * means[ring + 1])


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over 5 x 5 positions, so that a handful of photos gives steady statistics."""
    return np.asarray(cv2.blur(values, (5, 5), borderType=cv2.BORDER_REFLECT))
