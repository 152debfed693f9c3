"""Dense contrastive learning: a patch, seen in two augmented views, against the patches of other places.

NT-Xent of Chen et al. (SimCLR, ICML 2020) over patches instead of photos. A pretrained backbone stays as it
is and only the projection learns, from patch pairs drawn once; an empty backbone learns with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from anomaly.config import ContrastiveConfig
from anomaly.data.augmentation import ViewMaker
from anomaly.models.encoder import Encoder, Photo, as_tensor
from anomaly.models.losses import nt_xent
from anomaly.models.training import Checkpoints, Progress, step_seed, train

CROP = 256
SCRATCH_CROP = 160
SCRATCH_BATCH = 8


def train_projection(
    encoder: Encoder,
    photos: Sequence[Photo],
    config: ContrastiveConfig,
    *,
    seed: int,
    checkpoints: Checkpoints,
    progress: Progress,
) -> list[float]:
    """Train `encoder.projection` over a frozen backbone on `config.views` pairs of views; losses by step."""
    first, second = [], []
    for done, (a, b) in enumerate(_pairs(encoder, photos, config, seed), start=1):
        first.append(a)
        second.append(b)
        progress.step("views", done, config.views)
    left, right = torch.cat(first), torch.cat(second)

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(left), (config.patches,), generator=generator)
        return nt_xent(_embed(encoder, left[rows]), _embed(encoder, right[rows]), config.temperature)

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
) -> list[float]:
    """Train an empty backbone together with the projection, end to end; losses by step."""

    def loss(generator: torch.Generator) -> Tensor:
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
        views = ViewMaker(config.augmentation_strength, int(rng.integers(2**31)))
        images, origins = [], []
        for _ in range(SCRATCH_BATCH):
            for view, origin in _two_views(photos, views, SCRATCH_CROP, encoder.backbone.stride, rng):
                images.append(as_tensor(view))
                origins.append(origin)
        embedded = encoder.projection(encoder.backbone(torch.cat(images)))
        left, right = [], []
        for i in range(0, len(images), 2):
            rows, cols = _matches(origins[i], origins[i + 1], encoder.backbone.stride)
            left.append(embedded[i].flatten(1).T[rows])
            right.append(embedded[i + 1].flatten(1).T[cols])
        a, b = torch.cat(left), torch.cat(right)
        keep = torch.randperm(len(a), generator=generator)[: config.patches]
        return nt_xent(a[keep], b[keep], config.temperature)

    return train(
        encoder,
        loss,
        stage="backbone",
        steps=config.backbone_steps,
        learning_rate=config.backbone_learning_rate,
        seed=seed,
        checkpoints=checkpoints,
        progress=progress,
    )


def _embed(encoder: Encoder, patches: Tensor) -> Tensor:
    """(P, C) patch features, already pooled, -> (P, D)."""
    return encoder.projection.of_pooled(patches[:, :, None, None])[:, :, 0, 0]


def _pairs(
    encoder: Encoder, photos: Sequence[Photo], config: ContrastiveConfig, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each pair of views the pooled standardised features (P, C) of the patches that both show."""
    rng = np.random.default_rng(step_seed(seed, "views", 0))
    views = ViewMaker(config.augmentation_strength, seed)
    pooled: Callable[[Photo], Tensor] = lambda view: encoder.projection.pool(  # noqa: E731
        encoder.standardised(encoder.raw_features(view))[None]
    )[0]
    for _ in range(config.views):
        (a, origin_a), (b, origin_b) = _two_views(photos, views, CROP, encoder.backbone.stride, rng)
        rows, cols = _matches(origin_a, origin_b, encoder.backbone.stride)
        yield pooled(a).flatten(1).T[rows], pooled(b).flatten(1).T[cols]


def _two_views(
    photos: Sequence[Photo], views: ViewMaker, crop: int, stride: int, rng: np.random.Generator
) -> list[tuple[Photo, Tensor]]:
    """Two views of one random crop, each with the (h, w, 2) origin of its patch centres in that crop."""
    photo = photos[int(rng.integers(len(photos)))]
    top = int(rng.integers(max(photo.shape[0] - crop, 0) + 1))
    left = int(rng.integers(max(photo.shape[1] - crop, 0) + 1))
    cut = photo[top : top + crop, left : left + crop]
    out = []
    for _ in range(2):
        view, origin = views.view(cut)
        out.append((view, torch.from_numpy(origin[stride // 2 :: stride, stride // 2 :: stride].copy())))
    return out


def _matches(first: Tensor, second: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Indices of the patches of two views whose centres stem from within half a patch of each other."""
    distance = torch.cdist(first.reshape(-1, 2), second.reshape(-1, 2))
    nearest, cols = distance.min(1)
    rows = torch.nonzero(nearest <= stride / 2)[:, 0]
    return rows, cols[rows]
