"""How far a patch lies from the rest of its own photo: what repeats itself there is no defect.

A good part that shows something no training photo showed (another place, another light) lies far from the
memory bank all over, and near itself; a defect lies far from both. So the distance to the own photo limits
what the distance to the bank may count for, see `anomaly.maps.limited`. Patches of unlabelled photos as each
other's reference: Li et al., MuSc, ICLR 2024.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]

SHARE = 0.03
"""Which of the other patches is asked: of all that are compared, the one nearer than all but this share. So a
defect that covers less of the photo does not excuse itself."""
EVERY = 2
"""One in so many columns of the photo is compared with: half the work, and hardly another distance."""
SIDE = 64
"""Rows, and columns before EVERY, that are compared with at most; of a larger photo's one in so many are,
lest the work grow with the square of its area."""
QUERIES = 1024
"""Patches that one matrix product compares."""


def own_distances(values: Floats) -> Floats:
    """(D, h, w) patches of a photo, w 2 or more, -> (h, w) distances to the rest of the photo."""
    queries = values.reshape(len(values), -1).T
    rows, columns = (-(-side // SIDE) for side in values.shape[1:])
    grid = values[:, ::rows, :: EVERY * columns]
    others = np.ascontiguousarray(grid.reshape(len(values), -1).T)
    offsets = np.square(others).sum(1) / 2
    place = len(others) - 1 - _rank(len(others))
    found = []
    for start in range(0, len(queries), QUERIES):
        some = queries[start : start + QUERIES]
        asked = np.argpartition(some @ others.T - offsets, place, axis=1)[:, place]
        found.append(np.linalg.norm(some - others[asked], axis=1))
    return np.concatenate(found).reshape(values.shape[1:]).astype(np.float32)


def own_distances_of(values: Tensor) -> Tensor:
    """The same for (B, D, h, w) in torch, (B, 1, h, w), fit to be traced, with h and w up to SIDE."""
    import torch

    batch, _, height, width = values.shape
    queries = values.flatten(2).transpose(1, 2)
    others = values[:, :, :, ::EVERY].flatten(2).transpose(1, 2)
    closeness = queries @ others.transpose(1, 2) - others.square().sum(2)[:, None] / 2
    count = torch._shape_as_tensor(others)[1]
    largest = (SHARE * count.double()).round().clamp(min=1).long() + 1
    asked = torch.topk(closeness, largest, dim=2).indices[:, :, -1]  # type: ignore[arg-type]
    near = torch.gather(others, 1, asked[:, :, None].expand(-1, -1, others.shape[2]))
    return (queries - near).square().sum(2).sqrt().reshape(batch, 1, height, width)


def _rank(count: int) -> int:
    """How many of `count` patches are nearer than the one that is asked; one may be the patch itself."""
    return max(1, round(SHARE * count))
