"""Where the product lies on its photo, for products that lie at any angle on a plain tray.

Its outline and edges are compared with their mean over good photos: first in polar coordinates about the
middle of the product, where a turn is a shift and all turns are tried in one Fourier transform; then, to a
fraction of a pixel, by least squares over angle and shift (Lucas and Kanade, An Iterative Image Registration
Technique, IJCAI 1981). The photo is then turned upright, and cut to the product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.data.foreground import not_tray, on_tray, usual_tray
from anomaly.data.images import with_long_side
from anomaly.spread import evenly

Photo = NDArray[np.uint8]
Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]
Size = tuple[int, int]
Point = tuple[float, float]
Pose = tuple[Point, float]
"""Where the middle of the pattern lies on the small photo (x, y), and the turn in radians."""

SIDE = 192
"""Long side at which the product is looked for, px."""
ANGLES, RADII = 360, 64
"""Of the polar picture."""
AROUND = 1.1
"""The pattern reaches so many times as far as the product."""
SECOND = 0.15
"""A second turn is tried where its correlation is behind the best by less than this."""
APART = 20
"""And is so many degrees away from it at least."""
STEPS = 12
"""Of least squares, at most."""
FOUND = 0.6
"""Correlation of edges from which on the product is found."""
MARGIN = 0.08
"""What is kept around the product on each side, as a share of its length."""
EDGE = 0.1
"""The product reaches as far as this share of the good photos shows it."""

FEWEST = 8
"""Good photos that a product is learnt from."""
ON_TRAY = 0.9
"""Share of the good photos that must show the product on a plain tray."""
SURE = 0.85
"""Correlation of edges that nineteen of twenty good photos must reach."""
DISTINCT = 0.1
"""By how much the best turn must be ahead of the mean of all: a round product has no angle."""
ARC = 30.0
"""Degrees: nine tenths of a product that always lies alike lie in a narrower arc."""


@dataclass(frozen=True)
class Place:
    """Where what is judged of one photo lies on it."""

    matrix: Matrix
    """(2, 3): a pixel (x, y, 1) of the working photo -> (x, y) of the photo."""
    found: bool
    """Whether the product was found; else the middle of the photo is taken for it."""
    beside: NDArray[np.bool_] | None = None
    """Where something lies on the tray beside the product, on the photo shrunk (h, w); None: nowhere."""

    @property
    def remark(self) -> str | None:
        """What is wrong with the photo, in words; None where it is as learnt."""
        if not self.found:
            return "the product was not found on the photo"
        return None if self.beside is None else "something lies beside the product"

    @property
    def as_learnt(self) -> bool:
        """Whether the photo shows the product, and besides it the tray alone."""
        return self.found and self.beside is None

    def cut(self, photo: Photo, size: Size) -> Photo:
        """The working photo of `size` (H, W) of a photo (H, W, 3); what lies outside the photo is mirrored at
        its edge."""
        shrinking = math.sqrt(abs(float(np.linalg.det(self.matrix[:, :2]))))
        matrix = self.matrix
        if shrinking > 1:  # interpolation alone would skip pixels
            small = tuple(max(1, round(side / shrinking)) for side in photo.shape[1::-1])
            scale = np.array([small[0] / photo.shape[1], small[1] / photo.shape[0]])
            photo = np.asarray(cv2.resize(photo, small, interpolation=cv2.INTER_AREA), np.uint8)
            matrix = matrix * scale[:, None]
            matrix[:, 2] += (scale - 1) / 2
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cut = cv2.warpAffine(photo, matrix, size[::-1], flags=how, borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(cut, np.uint8)

    def paste(self, working: Photo, photo: Photo) -> Photo:
        """A copy of the photo (H, W, 3), with a working photo laid where it was cut from."""
        laid = photo.copy()
        cv2.warpAffine(working, self.matrix, photo.shape[1::-1], laid, borderMode=cv2.BORDER_TRANSPARENT)
        return laid

    def back(self, values: Floats, size: Size) -> Floats:
        """A map of the working photo (H, W) on the photo of `size`; its smallest value where that was cut."""
        lowest = float(values.min())
        laid = cv2.warpAffine(
            values,
            self.matrix,
            size[::-1],
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(lowest,),
        )
        return np.asarray(laid, np.float32)


@dataclass(frozen=True, eq=False)
class Registration:
    """The product as good photos show it, its middle in the middle of a square; px of photos of SIDE."""

    edges: Floats
    """(n, n) mean strength of edges, in [0, 1]."""
    mask: Floats
    """(n, n) share of the photos in which the product is there."""
    tray: float
    """How far from the colour of the tray the rest of a good photo is, at most, in units of CIE Lab."""

    @classmethod
    def learn(cls, photos: Sequence[Photo]) -> Registration | None:
        """From small good photos (`shrunk`); None where the product lies on no plain tray, always alike, has
        no angle, or does not look the same on each."""
        outlines = [outline for photo in photos if (outline := _Outline.of(photo)) is not None]
        if len(outlines) < max(FEWEST, ON_TRAY * len(photos)):
            return None
        pattern = _first_pattern(outlines)
        for _ in range(2):
            poses = [pattern._pose(outline) for outline in outlines]
            pattern = cls._mean(outlines, [pose for _, pose, _ in poses], len(pattern.edges))
        found = [pattern._pose(outline) for outline in outlines]
        sure = float(np.quantile([correlation for correlation, _, _ in found], 0.05)) >= SURE
        distinct = float(np.median([ahead for _, _, ahead in found])) >= DISTINCT
        turned = _arc([math.degrees(angle) for _, (_, angle), _ in found]) > ARC
        if not (sure and distinct and turned):
            return None
        rest = [pattern._rest(outline, pose) for outline, (_, pose, _) in zip(outlines, found, strict=True)]
        tray = usual_tray([float(distance.max()) for distance in rest])
        return None if tray is None else replace(pattern, tray=tray)

    def arrays(self) -> dict[str, Floats]:
        """What `restored` takes."""
        return {"edges": self.edges, "mask": self.mask, "tray": np.array([self.tray], np.float32)}

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[Any]]) -> Registration:
        """The one whose `edges` and `mask` these are. Raises ValueError for arrays that are none."""
        edges, mask, tray = (np.asarray(arrays[name], np.float32) for name in ("edges", "mask", "tray"))
        side = len(edges)
        if edges.shape != (side, side) or mask.shape != edges.shape or not 3 <= side <= 4 * SIDE:
            raise ValueError("edges and mask of the registration must be two squares of one size")
        if min(edges.min(), mask.min()) < -1 or max(edges.max(), mask.max()) > 2 or (mask > EDGE).sum() < 3:
            raise ValueError("the registration shows no product")
        if tray.shape != (1,) or not 0 <= tray[0] < 1e6:
            raise ValueError("the registration knows no tray")
        return cls(edges, mask, float(tray[0]))

    def place(self, photo: Photo, size: Size) -> Place:
        """Where the product lies on a photo (H, W, 3), for a working photo of `size` (H, W)."""
        small = shrunk(photo)
        outline = _Outline.of(small)
        height, width = small.shape[:2]
        pose: Pose = (((width - 1) / 2, (height - 1) / 2), 0.0)
        found, beside = False, None
        if outline is not None:
            correlation, likely, _ = self._pose(outline)
            if found := correlation >= FOUND:
                pose = likely
                beside = not_tray(self._rest(outline, pose), self.tray)
        scale = np.array([photo.shape[1] / width, photo.shape[0] / height])
        to_photo = np.array([[scale[0], 0, (scale[0] - 1) / 2], [0, scale[1], (scale[1] - 1) / 2]])
        return Place(to_photo @ np.vstack([self._to_small(pose, size), [0, 0, 1]]), found, beside)

    def cut_size(self, size: Size) -> Size:
        """(H, W) of what is cut out of a photo of `size`."""
        height, width = (max(1, round(share * max(size))) for share in self.size)
        return height, width

    @property
    def size(self) -> tuple[float, float]:
        """(H, W) of what is cut out, as shares of a photo's long side."""
        _, (width, height), _ = self._box
        grown = 2 * MARGIN * max(width, height)
        return (height + grown) / SIDE, (width + grown) / SIDE

    @cached_property
    def _box(self) -> tuple[Point, Point, float]:
        """Middle (x, y) from that of the pattern, (width, height), and the angle in radians of the smallest
        rectangle around the product, turned by an eighth of a circle at most."""
        inside = np.argwhere(self.mask > EDGE)[:, ::-1].astype(np.float32)
        (x, y), (width, height), degrees = cv2.minAreaRect(inside)
        degrees = (degrees + 45) % 180 - 45
        if degrees > 45:
            degrees, width, height = degrees - 90, height, width
        middle = (len(self.mask) - 1) / 2
        return (x - middle, y - middle), (width + 1, height + 1), math.radians(degrees)

    def _to_small(self, pose: Pose, size: Size) -> Matrix:
        """(2, 3): a pixel of the working photo of `size` -> one of the small photo."""
        turning: Matrix = _turning(pose, (0, 0)) @ np.vstack([self._upright(size), [0, 0, 1]])
        return turning

    def _rest(self, outline: _Outline, pose: Pose) -> Floats:
        """How far each pixel of a small photo is from the colour of the tray, (h, w); 0 in what is cut."""
        corners = np.array([[-0.5, 1.5, 1.5, -0.5], [-0.5, -0.5, 1.5, 1.5], [1, 1, 1, 1]])
        cut = (self._to_small(pose, (2, 2)) @ corners).T
        rest = np.ones(outline.distance.shape, np.uint8)
        cv2.fillConvexPoly(rest, np.rint(cut).astype(np.int32), 0)
        return np.asarray(outline.distance * rest, np.float32)

    def _upright(self, size: Size) -> Matrix:
        """(2, 3): a pixel of the working photo of `size` -> px from the middle of the pattern."""
        (x, y), _, angle = self._box
        rows, columns = (SIDE * side / px for side, px in zip(self.size, size, strict=True))
        cosine, sine = math.cos(angle), math.sin(angle)
        turn = np.array([[columns * cosine, -rows * sine], [columns * sine, rows * cosine]])
        middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
        return np.column_stack([turn, np.array([x, y]) - turn @ middle])

    @cached_property
    def _spectrum(self) -> NDArray[np.complex128]:
        middle = (len(self.edges) - 1) / 2
        return _spectrum(self.edges, self.mask, (middle, middle), self._radius)

    @property
    def _radius(self) -> float:
        return len(self.edges) / 2

    def _pose(self, outline: _Outline) -> tuple[float, Pose, float]:
        """Correlation of the edges at the likeliest pose, that pose, and by how much its turn is ahead."""
        turns = _turns(_spectrum(outline.edges, outline.mask, outline.middle, self._radius), self._spectrum)
        ahead = float(turns.max() - turns.mean())
        best = -1.0, (outline.middle, 0.0)
        left = turns.copy()
        for _ in range(2):
            turn = int(left.argmax())
            if left[turn] < turns.max() - SECOND:
                break
            best = max(
                best, self._refined(outline, math.radians(turn * 360 / ANGLES)), key=lambda one: one[0]
            )
            away = np.abs((np.arange(ANGLES) - turn + ANGLES // 2) % ANGLES - ANGLES // 2)
            left[away * 360 / ANGLES < APART] = -np.inf
        return *best, ahead

    @cached_property
    def _slopes(self) -> tuple[Floats, Matrix]:
        """What small shifts, a small turn, a gain and an offset change of the edges, (5, n * n); and the
        inverse of its square. The pattern's own, so they are made once (Baker and Matthews, Lucas-Kanade 20
        Years On, IJCV 2004)."""
        side = len(self.edges)
        down, right = np.mgrid[:side, :side].astype(np.float32) - np.float32((side - 1) / 2)
        along = cv2.Scharr(self.edges, cv2.CV_32F, 1, 0) / 32
        across = cv2.Scharr(self.edges, cv2.CV_32F, 0, 1) / 32
        parts = [along, across, across * right - along * down, self.edges, np.ones_like(self.edges)]
        slopes = np.stack(parts).reshape(5, -1).astype(np.float32)
        normal = np.einsum("in,jn->ij", slopes.astype(np.float64), slopes.astype(np.float64))
        return slopes, np.linalg.pinv(normal)

    def _refined(self, outline: _Outline, angle: float) -> tuple[float, Pose]:
        """From the middle of the outline and an angle to the best pose near it, and its correlation."""
        slopes, inverse = self._slopes
        wanted = self.edges - self.edges.mean()
        length = math.sqrt(float(np.square(wanted).sum()))
        x, y = outline.middle
        best = -1.0, (outline.middle, angle)
        for _ in range(STEPS):
            seen = _laid(outline.edges, ((x, y), angle), len(self.edges))
            there = seen - seen.mean()
            norm = math.sqrt(float(np.square(there).sum())) * length + 1e-12
            correlation = float((there * wanted).sum()) / norm
            if correlation <= best[0] + 1e-5:
                break
            best = correlation, ((x, y), angle)
            # einsum, not BLAS: its sums do not depend on the number of threads
            towards = np.einsum("in,n->i", slopes, (seen - self.edges).ravel()).astype(np.float64)
            right, down, turn = np.clip((inverse @ towards)[:3], (-5, -5, -0.1), (5, 5, 0.1)).tolist()
            cosine, sine = math.cos(angle), math.sin(angle)
            x, y, angle = x - cosine * right + sine * down, y - sine * right - cosine * down, angle - turn
        return best

    @classmethod
    def _mean(cls, outlines: Sequence[_Outline], poses: Sequence[Pose], side: int) -> Registration:
        """The mean of `outlines`, each laid by its pose on a square of `side`."""
        pairs = list(zip(outlines, poses, strict=True))
        edges, mask = (
            np.mean([_laid(getattr(outline, part), pose, side) for outline, pose in pairs], axis=0)
            for part in ("edges", "mask")
        )
        return cls(np.asarray(edges, np.float32), np.asarray(mask, np.float32), 0.0)


def shrunk(photo: Photo) -> Photo:
    """(H, W, 3) uint8 -> the same with a long side of SIDE."""
    return with_long_side(photo, SIDE)


@dataclass(frozen=True, eq=False)
class _Outline:
    """What is compared of one small photo."""

    edges: Floats
    """(h, w) strength of the edges of the product, in [0, 1]; lamp and colour hardly change it."""
    mask: Floats
    """(h, w), 1 where the product is."""
    middle: Point
    """The middle (x, y) of its area."""
    distance: Floats
    """(h, w) from the colour of the tray, in units of CIE Lab."""

    @classmethod
    def of(cls, small: Photo) -> _Outline | None:
        """None where it lies on no plain tray."""
        mask, distance = on_tray(small)
        if mask.all():
            return None
        grey = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1)
        strength = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
        area = mask.astype(np.uint8)
        near = cv2.dilate(area, np.ones((7, 7), np.uint8)) > 0
        strength = np.where(near, np.minimum(strength, np.percentile(strength[near], 95)), 0)
        edges = cv2.GaussianBlur((strength / (strength.max() + 1e-6)).astype(np.float32), (0, 0), 1)
        rows, columns = np.nonzero(mask)
        soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.5)
        return cls(np.asarray(edges), np.asarray(soft), (float(columns.mean()), float(rows.mean())), distance)

    @property
    def reach(self) -> float:
        """How far the product reaches from its middle."""
        rows, columns = np.nonzero(self.mask > 0.5)
        return float(np.hypot(columns - self.middle[0], rows - self.middle[1]).max())


