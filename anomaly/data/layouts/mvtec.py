"""The layout of MVTec AD: train/good, test/good, test/<defect type>, ground_truth/<defect type>."""

from __future__ import annotations

import os
from pathlib import Path

from anomaly.data.images import find_images, one_line
from anomaly.data.layouts import LAYOUTS
from anomaly.data.layouts.manifest import read_rows, refuse_missing
from anomaly.errors import DataError
from anomaly.records import Sample


@LAYOUTS.register("mvtec")
class MVTec:
    """A folder with train/good or test/good and, as known, validation/good, test/<type>, ground_truth/<type>.

    A mask is `<stem>_mask.*` or `<stem>.*` under ground_truth/<type>. A manifest.csv with columns path and
    group in the folder tells the groups (lots) of photos.
    """

    def detects(self, path: Path) -> bool:
        return any((path / split / "good").is_dir() for split in ("train", "test"))

    def read(self, path: Path) -> list[Sample]:
        if not self.detects(path):
            raise DataError(
                f"{one_line(path)} has no folder train/good or test/good: give one that has, or a flat folder"
            )
        groups = _groups(path)
        masks: dict[Path, Path] = {}
        samples = []
        for photo in find_images(path):  # ground_truth comes before test
            relative = photo.relative_to(path)
            group = groups.get(os.path.realpath(photo))
            match relative.parts[:-1]:
                case ("train" | "validation", "good", *_):
                    samples.append(Sample(photo, group=group))
                case ("test", "good", *_):
                    samples.append(Sample(photo, "test", group=group))
                case ("test", defect_type, *_):
                    mask = masks.get(relative.relative_to("test").with_suffix(""))
                    samples.append(Sample(photo, "test", "anomalous", defect_type, mask, group))
                case ("ground_truth", _, *_):
                    of = relative.relative_to("ground_truth").with_suffix("")
                    masks[of.with_name(of.name.removesuffix("_mask") or of.name)] = photo
        return samples


def _groups(root: Path) -> dict[str, str]:
    """Real path of a photo -> its group."""
    manifest = root / "manifest.csv"
    if not manifest.exists():
        return {}
    rows = [row for _, row in read_rows(manifest) if row["group"]]
    refuse_missing(manifest, [Path(row["path"]) for row in rows])
    return {os.path.realpath(row["path"]): row["group"] for row in rows}
