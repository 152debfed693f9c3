"""The worst photos of an inspection, for its report: kept on disk as they come, so that none is lost when the
program is killed or the photo is moved away."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from pathlib import Path

from anomaly.records import Verdict
from anomaly.report.inspection import GalleryItem

SIZE = 40
"""Photos that the report shows."""
PICTURES = ("original", "heatmap", "outline", "small")
"""`small` is what the picture of what the model expected is drawn from, at the end and for these alone."""

Pictures = Mapping[str, bytes | None]
"""Picture by name, one of PICTURES each; None where the model draws no such picture."""


class Shortlist:
    """Scores of the SIZE worst photos that one of several workers has seen: what is below them has no place
    in the gallery of all, whichever photos come first in it."""

    def __init__(self) -> None:
        self._worst: list[float] = []

    def enter(self, score: float) -> bool:
        """Whether a photo of this score may come into the gallery."""
        if len(self._worst) < SIZE:
            heapq.heappush(self._worst, score)
            return True
        return heapq.heappushpop(self._worst, score) < score or score == self._worst[0]


class Gallery:
    """At most SIZE photos, those of the highest scores; of equal ones the earlier."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._worst: list[tuple[float, int, Verdict]] = []

    def wants(self, score: float) -> bool:
        """Whether a photo of this score may enter. Once False it stays so."""
        return len(self._worst) < SIZE or score > self._worst[0][0]

    def store(self, index: int, pictures: Pictures) -> None:
        """Keep the pictures of photo number `index`, before it is recorded."""
        for name, data in pictures.items():
            if data is not None:
                self._path(index, name).write_bytes(data)

    def add(self, index: int, verdict: Verdict) -> None:
        """Enter a photo that is recorded, if it is among the worst; drop the one that no longer is."""
        assert verdict.image_score is not None
        heapq.heappush(self._worst, (verdict.image_score, -index, verdict))
        if len(self._worst) > SIZE:
            _, gone, _ = heapq.heappop(self._worst)
            for name in PICTURES:
                self._path(-gone, name).unlink(missing_ok=True)

    def items(self, expected: Callable[[bytes], bytes | None]) -> list[GalleryItem]:
        """The photos with their pictures; `expected` draws what the model expected from a small one."""
        found = []
        for _, negative, verdict in self._worst:
            paths = [self._path(-negative, name) for name in PICTURES]
            data = [path.read_bytes() if path.exists() else None for path in paths]
            if data[0] is not None and data[1] is not None and data[2] is not None:
                last = None if data[3] is None else expected(data[3])
                found.append(GalleryItem(verdict.path, verdict, data[0], data[1], data[2], last))
        return found

    def _path(self, index: int, name: str) -> Path:
        return self._folder / f"{index:06d}.{name}"
