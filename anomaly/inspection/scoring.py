"""Who scores the photos: the detector in torch, or its exported graph in a faster runtime."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np

from anomaly.bundle import BLANK, Bundle
from anomaly.detector import Photo, Scores, use_threads
from anomaly.errors import AnomalyError, BundleError, ConfigError
from anomaly.export.folder import Export, default_folder, find_export
from anomaly.export.runtimes import INSTALL, RUNTIMES, VARIANTS, load_graph
from anomaly.export.verify import BranchScorer, Score

Say = Callable[[str], None]


@dataclass(frozen=True)
class Scorer:
    """Scores photos of any size, one at a time, from as many threads as call it."""

    score: Score
    runtime: str
    """torch, or one of VARIANTS."""
    threads: int
    """Cores that one call uses."""
    _ready: threading.local = field(default_factory=threading.local)

    def __call__(self, photo: Photo) -> Scores:
        if not hasattr(self._ready, "threads"):  # OpenMP keeps the number apart for each thread
            use_threads(self.threads)
            self._ready.threads = self.threads
        return self.score(photo)


def choose_scorer(
    bundle: Bundle, runtime: str, *, threads: int, calls: int = 1, say: Say = lambda text: None
) -> Scorer:
    """The scorer that was asked for, for `calls` at a time; `auto` is the fastest of torch and the exports in
    the model's folder whose loss is known, by the times taken when they were verified. `say` is told which,
    and why not another.

    Raises ConfigError for a runtime that is unknown, not installed or not exported, BundleError for an
    export that is damaged; with `auto` these only leave the runtime out.
    """
    if runtime == "auto":
        export = _fastest(bundle, say)
        if export is None:
            bundle.load()
            return Scorer(bundle.detector.score, "torch", threads)
    elif runtime == "torch":
        bundle.load()
        return Scorer(bundle.detector.score, "torch", threads)
    else:
        export = _named(bundle, runtime)
    graph = load_graph(export.runtime, export.branches, threads, calls)
    times = export.milliseconds
    say(
        f"judging with {export.runtime} ({times[export.runtime]:g} ms a photo when it was verified, "
        f"torch {times['torch']:g} ms)"
    )
    scorer = BranchScorer(bundle.detector, graph)
    if not np.isfinite(scorer(np.zeros((BLANK, BLANK, 3), np.uint8)).image_score):
        raise BundleError(f"{export.path} scores a blank photo with no number: export the model again")
    return Scorer(scorer, export.runtime, threads)


def _named(bundle: Bundle, runtime: str) -> Export:
    if runtime not in VARIANTS:
        raise ConfigError(f"unknown runtime {runtime!r}: use auto, torch, {', '.join(VARIANTS)}")
    graph, precision = VARIANTS[runtime]
    if find_spec(RUNTIMES[graph]) is None:
        raise ConfigError(f"{RUNTIMES[graph]} is not installed: {INSTALL}")
    export = find_export(bundle, graph, precision)
    if export is None:
        how = f"--format {graph}" + (f" --precision {precision}" if runtime != RUNTIMES[graph] else "")
        raise ConfigError(
            f"{bundle.path} was not exported for {runtime}: "
            f"run `anomaly export --model {bundle.path} {how}` first"
        )
    return export


def _fastest(bundle: Bundle, say: Say) -> Export | None:
    found = []
    for runtime, variant in VARIANTS.items():
        if not default_folder(bundle.path, *variant).exists():
            continue
        try:
            export = _named(bundle, runtime)
        except AnomalyError as error:
            say(f"not used: {error}")
            continue
        if export.trusted:
            found.append(export)
        else:
            say(f"not used: the loss of {runtime} was not measured: export it again with --data")
    faster = [e for e in found if e.milliseconds[e.runtime] < e.milliseconds["torch"]]
    return min(faster, key=lambda e: e.milliseconds[e.runtime], default=None)
