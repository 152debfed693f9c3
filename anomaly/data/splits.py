"""Which good photos are trained on and which are held out to calibrate the threshold."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from anomaly.data.images import duplicates
from anomaly.errors import ConfigError, DataError
from anomaly.records import Sample


def split_calibration(
    samples: Sequence[Sample], fraction: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """(train, calibration) from the normal training photos among `samples`; both non-empty, disjoint.

    Photos of one group, and photos of the same content, stay on one side; with two groups one of them is
    held out whole, and where all photos are of one group they are split as if there were none. Of all
    assignments a seeded one is taken whose share is closest to `fraction`. The order of `samples` and the
    folder they lie in do not matter. Raises DataError where two sides cannot be made.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the calibration fraction is {fraction}: set it between 0 and 1")
    good = [sample for sample in samples if sample.split == "train" and sample.label == "normal"]
    if len(good) < 2:
        raise DataError(f"a split needs at least 2 good training photos, got {len(good)}: add photos")
    root = os.path.commonpath([sample.path.absolute().parent for sample in good])
    good.sort(key=lambda sample: os.path.relpath(sample.path.absolute(), root))
    groups = [sample.group for sample in good]
    if len(set(groups)) == 1:
        groups = [None] * len(good)
    unit = _units(groups, duplicates([sample.path for sample in good]))
    sizes = np.bincount(unit)
    if len(sizes) < 2:
        raise DataError(
            f"all {len(good)} good training photos are the same photo, or their groups are tied together by "
            "photos that occur in several of them: add different photos or remove the duplicates"
        )
    held_out = np.isin(unit, _choose(sizes, round(fraction * len(good)), seed))
    train = [sample for sample, out in zip(good, held_out, strict=True) if not out]
    calibration = [sample for sample, out in zip(good, held_out, strict=True) if out]
    return train, calibration


def _units(groups: Sequence[str | None], same_content: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    """Number of the unit that each photo belongs to; units are what may not be torn apart."""
    first: dict[str, int] = {}
    ties = [(first.setdefault(group, i), i) for i, group in enumerate(groups) if group is not None]
    ties += [(indices[0], index) for indices in same_content for index in indices]
    n = len(groups)
    rows, cols = np.array(ties, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, cols)), shape=(n, n))
    unit: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return unit


def _choose(sizes: NDArray[np.intp], target: int, seed: int) -> list[int]:
    """Some but not all units, whose sizes sum as closely as can be to `target`: seeded subset sum."""
    end = int(min(sizes.sum(), target + sizes.max() + 1))
    added_last = np.full(end, -1)  # sum of sizes -> the unit that first reached it
    reached = np.zeros(end, dtype=bool)
    reached[0] = True
    for unit in np.random.default_rng(seed).permutation(len(sizes)):
        size = sizes[unit]
        new = ~reached[size:] & reached[: end - size]
        added_last[size:][new] = unit
        reached[size:] |= new
        if 0 < target < end and reached[target]:
            break
    sums = np.flatnonzero(reached)[1:]
    rest = int(sums[np.abs(sums - target).argmin()])
    chosen = []
    while rest:
        chosen.append(int(added_last[rest]))
        rest -= int(sizes[chosen[-1]])
    return chosen
