"""Where to look, and how large and how strong an area must be to count.

Rules are drawn by people in a YAML file: regions of interest and ignore masks as polygons or images, the
smallest area and mean score of a region. They change the score itself and not only the list of regions, so
that a threshold chosen under them keeps its promise:

score = min(mean of the top share of the map where it is looked at,
            highest level above which a connected area is large and strong enough)

Superlevel sets are nested, so a photo exceeds a threshold if and only if both parts do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from anomaly.config import Section, parse_section, read_yaml
from anomaly.data.images import one_line, read_image
from anomaly.data.window import Window
from anomaly.errors import ConfigError, ImageError
from anomaly.maps import Map, top_mean
from anomaly.records import Region

Mask = NDArray[np.bool_]
Size = tuple[int, int]
SAME_SHAPE = 0.02
"""A mask fits photos whose aspect ratio differs from its own by no more than this share."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class RegionRules:
    """What is looked at in a photo, and which areas count."""

    mask: Mask | None = None
    """(H, W), True where it is looked at; None: everywhere."""
    photo_size: Size | None = None
    """(H, W) of the photos that areas and masks were drawn on; None: areas are px of each photo."""
    smallest_area: float = 0.0
    """Pixels of the photo."""
    smallest_mean: float | None = None

    def score(self, anomaly_map: Map, size: Size, top_share: float, window: Window | None = None) -> float:
        """Score of a map of patches (h, w) of a photo of `size`, or of a `window` of it; ImageError where the
        mask does not fit."""
        self._refuse_shape(size)
        rules = self if window is None else self.cut(window)
        size = size if window is None else window.cut_size(size)
        inside = rules._covered(anomaly_map.shape)
        score = top_mean(anomaly_map[inside], top_share)
        if not self.smallest_area and self.smallest_mean is None:
            return score
        height, width = rules.photo_size or size
        cells = self.smallest_area * anomaly_map.size / (height * width)
        if cells > inside.sum():
            raise ImageError(
                "the smallest_area of the region rules is larger than what is looked at of this photo, so "
                "nothing could be found: lower it, or fit with data.cut_out=false"
            )
        return min(score, region_level(anomaly_map, inside, cells, self.smallest_mean))

    def cut(self, window: Window) -> RegionRules:
        """The same for what a `window` shows of photos. Raises ImageError where that is not looked at."""
        mask = None if self.mask is None else self.mask[window.slices(self.mask.shape)]
        if mask is not None and not mask.any():
            raise ImageError(
                "the region rules look at nothing of what is judged of a photo: draw them anew, or fit with "
                "data.cut_out=false"
            )
        size = None if self.photo_size is None else window.cut_size(self.photo_size)
        return replace(self, mask=mask, photo_size=size)

    def inside(self, shape: Size, size: Size) -> Mask:
        """Where it is looked at, on a grid of `shape` over a photo of `size`: cells that are covered by
        half, or those covered the most where none is."""
        self._refuse_shape(size)
        return self._covered(shape)

    def _refuse_shape(self, size: Size) -> None:
        if self.mask is None:
            return
        (height, width), (rows, cols) = size, self.mask.shape
        if abs(width * rows / (height * cols) - 1) > SAME_SHAPE:
            raise ImageError(
                f"the photo is {width} x {height} px, the region rules were drawn for {cols} x {rows}: "
                "give photos of that shape, or tune with rules drawn for these"
            )

    def _covered(self, shape: Size) -> Mask:
        """`inside`, whatever the shape of the photo."""
        if self.mask is None:
            return np.ones(shape, dtype=bool)
        covered = self.mask.astype(np.float32)
        shrinks = shape[0] * shape[1] < self.mask.size
        covered = cv2.resize(covered, shape[::-1], interpolation=cv2.INTER_AREA if shrinks else 0)
        return np.asarray(covered >= min(0.5, float(covered.max())))

    def kept(self, found: Sequence[Region]) -> tuple[Region, ...]:
        """The regions of an anomalous photo that count; the first where drawing at full size lost all."""
        count = [
            region
            for region in found
            if region.area >= self.smallest_area
            and (self.smallest_mean is None or region.peak >= self.smallest_mean)
        ]
        return tuple(count or found[:1])


