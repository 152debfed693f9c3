"""A folder of good photos and nothing else."""

from __future__ import annotations

from pathlib import Path

from anomaly.data.images import find_images, one_line
from anomaly.data.layouts import LAYOUTS
from anomaly.errors import DataError
from anomaly.records import Sample

# fmt: off
SUSPECT = frozenset([
    "anomalies", "anomalous", "anomaly", "bad", "defect", "defective", "defects",
    "ground_truth", "ng", "nok", "reject", "rejected", "rejects", "test",
])
# fmt: on
"""Folder names that no photo to learn from stands under."""


@LAYOUTS.register("flat")
class Flat:
    """A folder searched through all sub-folders; each photo is a normal training photo."""

    def detects(self, path: Path) -> bool:
        return path.is_dir()

    def read(self, path: Path) -> list[Sample]:
        if not path.is_dir():
            raise DataError(f"{one_line(path)} is not a folder: give a folder of photos or a CSV manifest")
        photos = find_images(path)
        for photo in photos:
            for name in photo.relative_to(path).parts[:-1]:
                if name.lower() in SUSPECT:
                    raise DataError(
                        f"{one_line(path)} has photos under a folder {name!r}, and training uses good photos "
                        "only: give the folder of good photos, an MVTec folder with train/good, or a manifest"
                    )
        return [Sample(photo) for photo in photos]
