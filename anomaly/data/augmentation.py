"""Two augmented views of one crop, and where each patch of the one lies in the other.

One number, `augmentation_strength` in [0, 1], scales every transform; 0 is no augmentation. What a
transform changes, the contrastive encoder learns to ignore: a defect that looks like an augmentation
becomes invisible (Xue et al., ICML 2023), so the ranges are few and stated in physical terms.
"""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.errors import ConfigError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

RANGES = {
    "Affine": "rotation up to 15 degrees, scale 0.8 to 1.2, shift up to 5 % of the crop",
    "HorizontalFlip": "probability 0.5",
    "VerticalFlip": "probability 0.5",
    "RandomBrightnessContrast": "brightness and contrast up to 40 %",
    "RandomGamma": "exponent 0.5 to 1.5",
    "HueSaturationValue": "hue up to 18 degrees, saturation up to 24 %",
    "GaussianBlur": "standard deviation up to 2 px",
    "GaussNoise": "standard deviation up to 8 % of full scale",
}
"""Each transform of the pipeline and its range at strength 1."""


def pipeline(strength: float, seed: int) -> A.Compose:
    """The transforms at `strength`; a mask that is passed along goes through the geometric ones."""
    if not 0 <= strength <= 1:
        raise ConfigError(f"augmentation_strength is {strength}: set it between 0 (none) and 1 (strongest)")
    s = strength
    steps = [
        A.Affine(
            rotate=(-15 * s, 15 * s),
            scale=(1 - 0.2 * s, 1 + 0.2 * s),
            translate_percent=(-0.05 * s, 0.05 * s),
            border_mode=cv2.BORDER_REFLECT_101,
            mask_interpolation=cv2.INTER_NEAREST,
            p=1.0,
        ),
        A.HorizontalFlip(p=0.5 * s),
        A.VerticalFlip(p=0.5 * s),
        A.RandomBrightnessContrast(brightness_limit=0.4 * s, contrast_limit=0.4 * s, p=1.0),
        A.RandomGamma(gamma_limit=(100 - 50 * s, 100 + 50 * s), p=1.0),
        A.HueSaturationValue(hue_shift_limit=9 * s, sat_shift_limit=60 * s, val_shift_limit=0, p=1.0),
        A.GaussianBlur(sigma_limit=(0.0, 2 * s), blur_limit=0, p=0.5),
        A.GaussNoise(std_range=(0.0, 0.08 * s), p=0.5),
    ]
    return A.Compose(steps if strength else [], seed=seed)


class ViewMaker:
    """Draws pairs of augmented views. The same seed gives the same pairs."""

    def __init__(self, strength: float, seed: int) -> None:
        self._pipeline = pipeline(strength, seed)

    def view(self, crop: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """(view (H, W, 3) uint8, origin (H, W, 2) float32): the (row, col) in `crop` of each pixel."""
        h, w = crop.shape[:2]
        origin = np.moveaxis(np.mgrid[:h, :w], 0, -1).astype(np.float32)
        out: dict[str, Any] = self._pipeline(image=np.ascontiguousarray(crop), mask=origin)
        return out["image"], out["mask"]