def region_level(
    values: Map, inside: Mask, smallest_cells: float, smallest_mean: float | None = None
) -> float:
    """The highest level above which a connected area (8 neighbours) of `inside` has at least
    `smallest_cells` cells and a mean of at least `smallest_mean`; the smallest value inside if none has.

    Cells are joined from the highest down (union-find), until an area fulfils both.
    """
    flat = np.pad(values.astype(np.float64), 1, constant_values=-np.inf).ravel()
    cells = np.flatnonzero(np.pad(inside, 1).ravel())
    order = cells[np.argsort(-flat[cells], kind="stable")].tolist()
    row = values.shape[1] + 2
    around = (-row - 1, -row, -row + 1, -1, 1, row - 1, row, row + 1)
    root: dict[int, int] = {}
    area: dict[int, int] = {}
    total: dict[int, float] = {}

    def find(cell: int) -> int:
        while root[cell] != cell:
            root[cell] = root[root[cell]]
            cell = root[cell]
        return cell

    for cell in order:
        root[cell], area[cell], total[cell] = cell, 1, float(flat[cell])
        for step in around:
            if cell + step in root:
                one, other = find(cell), find(cell + step)
                if one != other:
                    if area[one] < area[other]:
                        one, other = other, one
                    root[other] = one
                    area[one] += area[other]
                    total[one] += total[other]
        top = find(cell)
        strong = smallest_mean is None or total[top] / area[top] >= smallest_mean
        if area[top] >= smallest_cells and strong:
            break
    return float(flat[cell])


class Shape(Section):
    """One drawn area: a polygon of (row, col) corners, or an image that is white where it is meant."""

    polygon: Annotated[list[tuple[float, float]], Field(min_length=3)] | None = None
    image: str | None = None
    unit: Literal["px", "mm"] = "px"


class RulesFile(Section):
    """What a rules file says."""

    px_per_mm: Positive | None = None
    photo_size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None
    """Height and width of the photos that polygons are drawn on; images bring their own."""
    look_at: tuple[Shape, ...] = ()
    ignore: tuple[Shape, ...] = ()
    smallest_area: str | float | None = None
    """Such as "40 px" or "0.5 mm2"; a plain number is px."""
    smallest_mean: Annotated[float, Field(allow_inf_nan=False)] | None = None


def read_rules(path: Path) -> RegionRules:
    """The rules in a YAML file; its images lie beside it. Raises ConfigError or DataError in one sentence."""
    said = parse_section(RulesFile, read_yaml(path))
    shapes = [*said.look_at, *said.ignore]
    if any((shape.polygon is None) == (shape.image is None) for shape in shapes):
        raise ConfigError(f"{path}: each area is either a `polygon` or an `image`: give one of them")
    images = {shape.image: _image(path.parent, shape.image) for shape in shapes if shape.image}
    size = _photo_size(path, said, list(images.values()))
    mask = None
    if shapes:
        if size is None:
            raise ConfigError(f"{path}: polygons need photo_size: [height, width] of the photos in px")
        areas = [images[s.image] if s.image else _polygon(s, size, said.px_per_mm) for s in shapes]
        look = areas[: len(said.look_at)]
        mask = np.any(look, axis=0) if look else np.ones(size, dtype=bool)
        for area in areas[len(said.look_at) :]:
            mask &= ~area
        if not mask.any():
            raise ConfigError(f"{path} leaves nothing to look at: enlarge look_at, or ignore less")
    area_px = _area(said.smallest_area, said.px_per_mm)
    if size is not None and area_px > (mask.sum() if mask is not None else size[0] * size[1]):
        raise ConfigError(f"{path}: smallest_area is larger than what is looked at: no photo could be found")
    return RegionRules(mask, size, area_px, said.smallest_mean)


def _photo_size(path: Path, said: RulesFile, images: Sequence[Mask]) -> Size | None:
    sizes = {area.shape for area in images} | ({said.photo_size} if said.photo_size else set())
    if len(sizes) > 1:
        texts = " and ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise ConfigError(
            f"{path}: masks and photo_size are of different sizes (height x width {texts}): draw them on "
            "photos of one size"
        )
    return sizes.pop() if sizes else None


def _image(folder: Path, name: str) -> Mask:
    """True where an image is bright."""
    return np.asarray(read_image(folder / name).max(axis=2) > 127)


def _polygon(shape: Shape, size: Size, px_per_mm: float | None) -> Mask:
    """True inside the corners."""
    scale = _scale(px_per_mm) if shape.unit == "mm" else 1.0
    corners = scale * np.asarray(shape.polygon, dtype=np.float64)
    if not (np.abs(corners) < 2**15).all():
        raise ConfigError("a polygon of the region rules has corners that no photo has: correct them")
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [np.rint(corners[:, ::-1]).astype(np.int32)], 1)
    return canvas.astype(bool)


def _area(text: str | float | None, px_per_mm: float | None) -> float:
    """Pixels."""
    if text is None:
        return 0.0
    number, _, unit = str(text).strip().partition(" ")
    unit = unit.strip().replace("²", "2")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if unit not in ("", "px", "mm2") or not 0 < value < np.inf:
        raise ConfigError(f"smallest_area takes such as '40 px' or '0.5 mm2', got {one_line(text)!r}")
    return value * _scale(px_per_mm) ** 2 if unit == "mm2" else value


def _scale(px_per_mm: float | None) -> float:
    if px_per_mm is None:
        raise ConfigError("the region rules use mm: give px_per_mm, the pixels of the photo that make 1 mm")
    return px_per_mm
