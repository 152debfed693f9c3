"""Augmentation decides which defect is visible.

Xue et al. (ICML 2023, arXiv 2305.16536): what the two views differ in is what the encoder learns to ignore.
An encoder is trained on good pictures, with one augmentation more or less; the score of a picture is the
distance of its embedding to that of the nearest training picture. A defect that looks like an augmentation
of the training pictures is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from anomaly.models.losses import nt_xent
from pipelines.papers.contrastive import BATCH_SIZE, Network, defect_auroc, embed, train, warp
from pipelines.papers.digits import WIDTHS, digits
from pipelines.papers.photos import PHOTO_WIDTHS, photos
from pipelines.papers.table import EARLIER, SEEDS, Row

FADE = 0.4
"""Contrast of a faded picture, as a share of the original."""
TEMPERATURE = 0.2
STEPS, PHOTO_STEPS = 150, 300

Change = Callable[[Tensor], Tensor]


def trained(pictures: Tensor, augment: Change, widths: tuple[int, ...], steps: int, seed: int) -> Network:
    """A network trained on good pictures (N, 1, S, S); each view is augmented, then warped."""
    torch.manual_seed(seed)
    network = Network(1, pictures.shape[2], widths)

    def view(rows: Tensor) -> Tensor:
        return warp(augment(pictures[rows]), 1)

    def loss(first: Tensor, second: Tensor, rows: Tensor) -> Tensor:
        return nt_xent(first, second, TEMPERATURE)

    epochs = math.ceil(steps / max(1, len(pictures) // BATCH_SIZE))
    for _ in train(network, view, loss, len(pictures), epochs):
        pass
    return network


def fade(pictures: Tensor, factor: float | Tensor = FADE) -> Tensor:
    """Contrast of (B, 1, H, W) times `factor`, about the darkest value of each picture."""
    dark = pictures.amin((1, 2, 3), keepdim=True)
    return dark + factor * (pictures - dark)


def jitter_contrast(pictures: Tensor) -> Tensor:
    """Contrast of each picture times its own random factor in [0.3, 1.3]."""
    return fade(pictures, 0.3 + torch.rand(len(pictures), 1, 1, 1))


def flip(pictures: Tensor) -> Tensor:
    """Upside down."""
    return pictures.flip(2)


def quarter_turn(pictures: Tensor) -> Tensor:
    """Turned by 90 degrees."""
    return pictures.rot90(1, (2, 3))


def sometimes(change: Change) -> Change:
    """`change` as an augmentation: of each picture with probability one half."""

    def augment(pictures: Tensor) -> Tensor:
        chosen = torch.rand(len(pictures), 1, 1, 1) < 0.5
        return torch.where(chosen, change(pictures), pictures)

    return augment


def both(first: Change, second: Change) -> Change:
    return lambda pictures: second(first(pictures))


def visibility() -> Iterator[Row]:
    """r5: faded and upside-down digits under no augmentation, contrast jitter, vertical flips, and both."""
    data = digits()
    normal, good = data.pictures[data.train], data.pictures[data.test]
    defects = {"faded x 0.4": fade(good), "upside down": flip(good)}
    conditions: list[tuple[str, Change, tuple[float, float]]] = [
        ("warp only", lambda pictures: pictures, (0.977, 0.825)),
        ("contrast jitter", jitter_contrast, (0.548, 0.850)),
        ("vertical flip", sometimes(flip), (0.979, 0.605)),
        ("contrast jitter and vertical flip", both(jitter_contrast, sometimes(flip)), (0.549, 0.648)),
    ]
    for condition, augment, references in conditions:
        runs = [
            aurocs(trained(normal, augment, WIDTHS, STEPS, seed), normal, good, defects) for seed in SEEDS
        ]
        for defect, ref in zip(defects, references, strict=True):
            values = tuple(run[defect] for run in runs)
            yield Row("r5", condition, f"AUROC, {defect}", values, ref, EARLIER)


def visibility_on_photos(data: Path | None) -> Iterator[Row]:
    """r5-photos: good photos faded, turned by a quarter, and the real defects."""
    found = photos(data)
    bad = torch.from_numpy(found.defective)
    good = found.test[~bad]
    defects = {"faded x 0.4": fade(good), "turned by 90 degrees": quarter_turn(good), "real": found.test[bad]}
    conditions: list[tuple[str, Change]] = [
        ("warp only", lambda pictures: pictures),
        ("contrast jitter", jitter_contrast),
        ("quarter turn", sometimes(quarter_turn)),
        ("contrast jitter and quarter turn", both(jitter_contrast, sometimes(quarter_turn))),
    ]
    for condition, augment in conditions:
        networks = [trained(found.normal, augment, PHOTO_WIDTHS, PHOTO_STEPS, seed) for seed in SEEDS]
        runs = [aurocs(network, found.normal, good, defects) for network in networks]
        for defect in defects:
            values = tuple(run[defect] for run in runs)
            yield Row("r5-photos", f"{found.name}, {condition}", f"AUROC, {defect}", values)


def aurocs(network: Network, normal: Tensor, good: Tensor, defects: dict[str, Tensor]) -> dict[str, float]:
    """AUROC of each kind of defect against `good`, by distance to the nearest of `normal`."""
    of_normal, of_good = embed(network.encoder, normal), embed(network.encoder, good)
    return {
        name: defect_auroc(of_normal, of_good, embed(network.encoder, pictures))
        for name, pictures in defects.items()
    }
