"""The real sets of the visibility study: what is taken from each, and which probe stands for which defect.

All of it was fixed before any model of the study had seen a defect. The probe of a type is the one whose
description reads most like the type's; the size of a type comes from its masks, as an engineer would know it
from a catalogue of defects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from anomaly.appraisal.sizes import defect_size
from anomaly.data.geometry import Geometry
from anomaly.data.images import read_image
from anomaly.data.layouts import read_samples
from anomaly.errors import DataError
from anomaly.evaluation import defect_mask
from anomaly.records import Sample

NORMAL, DEFECTIVE = 32, 48
"""Test photos of a set, at most; the defective ones are shared out among its types."""


@dataclass(frozen=True)
class RealSet:
    """One set."""

    image_size: int
    """Long side in px: small, but large enough for its defects."""
    stands_for: Mapping[str, str]
    """Defect type -> probe."""
    place: str | None = None
    """Pattern whose first group tells, from a file name, the part or place that a photo shows."""


SETS = {
    "mvtec_bottle": RealSet(
        256,
        {"broken_large": "missing_part", "broken_small": "missing_part", "contamination": "stain"},
    ),
    "magnetic_tile": RealSet(
        256,
        {
            "blowhole": "spot",
            "break": "missing_part",
            "crack": "crack",
            "fray": "swapped_texture",
            "uneven": "fade",
        },
    ),
    "kolektor_sdd": RealSet(352, {"defect": "crack"}, r"^(kos\d+)"),
    "bsdata": RealSet(256, {"pitting": "spot", "pitting_trainplace": "spot"}, r"_(\d{6}_\d{3})_crop"),
}


def load(name: str) -> list[Sample]:
    """The samples of that set in $ANOMALY_DATA. Raises DataError where it is not there."""
    root = os.environ.get("ANOMALY_DATA")
    if name not in SETS or not root or not (Path(root) / name).is_dir():
        raise DataError(
            f"{name} is not in $ANOMALY_DATA ({root}): leave it out of --sets, or set the variable"
        )
    place = SETS[name].place
    samples = read_samples(Path(root) / name)
    return [replace(one, group=_place(place, one.path)) for one in samples] if place else samples


def shown(
    samples: Sequence[Sample], geometry: Geometry, folder: Path
) -> tuple[list[Sample], dict[str, float]]:
    """(test photos, written to `folder` at their working size; defect type -> median size of its defects,
    their longest extent in working px)."""
    test = [sample for sample in samples if sample.split == "test"]
    kinds = sorted({sample.defect_type or "" for sample in test if sample.label == "anomalous"})
    chosen = _spread([sample for sample in test if sample.label == "normal"], NORMAL)
    for kind in kinds:
        chosen += _spread([one for one in test if one.defect_type == kind], DEFECTIVE // len(kinds))
    folder.mkdir(parents=True, exist_ok=True)
    written, sizes = [], dict[str, list[float]]()
    for index, sample in enumerate(chosen):
        photo = read_image(sample.path)
        working = geometry.working(photo)
        path = folder / f"{index:05d}.png"
        cv2.imwrite(str(path), working[:, :, ::-1])
        written.append(replace(sample, path=path, mask=None))
        mask = defect_mask(sample, photo.shape[:2])
        size = None if mask is None else defect_size(mask, "length")
        if size is not None:
            scale = float(np.sqrt(np.prod(working.shape[:2]) / np.prod(photo.shape[:2])))
            sizes.setdefault(sample.defect_type or "", []).append(scale * size)
    return written, {kind: median(found) for kind, found in sizes.items()}


def _spread(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many, evenly spread: always the same ones."""
    if not samples:
        return []
    return [samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, most).round().astype(int))]


def _place(pattern: str, path: Path) -> str | None:
    found = re.search(pattern, path.name)
    return found.group(1) if found else None
