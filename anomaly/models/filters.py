"""Features in closed form: what small windows of good photos vary in, and how each patch answers to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

STRIDE = 16
"""Side of a patch in px."""
LEVELS = (1, 2, 4)
"""What photos are reduced by before they are filtered."""
WINDOW, FILTERS = 9, 16
"""Side of a filter in px, and filters at each level."""
EDGE = (WINDOW // 2,) * 4
"""Pixels that are mirrored at the edges, so that every patch is answered."""
PHOTOS, WINDOWS = 60, 1500
"""Photos, and windows of each, whose principal directions the filters are, at most."""
FLOOR = 1e-3
"""Added to variances before whitening, as a share of the mean variance of a pixel."""


def principal_directions(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (D,) and directions (D, D), one a column, of `rows` (N, D), float64, the largest first."""
    centred = rows.double() - rows.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    return variances.flip(0), directions.flip(1)


class PrincipalFilters(nn.Module):
    """(B, 3, H, W) in [0, 255] -> (B, channels, H / 16, W / 16): how strongly each patch answers to the
    whitened principal directions of small windows of good photos, at three scales.

    The first stage of PCANet (Chan et al., IEEE TIP 2015), its answers rectified and averaged.
    """

    channels = len(LEVELS) * FILTERS

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList([nn.Conv2d(3, FILTERS, WINDOW, bias=False) for _ in LEVELS])

    def start_from(self, photos: Sequence[NDArray[np.uint8]], seed: int) -> None:
        """Take the filters from `photos`; they are not trained further."""
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(photos), min(PHOTOS, len(photos)), replace=False)
        for level, filters in zip(LEVELS, self.levels, strict=True):
            windows = torch.cat([_windows(photos[int(index)], level, rng) for index in chosen])
            variances, directions = principal_directions(windows)
            floor = FLOOR * variances.mean() + 1e-12
            directions = directions[:, :FILTERS] / (variances[:FILTERS].clamp_min(0) + floor).sqrt()
            weights = directions.T.float().reshape(FILTERS, 3, WINDOW, WINDOW)
            filters.load_state_dict({"weight": weights})
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        maps = []
        for level, filters in zip(LEVELS, self.levels, strict=True):
            reduced = F.pad(F.avg_pool2d(images / 255, level), EDGE, mode="reflect")
            maps.append(F.avg_pool2d(filters(reduced).abs(), STRIDE // level))
        return torch.cat(maps, dim=1)


def _windows(photo: NDArray[np.uint8], level: int, rng: np.random.Generator) -> Tensor:
    """At most WINDOWS random windows of a photo (H, W, 3) reduced by `level`, (n, 3 * WINDOW ** 2)."""
    image = torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1)[None].float() / 255
    image = F.pad(F.avg_pool2d(image, level), EDGE, mode="reflect")
    every = image[0].unfold(1, WINDOW, 1).unfold(2, WINDOW, 1)
    height, width = every.shape[1:3]
    places = rng.choice(height * width, min(WINDOWS, height * width), replace=False)
    return every[:, places // width, places % width].transpose(0, 1).flatten(1)
