"""Dense contrastive learning: a patch, seen in two augmented views, against the patches of other places.

NT-Xent of Chen et al. (SimCLR, ICML 2020) over patches instead of photos. A pretrained backbone stays as it
is and only the projection learns, from patch pairs drawn once; an empty backbone, or one that is to be
fine-tuned, learns with it. With `supervised_weight` half of the crops show a defect, drawn or from the few
real ones that there are, and patches that show one are told apart from those that do not: supervised
contrastive learning (Khosla et al., NeurIPS 2020), or jointly with NT-Xent, which keeps what easy features
suppress (Xue et al., ICML 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly import distributed
from anomaly.config import ContrastiveConfig
from anomaly.data.augmentation import ViewMaker
from anomaly.models.encoder import Encoder, Photo, as_tensor
from anomaly.models.losses import joint_contrastive, nt_xent
from anomaly.models.training import Checkpoints, Progress, step_seed, train
from anomaly.probes import drawn_defects

Defective = tuple[Photo, NDArray[np.bool_]]
"""A working photo (H, W, 3), and where it shows a defect, (H, W); at least one pixel does."""

CROP = 256
SCRATCH_CROP = 160
SCRATCH_BATCH = 8
DEFECT_SHARE = 0.25
"""Share of a patch that a defect must cover for the patch to count as defective."""


def train_projection(
    encoder: Encoder,
    photos: Sequence[Photo],
    config: ContrastiveConfig,
    *,
    seed: int,
    checkpoints: Checkpoints,
    progress: Progress,
    defects: Sequence[Defective] = (),
) -> list[float]:
    """Train `encoder.projection` over a frozen backbone on `config.views` pairs of views; losses by step.

    `defects` are real ones to learn from, beside drawn ones, where
    `config.supervised_weight` is a number above 0.
    """
    rng = np.random.default_rng(step_seed(seed, "views", 0))
    views = ViewMaker(config.augmentation_strength, seed)
    drawn = distributed.each(
        lambda pair: _matched(encoder, pair),
        (_two_views(photos, views, CROP, encoder, config, rng, defects) for _ in range(config.views)),
        lambda done: progress.step("views", done, config.views),
    )
    left, right, defect = (torch.cat(part) for part in zip(*drawn, strict=True))

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(left), (config.patches,), generator=generator)
        first, second = (
            distributed.rows(encoder.projection.of_patches, side[rows]) for side in (left, right)
        )
        return _loss(first, second, defect[rows], config)

    return train(
        encoder.projection,
        loss,
        stage="contrastive",
        steps=config.steps,
        learning_rate=config.learning_rate,
        seed=seed,
        checkpoints=checkpoints,
        progress=progress,
    )


def train_backbone(
    encoder: Encoder,
    photos: Sequence[Photo],
    config: ContrastiveConfig,
    *,
    seed: int,
    checkpoints: Checkpoints,
    progress: Progress,
    defects: Sequence[Defective] = (),
) -> list[float]:
    """Train the backbone together with the projection, end to end; losses by step, `defects` as above."""
    photos = [_mirrored(photo) for photo in photos]
    defects = [(_mirrored(photo), _mirrored(mask.view(np.uint8)) > 0) for photo, mask in defects]

    def embed(images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, P, D), the patches of each photo row by row."""
        return encoder.learning(images).flatten(2).transpose(1, 2)

    def loss(generator: torch.Generator) -> Tensor:
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
        views = ViewMaker(config.augmentation_strength, int(rng.integers(2**31)))
        pairs = [
            _two_views(photos, views, SCRATCH_CROP, encoder, config, rng, defects)
            for _ in range(SCRATCH_BATCH)
        ]
        images = torch.cat([as_tensor(view) for pair in pairs for view in pair.views])
        embedded = distributed.rows(embed, images)
        left = torch.cat([embedded[2 * i][pair.rows] for i, pair in enumerate(pairs)])
        right = torch.cat([embedded[2 * i + 1][pair.cols] for i, pair in enumerate(pairs)])
        defect = torch.cat([pair.defect for pair in pairs])
        keep = torch.randperm(len(left), generator=generator)[: config.patches]
        return _loss(left[keep], right[keep], defect[keep], config)

    encoder.backbone.requires_grad_(True)
    losses = train(
        encoder,
        loss,
        stage="backbone",
        steps=config.backbone_steps,
        learning_rate=config.backbone_learning_rate,
        seed=seed,
        checkpoints=checkpoints,
        progress=progress,
    )
    encoder.backbone.requires_grad_(not encoder.backbone.pretrained)
    return losses


