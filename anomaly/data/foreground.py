"""Where the product is on its photo: what differs from the colour of the photo's border."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

SIDE = 256
"""Long side in px at which the foreground is found."""
RING = 0.03
"""Width of the border, as a share of the long side."""
PLAIN = 0.2
"""Largest share of the border that may differ from its own colour, where it is to be a tray."""
LEAST, MOST = 0.02, 0.96
"""Share of the photo that a product on a tray takes."""
NEAREST = 0.7
"""Share of the border that tells the colour of the tray."""
USUAL = 0.8
"""Share of the good photos beside whose product certainly nothing lies."""
MOST_UNEVEN = 30.0
"""Units of CIE Lab by which a tray may differ from its own colour."""
FARTHER = 1.5
"""The rest of a photo is the tray where it is farther from its colour than on good photos by less than this
factor, or by less than what tells a product."""
STEP = 10.0
"""Least difference to the tray, in units of CIE Lab."""


def foreground(photo: NDArray[np.uint8]) -> Mask:
    """(H, W) mask of the product on a photo (H, W, 3): the whole photo where it lies on no plain tray."""
    return on_tray(photo)[0]


def on_tray(photo: NDArray[np.uint8]) -> tuple[Mask, NDArray[np.float32]]:
    """The same, and how far each pixel is from the colour of the tray, see `from_tray`."""
    height, width = photo.shape[:2]
    distance = from_tray(photo)
    ring = _ring(distance.shape)
    spread = 1.4826 * float(np.median(distance[ring]))
    differs = distance > max(STEP, 4 * spread, _otsu(distance) * 0.5)
    whole = np.ones((height, width), bool)
    if differs[ring].mean() > PLAIN:
        return whole, distance
    product = _filled(differs)
    if not LEAST < product.mean() < MOST:
        return whole, distance
    full = cv2.resize(product.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    return np.asarray(full), distance


def from_tray(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How far each pixel of a photo (H, W, 3), shrunk to SIDE where it is larger, is from the colour of its
    border, (h, w), in units of CIE Lab."""
    height, width = photo.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    lab = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), (0, 0), 1.5)
    return np.asarray(np.sqrt(np.square(lab - _tray(lab)).sum(2)), np.float32)


def _tray(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """The colour of the tray at each pixel (h, w, 3): a plane through the border, for lamps stand at one
    side, fitted again without what is farthest from it."""
    height, width = lab.shape[:2]
    down = np.broadcast_to(np.arange(height)[:, None] / max(height, width), (height, width))
    right = np.broadcast_to(np.arange(width) / max(height, width), (height, width))
    ring = _ring((height, width))
    where = np.stack([np.ones(int(ring.sum())), down[ring], right[ring]])
    colours = np.ascontiguousarray(lab[ring].T, np.float64)
    near = np.ones(where.shape[1], bool)
    for _ in range(3):
        some = where[:, near]
        found = np.linalg.lstsq(_products(some, some), _products(some, colours[:, near]), rcond=None)[0]
        off = np.square(colours - found.T @ where).sum(0)
        near = off <= np.quantile(off, NEAREST)
    plane = found[0] + down[:, :, None] * found[1] + right[:, :, None] * found[2]
    return np.asarray(plane, np.float32)


def _products(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(I, N), (J, N) -> (I, J) sums over N; not by BLAS, whose order changes with the number of threads."""
    return np.array([[np.einsum("n,n", one, other) for other in second] for one in first])


def usual_tray(beside: Sequence[float]) -> float | None:
    """The most that good photos usually show beside the product, from what each shows at most: outliers, on
    which something lies there, do not count. None where the tray is no plain one."""
    usual = float(np.quantile(beside, USUAL))
    kept = max(value for value in beside if value <= may_show(usual))
    return kept if kept <= MOST_UNEVEN else None


def may_show(tray: float) -> float:
    """What a photo may show beside the product, where good ones show `tray` at most."""
    return max(tray + STEP, FARTHER * tray)


def not_tray(rest: NDArray[np.float32], tray: float) -> Mask | None:
    """Where the `rest` of a photo, its distances (h, w) from the colour of the tray, shows something else,
    where good ones show `tray` at most; None: nowhere."""
    differs = rest > may_show(tray)
    return differs if differs.any() else None


def _ring(size: tuple[int, int]) -> Mask:
    """The border of a small photo of `size` (h, w)."""
    ring = np.ones(size, bool)
    wide = max(1, round(RING * max(size)))
    ring[wide:-wide, wide:-wide] = False
    return ring


def foregrounds(photos: Sequence[NDArray[np.uint8]]) -> list[Mask]:
    """`foreground` of each photo; the whole of all of them where most lie on no tray, or on a busy one."""
    found = [foreground(photo) for photo in photos]
    on_tray = sum(not mask.all() for mask in found)
    return found if 2 * on_tray > len(found) else [np.ones_like(mask) for mask in found]


def _otsu(distance: NDArray[np.float32]) -> float:
    top = max(float(distance.max()), 1e-6)
    level, _ = cv2.threshold(
        (distance / top * 255).astype(np.uint8), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU
    )
    return float(level) / 255 * top


def _filled(mask: Mask) -> Mask:
    """Gaps closed; pieces below 1 % of the photo are left out, holes below .2 % filled."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    clean = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disc)
    clean = cv2.morphologyEx(clean, cv2.MORPH_OPEN, disc)
    for side, small in ((1, 0.01), (0, 0.002)):
        pieces, label, facts, _ = cv2.connectedComponentsWithStats((clean == side).astype(np.uint8))
        for piece in range(1, pieces):
            if facts[piece, cv2.CC_STAT_AREA] < small * clean.size:
                clean[label == piece] = 1 - side
    return np.asarray(clean, dtype=bool)
