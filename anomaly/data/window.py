"""The part of the photo that shows the product, for products that always lie alike on a plain tray.

What is judged then has more pixels for the product and none for an empty tray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.data.foreground import from_tray, not_tray, on_tray, usual_tray
from anomaly.data.registration import FEWEST, MARGIN, ON_TRAY, Photo, Place, Size, shrunk

SHOWN = 0.02
"""The product reaches wherever more than this share of the good photos shows it, two of them at least."""
LARGEST = 0.7
"""Share of the photo that a window takes at most: else hardly anything is cut off."""
FLAT = 8.0
"""Grey levels by which the mean good photo may vary beyond the window within a few pixels: more is no tray,
but something that belongs to the product."""
NEAR = 9
"""Those few pixels, of a small photo."""


@dataclass(frozen=True)
class Window:
    """A rectangle, as shares of height and width of any photo."""

    top: float
    left: float
    bottom: float
    right: float
    tray: float
    """How far from the colour of the tray the rest of a good photo is, at most, in units of CIE Lab."""

    @classmethod
    def learn(cls, photos: Sequence[Photo]) -> Window | None:
        """From small good photos (`shrunk`) of one shape; None where the product lies on no plain tray, takes
        most of the photo, or something else is always seen beside it."""
        seen = [on_tray(photo) for photo in photos]
        on_a_tray = [(mask, distance) for mask, distance in seen if not mask.all()]
        if len(on_a_tray) < max(FEWEST, ON_TRAY * len(photos)) or len({mask.shape for mask, _ in seen}) > 1:
            return None
        height, width = on_a_tray[0][0].shape
        shown = np.mean([mask for mask, _ in on_a_tray], axis=0) > max(SHOWN, 1.5 / len(on_a_tray))
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        more = round(MARGIN * max(np.ptp(rows), np.ptp(columns)))
        top, left = max(0, rows[0] - more), max(0, columns[0] - more)
        bottom, right = min(height, rows[-1] + 1 + more), min(width, columns[-1] + 1 + more)
        if (bottom - top) * (right - left) > LARGEST * height * width:
            return None
        rest = np.ones((height, width), bool)
        rest[top:bottom, left:right] = False
        if _steepest(np.mean(photos, axis=0), rest) > FLAT:
            return None
        tray = usual_tray([float(distance[rest].max()) for _, distance in on_a_tray])
        if tray is None:
            return None
        tall, wide = float(height), float(width)
        return cls(float(top) / tall, float(left) / wide, float(bottom) / tall, float(right) / wide, tray)

    def cut_size(self, size: Size) -> Size:
        """(H, W) of what is cut out of a photo of `size`."""
        rows, columns = self.slices(size)
        return rows.stop - rows.start, columns.stop - columns.start

    def slices(self, size: Size) -> tuple[slice, slice]:
        """Rows and columns of a photo of `size` (H, W) that are judged; at least one of each."""
        height, width = size
        top, left = min(height - 1, round(self.top * height)), min(width - 1, round(self.left * width))
        return (
            slice(top, max(top + 1, round(self.bottom * height))),
            slice(left, max(left + 1, round(self.right * width))),
        )

    def place(self, photo: Photo, size: Size) -> Place:
        """Where what is cut out lies on a photo (H, W, 3), for a working photo of `size` (H, W)."""
        rows, columns = self.slices(photo.shape[:2])
        down = (rows.stop - rows.start) / size[0]
        right = (columns.stop - columns.start) / size[1]
        shift = (columns.start + (right - 1) / 2, rows.start + (down - 1) / 2)
        matrix = np.array([[right, 0, shift[0]], [0, down, shift[1]]])
        rest = from_tray(shrunk(photo))
        rest[self.slices(rest.shape)] = 0
        return Place(matrix, True, not_tray(rest, self.tray))


def _steepest(mean: NDArray[np.float64], rest: NDArray[np.bool_]) -> float:
    """The most that the mean photo (h, w, 3) varies within NEAR pixels, all of them in `rest`."""
    grey = cv2.GaussianBlur(mean.mean(2).astype(np.float32), (0, 0), 1)
    near = np.ones((NEAR, NEAR), np.uint8)
    inner = cv2.erode(rest.astype(np.uint8), near, borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0
    varies = cv2.dilate(grey, near) - cv2.erode(grey, near)
    return float(varies[inner].max(initial=0))
