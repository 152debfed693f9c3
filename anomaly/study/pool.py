"""Run cells: one after the other, in processes, or on a Ray cluster; each leaves its result in a file."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from anomaly.detector import use_threads
from anomaly.errors import ConfigError
from anomaly.models.training import Progress
from anomaly.ray_cluster import connect, import_ray
from anomaly.study.cell import run_cell
from anomaly.study.cells import Task

Result = dict[str, Any]
BEAT = 0.5
"""Seconds between two looks at whether the study was interrupted."""

_stop: Any = None
"""In a worker: the event that asks it to stop at the next step."""


def run_all(tasks: Sequence[Task], workers: int, progress: Progress) -> Iterator[Result]:
    """The results of `tasks` as they come. An interruption stops all when nothing is half done."""
    total = len(tasks)
    done = 0
    open_: list[Task] = []
    for task in tasks:
        if task.result.exists():
            done += 1
            progress.step("cells", done, total)
            yield run_cell(task)
        else:
            open_.append(task)
    if open_ and on_ray():
        source = _on_ray(open_, progress, done, total)
    elif workers > 1 and len(open_) > 1:
        source = _in_processes(open_, workers, progress, done, total)
    else:
        source = _in_turn(open_, progress, done, total)
    for found in source:
        done += 1
        progress.step("cells", done, total)
        yield found


def on_ray() -> bool:
    """Whether a Ray cluster is named in RAY_ADDRESS, and Ray is installed."""
    return bool(os.environ.get("RAY_ADDRESS")) and importlib.util.find_spec("ray") is not None


@dataclass(frozen=True)
class _Beat:
    """Every step of a cell is a moment at which the study may be interrupted."""

    progress: Progress
    done: int
    total: int

    def step(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
        self.progress.step("cells", self.done, self.total)


def _in_turn(tasks: Sequence[Task], progress: Progress, done: int, total: int) -> Iterator[Result]:
    for i, task in enumerate(tasks):
        yield run_cell(task, _Beat(progress, done + i, total))


class _Stoppable:
    """The same, in a worker."""

    def step(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
        if _stop is not None and _stop.is_set():
            raise KeyboardInterrupt


def _begin(stop: Any) -> None:
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and tells us
    use_threads(1)


def _work(task: Task) -> Result:
    return run_cell(task, _Stoppable())


def _in_processes(
    tasks: Sequence[Task], workers: int, progress: Progress, done: int, total: int
) -> Iterator[Result]:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    count = min(workers, len(tasks))
    with ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(stop,)) as pool:
        waiting = {pool.submit(_work, task) for task in tasks}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=BEAT, return_when=FIRST_COMPLETED)
                for future in finished:
                    done += 1
                    yield future.result()
                progress.step("cells", done, total)
        except BrokenProcessPool:
            raise ConfigError(
                "a worker was killed, most likely for want of memory: go on with fewer --workers; "
                "finished cells are kept"
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _on_ray(tasks: Sequence[Task], progress: Progress, done: int, total: int) -> Iterator[Result]:
    """Each cell is a Ray task; the study's folder must lie where every node reads and writes it."""
    import_ray()
    import ray

    if not ray.is_initialized():
        connect(os.environ["RAY_ADDRESS"])
    remote = ray.remote(run_cell)
    waiting = [remote.remote(task) for task in tasks]
    try:
        while waiting:
            finished, waiting = ray.wait(waiting, timeout=BEAT)
            for one in finished:
                done += 1
                yield ray.get(one)
            progress.step("cells", done, total)
    finally:
        for one in waiting:
            ray.cancel(one, force=True)
