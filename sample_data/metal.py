"""`bracket`: a face-milled aluminium part on a rubber conveyor, and what goes wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from scene import (
    Array,
    Lot,
    Rng,
    bell,
    blob,
    blur,
    box,
    clouds,
    line,
    pixels,
    rotated,
    shadow,
    slope,
    smoothstep,
)

HOLES = ((-90.0, -50.0), (-90.0, 50.0), (88.0, 48.0), (2.0, -50.0))
HOLE_RADIUS = 8.5
BORE = (-47.0, 0.0)
BORE_RADIUS = 26.0
SEAT_RADIUS = 36.0
STEEL = np.array([0.80, 0.79, 0.77], np.float32)
RUBBER = np.array([0.097, 0.105, 0.090], np.float32)


@dataclass
class Part:
    """A bracket on the belt before the lamp is switched on: what a flaw may alter."""

    x: Array
    y: Array
    u: Array
    """Position in the frame of the part."""
    v: Array
    outline: Array
    """Distance to the part's edge, negative on metal."""
    skin: Array
    """Height of the milled surface without edges and seat."""
    height: Array
    colour: Array
    """(H, W, 3) reflectance relative to clean metal."""
    gloss: Array

    def site(self, rng: Rng, nearest: float, farthest: float) -> tuple[Array, Array]:
        """(x, y) in the part's frame from a random place that lies so far inside the edge."""
        rows, cols = np.nonzero((self.outline < -nearest) & (self.outline > -farthest))
        k = rng.integers(len(rows))
        return self.u - self.u[rows[k], cols[k]], self.v - self.v[rows[k], cols[k]]


def bracket(
    lot: Lot, rng: Rng, flaw: Callable[[Part], None], *, height: int = 256, turn: float = 2.5
) -> Array:
    """Light (height, 320, 3) from one bracket on the belt, as `flaw` left it, turned by `turn` degrees at
    most."""
    x, y = pixels(height, 320)
    u, v = rotated(x - rng.uniform(-4, 4), y - rng.uniform(-4, 4), math.radians(rng.uniform(-turn, turn)))
    outline = np.maximum(box(u, v, (0, 0), (110, 70), 14), -box(u, v, (92, -62), (54, 44), 12))
    outline = np.maximum(outline, -box(u, v, (47, 12), (30, 9), 9))
    from_bore = np.hypot(u - BORE[0], v - BORE[1])
    outline = np.maximum(outline, BORE_RADIUS - from_bore)
    for hole_u, hole_v in HOLES:
        outline = np.maximum(outline, HOLE_RADIUS - np.hypot(u - hole_u, v - hole_v))

    skin = milled(u, v, lot, rng)
    chamfer = rng.uniform(1.9, 2.7)
    seat = smoothstep(0.8, -0.8, from_bore - SEAT_RADIUS)
    relief = np.where(from_bore < SEAT_RADIUS, 0.02 * clouds(rng, x.shape, 1.2), skin) - 2.2 * seat
    relief = relief - 0.8 * np.clip(outline + chamfer, 0, chamfer)
    etched = engraving(u, v)
    colour = 1 + 0.03 * clouds(rng, x.shape, 40) + 0.025 * clouds(rng, x.shape, 1.0)
    colour = colour * (1 - rng.uniform(0.34, 0.46) * etched)
    part = Part(x, y, u, v, outline, skin, relief, np.dstack([colour] * 3), 1 - 0.5 * etched)
    flaw(part)
    return lit(part, lot, rng)


def milled(u: Array, v: Array, lot: Lot, rng: Rng) -> Array:
    """Height of the arcs that the cutter left, each groove as deep as chance had it."""
    feed, cutter = 2.6 * lot.pitch, rng.uniform(150, 165)
    arc = u + np.sqrt(cutter**2 - (v + rng.uniform(-12, 12)).clip(-140, 140) ** 2) + rng.uniform(0, 100)
    depth = np.interp(arc / feed % 400, np.arange(400), rng.normal(size=400)).astype(np.float32)
    grooves = depth + 0.8 * np.sin(2 * np.pi * arc / feed)
    return 0.045 * rng.uniform(0.8, 1.25) * grooves + 0.012 * clouds(rng, u.shape, 1.5)


