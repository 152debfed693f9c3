"""The whole product looks different: light, colour, focus, noise."""

from __future__ import annotations

import cv2
import numpy as np

from anomaly.probes import probe
from anomaly.probes.scene import Pixels, Scene

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
LIGHT = ("RandomBrightnessContrast", "RandomGamma")


@probe("fade", "appearance", "%", (10, 20, 35, 55, 80), resembles=LIGHT)
def fade(scene: Scene, percent: float) -> Pixels:
    """The product loses this share of its contrast, as print or a coating that wears off."""
    mean = scene.photo[scene.foreground].mean(axis=0)
    return np.asarray(scene.photo + (mean - scene.photo) * np.float32(percent / 100))


@probe("brighten", "appearance", "grey levels", (4, 8, 16, 32, 64), resembles=LIGHT)
def brighten(scene: Scene, levels: float) -> Pixels:
    """The product is brighter by so many grey levels."""
    return np.asarray(scene.photo + np.float32(levels))


@probe("tint", "appearance", "grey levels", (3, 6, 12, 24, 48), resembles=("HueSaturationValue",))
def tint(scene: Scene, levels: float) -> Pixels:
    """One colour channel rises by so many grey levels, another falls: warmer, colder. Not on grey photos."""
    if scene.is_grey:
        return scene.photo
    warmer = 1.0 if scene.rng.random() < 0.5 else -1.0
    return np.asarray(scene.photo + np.array([warmer, 0, -warmer], np.float32) * np.float32(levels))


@probe("desaturate", "appearance", "%", (10, 25, 50, 75, 100), resembles=("HueSaturationValue",))
def desaturate(scene: Scene, percent: float) -> Pixels:
    """The product loses this share of its colour, at the same brightness. Not on grey photos."""
    if scene.is_grey:
        return scene.photo
    grey = (scene.photo @ LUMA)[:, :, None]
    return np.asarray(scene.photo + (grey - scene.photo) * np.float32(percent / 100))


@probe("blur", "appearance", "px", (0.5, 1, 1.5, 2.5, 4), resembles=("GaussianBlur",))
def blur(scene: Scene, sigma: float) -> Pixels:
    """Fine structure is blurred by a Gaussian of this standard deviation: worn tools, lost focus."""
    return np.asarray(cv2.GaussianBlur(scene.photo, (0, 0), sigma))


@probe("sharpen", "appearance", "%", (25, 50, 100, 200, 400))
def sharpen(scene: Scene, percent: float) -> Pixels:
    """Fine structure (below 1.5 px) stands out by this share more: harsher edges, rougher surface."""
    fine = scene.photo - cv2.GaussianBlur(scene.photo, (0, 0), 1.5)
    return np.asarray(scene.photo + fine * np.float32(percent / 100))


@probe("grain", "appearance", "grey levels", (2, 4, 8, 16, 32), resembles=("GaussNoise",))
def grain(scene: Scene, levels: float) -> Pixels:
    """Grain of this standard deviation, about 1.5 px wide: a rough or dusty surface."""
    noise = scene.rng.standard_normal(scene.foreground.shape, dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 0.7)
    return np.asarray(scene.photo + noise[:, :, None] * np.float32(levels / noise.std()))
