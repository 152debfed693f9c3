"""`twill`: a blue-grey 2/2 twill under a raking lamp, and what goes wrong on the loom."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scene import Array, Lot, Rng, blob, blur, clouds, line, pixels, rotated, shadow, slope, smoothstep

YARNS = 96
"""Yarns each way before the pattern of single yarns repeats: more than a photo shows."""
WARP_COLOUR = np.array([0.345, 0.305, 0.276], np.float32)
WEFT_COLOUR = np.array([0.495, 0.495, 0.483], np.float32)
BACKING = 0.02
HAIRS = ((0.03, 0.03, 0.035), (0.62, 0.62, 0.58), (0.08, 0.08, 0.3))


@dataclass
class Cloth:
    """A cloth before it is woven: what a flaw may alter. Yarn n of the warp (upright) lies at `s` in
    [n, n + 1), of the weft at `t`."""

    x: Array
    y: Array
    s: Array
    t: Array
    pitch: float
    over: Array
    """(YARNS, YARNS) by warp and weft yarn: 1 where the warp is on top, -1 where the weft is."""
    warp: Array
    """Thickness relative to the cell, 0 where the yarn is missing."""
    weft: Array
    dye: Array
    """(H, W, 3) reflectance relative to clean cloth."""
    hair: Array
    """Opacity of a fibre on top."""
    hair_colour: tuple[float, ...] = HAIRS[0]

    def site(self, rng: Rng) -> tuple[Array, Array]:
        """(x, y) from a random place not too near the border."""
        return self.x - rng.uniform(-95, 95), self.y - rng.uniform(-95, 95)


def twill(lot: Lot, rng: Rng, flaw: Callable[[Cloth], None]) -> Array:
    """Light (H, W, 3) from a piece of cloth, as `flaw` left it."""
    x, y = pixels(256, 256)
    shape = x.shape
    pitch = 6.3 * lot.pitch * rng.normal(1, 0.01)
    u, v = rotated(x, y, math.radians(rng.uniform(-2.5, 2.5)))
    s = (u + 0.9 * clouds(rng, shape, 45) + 0.18 * clouds(rng, shape, 9)) / pitch
    t = (v + 0.9 * clouds(rng, shape, 45) + 0.18 * clouds(rng, shape, 9)) / pitch * 1.06
    i, j = np.indices((YARNS, YARNS))
    cloth = Cloth(
        x,
        y,
        s + YARNS / 2 + rng.uniform(0, 4),
        t + YARNS / 2 + rng.uniform(0, 4),
        pitch,
        over=np.where((i + j) % 4 < 2, 1, -1).astype(np.float32),
        warp=0.92 + 0.06 * clouds(rng, shape[::-1], 3, 5).T,
        weft=0.92 + 0.06 * clouds(rng, shape, 3, 5),
        dye=np.ones((*shape, 3), np.float32),
        hair=np.zeros_like(x),
    )
    flaw(cloth)
    return lit(cloth, *woven(cloth, rng), lot, rng)


def woven(cloth: Cloth, rng: Rng) -> tuple[Array, Array]:
    """(height in yarn spacings, (H, W, 3) reflectance) of the interlaced yarns."""
    i, j = np.floor(cloth.s).astype(np.int32), np.floor(cloth.t).astype(np.int32)
    across_warp, across_weft = cloth.s - i - 0.5, cloth.t - j - 0.5
    here = cloth.over[i % YARNS, j % YARNS]

    def rise(next_i: Array | int, next_j: Array | int, toward: Array) -> Array:
        """1 on top, -1 below, on the way between where a yarn leaves the cell for its other side."""
        there = cloth.over[(i + next_i) % YARNS, (j + next_j) % YARNS]
        return here + (there - here) / 2 * smoothstep(0.1, 0.5, np.abs(toward))

    tone = rng.normal(size=(2, YARNS)).astype(np.float32)
    high_warp, shade_warp = yarn(
        rise(0, np.sign(across_weft).astype(np.int32), across_weft),
        across_warp,
        cloth.t,
        cloth.warp,
        tone[0][i % YARNS],
    )
    high_weft, shade_weft = yarn(
        -rise(np.sign(across_warp).astype(np.int32), 0, across_warp),
        across_weft,
        cloth.s,
        cloth.weft,
        tone[1][j % YARNS],
    )
    warp_on_top = (high_warp >= high_weft)[..., None]
    colour = np.where(warp_on_top, shade_warp[..., None] * WARP_COLOUR, shade_weft[..., None] * WEFT_COLOUR)
    height = np.maximum(high_warp, high_weft)
    mottle = 1 + 0.05 * clouds(rng, height.shape, 1.0) + 0.03 * clouds(rng, height.shape, 30)
    colour = np.where((height < -0.9)[..., None], np.float32(BACKING), colour * mottle[..., None])
    return height, colour * cloth.dye


def yarn(rise: Array, across: Array, along: Array, width: Array, tone: Array) -> tuple[Array, Array]:
    """(height, shade) of one set of round twisted yarns; -1 high where there is none."""
    half = 0.5 * width * (1 + 0.04 * tone) + 1e-3
    twist = np.sin(2 * np.pi * (1.9 * along + 1.2 * across + 0.15 * tone))
    dome = np.sqrt((1 - (across / half) ** 2).clip(0)) * np.sqrt(width.clip(0))
    there = (np.abs(across) < half) & (width > 0.08)
    return np.where(there, 0.28 * rise + 0.42 * dome + 0.03 * twist, -1), 1 + 0.045 * tone + 0.05 * twist


def lit(cloth: Cloth, height: Array, colour: Array, lot: Lot, rng: Rng) -> Array:
    """A raking lamp: slopes towards it are bright, gaps are dark, a fibre on top throws a shadow."""
    toward = lot.toward(rng)
    relief = blur(height, 0.35).clip(-0.6, 1)
    nx, ny = slope((relief + 0.035 * clouds(rng, height.shape, 0.8)) * cloth.pitch * 0.55)
    upright = np.sqrt((1 - nx**2 - ny**2).clip(0, 1))
    light = (0.5 + 0.75 * (nx * toward[0] + ny * toward[1]) + 0.25 * upright).clip(0.06, 2)
    open_sky = 0.3 + 0.7 * smoothstep(-0.55, 0.5, relief)
    light = light * open_sky * lot.gloss * (1 - 0.6 * shadow(cloth.hair, toward, 1.6, 0.8))
    hair = cloth.hair[..., None]
    return colour * light[..., None] * (1 - hair) + hair * np.array(cloth.hair_colour, np.float32)


# Each flaw alters the cloth in place. `size` and `strength` are grades in [0, 1].


def swollen(yarns: Array, across: Array, along: Array, length: float, factor: float) -> tuple[Array, Array]:
    """The yarn (of `s` or `t`) through across = along = 0, made wider by `factor` over `length` while its
    neighbours give way: (new coordinates, that yarn's share in [0, 1])."""
    middle = np.floor(yarns.flat[np.argmin(np.hypot(across, along))]) + np.float32(0.5)
    window = np.exp(-((2 * along / length) ** 4))
    far = yarns - middle
    new = middle + far / (1 + (factor - 1) * np.exp(-(far**2)) * window)
    return new, window * (np.abs(new - middle) < 0.5)


def slub(cloth: Cloth, rng: Rng, size: float, strength: float) -> None:
    """A thick place in a weft yarn, 16 to 70 px long."""
    x, y = cloth.site(rng)
    cloth.t, there = swollen(cloth.t, y, x, 16 * 4.4**size, 1.6 + 1.6 * strength)
    cloth.dye = cloth.dye * (1 + (0.1 + 0.25 * strength) * there)[..., None]
    cloth.weft = cloth.weft * (1 + 0.15 * strength * there)


def missing_thread(cloth: Cloth, rng: Rng, size: float, strength: float) -> None:
    """A warp yarn thin or gone over 40 to 240 px; the weft lies bare and taut across the gap."""
    x, y = cloth.site(rng)
    cloth.s, there = swollen(cloth.s, x, y, 40 * 6**size, 1 + 0.7 * strength)
    cloth.warp = cloth.warp * (1 - (0.5 + 0.5 * strength) * there)
    cloth.weft = cloth.weft * (1 - (0.08 + 0.25 * strength) * there)


def tear(cloth: Cloth, rng: Rng, size: float, strength: float) -> None:
    """Yarns worn thin or broken, each at its own place, 3 to 14 px around the middle."""
    x, y = cloth.site(rng)
    radius = 3 * 4.5**size
    edge = blob(rng, x, y, radius, 0.15)
    fray = rng.normal(0, 0.18 * radius + 0.8, (2, YARNS)).astype(np.float32)
    worn = 0.4 + 0.6 * strength
    cloth.warp = cloth.warp * (1 - worn * smoothstep(1, -1, edge + fray[0][cloth.s.astype(int) % YARNS]))
    cloth.weft = cloth.weft * (1 - worn * smoothstep(1, -1, edge + fray[1][cloth.t.astype(int) % YARNS]))


def spill(cloth: Cloth, rng: Rng, size: float, strength: float) -> None:
    """Oil that crept along the yarns, 8 to 32 px around the middle."""
    x, y = cloth.site(rng)
    radius = 8 * 4**size
    creep = clouds(rng, x.shape, 2.2, 4) + clouds(rng, x.shape[::-1], 2.2, 4).T
    edge = blob(rng, x, y, radius, 0.25) + (0.6 + 0.06 * radius) * creep
    film = smoothstep(1.5, -2 - 0.15 * radius, edge)[..., None] * (0.2 + 0.5 * strength)
    cloth.dye = cloth.dye * (1 - film * np.array([1.0, 0.85, 0.7], np.float32))


def misweave(cloth: Cloth, rng: Rng, size: float, strength: float) -> None:
    """2 to 4 warp yarns that float over 4 to 10 wefts; slack and low where weak."""
    x, y = cloth.site(rng)
    middle = np.argmin(np.hypot(x, y))
    i, j = int(cloth.s.flat[middle]), int(cloth.t.flat[middle])
    wide, long = 2 + round(2 * size), 4 + round(6 * size)
    floats = np.ix_(np.arange(i, i + wide) % YARNS, np.arange(j, j + long) % YARNS)
    cloth.over[floats] += (1 - cloth.over[floats]) * (0.5 + 0.5 * strength)


def fibre(cloth: Cloth, rng: Rng, size: float, strength: float) -> None:
    """A foreign hair or thread on the cloth, 18 to 110 px long."""
    x, y = cloth.site(rng)
    far, _ = line(rng, x, y, 18 * 6**size, rng.uniform(-0.3, 0.3))
    thick = rng.uniform(0.6, 1.0)
    cloth.hair = smoothstep(thick + 0.35, thick - 0.35, far) * (0.5 + 0.5 * strength)
    cloth.hair_colour = HAIRS[rng.integers(len(HAIRS))]


FLAWS = (slub, missing_thread, tear, spill, misweave, fibre)
