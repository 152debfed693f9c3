"""Judge photos one after the other, reading ahead in threads, with bounded memory."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly.data.images import find_images, one_line
from anomaly.detector import Detector, Photo, Scores
from anomaly.errors import DataError, ImageError
from anomaly.maps import Map
from anomaly.records import Decision, Region, Verdict
from anomaly.render import regions

READ_AHEAD = 4
"""Photos that are decoded before they are needed."""


@dataclass(frozen=True)
class Judged:
    """A verdict with what it was made from; both None for a photo that could not be read."""

    verdict: Verdict
    photo: Photo | None = None
    anomaly_map: Map | None = None
    """Of the photo's own size (H, W)."""


def expand(inputs: Sequence[Path]) -> list[Path]:
    """The photos meant by `inputs`: files as they are, folders searched recursively, in that order.

    Raises DataError where there is nothing to judge. A file that cannot be read is judged `error` later.
    """
    photos: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = find_images(path)
            if not found:
                raise DataError(f"no photos in the folder {one_line(path)}: give a folder that holds some")
            photos += found
        else:
            photos.append(path)
    if not photos:
        raise DataError("nothing to inspect: give photos or folders of photos")
    return photos


def judge_all(
    detector: Detector, paths: Iterable[Path], score: Callable[[Photo], Scores] | None = None
) -> Iterator[Judged]:
    """Judge photos in order; at most a few are held in memory at once. `score` None is the detector's own."""
    score = score or detector.score
    waiting: deque[tuple[Path, Future[tuple[Photo | ImageError, float]]]] = deque()
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        try:
            for path in paths:
                waiting.append((path, pool.submit(_read, detector, path)))
                if len(waiting) > READ_AHEAD:
                    yield _judge(detector, score, *waiting.popleft())
            while waiting:
                yield _judge(detector, score, *waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()


def judge(detector: Detector, path: Path) -> Judged:
    """Judge one photo."""
    return next(judge_all(detector, [path]))


def _read(detector: Detector, path: Path) -> tuple[Photo | ImageError, float]:
    start = time.perf_counter()
    try:
        return detector.read(path), time.perf_counter() - start
    except ImageError as error:
        return error, time.perf_counter() - start
    except MemoryError:
        sentence = f"{one_line(path)} needs more memory than there is: lower data.max_megapixels"
        return ImageError(sentence), time.perf_counter() - start


def _judge(
    detector: Detector,
    score: Callable[[Photo], Scores],
    path: Path,
    reading: Future[tuple[Photo | ImageError, float]],
) -> Judged:
    photo, seconds = reading.result()
    if isinstance(photo, ImageError):
        return Judged(Verdict(str(path), "error", error=str(photo), milliseconds=round(1000 * seconds, 2)))
    start = time.perf_counter()
    scores = score(photo)
    anomaly_map = detector.full_map(scores, photo)
    verdict = decide(detector, str(path), scores, anomaly_map)
    seconds += time.perf_counter() - start
    timed = Verdict(
        verdict.path,
        verdict.decision,
        verdict.image_score,
        verdict.threshold,
        verdict.p_value,
        verdict.regions,
        round(1000 * seconds, 2),
    )
    return Judged(timed, photo, anomaly_map)


def decide(detector: Detector, path: str, scores: Scores, anomaly_map: Map) -> Verdict:
    """Hold a photo's scores against the threshold. A score that is no number is an error, never a pass."""
    score, threshold = scores.image_score, detector.calibration.threshold
    if not np.isfinite(score):
        return Verdict(path, "error", error=f"{one_line(path)} has no finite score: report this photo")
    decision: Decision = "anomalous" if score > threshold else "normal"
    found: tuple[Region, ...] = ()
    if decision == "anomalous":
        # Drawing the map at the photo's size may round its one peak off: the region is shown all the same.
        found = regions(anomaly_map, min(threshold, float(np.nextafter(anomaly_map.max(), -np.inf))))
    return Verdict(path, decision, score, threshold, detector.calibration.p_value(score), found)
