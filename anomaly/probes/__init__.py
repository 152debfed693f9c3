"""Perturbations of known size for good photos: what a model must see before anyone relies on it.

A probe is one function in a file here. It takes a `Scene` and a magnitude in physical terms and returns the
changed pixels; `Probe.apply` keeps the change inside the foreground and says which pixels it touched. The
same generator gives the same picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.errors import ConfigError, DataError
from anomaly.probes.scene import Mask, Pixels, Scene
from anomaly.registry import Registry

Photo = NDArray[np.uint8]
Kind = Literal["appearance", "defect", "geometry"]
Unit = Literal["px", "grey levels", "%", "degrees"]
Draw = Callable[[Scene, float], Pixels]

LONG_SIDE = 512
"""Default sizes in px are meant for photos up to this long side, and grow with larger ones."""
EDGE = 1 / 8
"""Share of the largest change that a pixel must reach to count as changed; and at least one grey level."""


@dataclass(frozen=True)
class Probe:
    """One kind of perturbation, graded by magnitude."""

    name: str
    kind: Kind
    """appearance: all of the foreground looks different; defect: a place of it; geometry: it has moved."""
    unit: Unit
    magnitudes: tuple[float, ...]
    """Defaults in `unit`, ascending; see `levels`."""
    draw: Draw
    contrast: float | None = None
    """Default height of a defect above or below its place, grey levels; None where size alone grades it."""
    resembles: tuple[str, ...] = ()
    """Transforms of `anomaly.data.augmentation` that make the same kind of change."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.draw.__doc__)

    def levels(self, size: tuple[int, int]) -> tuple[float, ...]:
        """The default magnitudes for a photo of `size` (H, W); those in px grow with it beyond 512 px."""
        factor = max(1.0, max(size) / LONG_SIDE) if self.unit == "px" else 1.0
        return tuple(float(f"{factor * magnitude:.3g}") for magnitude in self.magnitudes)

    def apply(
        self,
        photo: Photo,
        foreground: Mask,
        magnitude: float,
        rng: np.random.Generator,
        contrast: float | None = None,
    ) -> tuple[Photo, Mask]:
        """(changed photo (H, W, 3) uint8, what changed (H, W) bool).

        `magnitude` > 0 is in `unit`; `contrast` > 0, in grey levels, is for defects that declare one. A
        probe that cannot show on this photo, such as colour on a grey one, returns it as it is.
        """
        if not magnitude > 0:
            raise ConfigError(f"the magnitude of {self.name} is {magnitude:g} {self.unit}: give more than 0")
        if contrast is not None and (self.contrast is None or not contrast > 0):
            cure = "leave contrast out" if self.contrast is None else "give more than 0 grey levels"
            raise ConfigError(f"{self.name} with a contrast of {contrast:g}: {cure}")
        if foreground.shape != photo.shape[:2] or not foreground.any():
            raise DataError(
                f"the foreground {foreground.shape} of a photo {photo.shape[:2]} must be of its size and not "
                "empty: use the whole photo where there is no tray"
            )
        before = photo.astype(np.float32)
        level = (self.contrast or 0.0) if contrast is None else contrast
        after = self.draw(Scene(before, foreground, rng, level), magnitude)
        if self.kind != "geometry":
            inside = cv2.blur(foreground.astype(np.float32), (3, 3)) * foreground
            after = before + (after - before) * inside[:, :, None]
        changed = np.clip(np.rint(after), 0, 255).astype(np.uint8)
        difference = cv2.absdiff(changed, photo).max(axis=2)
        return changed, difference >= max(1.0, EDGE * float(difference.max()))


PROBES: Registry[Probe] = Registry("probe", package=__name__)


def probe(
    name: str,
    kind: Kind,
    unit: Unit,
    magnitudes: tuple[float, ...],
    *,
    contrast: float | None = None,
    resembles: tuple[str, ...] = (),
) -> Callable[[Draw], Draw]:
    """Decorator that makes a function a probe; its docstring says what it draws and what is measured."""

    def add(draw: Draw) -> Draw:
        PROBES.register(name)(Probe(name, kind, unit, magnitudes, draw, contrast, resembles))
        return draw

    return add


def chosen(names: Sequence[str] | None = None) -> list[Probe]:
    """The probes named, or all: appearance first, then defects, then geometry."""
    probes = [PROBES.get(name) for name in (PROBES.names() if names is None else dict.fromkeys(names))]
    kinds = ("appearance", "defect", "geometry")
    return sorted(probes, key=lambda one: (kinds.index(one.kind), one.name))


def drawn_defects() -> list[Probe]:
    """The probes that draw a defect somewhere on the product."""
    return [one for one in chosen() if one.kind == "defect"]
