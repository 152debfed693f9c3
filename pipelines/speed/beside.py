"""anomalib's PatchCore on the same photos and weights, beside our memory bank and our rate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from anomaly.bundle import Bundle
from anomaly.data.layouts import read_samples
from anomaly.evaluation import evaluate
from anomaly.scorers import FitContext
from anomaly.scorers.embedding import EmbeddingDistance
from pipelines import peers


def patchcore(python: Path, data: Path, bundle: Bundle, rate: float, scratch: Path) -> list[dict[str, Any]]:
    """Two rows, PatchCore and ours: seconds from photos to a searchable memory bank, AUROC of the distance
    to it alone, photos a second (ours is `rate`, to written verdicts)."""
    weights = scratch / "lite0.safetensors"
    peers.write_weights(weights)
    (job,) = peers.jobs(data, ["patchcore"], weights, minutes=1, seed=0)
    theirs = peers.run(python, job, scratch)
    seconds = bank_seconds(bundle, data)
    branches = evaluate(bundle, read_samples(data), pixels=False)["branches"]
    ours = {"fit_seconds": seconds, "image_auroc": branches["embedding"], "photos_per_second": rate}
    kept = ("fit_seconds", "image_auroc", "photos_per_second")
    return [{"model": "anomalib patchcore", **{k: theirs[k] for k in kept}}, {"model": "anomaly", **ours}]


def bank_seconds(bundle: Bundle, data: Path) -> float:
    """Seconds from the training photos on disk to a memory bank over their embeddings."""
    detector = bundle.detector
    start = time.monotonic()
    maps = [
        detector.encoder.maps(detector.geometry.working(detector.read(sample.path)))["embedding"]
        for sample in read_samples(data)
        if sample.split == "train" and sample.label == "normal"
    ]
    options = detector.scorers["embedding"].options
    EmbeddingDistance(options).fit(maps, FitContext(seed=0))
    return time.monotonic() - start
