"""Where the time of one photo goes: every stage on one core, in torch and in the fastest runtime."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from anomaly.bundle import Bundle
from anomaly.detector import use_threads
from anomaly.export.runtimes import load_graph
from anomaly.inspection.inputs import expand
from anomaly.models.encoder import as_tensor, halved
from anomaly.render import overlay, png_bytes

PHOTOS = 8


def stages(bundle: Bundle, folder: Path, runtime: str) -> dict[str, Any]:
    """Milliseconds of processor time that each stage takes, the least of a few photos."""
    threads = torch.get_num_threads()
    use_threads(1)
    try:
        return {"runtime": runtime, "ms": _stages(bundle, folder, runtime)}
    finally:
        use_threads(threads)


def _stages(bundle: Bundle, folder: Path, runtime: str) -> dict[str, float]:
    detector, encoder = bundle.detector, bundle.detector.encoder
    graph = None if runtime == "torch" else _branches(bundle, runtime)
    threshold = detector.policy.cut.threshold
    times: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = work()
        times[stage] = min(times.get(stage, np.inf), round(1000 * (time.process_time() - start), 2))
        return result

    with torch.inference_mode():
        for path in expand(folder)[:PHOTOS]:
            photo = timed("decode", lambda path=path: detector.read(path))
            working = timed("resize", lambda photo=photo: detector.geometry.working(photo))
            images = as_tensor(working)
            timed("backbone", lambda images=images: encoder.backbone.judging()(images))
            if "coarse" in encoder.inputs:
                timed("backbone at half size", lambda x=images: encoder.backbone.judging()(halved(x)))
            if encoder.filtered:
                timed("filters", lambda images=images: encoder.filters(images))
            raw = encoder.raw(working)
            for name in encoder.inputs:
                timed(name, lambda name=name, raw=raw, photo=working: encoder.map_of(name, raw, photo))
            maps = encoder.maps_of(raw, working)
            found = {
                name: timed(f"scorer {name}", lambda s=scorer, maps=maps: s.score(maps[s.input]).numpy())
                for name, scorer in detector.scorers.items()
            }
            scores = timed("fusion", lambda found=found: detector.combine(found))
            full = timed("map to photo", lambda s=scores, photo=photo: detector.full_map(s, photo))
            heat = timed(
                "overlay",
                lambda photo=photo, full=full: overlay(photo, full, threshold, threshold + 1),
            )
            timed("overlay to PNG", lambda heat=heat: png_bytes(heat))
            timed("map to TIFF", lambda full=full: cv2.imencode(".tiff", full))
            if graph is not None:
                timed(f"branches in {runtime}", lambda working=working: graph.run(working[None]))
    return times


def _branches(bundle: Bundle, runtime: str) -> Any:
    from anomaly.export.folder import find_export
    from anomaly.export.runtimes import VARIANTS

    export = find_export(bundle, *VARIANTS[runtime])
    assert export is not None
    return load_graph(runtime, export.branches, 1)
