"""The photos of a fit: read, split into training and calibration photos, brought to their working size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from anomaly import distributed
from anomaly.calibration import Calibration, photos_needed
from anomaly.config import RunConfig
from anomaly.data.foreground import foreground
from anomaly.data.geometry import Geometry, View
from anomaly.data.images import fingerprint, one_line, read_image, white_level_of
from anomaly.data.masks import defect_mask
from anomaly.data.registration import FEWEST, MARGIN, Registration, shrunk
from anomaly.data.splits import split_calibration
from anomaly.data.window import Window
from anomaly.detector import Photo
from anomaly.errors import CalibrationError, DataError, ImageError
from anomaly.models.contrastive import Defective
from anomaly.models.training import Progress
from anomaly.records import Sample
from anomaly.spread import evenly

Size = tuple[int, int]

LEARNT = 120
"""Training photos from which is learnt what to cut out, at most."""
MOST_LOST = 0.05
"""Share of the training photos on which it may not be found alone; else, and where it is not on one of the
calibration photos, for which the threshold makes its promise, whole photos are judged."""
NOT_ALONE = (
    "the product lies on a plain tray, but was not found alone on it on some of the calibration photos, or "
    "on more than one in twenty of the training photos: whole photos are judged"
)
"""Said where that is so."""


@dataclass(frozen=True)
class FitPhotos:
    """What a fit learns from."""

    train: list[Sample]
    held_out: list[Sample]
    """The calibration photos."""
    train_photos: list[Photo]
    """Working photos of `train`, in order."""
    held_out_photos: list[Photo]
    defects: list[tuple[Sample, Defective]]
    """Real defects that the encoder may learn from, as working photos and masks."""
    sizes: dict[Sample, Size]
    """(H, W) of each good photo as it was taken."""
    skipped: dict[str, str]
    """Path of every training photo that was left out -> why."""
    white_level: float | None
    geometry: Geometry
    uncut: str | None = None
    """Why photos are judged whole although they might be cut."""


def good_photos(config: RunConfig, samples: Sequence[Sample], data: Path) -> list[Sample]:
    """The good training photos among `samples` that a fit learns from, `data.most_photos` of them at most.
    Raises DataError where `data` holds none."""
    good = [sample for sample in samples if sample.split == "train" and sample.label == "normal"]
    if not good:
        raise DataError(
            f"{one_line(data)} has no good training photos, and a fit learns from nothing else: put some in "
            "train/good, give a folder of them, or a manifest with rows of split train and label normal"
        )
    return evenly(good, config.data.most_photos or len(good))


def defects_wanted(config: RunConfig, samples: Sequence[Sample]) -> list[Sample]:
    """The defective training photos among `samples`, where the encoder is to be supervised; else none."""
    if not config.supervised_weight:
        return []
    return [sample for sample in samples if sample.split == "train" and sample.label == "anomalous"]


def read_photos(config: RunConfig, samples: Sequence[Sample], progress: Progress) -> FitPhotos:
    """Open the training photos among `samples`, no others; defective ones only where they are wanted.

    Raises DataError where there are too few readable photos, or a defective one has no mask;
    CalibrationError where they cannot support the threshold that was asked for.
    """
    good = [sample for sample in samples if sample.split == "train" and sample.label == "normal"]
    limit = config.data.max_megapixels
    white_level = white_level_of([sample.path for sample in good], max_megapixels=limit)

    def read(sample: Sample) -> Photo:
        return read_image(sample.path, white_level=white_level, max_megapixels=limit)

    def step(stage: str, of: Sequence[Sample]) -> Callable[[int], None]:
        return lambda done: progress.step(stage, done, len(of))

    sizes, skipped = _sizes(good, read, step("checking photos", good))
    train, held_out = _split(config, list(sizes))
    image_size, train_sizes = config.image.image_size, [sizes[sample] for sample in train]
    geometry = Geometry.choose(train_sizes, image_size, learn_cut(config, train, train_sizes, read))

    def view(sample: Sample) -> View:
        return geometry.view(read(sample))

    def views(of: list[Sample], stage: str) -> list[View]:
        return distributed.each(view, of, step(stage, of))

    seen = views(train, "training photos")
    why = {sample: one.remark for sample, one in zip(train, seen, strict=True) if one.remark}
    held_out_views = [] if len(why) > MOST_LOST * len(train) else views(held_out, "calibration photos")
    if not held_out_views or any(one.remark for one in held_out_views):
        del seen, held_out_views
        whole = read_photos(config.of_whole_photos(), samples, progress)
        return replace(whole, uncut=NOT_ALONE)
    skipped |= {str(sample.path): f"{one_line(sample.path)}: {reason}" for sample, reason in why.items()}
    kept = [(sample, one.photo) for sample, one in zip(train, seen, strict=True) if sample not in why]
    train, train_photos = [sample for sample, _ in kept], [photo for _, photo in kept]
    held_out_photos = [one.photo for one in held_out_views]
    defects = []
    for sample in defects_wanted(config, samples):
        try:
            photo = read(sample)
        except ImageError as error:
            skipped[str(sample.path)] = str(error)
            continue
        defective = _defective(sample, photo, geometry)
        if defective is None:
            skipped[str(sample.path)] = f"{one_line(sample.path)}: its defect lies beside what is cut out"
        else:
            defects.append((sample, defective))
    return FitPhotos(
        train, held_out, train_photos, held_out_photos, defects, sizes, skipped, white_level, geometry
    )


def learn_cut(
    config: RunConfig, train: Sequence[Sample], sizes: Sequence[Size], read: Callable[[Sample], Photo]
) -> Registration | Window | None:
    """What to cut out of photos like those of `train`, of these (H, W), where the product lies on a plain
    tray, photos are of one framing, and the configuration does not say otherwise."""
    if not config.data.cut_out or len(train) < FEWEST:
        return None
    if not Geometry.choose(sizes, config.image.image_size).one_framing:
        return None
    some = evenly(train, LEARNT)
    few = some[:: len(some) // FEWEST]
    if not any(distributed.each(lambda sample: not foreground(shrunk(read(sample))).all(), few)):
        return None
    small = distributed.each(lambda sample: shrunk(read(sample)), some)

    def learnt() -> Registration | Window | None:
        at_any_angle = Registration.learn(small) if config.data.any_angle is not False else None
        return at_any_angle or Window.learn(small)

    return distributed.from_first(learnt)


def said_of_cut(how: str) -> str:
    """What is done with photos of a product on a plain tray."""
    done = (
        "every photo is cut to it"
        if how == "window"
        else ("and at any angle: it is looked for, and every photo is turned upright and cut to it")
    )
    return (
        f"the product lies on a plain tray{', so' if how == 'window' else ''} {done}; farther away than "
        f"{100 * MARGIN:.0f} % of its length only what differs from the tray in colour is seen "
        "(data.cut_out=false judges whole photos)"
    )


def _sizes(
    samples: list[Sample], read: Callable[[Sample], Photo], step: Callable[[int], None]
) -> tuple[dict[Sample, Size], dict[str, str]]:
    """(H, W) of the photos that can be read, and why the others cannot."""

    def size_or_reason(sample: Sample) -> Size | str:
        try:
            height, width = read(sample).shape[:2]
        except ImageError as error:
            return str(error)
        return height, width

    found = list(zip(samples, distributed.each(size_or_reason, samples, step), strict=True))
    sizes = {sample: size for sample, size in found if not isinstance(size, str)}
    skipped = {str(sample.path): reason for sample, reason in found if isinstance(reason, str)}
    if len(sizes) < 2:
        reasons = f"; the first that could not be read: {next(iter(skipped.values()))}" if skipped else ""
        raise DataError(f"training needs good photos, got {len(sizes)} that can be read{reasons}: add photos")
    return sizes, skipped


def _split(config: RunConfig, good: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """(train, calibration): as many held out as asked for, or as the threshold needs, up to half."""
    needed = photos_needed(config.calibration)
    fraction = min(0.5, max(config.data.calibration_fraction, needed / len(good)))
    train, held_out = split_calibration(good, fraction, config.seed)
    if len(held_out) < needed and len({sample.group for sample in good} - {None}) > 1:
        train, held_out = split_calibration(good, 0.5, config.seed)
    if len(held_out) < needed:
        try:
            Calibration.of(np.zeros(len(held_out)), config.calibration)
        except CalibrationError as error:
            most = config.data.most_photos
            raise CalibrationError(
                f"{error} (at most half of the good photos are held out, whole groups of them where "
                f"there are groups: about {2 * needed} good photos are needed, here are {len(good)}"
                f"{'' if most is None else f', and data.most_photos={most} uses no more'})"
            ) from None
    if len(train) < 2:
        raise DataError(f"of {len(good)} good photos {len(train)} is left to train on: add photos")
    if len({fingerprint(sample.path) for sample in train}) < 2:
        raise DataError("all training photos are the same photo: add photos of different good parts")
    return train, held_out


def _defective(sample: Sample, photo: Photo, geometry: Geometry) -> Defective | None:
    """The working photo of a real defect and its mask; None where nothing of the defect is cut out."""
    mask = defect_mask(sample, photo.shape[:2])
    if mask is None or not mask.any():
        raise DataError(
            f"the defective training photo {one_line(sample.path)} has "
            f"{'no' if mask is None else 'an empty'} mask: supervised_weight needs to know where the "
            "defect is; draw it, or leave the photo out"
        )
    view = geometry.view(photo)
    size = view.photo.shape[:2]
    if view.place is None:
        return view.photo, cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) > 0
    small = view.place.cut(np.dstack([mask.astype(np.uint8) * 255] * 3), size).max(2) > 0
    return (view.photo, small) if view.place.found and small.any() else None
