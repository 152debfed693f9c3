"""What of a photo is judged and at which size, and the way back from a map of patches to its own pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.data.registration import Place, Registration

Size = tuple[int, int]

AREA = 512 * 512
"""Pixels of the working photo that `image_size: auto` aims at."""
LARGEST_FACTOR = 1.5
"""Small photos are enlarged by this at most, so that a small defect still covers a patch."""
SMALL = 128
"""Long side of the picture of what the model expected to see, px."""
SAME_SHAPE = 0.05
"""Photos whose aspect ratios differ by less than this share show one product at one framing."""
MULTIPLE = 32
"""Working sides are multiples of this, so that no patch is made of padding."""


@dataclass(frozen=True)
class View:
    """A photo as it is judged."""

    photo: NDArray[np.uint8]
    """The working photo (H, W, 3), sides multiples of 32."""
    place: Place | None
    """Where the product was found, if it was looked for."""


@dataclass(frozen=True)
class Geometry:
    """Aspect ratio is kept, up to rounding each side to a multiple of 32 px.

    Photos of one framing get one long side; where framings differ (crops of one camera), every photo is
    scaled by the same factor, so that texture keeps its scale. Photos of a product that is looked for are
    turned so that it lies upright, and cut to it.
    """

    image_size: int
    """Long side of the median training photo at the working size, in px."""
    factor: float | None = None
    """Working px per photo px where framings differ; None where every photo gets `image_size`."""
    registration: Registration | None = None
    """What finds the product, where photos are turned and cut to it; None: they are taken whole."""

    @classmethod
    def choose(
        cls,
        sizes: Sequence[Size],
        image_size: int | Literal["auto"],
        registration: Registration | None = None,
    ) -> Geometry:
        """The geometry for training photos of these (H, W), whole or cut to the product."""
        if registration is not None:
            sizes = [_cut(registration, size) for size in sizes]
        height, width = np.median(np.asarray(sizes), axis=0)
        long_side = max(height, width)
        scale = (
            min(LARGEST_FACTOR, float(np.sqrt(AREA / (height * width))))
            if image_size == "auto"
            else image_size / long_side
        )
        ratios = np.log([w / h for h, w in sizes])
        one_framing = float(np.ptp(np.percentile(ratios, [5, 95]))) < SAME_SHAPE
        return cls(_rounded(scale * long_side), None if one_framing else float(scale), registration)

    def working_size(self, size: Size) -> Size:
        """(H, W) of a photo -> (H, W) it is judged at."""
        if self.registration is not None:
            size = _cut(self.registration, size)
        scale = self.factor or self.image_size / max(size)
        return _rounded(scale * size[0]), _rounded(scale * size[1])

    def working(self, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The working photo (H, W, 3) of a photo (H, W, 3)."""
        return self.view(photo).photo

    def view(self, photo: NDArray[np.uint8]) -> View:
        """A photo (H, W, 3) as it is judged."""
        height, width = self.working_size(photo.shape[:2])
        if self.registration is not None:
            place = self.registration.place(photo, (height, width))
            return View(place.cut(photo, (height, width)), place)
        if (height, width) == photo.shape[:2]:
            return View(photo, None)
        shrinks = height * width < photo.shape[0] * photo.shape[1]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return View(np.asarray(cv2.resize(photo, (width, height), interpolation=method), np.uint8), None)

    def to_photo(
        self, patches: NDArray[np.float32], size: Size, place: Place | None = None
    ) -> NDArray[np.float32]:
        """A map of patches (h, w) -> the photo's own (H, W): what lights up lies where it lights up. Pixels
        that were cut off have the smallest value of the map."""
        if place is not None:
            return place.back(self.to_photo(patches, self.working_size(size)), size)
        return np.asarray(cv2.resize(patches, size[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _cut(registration: Registration, size: Size) -> Size:
    """(H, W) of what is cut out of a photo of `size`."""
    height, width = (max(1, round(share * max(size))) for share in registration.size)
    return height, width


def _rounded(side: float) -> int:
    return max(1, round(side / MULTIPLE)) * MULTIPLE


def small_picture(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 -> the same with a long side of SMALL."""
    scale = SMALL / max(photo.shape[:2])
    size = (max(1, round(scale * photo.shape[1])), max(1, round(scale * photo.shape[0])))
    return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)
