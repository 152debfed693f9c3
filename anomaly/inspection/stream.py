"""Judge photos several at a time, in the order of the input, with bounded memory."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np

from anomaly.data.addresses import Location
from anomaly.data.images import one_line
from anomaly.detector import Detector, Photo, Scores
from anomaly.errors import ImageError
from anomaly.maps import Map
from anomaly.records import Region, Verdict
from anomaly.render import regions

READ_AHEAD = 2
"""Photos that are taken up before those in front of them are done, for each worker."""
GRACE = 5.0
"""Seconds that a thread is given to end with the photo in its hands."""

Score = Callable[[Photo], Scores]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Judged:
    """A verdict with what it was made from; both None for a photo that could not be read."""

    verdict: Verdict
    photo: Photo | None = None
    anomaly_map: Map | None = None
    """Of the photo's own size (H, W)."""


def in_order(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    waiting_for: Callable[[Item, float], None] = lambda item, seconds: None,
) -> Iterator[Result]:
    """`work` of every item, in the order of the items, by `workers` threads that run a little ahead.

    `waiting_for` is told every second which item holds up the rest, and for how long; what it raises ends
    the work. The threads are daemons: one that hangs on a dead network folder does not keep the program.
    """
    tasks: queue.SimpleQueue[tuple[Item, Future[Result]] | None] = queue.SimpleQueue()

    def labour() -> None:
        while task := tasks.get():
            item, future = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(item))
                except BaseException as error:
                    future.set_exception(error)

    threads = [threading.Thread(target=labour, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    pending: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            pending.append((item, Future()))
            tasks.put(pending[-1])
            if len(pending) > workers * READ_AHEAD:
                yield _result(*pending.popleft(), waiting_for)
        while pending:
            yield _result(*pending.popleft(), waiting_for)
    finally:
        for _, future in pending:
            future.cancel()
        for _ in threads:
            tasks.put(None)
        for thread in threads:
            thread.join(GRACE)


def _result(item: Item, future: Future[Result], waiting_for: Callable[[Item, float], None]) -> Result:
    began = time.monotonic()
    while True:
        if wait([future], timeout=1).done:
            return future.result()
        waiting_for(item, time.monotonic() - began)


def judge_all(
    detector: Detector,
    paths: Iterable[Location],
    score: Score | None = None,
    *,
    group: str | None = None,
    workers: int = 2,
) -> Iterator[Judged]:
    """Judge photos of `group` in order; at most a few are held in memory at once."""
    return in_order(lambda path: judge(detector, path, score, group=group), paths, workers)


def judge(
    detector: Detector, path: Location, score: Score | None = None, *, group: str | None = None
) -> Judged:
    """Judge one photo of `group`; `score` None is the detector's own.

    One that cannot be read, or that memory does not suffice for, is judged `error`.
    """
    start = time.perf_counter()
    photo, anomaly_map = None, None
    try:
        photo = detector.read(path)
        scores = (score or detector.score)(photo)
        anomaly_map = detector.full_map(scores, photo)
        verdict = decide(detector, str(path), scores, anomaly_map, group)
    except ImageError as error:
        verdict = _error(detector, str(path), str(error), group)
    except Exception as error:
        if not lacks_memory(error):
            raise
        photo, anomaly_map = None, None
        verdict = too_large(detector, path, group)
    milliseconds = round(1000 * (time.perf_counter() - start), 2)
    size = None if photo is None else photo.shape[:2]
    return Judged(replace(verdict, milliseconds=milliseconds, size=size), photo, anomaly_map)


def too_large(detector: Detector, path: Location | str, group: str | None) -> Verdict:
    """The verdict on a photo that memory does not suffice for."""
    sentence = f"{one_line(path)}: needs more memory than there is: lower data.max_megapixels"
    return _error(detector, str(path), sentence, group)


def lacks_memory(error: Exception) -> bool:
    """Whether numpy, OpenCV, torch or a runtime found no memory; each says so in its own way."""
    if isinstance(error, MemoryError) or (
        isinstance(error, cv2.error) and error.code == cv2.Error.STS_NO_MEM
    ):
        return True
    text = str(error).lower()
    runtime = isinstance(error, RuntimeError) or type(error).__name__ == "RuntimeException"
    return runtime and ("alloc" in text or "out of memory" in text)


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
        remark=None if scores.place is None else scores.place.remark,
    )


def _error(detector: Detector, path: str, sentence: str, group: str | None) -> Verdict:
    return Verdict(path, "error", error=sentence, version=detector.policy.version, group=group)