def _first_pattern(outlines: Sequence[_Outline]) -> Registration:
    """The mean of `outlines`, each turned as it resembles the most typical of them most."""
    radius = AROUND * float(np.quantile([outline.reach for outline in outlines], 0.9))
    side = 2 * math.ceil(radius) + 1
    spectra = [_spectrum(one.edges, one.mask, one.middle, radius) for one in outlines]
    some = evenly(range(len(outlines)), 16)
    alike = [[_turns(spectra[i], spectra[j]).max() for j in some] for i in some]
    typical = spectra[some[int(np.sum(alike, axis=0).argmax())]]
    angles = [math.radians(int(_turns(one, typical).argmax()) * 360 / ANGLES) for one in spectra]
    poses = [(outline.middle, angle) for outline, angle in zip(outlines, angles, strict=True)]
    return Registration._mean(outlines, poses, side)


def _spectrum(edges: Floats, mask: Floats, middle: Point, radius: float) -> NDArray[np.complex128]:
    """Fourier transform over the angle of edges and mask about `middle`, of length 1."""
    both = np.dstack([edges / (edges.std() + 1e-6), 2 * mask / (mask.std() + 1e-6)]).astype(np.float32)
    how = cv2.INTER_LINEAR | cv2.WARP_FILL_OUTLIERS
    polar = cv2.warpPolar(both, (RADII, ANGLES), middle, radius, how)
    polar = (polar - polar.mean((0, 1))) * np.sqrt(np.arange(RADII) + 0.5)[None, :, None]
    return np.asarray(np.fft.rfft(polar, axis=0) / (np.sqrt(np.square(polar).sum()) + 1e-9))


def _turns(one: NDArray[np.complex128], other: NDArray[np.complex128]) -> NDArray[np.float64]:
    """Correlation of two polar pictures at each turn of the first (ANGLES,)."""
    return np.asarray(np.fft.irfft((one * np.conj(other)).sum((1, 2)), n=ANGLES))


def _turning(pose: Pose, middle: Point) -> Matrix:
    """(2, 3): a pixel of the pattern, whose middle is `middle`, -> one of the small photo."""
    (x, y), angle = pose
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([turn, np.array([x, y]) - turn @ np.array(middle)])


def _laid(values: Floats, pose: Pose, side: int) -> Floats:
    """`values` of a small photo on a square of `side`, where `pose` lays it."""
    middle = (side - 1) / 2
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(
        values, _turning(pose, (middle, middle)), (side, side), flags=how, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(laid, np.float32)


def _arc(degrees: Sequence[float]) -> float:
    """The narrowest arc that holds nine tenths of the angles."""
    ordered = np.sort(np.asarray(degrees) % 360)
    held = math.ceil(0.9 * len(ordered))
    again = np.concatenate([ordered, ordered + 360])
    return float(min(again[held - 1 + i] - again[i] for i in range(len(ordered))))
