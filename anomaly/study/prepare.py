"""The photos of a study, decoded once: trained on, and held out to be probed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2

from anomaly.calibration import photos_needed
from anomaly.config import RunConfig
from anomaly.data.geometry import Geometry
from anomaly.data.images import read_image, white_level_of
from anomaly.data.splits import split_calibration
from anomaly.errors import DataError, ImageError
from anomaly.fitting.photos import MOST_LOST, learn_cut
from anomaly.models.training import Progress
from anomaly.records import Sample
from anomaly.spread import evenly

SHARE = 0.25
"""Of the good photos that is held out, whole groups where there are groups."""
FEWEST = 4
"""Photos to probe."""


@dataclass(frozen=True)
class Prepared:
    """Photos of a study at their working size."""

    train: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    """Whole lots, where there are lots."""
    probed: tuple[Sample, ...]
    """Held-out photos that probes are drawn on: where there are lots, half of them are of lots that are
    trained on, for a defect there must stand out of good photos of new lots as well."""
    config: RunConfig
    """At their size."""
    geometry: Geometry
    """How they were brought to it."""


def prepare(
    samples: Sequence[Sample], config: RunConfig, folder: Path, most: int, probed: int, progress: Progress
) -> Prepared:
    """The photos to train on and to hold out, written to `folder` at the working size.

    At most `most` of the good photos are taken, evenly spread, or as many as the threshold needs, and at most
    `probed` of those that are held out are probed. Raises DataError where they are too few.
    """
    good = [sample for sample in samples if sample.split == "train" and sample.label == "normal"]
    needed = 2 * photos_needed(config.calibration)
    if len(good) < needed + FEWEST:
        raise DataError(
            f"a study of the dials needs {needed + FEWEST} good photos to fit, calibrate and probe, got "
            f"{len(good)}: add photos, or raise calibration.target_fpr"
        )
    most = max(most, needed + FEWEST)
    good = evenly(good, most)
    share = min(SHARE, max(FEWEST, len(good) - needed) / len(good))
    train, held_out = split_calibration(good, share, seed=0)
    known = _of_known_lots(train, min(probed // 2, len(train) - needed))
    train = [sample for sample in train if sample not in known]
    limit = config.data.max_megapixels
    white = white_level_of([sample.path for sample in train], max_megapixels=limit)
    photos, total = {}, len(train) + len(held_out) + len(known)
    for done, sample in enumerate((*train, *held_out, *known), start=1):
        try:
            photos[sample] = read_image(sample.path, white_level=white, max_megapixels=limit)
        except ImageError:
            continue
        finally:
            progress.step("photos", done, total)
    sizes = [photos[sample].shape[:2] for sample in train if sample in photos]
    if len(sizes) < 2:
        raise DataError("fewer than 2 of the good photos can be read: add photos")
    read = [sample for sample in train if sample in photos]
    geometry = Geometry.choose(
        sizes, config.image.image_size, learn_cut(config, read, sizes, photos.__getitem__)
    )
    views = {sample: geometry.view(photo) for sample, photo in photos.items()}
    found = {sample: view for sample, view in views.items() if view.remark is None}
    if len(found) < (1 - MOST_LOST) * len(views):
        geometry = Geometry.choose(sizes, config.image.image_size)
        found = {sample: geometry.view(photo) for sample, photo in photos.items()}
    del views
    if geometry.upright:
        config = config.model_copy(update={"data": config.data.model_copy(update={"any_angle": False})})
    config = config.of_whole_photos()
    folder.mkdir(parents=True, exist_ok=True)

    def stored(sample: Sample, index: int) -> Sample:
        path = folder / f"{index:05d}.png"
        cv2.imwrite(str(path), found[sample].photo[:, :, ::-1])
        return replace(sample, path=path)

    number = {sample: index for index, sample in enumerate(found)}
    kept = {sample: stored(sample, number[sample]) for sample in found}

    def there(of: Sequence[Sample]) -> list[Sample]:
        return [kept[sample] for sample in of if sample in kept]

    new, known = there(held_out), there(known)
    drawn_on = [*evenly(new, probed - len(known)), *known]
    image = config.image.model_copy(update={"image_size": geometry.image_size})
    sized = config.model_copy(update={"image": image})
    return Prepared(tuple(there(train)), tuple(new), tuple(drawn_on), sized, geometry)


def _of_known_lots(train: Sequence[Sample], most: int) -> list[Sample]:
    """`most` of the photos that might be trained on, evenly spread over lots that keep some; none where there
    are no lots."""
    size = Counter(sample.group for sample in train)
    of_lots = sorted(
        (one for one in train if one.group and size[one.group] > 2), key=lambda one: str(one.group)
    )
    return evenly(of_lots, most) if len({sample.group for sample in of_lots}) > 1 else []
