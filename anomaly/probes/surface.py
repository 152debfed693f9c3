"""Marks on a surface: size in px, contrast in grey levels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anomaly.probes import probe
from anomaly.probes.scene import Pixels, Place, Scene, blob, coverage, to_line


@probe("spot", "defect", "px", (4, 8, 14, 24, 40), contrast=40)
def spot(scene: Scene, diameter: float) -> Pixels:
    """A spot of this diameter with a plain edge, lighter or darker than its place."""
    place = scene.place(diameter / 2)
    cover = coverage(blob(place, diameter, scene.rng, roughness=0.15), softness=0.7)
    return scene.paint(place, scene.step(place) * cover)


@probe("stain", "defect", "px", (8, 16, 32, 64, 96), contrast=25)
def stain(scene: Scene, diameter: float) -> Pixels:
    """A soft stain of this diameter, strongest at its rim."""
    place = scene.place(diameter / 2)
    outside = blob(place, diameter, scene.rng, roughness=0.45)
    cover = coverage(outside, softness=max(1.0, diameter / 12))
    rim = np.exp(-np.square(outside / max(1.0, diameter / 8)))
    return scene.paint(place, scene.step(place, darker=True) * cover * (0.6 + 0.4 * rim))


@probe("scratch", "defect", "px", (8, 16, 32, 64, 128), contrast=40)
def scratch(scene: Scene, length: float) -> Pixels:
    """A slightly bent scratch of this length, 1 to 3 px wide, lighter or darker, thinner at its ends."""
    place = scene.place(length / 2)
    t = np.linspace(-0.5, 0.5, 17)
    bend = scene.rng.uniform(-0.15, 0.15)
    line = _turned(np.stack([bend * (4 * t**2 - 1), t], 1) * length, scene.rng)
    distance, along = to_line(place, line)
    width = np.float32(min(3.0, 1.2 + length / 80)) * (1 - 0.6 * np.abs(2 * along - 1) ** 3)
    depth = 1 - 0.35 * np.square(np.sin(np.pi * (3 * along + scene.rng.random())))
    cover = coverage(np.asarray(distance - width / 2, dtype=np.float32))
    return scene.paint(place, scene.step(place) * depth * cover)


@probe("crack", "defect", "px", (8, 16, 32, 64, 128), contrast=50)
def crack(scene: Scene, length: float) -> Pixels:
    """A dark jagged crack of this length, 1 to 2 px wide, with one branch."""
    place = scene.place(length / 2)
    count = max(4, round(length / 5))
    line = _turned(_jagged(count, length, scene.rng), scene.rng)
    start = count // 2
    branch = line[start] + _turned(_jagged(max(3, count // 3), 0.35 * length, scene.rng), scene.rng)
    cover = np.maximum(_tapered(place, line), 0.8 * _tapered(place, branch - branch[0] + line[start]))
    return scene.paint(place, scene.step(place, darker=True) * cover)


def _jagged(count: int, length: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A line of `count` uneven steps, `length` from end to end, about the origin."""
    walk = np.cumsum(rng.normal(0, 0.5, count + 1))
    sideways = walk - np.linspace(walk[0], walk[-1], count + 1)
    forward = np.concatenate([[0.0], np.cumsum(rng.uniform(0.5, 1.5, count))])
    line = np.stack([sideways * length / count, (forward / forward[-1] - 0.5) * length], 1)
    return np.asarray(line)


def _tapered(place: Place, line: NDArray[np.float64]) -> Pixels:
    distance, along = to_line(place, line)
    return coverage(distance - (1.0 - 0.6 * along))


def _turned(points: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.array([[cos, sin], [-sin, cos]]))
