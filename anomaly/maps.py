"""Arithmetic of anomaly maps: standardise, fuse, bring to the photo's size, reduce to one score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]

LIMIT = ".limit"
"""Behind a branch's name: the map that limits it."""
LIMIT_MARGIN = 2.0
"""How far a branch may exceed its limit, both in units of the spread of good patches."""
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
    left out of what is returned.
    """
    branches = {name: values for name, values in standard.items() if not name.endswith(LIMIT)}
    for name in branches:
        if (limit := standard.get(name + LIMIT)) is not None:
            branches[name] = np.minimum(branches[name], limit + np.float32(LIMIT_MARGIN))
    return branches


def top_mean(values: Map, share: float) -> float:
    """Mean of the largest `share` of all values, at least one of them."""
    flat = values.ravel()
    count = max(1, round(share * flat.size))
    return float(np.partition(flat, flat.size - count)[flat.size - count :].mean(dtype=np.float64))


@dataclass(frozen=True)
class MapStatistics:
    """Mean and spread of a branch's maps on held-out normal photos, at each position or as a whole.

    Standardised values are deviations in units of the spread of all the branch's patches together, positions
    that vary a lot counting less than those that hardly do: so branches can be compared with each other.
    `mean` and `spread` are (h, w), or (1, 1) where positions are not told apart; a map of another size is
    met by statistics resized to it.
    """

    mean: Map
    spread: Map

    @classmethod
    def of(cls, maps: Sequence[Map], by_position: bool) -> MapStatistics:
        """Statistics of `maps`, all brought to their median size; at least one map."""
        return _Moments.of(maps, by_position).statistics()

    def standardise(self, values: Map) -> Map:
        """(values - mean) / spread."""
        if self.mean.shape == (1, 1):
            mean, spread = self.mean, self.spread
        else:
            mean, spread = resize(self.mean, values.shape), resize(self.spread, values.shape)
        standard: Map = (values - mean) / spread
        return standard


def standardise_held_out(maps: Sequence[Map], by_position: bool) -> list[Map]:
    """Each map standardised by the statistics of all the others, as a new photo's map will be.

    With statistics that had seen the map itself its scores would be too small, and so the threshold.
    """
    if len(maps) < 2:
        return [MapStatistics.of(maps, by_position).standardise(values) for values in maps]
    moments = _Moments.of(maps, by_position)
    return [moments.without(values).statistics().standardise(values) for values in maps]


@dataclass(frozen=True)
class _Moments:
    """Sums over maps from which one map can be taken away again. `first`, `second` are (h, w) float64."""

    count: int
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    by_position: bool

    @classmethod
    def of(cls, maps: Sequence[Map], by_position: bool) -> _Moments:
        height, width = np.median([values.shape for values in maps], axis=0).astype(int)
        first = np.zeros((height, width))
        second = np.zeros((height, width))
        for values in maps:
            same = resize(values, (height, width)).astype(np.float64)
            first += same
            second += same**2
        return cls(len(maps), first, second, by_position)

    def without(self, values: Map) -> _Moments:
        same = resize(values, self.first.shape).astype(np.float64)
        return _Moments(self.count - 1, self.first - same, self.second - same**2, self.by_position)

    def statistics(self) -> MapStatistics:
        mean = self.first / self.count
        overall = mean.mean()
        variance = np.maximum(self.second / self.count - mean**2, 0)
        total = max(float(np.sqrt((self.second / self.count).mean() - overall**2)), 1e-12)
        if not self.by_position:
            return MapStatistics(np.full((1, 1), overall, np.float32), np.full((1, 1), total, np.float32))
        spread = np.sqrt(_smooth(variance)) + FLOOR * total
        spread *= total * (1 / spread).mean()
        return MapStatistics(_smooth(mean).astype(np.float32), spread.astype(np.float32))


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over 5 x 5 positions, so that a handful of photos gives steady statistics."""
    return np.asarray(cv2.blur(values, (5, 5), borderType=cv2.BORDER_REFLECT))
