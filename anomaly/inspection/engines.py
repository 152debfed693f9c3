"""Where photos are judged: by threads of this process, or by the workers of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from anomaly.data.addresses import Location
from anomaly.data.images import one_line
from anomaly.errors import ConfigError, nearest
from anomaly.inspection.drawing import Drawn
from anomaly.inspection.groups import Found
from anomaly.inspection.scoring import Say, Scorer
from anomaly.inspection.stream import in_order, judge
from anomaly.inspection.writer import Writer

ENGINES = ("local", "ray")

Waiting = Callable[[object, float], None]


@dataclass(frozen=True)
class Work:
    """What there is to judge."""

    photos: Sequence[Found]
    places: Sequence[Location]
    """Where they were found."""
    score: Scorer
    writer: Writer
    """Whom they are drawn for."""
    waiting_for: Waiting
    """Told every second what holds up the rest, and for how long; what it raises ends the work."""


class Engine(Protocol):
    """Judges photos several at a time."""

    def drawn(self, work: Work) -> Iterator[Drawn]:
        """The photos judged and drawn, in their order; each once."""
        ...


@dataclass(frozen=True)
class Local:
    """Threads of this process, one a core."""

    workers: int

    def drawn(self, work: Work) -> Iterator[Drawn]:
        writer, detector = work.writer, work.writer.bundle.detector

        def draw(photo: Found) -> Drawn:
            return writer.draw(judge(detector, photo.path, work.score, group=photo.group))

        def waiting_for(photo: Found, seconds: float) -> None:
            work.waiting_for(f"reading or judging {one_line(photo.path)}", seconds)

        return in_order(draw, work.photos, self.workers, waiting_for)


def open_engine(name: str, workers: int | None, say: Say) -> AbstractContextManager[Engine]:
    """The engine of that name with so many workers; None is one for each core there is.

    Raises ConfigError for a name or number that there is not, and where Ray is not installed or does not run.
    """
    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}: {nearest(name, ENGINES)}")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers is {workers}: give 1 or more")
    if name == "local":
        return nullcontext(Local(workers or os.cpu_count() or 1))
    from anomaly.inspection.cluster import open_cluster

    return open_cluster(workers, say)
