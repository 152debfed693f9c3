"""Something is missing, something is there that should not be, or a piece is the wrong way round."""

from __future__ import annotations

import cv2
import numpy as np

from anomaly.probes import probe
from anomaly.probes.scene import Pixels, Place, Scene, blob, coverage


@probe("missing_part", "defect", "px", (8, 16, 28, 48, 80))
def missing_part(scene: Scene, diameter: float) -> Pixels:
    """A piece of this diameter has broken off the product's edge; without a tray, its structure is gone."""
    if scene.fills_photo:
        place = scene.place(diameter / 2)
        cover = coverage(blob(place, diameter, scene.rng))
        smooth = cv2.GaussianBlur(scene.photo[place.rows, place.cols], (0, 0), max(2.0, diameter / 4))
        return scene.replace(place, np.asarray(smooth, dtype=np.float32), cover)
    place = scene.place(diameter / 2, at_edge=True)
    cover = coverage(blob(place, diameter, scene.rng))
    return scene.replace(place, _background(scene, place), cover)


@probe("added_part", "defect", "px", (6, 12, 20, 36, 64), contrast=50)
def added_part(scene: Scene, size: float) -> Pixels:
    """A solid foreign piece of this size with a lit side and a soft shadow: a chip, a crumb, a screw."""
    place = scene.place(size / 2)
    outside = blob(place, size, scene.rng, roughness=0.5)
    cover = coverage(outside, softness=0.7)
    lit = np.tanh(-(place.y + place.x) / max(2.0, 0.35 * size))
    reach = max(1.5, 0.12 * size)
    shadow = np.exp(-np.square(np.maximum(outside, 0) / reach)) * (place.y + place.x > 0)
    step = scene.step(place)
    inside = scene.photo[place.rows, place.cols].mean(axis=(0, 1)) + step * (0.85 + 0.15 * lit[:, :, None])
    shaded = scene.photo[place.rows, place.cols] - 0.4 * scene.contrast * shadow[:, :, None]
    cover3 = cover[:, :, None]
    seen = np.asarray(inside * cover3 + shaded * (1 - cover3), dtype=np.float32)
    return scene.replace(place, seen, np.ones_like(cover))


@probe("swapped_texture", "defect", "px", (12, 24, 40, 64, 96))
def swapped_texture(scene: Scene, diameter: float) -> Pixels:
    """A patch of this diameter shows the texture of another place, turned a quarter, as bright as before."""
    place = scene.place(diameter / 2)
    other = scene.place(diameter / 2)
    height, width = scene.foreground.shape
    row = np.clip(other.rows.start - other.y[0, 0] + place.x, 0, height - 1)
    col = np.clip(other.cols.start - other.x[0, 0] - place.y, 0, width - 1)
    patch = scene.photo[row.astype(np.intp), col.astype(np.intp)]
    cover = coverage(place.radius - diameter / 2, softness=max(1.0, diameter / 12))
    here = scene.photo[place.rows, place.cols]
    weight = cover[:, :, None] / max(float(cover.sum()), 1.0)
    patch = patch + ((here - patch) * weight).sum(axis=(0, 1))
    return scene.replace(place, patch, cover)


@probe("mirror", "defect", "px", (16, 32, 64, 128, 256), resembles=("HorizontalFlip", "VerticalFlip"))
def mirror(scene: Scene, diameter: float) -> Pixels:
    """A round piece of this diameter is mirrored left to right: a part put in the wrong way round."""
    reach = diameter / 2
    place = scene.place(reach) if scene.holds(reach) else scene.middle(reach)
    cover = coverage(place.radius - diameter / 2, softness=max(1.0, diameter / 24))
    height, width = place.y.shape
    row, col = np.mgrid[:height, :width].astype(np.float32)
    here = scene.photo[place.rows, place.cols]
    turned = cv2.remap(here, col - 2 * place.x, row, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
    return scene.replace(place, np.asarray(turned, dtype=np.float32), cover)


def _background(scene: Scene, place: Place) -> Pixels:
    """Pixels (h, w, 3) as they look beside the product: its surroundings grown into it."""
    rows, cols = place.rows, place.cols
    here, product = scene.photo[rows, cols], scene.foreground[rows, cols]
    if product.all():
        return np.broadcast_to(scene.photo[~scene.foreground].mean(axis=0), here.shape).astype(np.float32)
    near = cv2.distanceTransformWithLabels(
        product.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )[1]
    colours = np.zeros((int(near.max()) + 1, 3), np.float32)
    colours[near[~product]] = here[~product]
    smooth = cv2.GaussianBlur(colours[near], (0, 0), 3.0)
    fine = here - cv2.GaussianBlur(here, (0, 0), 3.0)
    spread = float(fine[~product].std())
    return np.asarray(smooth + scene.rng.normal(0, spread, smooth.shape[:2])[:, :, None], dtype=np.float32)
