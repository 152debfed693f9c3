"""Features in closed form: what small windows of good photos vary in, and how each patch answers to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

STRIDE, FINE = 16, 4
"""Side of a patch in px, and of the cells that the second filters look at."""
LEVELS = (1, 2, 4)
"""What photos are reduced by before they are filtered."""
WINDOW, FILTERS = 9, 16
"""Side of a first filter in px, and filters at each level."""
SECOND_WINDOW, SECOND_FILTERS = 5, 64
"""Side of a second filter in cells, and their number."""
PHOTOS, WINDOWS, SECOND_WINDOWS = 60, 1500, 300
"""Photos, and windows of each, whose principal directions the filters are, at most."""
FLOOR = 1e-3
"""Added to variances before whitening, as a share of the mean variance of a number in a window."""


def principal_directions(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (D,) and directions (D, D), one a column, of `rows` (N, D), float64, the largest first."""
    centred = rows.double() - rows.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    return variances.flip(0), directions.flip(1)


class PrincipalFilters(nn.Module):
    """(B, 3, H, W) in [0, 255] -> (B, channels, H / 16, W / 16): how strongly each patch answers to the
    whitened principal directions of small windows of good photos, at three scales, and to those of windows
    of these answers: which of them meet, and where one ends.

    The two stages of PCANet (Chan et al., IEEE TIP 2015), their answers rectified and averaged.
    """

    channels = len(LEVELS) * FILTERS + SECOND_FILTERS

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList([nn.Conv2d(3, FILTERS, WINDOW, bias=False) for _ in LEVELS])
        self.second = nn.Conv2d(len(LEVELS) * FILTERS, SECOND_FILTERS, SECOND_WINDOW)

    def start_from(self, photos: Sequence[NDArray[np.uint8]], seed: int) -> None:
        """Take the filters from `photos`; they are not trained further."""
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(photos), min(PHOTOS, len(photos)), replace=False)
        images = [
            torch.from_numpy(np.ascontiguousarray(photos[int(index)])).permute(2, 0, 1)[None].float()
            for index in chosen
        ]
        self.requires_grad_(False)
        for level, filters in zip(LEVELS, self.levels, strict=True):
            reduced = (_mirrored(F.avg_pool2d(image / 255, level), WINDOW) for image in images)
            filters.load_state_dict({"weight": _filters(reduced, FILTERS, WINDOW, WINDOWS, rng)})
        answers = [self._answers(image) for image in images]
        moments = [
            torch.stack([part, part.square()]).mean((2, 3)) for part in (a[0].double() for a in answers)
        ]
        mean, square = torch.stack(moments).mean(0)
        spread = (square - mean.square()).clamp_min(0).sqrt().float() + 1e-6
        mean = mean.float()
        standard = (
            _mirrored((answer - mean[:, None, None]) / spread[:, None, None], SECOND_WINDOW)
            for answer in answers
        )
        weight = _filters(standard, SECOND_FILTERS, SECOND_WINDOW, SECOND_WINDOWS, rng)
        weight = weight / spread[:, None, None]
        bias = -(weight.sum((2, 3)) * mean).sum(1)
        self.second.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, images: Tensor) -> Tensor:
        answers = self._answers(images)
        second = self.second(_mirrored(answers, SECOND_WINDOW)).abs()
        return F.avg_pool2d(torch.cat([answers, second], dim=1), STRIDE // FINE)

    def _answers(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, first filters, H / 4, W / 4)."""
        maps = []
        for level, filters in zip(LEVELS, self.levels, strict=True):
            answers = filters(_mirrored(F.avg_pool2d(images / 255, level), WINDOW)).abs()
            maps.append(F.avg_pool2d(answers, FINE // level))
        return torch.cat(maps, dim=1)


def _mirrored(maps: Tensor, window: int) -> Tensor:
    """Continued at the edges by what is inside, so that windows around every pixel are whole."""
    return F.pad(maps, (window // 2,) * 4, mode="reflect")


def _filters(maps: Iterable[Tensor], count: int, window: int, most: int, rng: np.random.Generator) -> Tensor:
    """(count, C, window, window): the leading principal directions, whitened, of at most `most` random
    windows of each of `maps` (1, C, H, W)."""
    drawn = []
    for each in maps:
        every = each[0].unfold(1, window, 1).unfold(2, window, 1)
        height, width = every.shape[1:3]
        places = rng.choice(height * width, min(most, height * width), replace=False)
        drawn.append(every[:, places // width, places % width].transpose(0, 1))
    windows = torch.cat(drawn)
    variances, directions = principal_directions(windows.flatten(1))
    floor = FLOOR * variances.mean() + 1e-12
    directions = directions[:, :count] / (variances[:count].clamp_min(0) + floor).sqrt()
    return directions.T.float().reshape(count, *windows.shape[1:]).contiguous()