def engraving(u: Array, v: Array) -> Array:
    """The part number, 1 where the laser etched it."""
    plate = np.zeros((60, 400), np.uint8)
    cv2.putText(plate, "AM 204-7", (6, 44), cv2.FONT_HERSHEY_DUPLEX, 1.5, 255, 3, cv2.LINE_AA)
    return cv2.remap(plate, np.dstack([(u + 32) * 4, (v - 40) * 4]), None, cv2.INTER_LINEAR) / np.float32(255)


def lit(part: Part, lot: Lot, rng: Rng) -> Array:
    """Metal mirrors the lamp and its frame, rubber scatters, the part throws a soft shadow."""
    toward = lot.toward(rng)
    nx, ny = slope(blur(part.height, 0.4))
    # the lamp is near: the direction that mirrors it slides over the part
    from_lamp = np.hypot(nx - 0.16 * toward[0] + part.x / 900, ny - 0.16 * toward[1] + part.y / 900)
    from_frame = np.hypot(nx - 0.55 * toward[0], ny - 0.55 * toward[1])
    mirror = 0.62 * lot.gloss * bell(from_lamp, 0.28) + 0.75 * bell(from_frame, 0.31)
    scatter = 0.11 + 0.11 * (nx * toward[0] + ny * toward[1])
    metal = (part.gloss * mirror + scatter)[..., None] * part.colour * STEEL

    solid = np.clip(0.5 - 2 * part.outline, 0, 1)
    lamp_left = (1 - 0.62 * shadow(solid, toward, 7, 2.2)) * (1 - 0.45 * blur(solid, 6))
    ground = belt(part, toward, rng) * lamp_left[..., None]
    return ground + (metal - ground) * solid[..., None]


def belt(part: Part, toward: tuple[float, float], rng: Rng) -> Array:
    """Light (H, W, 3) from conveyor rubber: fabric impression, wear and dust."""
    shape = part.x.shape
    a, b = part.x + part.y + rng.uniform(0, 50), part.x - part.y + rng.uniform(0, 50)
    knurl = np.sin(2 * np.pi / 9.5 * a) * np.sin(2 * np.pi / 9.5 * b)
    nx, ny = slope(0.35 * knurl + 0.16 * clouds(rng, shape, 1.0) + 0.12 * clouds(rng, shape, 2.5))
    light = np.clip(0.6 + 0.8 * (nx * toward[0] + ny * toward[1]), 0.1, 2)
    wear = 1 + 0.1 * clouds(rng, shape, 30, 3) + 0.05 * clouds(rng, shape, 6, 4)
    dust = 0.1 * smoothstep(3.0, 3.8, clouds(rng, shape, 1.3))
    return (light * wear)[..., None] * RUBBER + dust[..., None]


# Each flaw alters the part in place. `size` and `strength` are grades in [0, 1].


def scratch(part: Part, rng: Rng, size: float, strength: float) -> None:
    """A groove with a raised lip on one side, 18 to 110 px long."""
    u, v = part.site(rng, 6, 99)
    far, along = line(rng, u, v, 18 * 6**size, rng.uniform(-0.06, 0.06))
    width = rng.uniform(0.8, 1.1)
    press = np.sin(np.pi * along.clip(0.02, 0.98)) ** 0.4 * (0.25 + 0.9 * strength)
    groove = press * bell(far, width)
    part.height = part.height - 0.7 * groove + 0.25 * press * bell(far - 1.5 * width, width)
    part.colour = part.colour * (1 + 0.25 * groove)[..., None]


