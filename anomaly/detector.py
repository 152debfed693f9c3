"""The fitted model: a photo goes in; an anomaly map and one score come out, and what decides of them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.calibration import Calibration
from anomaly.config import RunConfig
from anomaly.data.addresses import Location
from anomaly.data.geometry import Geometry
from anomaly.data.images import read_image
from anomaly.data.registration import Place
from anomaly.maps import LIMIT, Map, MapStatistics, limited, resize, top_mean
from anomaly.policy.policy import Policy
from anomaly.scorers import PatchMaps, Scorer

if TYPE_CHECKING:
    from anomaly.models.autoencoder import PixelAutoencoder
    from anomaly.models.encoder import Encoder

Photo = NDArray[np.uint8]

LOST = 20.0
"""What a photo that was cut, though the product is not found or not alone on it, scores above its map, in
units of the spread of good patches: as unusual as can be, everywhere."""


@dataclass(frozen=True)
class Scores:
    """What one photo scores. Maps are of patches (h, w), never scaled by what else is judged; those of the
    branches are limited, see `anomaly.maps.limited`."""

    image_score: float
    anomaly_map: Map
    branch_scores: dict[str, float]
    place: Place | None = None
    """Where what was judged lies on the photo, if that was cut out."""


@dataclass(frozen=True)
class Detector:
    """Everything that judging a photo takes. What it scores is fixed when it is fitted."""

    config: RunConfig
    geometry: Geometry
    white_level: float | None
    encoder: Encoder
    scorers: Mapping[str, Scorer[Any]]
    statistics: Mapping[str, MapStatistics]
    weights: Mapping[str, float]
    """Share of each branch in the fused map; they sum to 1."""
    calibration: Calibration
    picture: PixelAutoencoder | None
    policy: Policy
    """What decides; it may have changed since the fit, see `anomaly tune`."""

    def read(self, path: Location) -> Photo:
        """The photo at `path`, (H, W, 3) uint8, read as the training photos were. Raises ImageError."""
        limit = self.config.data.max_megapixels
        return read_image(path, white_level=self.white_level, max_megapixels=limit)

    def score(self, photo: Photo) -> Scores:
        """Scores of one photo (H, W, 3) uint8 of any size. A photo's score depends on nothing but it."""
        view = self.geometry.view(photo)
        return self.combine(score_patches(self.scorers, self.encoder.maps(view.photo)), view.place)

    def combine(self, maps: Mapping[str, Map], place: Place | None = None) -> Scores:
        """Standardise and fuse what scorers give of a photo on which the product lies at `place`."""
        standard = {name: self.statistics[name].standardise(values) for name, values in maps.items()}
        return placed(fuse(standard, self.weights, self.config.fusion.top_share), place)

    def judged_score(self, scores: Scores, size: tuple[int, int]) -> float:
        """The score of a photo of `size` (H, W) that thresholds are held against: that under the region
        rules in force. Raises ImageError where these were drawn for photos of another shape."""
        share = self.config.fusion.top_share
        return self.policy.score(scores.image_score, scores.anomaly_map, size, share, self.geometry.window)

    def full_map(self, scores: Scores, photo: Photo) -> Map:
        """The anomaly map at the photo's own size (H, W). What lies beside the product has the photo's score;
        the product, on such a photo, what it would have without."""
        size, place = photo.shape[:2], scores.place
        found = self.geometry.to_photo(scores.anomaly_map, size, place)
        if place is None or place.beside is None:
            return found
        beside = cv2.resize(place.beside.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
        return np.where(beside, np.float32(scores.image_score), found - np.float32(LOST))

    def expected(self, photo: Photo) -> Photo | None:
        """What the pixel autoencoder expected to see, at a small size, in its place on the photo; None where
        none was trained."""
        if self.picture is None:
            return None
        from anomaly.models.picture import expected_picture

        if self.geometry.cut is None:
            return expected_picture(self.picture, photo)
        view = self.geometry.view(photo)
        assert view.place is not None
        height, width = view.photo.shape[:2]
        picture = cv2.resize(expected_picture(self.picture, view.photo), (width, height))
        return view.place.paste(np.asarray(picture, np.uint8), photo)


def score_patches(scorers: Mapping[str, Scorer[Any]], maps: PatchMaps) -> dict[str, Map]:
    """Patch scores (h, w) of each scorer on one photo's maps, and their limits."""
    found = {}
    for name, scorer in scorers.items():
        values = maps[scorer.input]
        found[name] = scorer.score(values).numpy()
        if scorer.limited:
            found[name + LIMIT] = scorer.limit(values).numpy()
    return found


def fuse(standard: Mapping[str, Map], weights: Mapping[str, float], top_share: float) -> Scores:
    """Weighted mean of standardised maps, limited, on the finest grid of them; its top share is the image
    score."""
    standard = limited(standard)
    size = max((values.shape for values in standard.values()), key=lambda shape: shape[0] * shape[1])
    fused = np.zeros(size, dtype=np.float32)
    for name, values in standard.items():
        fused += np.float32(weights[name]) * resize(values, size)
    branches = {name: top_mean(values, top_share) for name, values in standard.items()}
    return Scores(top_mean(fused, top_share), fused, branches)


def placed(scores: Scores, place: Place | None) -> Scores:
    """`scores` of a photo on which the product lies at `place`: raised by LOST where it was not found, or not
    alone."""
    if place is None or place.as_learnt:
        return replace(scores, place=place)
    higher = scores.anomaly_map + np.float32(LOST)
    return replace(scores, image_score=scores.image_score + LOST, anomaly_map=higher, place=place)


_of_thread = threading.local()
"""The `count` that a thread was given, and whether torch knows of it."""


def use_threads(count: int) -> None:
    """Let numpy, OpenCV, and torch and faiss where they are in use, take `count` threads in this thread."""
    from threadpoolctl import threadpool_limits

    _of_thread.count, _of_thread.told = count, False
    keep_threads()
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(count)
    cv2.setNumThreads(count)
    threadpool_limits(count, user_api="blas")


def keep_threads() -> None:
    """Tell torch what this thread was given, where it has been imported since."""
    count = getattr(_of_thread, "count", None)
    if count is not None and not _of_thread.told and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
        _of_thread.told = True
