"""Draw the sample production line: `bracket`, a milled aluminium part, and `twill`, a woven cloth.

    python sample_data/generate.py [--out DIR] [--seed N] [--product NAME]

`turned_bracket`, drawn only where it is asked for, is the bracket at any angle under the same lamp.

Each photo is a height map with a colour, lit by a lamp, blurred by a lens and read by a noisy sensor. A
defect changes the part or the weave before the lamp is switched on, never the finished picture; its mask is
where the noiseless photos with and without it differ visibly. Every photo draws from random streams of its
own, named seed/product/photo, so that a new defect type changes no other file.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cloth
import cv2
import metal
import numpy as np
from scene import Array, Lot, camera, stream

SEED = 7
JPEG_QUALITY = 90
VISIBLE = 4.0
"""Grey levels by which a pixel must change to count as part of a defect."""
LOTS = "ABCDE"
"""The last lot is never trained on."""
TRAIN_PER_LOT, TEST_PER_LOT, PHOTOS_PER_FLAW = 20, 5, 10
COLUMNS = ("path", "split", "label", "mask", "group", "defect_type", "size_px", "contrast")

LINE = ("bracket", "twill")
PRODUCTS: dict[str, Callable[..., Array]] = {
    "bracket": metal.bracket,
    "twill": cloth.twill,
    "turned_bracket": partial(metal.bracket, height=320, turn=180),
}
FLAWS: dict[str, dict[str, Callable[..., None]]] = {
    "bracket": {flaw.__name__: flaw for flaw in metal.FLAWS},
    "twill": {flaw.__name__: flaw for flaw in cloth.FLAWS},
}
FLAWS["turned_bracket"] = FLAWS["bracket"]


@dataclass(frozen=True)
class Photo:
    """One photo to draw. `size` and `strength` grade its defect, both in [0, 1]."""

    product: str
    name: str
    """Path below the product without suffix: `test/scratch/003`."""
    lot: str
    defect_type: str = ""
    size: float = 0.0
    strength: float = 0.0


def photos(product: str) -> Iterator[Photo]:
    """Every photo of a product. Within a defect type, size, strength and lot vary independently."""
    for n in range(TRAIN_PER_LOT * (len(LOTS) - 1)):
        yield Photo(product, f"train/good/{n:03}", LOTS[n // TRAIN_PER_LOT])
    for n in range(TEST_PER_LOT * len(LOTS)):
        yield Photo(product, f"test/good/{n:03}", LOTS[n % len(LOTS)])
    for defect_type in FLAWS[product]:
        for n in range(PHOTOS_PER_FLAW):
            size, strength = (k % PHOTOS_PER_FLAW / (PHOTOS_PER_FLAW - 1) for k in (n, 3 * n + 2))
            yield Photo(
                product, f"test/{defect_type}/{n:03}", LOTS[n % len(LOTS)], defect_type, size, strength
            )


def draw(photo: Photo, seed: int = SEED) -> tuple[Array, Array, float]:
    """(photo (H, W, 3) uint8 BGR, mask (H, W) uint8 of 0 and 255, mean grey-level contrast in the mask)."""
    name = (seed, photo.product, photo.name)
    lot = Lot.named(seed, photo.product, photo.lot)

    def shoot(flaw: Callable[..., None]) -> tuple[Array, Array]:
        return camera(PRODUCTS[photo.product](lot, stream(*name), flaw), lot, stream(*name, "camera"))

    clean, noisy = shoot(lambda scene: None)
    mask, contrast = np.zeros(clean.shape[:2], np.uint8), 0.0
    if photo.defect_type:
        rng = stream(*name, "flaw")
        flawed, noisy = shoot(
            lambda scene: FLAWS[photo.product][photo.defect_type](scene, rng, photo.size, photo.strength)
        )
        mask = visible(clean, flawed)
        contrast = float(np.abs(flawed - clean).mean(axis=2)[mask > 0].mean())
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8), mask, contrast


def visible(clean: Array, flawed: Array) -> Array:
    """Mask (H, W) of the pixels that a defect changed by `VISIBLE` and an eighth of its peak, or, where it is
    fainter than that, by half its peak. Gaps of a few pixels are closed, stray pixels dropped."""
    change = cv2.GaussianBlur(np.abs(flawed - clean).max(axis=2), (0, 0), 0.6)
    peak = change.max()
    changed = (change > min(max(VISIBLE, peak / 8), peak / 2)).astype(np.uint8)
    closed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(closed)
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0
    return np.where((areas >= min(6, areas.max()))[labels], 255, 0).astype(np.uint8)


def extent(mask: Array) -> float:
    """Largest distance between two pixels of the mask, both included, in px."""
    hull = cv2.convexHull(cv2.findNonZero(mask))[:, 0].astype(float)
    return float(np.linalg.norm(hull[:, None] - hull, axis=-1).max() + 1)


def generate(out: Path, seed: int = SEED, products: Sequence[str] = LINE) -> None:
    """Write every photo, every mask and a `manifest.csv` per product below `out`."""
    with ProcessPoolExecutor() as workers:
        for product in products:
            rows = list(
                workers.map(partial(write, folder=out / product, seed=seed), photos(product), chunksize=5)
            )
            with open(out / product / "manifest.csv", "w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
            print(f"{product}: {len(rows)} photos in {out / product}")


def write(photo: Photo, folder: Path, seed: int) -> tuple[str, ...]:
    """Draw and write one photo with its mask; its row of the manifest."""
    image, mask, contrast = draw(photo, seed)
    path, split = f"{photo.name}.jpg", photo.name.split("/")[0]
    save(folder / path, image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not photo.defect_type:
        return path, split, "normal", "", photo.lot, "", "", ""
    mask_path = f"{photo.name.replace('test', 'ground_truth', 1)}_mask.png"
    save(folder / mask_path, mask, [])
    graded = photo.defect_type, f"{extent(mask):.0f}", f"{contrast:.1f}"
    return path, split, "anomalous", mask_path, photo.lot, *graded


def save(path: Path, image: Array, options: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image, options):
        raise OSError(f"cannot write {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the sample production line.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder that gets the products"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--product", choices=PRODUCTS, action="append", help="default: bracket and twill")
    arguments = parser.parse_args()
    generate(arguments.out, arguments.seed, arguments.product or LINE)