def dent(part: Part, rng: Rng, size: float, strength: float) -> None:
    """A knock with a raised rim, 4 to 12 px in radius."""
    radius = 4 * 3**size
    u, v = part.site(rng, min(radius, 9), 99)
    far = np.maximum(blob(rng, u, v, radius, 0.12) / radius + 1, 0)
    bowl = 0.22 * bell(far - 1.25, 0.3) - bell(far, 0.7)
    part.height = part.height + radius * (0.05 + 0.2 * strength) * bowl


def stain(part: Part, rng: Rng, size: float, strength: float) -> None:
    """A dried drop of coolant with its dark border, 7 to 28 px in radius."""
    radius = 7 * 4**size
    u, v = part.site(rng, 6, 99)
    edge = blob(rng, u, v, radius, 0.3) + 0.1 * radius * clouds(rng, u.shape, max(2, radius / 4))
    wet = smoothstep(1.2, -1.2 - 0.1 * radius, edge) * (0.56 + 0.1 * clouds(rng, u.shape, radius / 2 + 2))
    film = (wet + 0.35 * bell(edge + 1.5, 1.5)).clip(0, 1)[..., None] * (0.2 + 0.5 * strength)
    part.colour = part.colour * (1 - film * np.array([1.0, 0.8, 0.62], np.float32))


def hole(part: Part, rng: Rng, size: float, strength: float) -> None:
    """A hole drilled too small or not at all; a weak one is only blocked deep down, in the shade."""
    hole_u, hole_v = HOLES[rng.integers(len(HOLES))]
    far = np.hypot(part.u - hole_u, part.v - hole_v)
    left = (HOLE_RADIUS - 1.5) * (1 - size)
    web = far < HOLE_RADIUS + 4
    sunk = (1 - strength) * smoothstep(0.8, -0.8, far - HOLE_RADIUS)
    part.outline = np.where(web, (left if left > 1 else -9) - far, part.outline)
    part.height = np.where(web, part.skin - 2.5 * sunk - 0.8 * (left + 1.5 - far).clip(0, 1.5), part.height)
    part.colour = part.colour * (1 - 0.5 * sunk)[..., None]


def chip(part: Part, rng: Rng, size: float, strength: float) -> None:
    """Material broken out of an edge, 4 to 14 px in radius; a weak one does not go right through."""
    radius = 4 * 3.5**size
    u, v = part.site(rng, 0, 1)
    edge = blob(rng, u, v, radius, 0.25) + 0.35 * clouds(rng, u.shape, 2.5)
    broken = smoothstep(0.8, -0.8, edge)
    facets = (0.4 + 0.6 * strength) * (0.5 * clouds(rng, u.shape, 2.0) + 0.3 * clouds(rng, u.shape, 0.9))
    part.height = part.height + broken * (0.35 * edge.clip(-radius) + facets)
    part.gloss = part.gloss * (1 - (0.2 + 0.3 * strength) * broken)
    part.outline = np.maximum(part.outline, -(edge + 0.9 * radius * (1 - strength)))


def burr(part: Part, rng: Rng, size: float, strength: float) -> None:
    """A ragged sliver of metal that the tool pushed over an edge, 16 to 64 px long."""
    u, v = part.site(rng, 0, 0.6)
    window = np.exp(-((np.hypot(u, v) / (8 * 4**size)) ** 4))
    ragged = 0.75 + 0.3 * clouds(rng, u.shape, 1.8) + 0.3 * clouds(rng, u.shape, 6)
    sliver = window * ragged.clip(0.15, 1.6) * (1.8 + 2.2 * strength)
    turned = smoothstep(1.5, 0, np.abs(part.outline)) * (sliver > 0.3)
    part.outline = part.outline - sliver
    part.height = part.height + turned * clouds(rng, u.shape, 0.9) * (0.3 + 0.3 * strength)
    part.gloss = part.gloss * (1 + 0.4 * turned)


FLAWS = (scratch, dent, stain, hole, chip, burr)
