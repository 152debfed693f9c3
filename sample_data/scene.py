"""What every photo needs: named random streams, smooth noise, outlines, surface slopes, a lamp and a camera.

Lengths are pixels of the finished photo, light is linear in [0, 1], arrays are (H, W) float32 unless said
otherwise; scenes are drawn `SUPERSAMPLING` times finer than the photo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

Array = np.ndarray
Rng = np.random.Generator

SUPERSAMPLING = 2


def stream(*words: object) -> Rng:
    """The random stream of that name: the same words, the same numbers."""
    return np.random.default_rng(list("/".join(map(str, words)).encode()))


def pixels(height: int, width: int) -> tuple[Array, Array]:
    """(x, y) of every point of the scene, from the middle of the photo."""
    y, x = np.mgrid[: height * SUPERSAMPLING, : width * SUPERSAMPLING].astype(np.float32)
    return (x + 0.5) / SUPERSAMPLING - width / 2, (y + 0.5) / SUPERSAMPLING - height / 2


def rotated(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    """(x, y) seen from a frame turned by `angle` radians."""
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def smoothstep(low: float, high: float, value: Array) -> Array:
    """0 at `low`, 1 at `high` (which may be the smaller), smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bell(value: Array, width: float = 1.0) -> Array:
    return np.exp(-((value / width) ** 2))


def blur(image: Array, sigma: float) -> Array:
    return cv2.GaussianBlur(image, (0, 0), sigma * SUPERSAMPLING)


def clouds(rng: Rng, shape: tuple[int, ...], size: float, stretch: float = 1.0) -> Array:
    """Noise of mean 0 and spread 1, in blobs of about `size`, `stretch` times longer along x."""
    spread = np.array([size, size * stretch]) * SUPERSAMPLING / 2.5
    cell = np.maximum(1, spread / 1.2)
    rows, cols = (int(n / c) + 8 for n, c in zip(shape, cell, strict=True))
    coarse = cv2.GaussianBlur(rng.standard_normal((rows, cols), np.float32), (0, 0), *(spread / cell)[::-1])
    fine = cv2.resize(coarse, None, fx=cell[1], fy=cell[0], interpolation=cv2.INTER_CUBIC)
    fine = fine[: shape[0], : shape[1]]
    return (fine - fine.mean()) / fine.std()


def blob(rng: Rng, x: Array, y: Array, radius: float, raggedness: float) -> Array:
    """Distance (negative inside) to an irregular closed outline around the origin."""
    angle = np.arctan2(y, x)
    waves = sum(rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) / k for k in range(2, 7))
    return np.hypot(x, y) - radius * (1 + raggedness * waves)


def box(x: Array, y: Array, centre: tuple[float, float], half: tuple[float, float], corner: float) -> Array:
    """Distance (negative inside) to a rectangle with round corners."""
    a = np.abs(x - centre[0]) - half[0] + corner
    b = np.abs(y - centre[1]) - half[1] + corner
    return np.hypot(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0) - corner


def line(rng: Rng, x: Array, y: Array, length: float, bend: float) -> tuple[Array, Array]:
    """(distance to, position in [0, 1] along) a bent line through the origin, in any direction."""
    along, across = rotated(x, y, rng.uniform(0, 2 * np.pi))
    t = along / length + 0.5
    middle = bend * length * (4 * t * (1 - t) - 1 + 0.3 * np.sin(2 * np.pi * t + rng.uniform(0, 6)))
    beyond = np.maximum(np.abs(along) - length / 2, 0)
    return np.hypot(across - middle, beyond), np.clip(t, 0, 1)


def slope(height: Array) -> tuple[Array, Array]:
    """x and y of the unit normals of a height map."""
    down, right = np.gradient(height * SUPERSAMPLING)
    steep = np.sqrt(1 + right**2 + down**2)
    return -right / steep, -down / steep


def shadow(opaque: Array, toward: tuple[float, float], reach: float, softness: float) -> Array:
    """Share of the lamp hidden in [0, 1] behind what is opaque and stands `reach` high."""
    shift = [-reach * SUPERSAMPLING * t for t in toward]
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    return cv2.warpAffine(blur(opaque, softness), move, opaque.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class Lot:
    """What drifts from lot to lot: lamp, white balance, material."""

    lamp: float
    """Direction the light comes from, radians."""
    gain: float
    tint: Array
    """(3,) blue, green, red."""
    pitch: float
    """Spacing of machining marks or yarns, relative."""
    gloss: float

    @classmethod
    def named(cls, seed: int, product: str, name: str) -> Lot:
        rng = stream(seed, product, "lot", name)
        return cls(
            lamp=math.radians(-125 + rng.uniform(-10, 10)),
            gain=rng.uniform(0.9, 1.1),
            tint=rng.uniform(0.97, 1.03, 3).astype(np.float32),
            pitch=rng.uniform(0.93, 1.07),
            gloss=rng.uniform(0.9, 1.12),
        )

    def toward(self, rng: Rng) -> tuple[float, float]:
        """Unit vector (x, y) to the lamp, which is never quite in the same place."""
        angle = self.lamp + rng.normal(0, 0.07)
        return math.cos(angle), math.sin(angle)


def camera(light: Array, lot: Lot, rng: Rng) -> tuple[Array, Array]:
    """Light (H, W, 3) through lens and sensor: (photo without noise, photo), grey levels in [0, 255]."""
    rows, cols = (n // SUPERSAMPLING for n in light.shape[:2])
    light = cv2.resize(light.astype(np.float32), (cols, rows), interpolation=cv2.INTER_AREA)
    light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.5, 0.7))
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j].astype(np.float32)
    across, _ = rotated(x, y, rng.uniform(0, 2 * np.pi))
    falloff = 1 + rng.uniform(0.02, 0.16) * across - 0.11 * (x**2 + y**2)
    light = light * falloff[..., None] * lot.tint * lot.gain * rng.normal(1, 0.035)
    shot = rng.standard_normal(light.shape, np.float32) * np.sqrt(np.maximum(light, 0) * 3.5e-4 + 6e-6)
    noisy = light + cv2.GaussianBlur(shot, (0, 0), 0.45)
    return 255 * np.clip(light, 0, 1) ** (1 / 2.2), 255 * np.clip(noisy, 0, 1) ** (1 / 2.2)
