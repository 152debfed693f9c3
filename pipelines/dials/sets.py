"""The real sets of the visibility study: what is taken from each, and which probe stands for which defect.

All of it was fixed before any model of the study had seen a defect. The probe of a type is the one whose
description reads most like the type's; sizes and contrasts of a type come from the masks of photos that no
model is shown, as an engineer would know them from a catalogue of defects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2

from anomaly.data.geometry import Geometry
from anomaly.data.images import read_image
from anomaly.data.layouts import read_samples
from anomaly.errors import DataError
from anomaly.evaluation import defect_mask
from anomaly.records import Sample
from anomaly.spread import evenly
from pipelines.dials.twins import Known, described

NORMAL, DEFECTIVE = 40, 16
"""Normal test photos of a set, and defective ones of each type, at most."""


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
) -> tuple[list[Sample], dict[str, list[Known]]]:
    """(test photos, written to `folder` at their working size; defect type -> its catalogue).

    Every other photo of a type may be shown to models; the rest, which no model sees, tell how large and how
    faint the defects of the type are.
    """
    test = [sample for sample in samples if sample.split == "test"]
    kinds = sorted({sample.defect_type or "" for sample in test if sample.label == "anomalous"})
    chosen = evenly([sample for sample in test if sample.label == "normal"], NORMAL)
    catalogue = dict[str, list[Known]]()
    for kind in kinds:
        of_kind = [one for one in test if one.defect_type == kind]
        chosen += evenly(of_kind[::2], DEFECTIVE)
        found = [_described(sample, geometry) for sample in evenly(of_kind[1::2], DEFECTIVE)]
        catalogue[kind] = [one for one in found if one is not None]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index, sample in enumerate(chosen):
        path = folder / f"{index:05d}.png"
        cv2.imwrite(str(path), geometry.working(read_image(sample.path))[:, :, ::-1])
        written.append(replace(sample, path=path, mask=None))
    return written, catalogue


def _described(sample: Sample, geometry: Geometry) -> Known | None:
    photo = read_image(sample.path)
    mask = defect_mask(sample, photo.shape[:2])
    return None if mask is None else described(photo, mask, geometry.working(photo))


def _place(pattern: str, path: Path) -> str | None:
    found = re.search(pattern, path.name)
    return found.group(1) if found else None
