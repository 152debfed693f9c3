"""What a probe draws on: a photo, where its product is, and places in it for defects."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]

GREY = 2.0
"""Mean difference between the channels, in grey levels, below which a photo is grey."""


@dataclass(frozen=True)
class Place:
    """A window of a photo around a point. `y`, `x` (h, w) are the distances to it in px."""

    rows: slice
    cols: slice
    y: Pixels
    x: Pixels

    @property
    def radius(self) -> Pixels:
        return np.asarray(np.hypot(self.y, self.x), dtype=np.float32)

    @property
    def angle(self) -> Pixels:
        return np.asarray(np.arctan2(self.y, self.x), dtype=np.float32)


@dataclass(frozen=True)
class Scene:
    """A photo to be changed: pixels (H, W, 3) float32 in [0, 255], foreground (H, W), and chance."""

    photo: Pixels
    foreground: Mask
    rng: np.random.Generator
    contrast: float = 0.0
    """Height of a defect above or below its place, grey levels."""

    @property
    def is_grey(self) -> bool:
        return float(np.ptp(self.photo, axis=2).mean()) < GREY

    @property
    def fills_photo(self) -> bool:
        """Whether there is no background."""
        return bool(self.foreground.all())

    def place(self, reach: float, *, at_edge: bool = False) -> Place:
        """A random place whose surroundings of `reach` px lie in the foreground as far as it is that wide.

        `at_edge` asks for one where the foreground ends instead.
        """
        inner = self._depth()
        fits = (inner > 0) & (inner <= 1.5) if at_edge else inner >= min(reach, 0.5 * float(inner.max()))
        candidates = np.flatnonzero(fits)
        index = int(candidates[int(self.rng.random() * len(candidates))])
        row, col = divmod(index, self.foreground.shape[1])
        return self.around(row, col, reach)

    def middle(self, reach: float) -> Place:
        """The middle of the foreground, with its surroundings of `reach` px."""
        rows, cols = np.nonzero(self.foreground)
        return self.around(int(rows.min() + rows.max()) // 2, int(cols.min() + cols.max()) // 2, reach)

    def holds(self, reach: float) -> bool:
        """Whether the foreground is wide enough for `reach` px about some place."""
        return float(self._depth().max()) >= reach

    def around(self, row: int, col: int, reach: float) -> Place:
        """The window of `reach` px and a little more about (row, col), cut at the photo's border."""
        margin = int(np.ceil(1.5 * reach)) + 3
        height, width = self.foreground.shape
        rows = slice(max(row - margin, 0), min(row + margin + 1, height))
        cols = slice(max(col - margin, 0), min(col + margin + 1, width))
        y, x = np.mgrid[rows, cols].astype(np.float32)
        return Place(rows, cols, y - row, x - col)

    def _depth(self) -> Pixels:
        """Distance of each pixel to the end of the foreground or of the photo, (H, W)."""
        framed = cv2.copyMakeBorder(
            self.foreground.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0
        )
        return np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1])

    def step(self, place: Place, darker: bool | None = None) -> float:
        """The contrast with a sign: by chance unless `darker` says, turned where black or white is near."""
        tone = float(self.photo[place.rows, place.cols].mean())
        sign = -1.0 if (self.rng.random() < 0.5 if darker is None else darker) else 1.0
        if not 0 <= tone + sign * self.contrast <= 255:
            sign = -1.0 if tone > 127 else 1.0
        return sign * self.contrast

    def paint(self, place: Place, levels: Pixels) -> Pixels:
        """The photo with `levels` (h, w) or (h, w, 3) grey levels added at `place`."""
        out = self.photo.copy()
        out[place.rows, place.cols] += levels if levels.ndim == 3 else levels[:, :, None]
        return out

    def replace(self, place: Place, pixels: Pixels, cover: Pixels) -> Pixels:
        """The photo with `pixels` (h, w, 3) at `place`, as far as `cover` (h, w) in [0, 1] goes."""
        return self.paint(place, (pixels - self.photo[place.rows, place.cols]) * cover[:, :, None])


def coverage(outside: Pixels, softness: float = 0.5) -> Pixels:
    """Share of each pixel that a shape covers, from its distance `outside` the outline; negative inside."""
    return np.asarray(np.clip(0.5 - outside / (2 * softness), 0, 1), dtype=np.float32)


def blob(place: Place, diameter: float, rng: np.random.Generator, roughness: float = 0.25) -> Pixels:
    """Distance outside an irregular outline whose longest extent is about `diameter` px."""
    outline = np.zeros_like(place.y)
    for order in (2, 3, 5):
        outline += np.float32(rng.uniform(0, 1) / order) * np.cos(
            order * place.angle + np.float32(rng.uniform(0, 2 * np.pi))
        )
    shape = 1 - np.float32(roughness) * (0.5 + 0.5 * np.tanh(outline))
    return np.asarray(place.radius - 0.5 * diameter * shape, dtype=np.float32)


def to_line(place: Place, points: NDArray[np.float64]) -> tuple[Pixels, Pixels]:
    """Distance of each pixel to the line through `points` (N, 2) of (y, x); how far along it, in [0, 1]."""
    distance = np.full(place.y.shape, np.inf, np.float32)
    along = np.zeros(place.y.shape, np.float32)
    count = len(points) - 1
    for i, ((y0, x0), (y1, x1)) in enumerate(pairwise(points)):
        dy, dx = y1 - y0, x1 - x0
        t = np.clip(((place.y - y0) * dy + (place.x - x0) * dx) / max(dy * dy + dx * dx, 1e-12), 0, 1)
        here = np.hypot(place.y - y0 - t * dy, place.x - x0 - t * dx).astype(np.float32)
        nearer = here < distance
        distance[nearer] = here[nearer]
        along[nearer] = ((i + t) / count)[nearer]
    return distance, along
