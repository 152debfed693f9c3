"""Where the defect is on a labelled photo."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anomaly.data.images import one_line, read_image
from anomaly.errors import ImageError
from anomaly.records import Sample

Mask = NDArray[np.bool_]


def defect_mask(sample: Sample, size: tuple[int, int]) -> Mask | None:
    """Where the defect is, (H, W); nowhere on a normal photo; None where it is not known."""
    if sample.label == "normal":
        return np.zeros(size, dtype=bool)
    if sample.mask is None:
        return None
    mask = read_image(sample.mask).any(axis=2)
    if mask.shape != size:
        raise ImageError(
            f"the mask {one_line(sample.mask)} is {mask.shape[1]} x {mask.shape[0]} px, its photo "
            f"{size[1]} x {size[0]}: give a mask of the photo's size"
        )
    return mask
