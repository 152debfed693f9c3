"""Judge photos one after the other, reading ahead in threads, with bounded memory."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anomaly.data.images import find_images, one_line
from anomaly.detector import Detector, Photo, Scores
from anomaly.errors import DataError, ImageError
from anomaly.maps import Map
from anomaly.records import Region, Verdict
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
    detector: Detector,
    paths: Iterable[Path],
    score: Callable[[Photo], Scores] | None = None,
    *,
    group: str | None = None,
) -> Iterator[Judged]:
    """Judge photos of `group` in order; at most a few are held in memory at once.

    `score` None is the detector's own.
    """
    score = score or detector.score
    waiting: deque[tuple[Path, Future[tuple[Photo | ImageError, float]]]] = deque()
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        try:
            for path in paths:
                waiting.append((path, pool.submit(_read, detector, path)))
                if len(waiting) > READ_AHEAD:
                    yield _judge(detector, score, group, *waiting.popleft())
            while waiting:
                yield _judge(detector, score, group, *waiting.popleft())
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
    group: str | None,
    path: Path,
    reading: Future[tuple[Photo | ImageError, float]],
) -> Judged:
    photo, seconds = reading.result()
    if isinstance(photo, ImageError):
        verdict = _error(detector, str(path), str(photo), group)
        return Judged(replace(verdict, milliseconds=round(1000 * seconds, 2)))
    start = time.perf_counter()
    scores = score(photo)
    anomaly_map = detector.full_map(scores, photo)
    verdict = decide(detector, str(path), scores, anomaly_map, group)
    seconds += time.perf_counter() - start
    return Judged(replace(verdict, milliseconds=round(1000 * seconds, 2)), photo, anomaly_map)


def decide(
    detector: Detector, path: str, scores: Scores, anomaly_map: Map, group: str | None = None
) -> Verdict:
    """Hold a photo's scores against the policy in force; `anomaly_map` is of the photo's own size (H, W).

    A score that is no number, and a photo that the region rules do not fit, is an error, never a pass.
    """
    policy = detector.policy
    try:
        score = detector.judged_score(scores, anomaly_map.shape)
        seen = policy.seen(anomaly_map)
    except ImageError as error:
        return _error(detector, path, f"{one_line(path)}: {error}", group)
    if not np.isfinite(score):
        return _error(detector, path, f"{one_line(path)} has no finite score: report this photo", group)
    cut = policy.cut_of(group)
    decision = cut.decide(score)
    found: tuple[Region, ...] = ()
    if decision != "normal":
        low = cut.threshold if decision == "anomalous" else cut.lowest
        # Drawing the map at the photo's size may round its one peak off: the region is shown all the same.
        found = regions(seen, min(low, float(np.nextafter(seen.max(), -np.inf))))
        found = found if policy.rules is None else policy.rules.kept(found)
    return Verdict(
        path,
        decision,
        score,
        cut.threshold,
        policy.p_value(score),
        found,
        version=policy.version,
        group=group,
        review_threshold=cut.review_threshold,
    )


def _error(detector: Detector, path: str, sentence: str, group: str | None) -> Verdict:
    return Verdict(path, "error", error=sentence, version=detector.policy.version, group=group)
