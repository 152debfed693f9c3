"""What of a photo is judged and at which size, and the way back from a map of patches to its own pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.data.images import with_long_side
from anomaly.data.registration import Place, Registration
from anomaly.data.window import Window

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
    """Where what is judged lies on the photo, if that was cut out."""

    @property
    def remark(self) -> str | None:
        """What is wrong with a photo that was cut; None where nothing is."""
        return None if self.place is None else self.place.remark


@dataclass(frozen=True)
class Geometry:
    """Aspect ratio is kept, up to rounding each side to a multiple of 32 px.

    Photos of one framing get one long side; where framings differ (crops of one camera), every photo is
    scaled by the same factor, so that texture keeps its scale. Photos of a product on a plain tray are cut to
    it, and turned upright where it lies at any angle.
    """

    image_size: int
    """Long side of the median training photo at the working size, in px."""
    factor: float | None = None
    """Working px per photo px where framings differ; None where every photo gets `image_size`."""
    cut: Registration | Window | None = None
    """What is cut out of photos; None: they are taken whole."""

    @classmethod
    def choose(
        cls,
        sizes: Sequence[Size],
        image_size: int | Literal["auto"],
        cut: Registration | Window | None = None,
    ) -> Geometry:
        """The geometry for training photos of these (H, W), whole or cut to the product."""
        if cut is not None:
            sizes = [cut.cut_size(size) for size in sizes]
        height, width = np.median(np.asarray(sizes), axis=0)
        long_side = max(height, width)
        scale = (
            min(LARGEST_FACTOR, float(np.sqrt(AREA / (height * width))))
            if image_size == "auto"
            else image_size / long_side
        )
        ratios = np.log([w / h for h, w in sizes])
        one_framing = float(np.ptp(np.percentile(ratios, [5, 95]))) < SAME_SHAPE
        return cls(_rounded(scale * long_side), None if one_framing else float(scale), cut)

    @property
    def one_framing(self) -> bool:
        """Whether all photos show the same frame; else they are crops, in which nothing has its place."""
        return self.factor is None

    @property
    def upright(self) -> bool:
        """Whether the product is looked for on each photo, and turned upright."""
        return isinstance(self.cut, Registration)

    @property
    def window(self) -> Window | None:
        """The same part of every photo that is judged; None where that differs, or all is."""
        return self.cut if isinstance(self.cut, Window) else None

    def working_size(self, size: Size) -> Size:
        """(H, W) of a photo -> (H, W) it is judged at."""
        if self.cut is not None:
            size = self.cut.cut_size(size)
        scale = self.factor or self.image_size / max(size)
        return _rounded(scale * size[0]), _rounded(scale * size[1])

    def working(self, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The working photo (H, W, 3) of a photo (H, W, 3)."""
        return self.view(photo).photo

    def view(self, photo: NDArray[np.uint8]) -> View:
        """A photo (H, W, 3) as it is judged."""
        height, width = self.working_size(photo.shape[:2])
        place = None
        if self.cut is not None:
            place = self.cut.place(photo, (height, width))
            if isinstance(self.cut, Registration):
                return View(place.cut(photo, (height, width)), place)
            photo = photo[self.cut.slices(photo.shape[:2])]
        if (height, width) == photo.shape[:2]:
            return View(np.ascontiguousarray(photo), place)
        shrinks = height * width < photo.shape[0] * photo.shape[1]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return View(np.asarray(cv2.resize(photo, (width, height), interpolation=method), np.uint8), place)

    def to_photo(
        self, patches: NDArray[np.float32], size: Size, place: Place | None = None
    ) -> NDArray[np.float32]:
        """A map of patches (h, w) -> the photo's own (H, W): what lights up lies where it lights up. Pixels
        that were cut off have the smallest value of the map."""
        if place is not None:
            return place.back(self.to_photo(patches, self.working_size(size)), size)
        return np.asarray(cv2.resize(patches, size[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _rounded(side: float) -> int:
    return max(1, round(side / MULTIPLE)) * MULTIPLE


def small_picture(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 -> the same with a long side of SMALL."""
    return with_long_side(photo, SMALL)
