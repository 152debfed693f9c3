"""Who scores the photos: the detector in torch, or its exported graph in a faster runtime."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec

from anomaly.bundle import Bundle
from anomaly.detector import Detector, Photo, Scores, use_threads
from anomaly.errors import AnomalyError, ConfigError
from anomaly.export.folder import Export, find_export
from anomaly.export.runtimes import INSTALL, RUNTIMES, Graph, load_graph
from anomaly.export.verify import run_one

Say = Callable[[str], None]


@dataclass(frozen=True)
class Scorer:
    """Scores photos of any size, one at a time, from as many threads as call it. `graph` None is torch."""

    detector: Detector
    runtime: str
    threads: int
    """Cores that one call uses."""
    graph: Graph | None = None
    _ready: threading.local = field(default_factory=threading.local)

    def __call__(self, photo: Photo) -> Scores:
        if not hasattr(self._ready, "threads"):  # OpenMP keeps the number apart for each thread
            use_threads(self.threads)
            self._ready.threads = self.threads
        if self.graph is None:
            return self.detector.score(photo)
        working = self.detector.geometry.working(photo)
        if max(working.shape[:2]) > self.detector.config.image.tile_size:  # the graph knows no tiles
            return self.detector.score(photo)
        score, anomaly_map = run_one(self.graph, working)
        return Scores(score, anomaly_map, {})


def choose_scorer(bundle: Bundle, runtime: str, *, threads: int, say: Say = lambda text: None) -> Scorer:
    """The scorer that was asked for; `auto` is the fastest of torch and the exports in the model's folder,
    by the times taken when they were verified. `say` is told which, and why not another.

    Raises ConfigError for a runtime that is unknown, not installed or not exported, BundleError for an
    export that is damaged; with `auto` these only leave the runtime out.
    """
    if runtime == "auto":
        export = _fastest(bundle, say)
        if export is None:
            return Scorer(bundle.detector, "torch", threads)
    elif runtime == "torch":
        return Scorer(bundle.detector, "torch", threads)
    else:
        export = _named(bundle, runtime)
    graph = load_graph(export.runtime, export.graph, threads)
    times = export.milliseconds
    say(
        f"judging with {export.runtime} ({times[export.runtime]:g} ms a photo when it was verified, "
        f"torch {times['torch']:g} ms)"
    )
    return Scorer(bundle.detector, export.runtime, threads, graph)


def _named(bundle: Bundle, runtime: str) -> Export:
    formats = {name: graph for graph, name in RUNTIMES.items()}
    if runtime not in formats:
        raise ConfigError(f"unknown runtime {runtime!r}: use auto, torch, {', '.join(formats)}")
    if find_spec(runtime) is None:
        raise ConfigError(f"{runtime} is not installed: {INSTALL}")
    export = find_export(bundle, formats[runtime])
    if export is None:
        raise ConfigError(
            f"{bundle.path} was not exported for {runtime}: "
            f"run `anomaly export --model {bundle.path} --format {formats[runtime]}` first"
        )
    return export


def _fastest(bundle: Bundle, say: Say) -> Export | None:
    found = []
    for graph in RUNTIMES:
        try:
            if export := find_export(bundle, graph):
                found.append(_named(bundle, export.runtime))
        except AnomalyError as error:
            say(f"not used: {error}")
    faster = [e for e in found if e.milliseconds[e.runtime] < e.milliseconds["torch"]]
    return min(faster, key=lambda e: e.milliseconds[e.runtime], default=None)
