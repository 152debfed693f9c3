"""A backbone without pretrained weights: filters in closed form, and a residual network that starts empty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly.models.backbones import BACKBONES, Backbone, Photo

LEVELS = (1, 2, 4)
"""What photos are reduced by before they are filtered."""
WINDOW, FILTERS = 9, 16
"""Side of a filter in px, and filters at each level."""
EDGE = (WINDOW // 2,) * 4
"""Pixels that are mirrored at the edges, so that every patch is answered."""
PHOTOS, WINDOWS = 60, 1500
"""Photos, and windows of each, whose principal directions the filters are, at most."""
EMPHASIS = 2.0
"""How much more the answer of a filter counts than a channel that is learnt: so there is about as much of
the ones as of the others."""
FLOOR = 1e-3
"""Added to variances before whitening, as a share of the mean variance of a pixel."""


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outputs),
    )


class PrincipalFilters(nn.Module):
    """(B, 3, H, W) in [0, 255] -> (B, channels, H / 16, W / 16): how strongly each patch answers to the
    whitened principal directions of small windows of good photos, at three scales.

    The first stage of PCANet (Chan et al., IEEE TIP 2015), its answers rectified and averaged.
    """

    channels = len(LEVELS) * FILTERS

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList([nn.Conv2d(3, FILTERS, WINDOW, bias=False) for _ in LEVELS])

    def start_from(self, photos: Sequence[Photo], seed: int) -> None:
        """Take the filters from `photos`; they are not trained further."""
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(photos), min(PHOTOS, len(photos)), replace=False)
        for level, filters in zip(LEVELS, self.levels, strict=True):
            windows = torch.cat([_windows(photos[int(index)], level, rng) for index in chosen]).double()
            windows -= windows.mean(0)
            variances, directions = torch.linalg.eigh(windows.T @ windows / len(windows))
            floor = FLOOR * variances.mean() + 1e-12
            directions = directions.flip(1)[:, :FILTERS]
            directions = directions / (variances.flip(0)[:FILTERS].clamp_min(0) + floor).sqrt()
            weights = directions.T.float().reshape(FILTERS, 3, WINDOW, WINDOW)
            filters.load_state_dict({"weight": weights})
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        maps = []
        for level, filters in zip(LEVELS, self.levels, strict=True):
            reduced = F.pad(F.avg_pool2d(images / 255, level), EDGE, mode="reflect")
            maps.append(F.avg_pool2d(filters(reduced).abs(), ScratchBackbone.stride // level))
        return torch.cat(maps, dim=1)


def _windows(photo: Photo, level: int, rng: np.random.Generator) -> Tensor:
    """At most WINDOWS random windows of a photo (H, W, 3) reduced by `level`, (n, 3 * WINDOW ** 2)."""
    image = torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1)[None].float() / 255
    image = F.pad(F.avg_pool2d(image, level), EDGE, mode="reflect")
    every = image[0].unfold(1, WINDOW, 1).unfold(2, WINDOW, 1)
    height, width = every.shape[1:3]
    places = rng.choice(height * width, min(WINDOWS, height * width), replace=False)
    return every[:, places // width, places % width].transpose(0, 1).flatten(1)


class ScratchBackbone(Backbone):
    """Principal filters beside residual stages of stride 4, 8 and 16, everything averaged to stride 16.

    The filters see what hardly any training on few photos finds, above all faint marks on fine patterns; the
    stages learn what the filters miss. While the stages are trained the filters are silent: they are fixed,
    and cost two thirds of what the stages do.
    """

    stride = 16

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 128)) -> None:
        super().__init__()
        a, b, c = widths
        self.filters = PrincipalFilters()
        self.stem = nn.Sequential(
            nn.Conv2d(3, a, 5, 2, 2, bias=False), nn.BatchNorm2d(a), nn.ReLU(inplace=True)
        )
        self.stages = nn.ModuleList([_block(a, a, 2), _block(a, b, 2), _block(b, c, 2)])
        self.skips = nn.ModuleList([nn.Conv2d(a, a, 1, 2), nn.Conv2d(a, b, 1, 2), nn.Conv2d(b, c, 1, 2)])
        self.name = "none"
        self.channels = a + b + c + PrincipalFilters.channels
        self.pretrained = False

    def start_from(self, photos: Sequence[Photo], seed: int) -> None:
        self.filters.start_from(photos, seed)

    def emphasis(self) -> Tensor:
        weights = torch.ones(self.channels)
        weights[-PrincipalFilters.channels :] = EMPHASIS
        return weights

    def forward(self, images: Tensor) -> Tensor:
        x = ((images - 127.5) / 64).contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        maps = []
        for stage, skip in zip(self.stages, self.skips, strict=True):
            x = F.relu(stage(x) + skip(x))
            maps.append(x)
        h = x.shape[2]
        learnt = torch.cat([F.avg_pool2d(m, m.shape[2] // h) for m in maps], dim=1)
        if self.training:
            return F.pad(learnt, (0, 0, 0, 0, 0, PrincipalFilters.channels))
        return torch.cat([learnt, self.filters(images)], dim=1)


@BACKBONES.register("none")
def none(_: str, weights: bool) -> Backbone:
    """No pretrained weights: filters and a small residual network, learnt from the user's photos alone."""
    return ScratchBackbone()
