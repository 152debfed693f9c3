"""Which photos have another shape or size than those that the threshold comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Size = tuple[int, int]
"""(H, W) in pixels."""

RATIO = 1.1
"""Aspect ratios that differ by more are another shape."""
SMALL = 0.5
"""A long side below so much of a calibration photo's is another size: what is small there is lost."""


class Shapes:
    """Counts photos whose size is like that of no calibration photo."""

    def __init__(self, known: Iterable[Size]) -> None:
        """`known`: sizes of the calibration photos; where there are none, no photo is unlike them."""
        self._known = set(known)
        self._judged: dict[Size, bool] = {}
        self.unlike = self.photos = 0

    @classmethod
    def of_photos(cls, rows: Iterable[Mapping[str, Any]]) -> Shapes:
        """From what a bundle says of each calibration photo; those without a size do not count."""
        sizes = [tuple(row.get("size") or ()) for row in rows]
        return cls((size[0], size[1]) for size in sizes if len(size) == 2 and min(size) > 0)

    def add(self, size: Size) -> None:
        self.photos += 1
        self.unlike += self._is_unlike(size)

    @property
    def sentence(self) -> str | None:
        """What is to be said of such photos; None where there are none."""
        if not self.unlike:
            return None
        which = "The photo" if self.photos == 1 else f"{self.unlike} of the {self.photos} photos"
        verb, them = ("has", "it") if self.unlike == 1 else ("have", "them")
        sizes = [f" ({width} x {height} px)" for height, width in self._known]
        return (
            f"{which} {verb} another shape than the calibration photos{sizes[0] if len(sizes) == 1 else ''}, "
            f"or less than half their size: the threshold says little of {them}. Take photos as those were "
            "taken, or fit on photos like these."
        )

    def _is_unlike(self, size: Size) -> bool:
        if size not in self._judged:
            self._judged[size] = bool(self._known) and not any(_alike(size, known) for known in self._known)
        return self._judged[size]


def _alike(size: Size, known: Size) -> bool:
    ratio = size[1] * known[0] / (size[0] * known[1])
    return 1 / RATIO <= ratio <= RATIO and max(size) >= SMALL * max(known)
