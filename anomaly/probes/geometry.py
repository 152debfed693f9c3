"""The product lies elsewhere. What it uncovers shows the surroundings, moved along with it."""

from __future__ import annotations

import cv2
import numpy as np

from anomaly.probes import probe
from anomaly.probes.scene import Pixels, Scene


@probe("shift", "geometry", "px", (2, 4, 8, 16, 32), resembles=("Affine",))
def shift(scene: Scene, distance: float) -> Pixels:
    """The product lies so many px away, in whole px, in a random direction."""
    angle = scene.rng.uniform(0, 2 * np.pi)
    dy, dx = round(distance * np.sin(angle)), round(distance * np.cos(angle))
    if dy == dx == 0:
        dx = 1
    return _moved(scene, np.array([[1, 0, dx], [0, 1, dy]], np.float64))


@probe("rotate", "geometry", "degrees", (1, 2, 4, 8, 16), resembles=("Affine",))
def rotate(scene: Scene, degrees: float) -> Pixels:
    """The product is turned about its middle by this angle, to a random side."""
    row, col = (float(values.mean()) for values in np.nonzero(scene.foreground))
    side = 1 if scene.rng.random() < 0.5 else -1
    return _moved(scene, cv2.getRotationMatrix2D((col, row), side * degrees, 1.0))


def _moved(scene: Scene, matrix: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Pixels:
    size = scene.foreground.shape[::-1]
    moved = cv2.warpAffine(
        scene.photo, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    if scene.fills_photo:
        return np.asarray(moved)
    before = scene.foreground.astype(np.float32)
    there = cv2.warpAffine(before, matrix, size, flags=cv2.INTER_LINEAR)
    touched = cv2.dilate(np.maximum(before, there), np.ones((5, 5), np.uint8))
    cover = cv2.blur(touched, (5, 5))[:, :, None]
    return np.asarray(scene.photo + (moved - scene.photo) * cover)