def _mirrored(photo: Photo) -> Photo:
    """The photo, continued by its mirror image where it is smaller than the crops that make up a batch."""
    down, right = (max(SCRATCH_CROP - side, 0) for side in photo.shape[:2])
    if not down and not right:
        return photo
    return np.asarray(cv2.copyMakeBorder(photo, 0, down, 0, right, cv2.BORDER_REFLECT_101), np.uint8)


def _loss(first: Tensor, second: Tensor, defect: Tensor, config: ContrastiveConfig) -> Tensor:
    """NT-Xent, supervised contrastive, or both, of pairs (N, D) whose patches show a `defect` (N,) or not."""
    weight = _weight(config)
    if not weight:
        return nt_xent(first, second, config.temperature)
    return joint_contrastive(first, second, defect, 1 - weight, config.temperature)


def _weight(config: ContrastiveConfig) -> float:
    """The weight of the supervised loss; a fit says what auto means for its backbone, here it is none."""
    return 0.0 if config.supervised_weight == "auto" else config.supervised_weight


@dataclass(frozen=True)
class _Pair:
    """Two views of one crop; patch `rows[i]` of the first shows what `cols[i]` of the second does."""

    views: tuple[Photo, Photo]
    rows: Tensor
    cols: Tensor
    defect: Tensor
    """Whether that patch shows a defect, (P,) bool."""


def _matched(encoder: Encoder, pair: _Pair) -> tuple[Tensor, Tensor, Tensor]:
    """The pooled standardised features (P, C) of the patches that both views show, and which of these show
    a defect (P,)."""

    def pooled(view: Photo) -> Tensor:
        features = encoder.features_of(view)
        return encoder.projection.pool(features[None])[0].flatten(1).T

    return pooled(pair.views[0])[pair.rows], pooled(pair.views[1])[pair.cols], pair.defect


def _two_views(
    photos: Sequence[Photo],
    views: ViewMaker,
    crop: int,
    encoder: Encoder,
    config: ContrastiveConfig,
    rng: np.random.Generator,
    defects: Sequence[Defective] = (),
) -> _Pair:
    """Two views of one random crop, with a defect in every other one where labels are wanted; where there
    are real `defects`, every other defect is one of them."""
    stride = encoder.backbone.stride
    photo = photos[int(rng.integers(len(photos)))]
    top = int(rng.integers(max(photo.shape[0] - crop, 0) + 1))
    left = int(rng.integers(max(photo.shape[1] - crop, 0) + 1))
    cut = photo[top : top + crop, left : left + crop]
    shows = np.zeros(cut.shape[:2], dtype=bool)
    if _weight(config) and rng.random() < 0.5:
        real = defects and rng.random() < 0.5
        cut, shows = _real_defect(defects, crop, rng) if real else _with_defect(cut, rng)
    (first, seen_first), (second, seen_second) = views.view(cut), views.view(cut)
    middle = slice(stride // 2, None, stride)
    origin = torch.from_numpy(seen_first[middle, middle].copy())
    rows, cols = _matches(origin, torch.from_numpy(seen_second[middle, middle].copy()), stride)
    share = torch.from_numpy(cv2.blur(shows.astype(np.float32), (stride, stride)))
    row, col = origin.reshape(-1, 2)[rows].round().long().T
    within = share[row.clamp(0, cut.shape[0] - 1), col.clamp(0, cut.shape[1] - 1)]
    return _Pair((first, second), rows, cols, within > DEFECT_SHARE)


def _real_defect(
    defects: Sequence[Defective], crop: int, rng: np.random.Generator
) -> tuple[Photo, NDArray[np.bool_]]:
    """A crop around a random pixel of one of `defects`, and where it is."""
    photo, mask = defects[int(rng.integers(len(defects)))]
    shown = np.argwhere(mask)
    row, col = shown[int(rng.integers(len(shown)))] - rng.integers(crop, size=2)
    top = int(np.clip(row, 0, max(photo.shape[0] - crop, 0)))
    left = int(np.clip(col, 0, max(photo.shape[1] - crop, 0)))
    window = (slice(top, top + crop), slice(left, left + crop))
    return photo[window], mask[window]


def _with_defect(cut: Photo, rng: np.random.Generator) -> tuple[Photo, NDArray[np.bool_]]:
    """The crop with one synthetic defect of any kind and magnitude, and where it is."""
    kinds = drawn_defects()
    probe = kinds[int(rng.integers(len(kinds)))]
    magnitude = float(rng.choice(probe.magnitudes))
    return probe.apply(np.ascontiguousarray(cut), np.ones(cut.shape[:2], dtype=bool), magnitude, rng)


def _matches(first: Tensor, second: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Indices of the patches of two views whose centres stem from within half a patch of each other."""
    distance = torch.cdist(first.reshape(-1, 2), second.reshape(-1, 2))
    nearest, cols = distance.min(1)
    rows = torch.nonzero(nearest <= stride / 2)[:, 0]
    return rows, cols[rows]
