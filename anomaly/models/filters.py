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
WINDOW, ROWS, FILTERS = 9, 8, 16
"""Side of a first filter in px, directions of one of its rows that it is made of, filters at each level."""
SECOND_WINDOW, MIXED, SECOND_FILTERS = 5, 24, 64
"""Side of a second filter in cells, directions of the first answers that it looks at, second filters."""
PHOTOS, WINDOWS, SECOND_WINDOWS = 60, 1500, 600
"""Photos, and windows of each, whose principal directions the filters are, at most."""
PART = 512
"""Side of the part of a photo that they are taken from, px."""
FLOOR = 1e-3
"""Added to variances before whitening, as a share of the mean variance of a number in a window."""


def principal_directions(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (D,) and directions (D, D), one a column, of `rows` (N, D), float64, the largest first."""
    centred = rows.double() - rows.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    return variances.flip(0), directions.flip(1)


class PrincipalFilters(nn.Module):
    """(B, 3, H, W) -> (B, channels, H / 16, W / 16): how strongly each patch answers to the whitened
    principal directions of small windows of good photos, at three scales, and to those of windows of these
    answers: which of them meet, and where one ends.

    The two stages of PCANet (Chan et al., IEEE TIP 2015), their answers rectified and averaged. Each looks at
    the leading directions of its input alone (of a row of pixels, of the answers at one place), which makes
    it more than twice as fast.
    """

    channels = len(LEVELS) * FILTERS + SECOND_FILTERS

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3, ROWS, (1, WINDOW), bias=False), nn.Conv2d(ROWS, FILTERS, (WINDOW, 1), bias=False)
            )
            for _ in LEVELS
        )
        self.second = nn.Sequential(
            nn.Conv2d(len(LEVELS) * FILTERS, MIXED, 1),
            nn.Conv2d(MIXED, SECOND_FILTERS, SECOND_WINDOW, bias=False),
        )

    def start_from(self, photos: Sequence[NDArray[np.uint8]], seed: int) -> None:
        """Take the filters from `photos`; they are not trained further."""
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(photos), min(PHOTOS, len(photos)), replace=False)
        images = [_part(photos[int(index)], rng) for index in chosen]
        self.requires_grad_(False)
        for level, filters in zip(LEVELS, self.levels, strict=True):
            rows, columns = _both(filters)
            reduced = [_mirrored(_reduced(image, level), WINDOW) for image in images]
            _set(rows, _leading(_windows(reduced, (1, WINDOW), WINDOWS, rng), ROWS))
            windows = _windows((rows(image) for image in reduced), (WINDOW, 1), WINDOWS, rng)
            _set(columns, _leading(windows, FILTERS, whitened_in=3 * WINDOW**2))
        answers = [self._answers(image) for image in images]
        moments = [torch.stack([a[0], a[0].square()]).double().mean((2, 3)) for a in answers]
        mean, square = torch.stack(moments).mean(0)
        spread = (square - mean.square()).clamp_min(0).sqrt().float() + 1e-6
        mix, second = _both(self.second)
        places = _windows(answers, (1, 1), SECOND_WINDOWS, rng)
        weight = _leading((places - mean.float()[:, None, None]) / spread[:, None, None], MIXED)
        weight = weight / spread[:, None, None]
        _set(mix, weight, -(weight[:, :, 0, 0] @ mean.float()))
        mixed = (_mirrored(mix(answer), SECOND_WINDOW) for answer in answers)
        windows = _windows(mixed, (SECOND_WINDOW, SECOND_WINDOW), SECOND_WINDOWS, rng)
        _set(second, _leading(windows, SECOND_FILTERS, whitened_in=windows[0].numel()))

    def forward(self, images: Tensor) -> Tensor:
        answers = self._answers(images)
        mix, second = _both(self.second)
        of_answers = second(_mirrored(mix(answers), SECOND_WINDOW)).abs()
        return F.avg_pool2d(torch.cat([answers, of_answers], dim=1), STRIDE // FINE)

    def _answers(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, first filters, H / 4, W / 4)."""
        maps = []
        for level, filters in zip(LEVELS, self.levels, strict=True):
            answers = filters(_mirrored(_reduced(images, level), WINDOW)).abs()
            maps.append(_reduced(answers, FINE // level))
        return torch.cat(maps, dim=1)


def _part(photo: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """A random part of (H, W, 3), at most PART px wide and high, (1, 3, h, w)."""
    top, left = (int(rng.integers(max(side - PART, 0) + 1)) for side in photo.shape[:2])
    part = np.ascontiguousarray(photo[top : top + PART, left : left + PART])
    return torch.from_numpy(part).permute(2, 0, 1)[None].float()


def _reduced(maps: Tensor, times: int) -> Tensor:
    """Means of `times` by `times` places. Runtimes take their time even where there is nothing to do."""
    return maps if times == 1 else F.avg_pool2d(maps, times)


def _mirrored(maps: Tensor, window: int) -> Tensor:
    """Continued at the edges by what is inside, so that windows around every pixel are whole."""
    return F.pad(maps, (window // 2,) * 4, mode="reflect")


def _windows(maps: Iterable[Tensor], sides: tuple[int, int], most: int, rng: np.random.Generator) -> Tensor:
    """At most `most` random windows of each of `maps` (1, C, H, W), (N, C, *sides)."""
    drawn = []
    for each in maps:
        every = each[0].unfold(1, sides[0], 1).unfold(2, sides[1], 1)
        height, width = every.shape[1:3]
        places = rng.choice(height * width, min(most, height * width), replace=False)
        drawn.append(every[:, places // width, places % width].transpose(0, 1))
    return torch.cat(drawn)


def _leading(windows: Tensor, count: int, *, whitened_in: int = 0) -> Tensor:
    """The `count` leading principal directions of `windows` (N, C, h, w), (count, C, h, w); whitened where
    `whitened_in` says over how many numbers their variance is spread."""
    variances, directions = principal_directions(windows.flatten(1))
    directions = directions[:, :count]
    if whitened_in:
        floor = FLOOR * variances.clamp_min(0).sum() / whitened_in + 1e-12
        directions = directions / (variances[:count].clamp_min(0) + floor).sqrt()
    return directions.T.float().reshape(count, *windows.shape[1:]).contiguous()


def _both(pair: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The two layers of a pair."""
    first, second = pair.children()
    return first, second


def _set(layer: nn.Module, weight: Tensor, bias: Tensor | None = None) -> None:
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
