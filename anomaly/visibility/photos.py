"""Which photos are probed: normal ones that the model has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anomaly.bundle import Bundle
from anomaly.data.images import one_line
from anomaly.data.layouts import FALLBACK as FLAT
from anomaly.data.layouts import LAYOUTS, read_samples
from anomaly.detector import Photo
from anomaly.errors import DataError, ImageError
from anomaly.evaluation import refuse_seen
from anomaly.inspection.inputs import local_photos
from anomaly.records import Sample
from anomaly.spread import evenly


def held_out(bundle: Bundle, inputs: Sequence[Path], count: int) -> tuple[list[Photo], list[str], list[str]]:
    """(photos, their file names, a sentence on each that could not be read), at most `count`, evenly spread.

    A data set with labels gives its normal test photos; a folder or a file is taken to be normal. Raises
    DataError where the model was fitted on one of them, or where fewer than two can be read.
    """
    samples = [sample for path in inputs for sample in _normal(path)]
    chosen = evenly(samples, count)
    refuse_seen(bundle, chosen)
    photos, names, left_out = [], [], []
    for sample in chosen:
        try:
            photos.append(bundle.detector.read(sample.path))
            names.append(sample.path.name)
        except ImageError as error:
            left_out.append(f"Left out: {error}.")
    if len(photos) < 2:
        raise DataError(
            f"probes need at least 2 held-out normal photos, got {len(photos)} that can be read: give more"
        )
    return photos, names, left_out


def _normal(path: Path) -> list[Sample]:
    labelled = path.exists() and any(
        LAYOUTS.get(name)().detects(path) for name in LAYOUTS.names() if name != FLAT
    )
    if not labelled:
        return [Sample(photo, "test") for photo in local_photos(path)]
    found = [s for s in read_samples(path) if s.split == "test" and s.label == "normal"]
    if not found:
        raise DataError(
            f"{one_line(path)} has no normal test photos: give a folder of good photos that were not trained "
            f"on"
        )
    return found
