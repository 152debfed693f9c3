"""What of a photo no mixture of good photos explains.

Turk and Pentland, Eigenfaces for Recognition, Journal of Cognitive Neuroscience 1991: the distance from the
space that the principal components of whole photos span. Where networks see a patch and its surroundings,
this sees the photo as one, in little, and is learnt in closed form, in seconds. Beside a pretrained backbone
it brought little, and cost much where photos show new places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from anomaly.config import Section
from anomaly.scorers import SCORERS, FitContext, Input, Scorer, State
from anomaly.spread import evenly

if TYPE_CHECKING:
    from torch import Tensor

PATCH, CELL = 16, 8
"""Sides of a patch, and of the cells that photos are reduced to, px."""
DARK = 16.0
"""Grey levels added before logarithms are taken, so that noise in the dark does not explode."""
RADIUS, FLOOR = 6.0, 0.1
"""Contrast is that to the Gaussian mean within so many cells, in units of the spread there, which counts for
no less than FLOOR (natural logarithm)."""
RIDGE = 0.01
"""Variance that every direction is taken to have besides, as a share of the mean variance of a cell."""
PHOTOS = 1000
"""Training photos that components are found from, at most."""


class EigenimageOptions(Section):
    """Options of the eigenimages scorer."""

    components: Annotated[int, Field(ge=1)] = 256
    """Principal components of the good photos that a photo is rebuilt from, at most."""


@SCORERS.register("eigenimages")
class Eigenimages(Scorer[EigenimageOptions]):
    """Residual of a whole photo outside the principal components of good photos, in local contrast.

    Each cell's residual counts in units of what a ridge regression on all cells leaves unexplained there
    (the leave-one-out residual of a linear smoother).
    """

    Config = EigenimageOptions
    beside_pretrained = False
    at_any_angle = False
    mean: Tensor
    """(C, h, w) float32: one channel where all training photos are grey, else three."""
    components: Tensor
    """(K, C * h * w) float32, rows of length 1."""
    gains: Tensor
    """(K,) float32 in [0, 1]: the share of a component that the ridge leaves."""

    @property
    def input(self) -> Input:
        return "pixels"

    def fit(self, maps: Sequence[Tensor], context: FitContext) -> None:
        from anomaly import distributed

        self._set(*distributed.from_first(lambda: self._learnt(maps)))

    def _learnt(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        import torch

        used = evenly(range(len(maps)), PHOTOS)
        sizes, grey = [], True
        for i in used:
            photo = maps[i]
            sizes.append((photo.shape[1], photo.shape[2]))
            grey = grey and bool((photo == photo[:1]).all())
        size = grid_of(sizes)
        photos = torch.stack([contrast(maps[i][None, : 1 if grey else 3], size)[0] for i in used]).double()
        mean = photos.mean(0)
        centred = (photos - mean).flatten(1)
        variances, mixtures = torch.linalg.eigh(centred @ centred.T / len(centred))
        variances, mixtures = variances.flip(0), mixtures.flip(1)
        count = min(self.options.components, max(len(used) - 1, 1))
        components = mixtures[:, :count].T @ centred
        components /= components.norm(dim=1, keepdim=True).clamp_min(1e-12)
        ridge = RIDGE * centred.square().mean() + 1e-12
        gains = variances[:count].clamp_min(0) / (variances[:count].clamp_min(0) + ridge)
        return mean.float(), components.float(), gains.float()

    def _set(self, mean: Tensor, components: Tensor, gains: Tensor) -> None:
        self.mean, self.components, self.gains = mean, components, gains
        explained = (components.square() * gains[:, None]).sum(0)
        self.unexplained = (1 - explained).clamp_min(1e-3).sqrt().reshape(mean.shape)

    def score(self, values: Tensor) -> Tensor:
        import torch

        with torch.inference_mode():
            return self.residual(values[None])[0, 0]

    def residual(self, values: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 1, H / 16, W / 16): the natural logarithm of the root of the mean
        square over a patch. As it is, a photo of a new place would outweigh all that other branches see."""
        import torch.nn.functional as F

        height, width = self.mean.shape[1:]
        seen = contrast(self.channels(values), (height, width)) - self.mean
        flat = seen.flatten(1)
        rebuilt = (flat @ self.components.T * self.gains) @ self.components
        left = (seen - rebuilt.reshape(seen.shape)) / self.unexplained
        patches = F.avg_pool2d(left.square().mean(1, keepdim=True), PATCH // CELL)
        size = (values.shape[2] // PATCH, values.shape[3] // PATCH)
        return (F.interpolate(patches, size, mode="bilinear", align_corners=False) + 1e-6).log() / 2

    def channels(self, values: Tensor) -> Tensor:
        """The channels that are judged: their mean where training photos had one."""
        return values if len(self.mean) > 1 else values.mean(1, keepdim=True)

    def state(self) -> State:
        return {"mean": self.mean, "components": self.components, "gains": self.gains}

    def restore(self, state: State) -> None:
        mean, components, gains = state["mean"], state["components"], state["gains"]
        if mean.ndim != 3 or components.shape != (len(gains), mean.numel()) or len(mean) not in (1, 3):
            raise ValueError("mean, components and gains do not fit each other")
        self._set(mean, components, gains)


def grid_of(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The cells that photos of `sizes` (H, W) in px are reduced to: those of whole patches of the median."""
    rows, columns = (max(round(side / PATCH), 1) for side in np.median(sizes, axis=0).tolist())
    return rows * (PATCH // CELL), columns * (PATCH // CELL)


def contrast(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) in [0, 1] -> (B, C, *size): logarithms of the light in each cell, less their mean around
    it, in units of their spread there."""
    import torch.nn.functional as F

    light = F.interpolate(F.avg_pool2d(values, CELL), size, mode="bilinear", align_corners=False)
    light = (255 * light + DARK).log()
    rows, columns = (_gaussian(side, light) for side in size)
    high = light - rows @ light @ columns.T
    spread = (rows @ high.square() @ columns.T + FLOOR**2).sqrt()
    return high / spread


def _gaussian(side: int, like: Tensor) -> Tensor:
    """(side, side): each row averages around its place, by a Gaussian that ends at the edges."""
    import torch

    places = torch.arange(side, dtype=like.dtype)
    weights = torch.exp(-0.5 * ((places[:, None] - places) / RADIUS) ** 2)
    return weights / weights.sum(1, keepdim=True)
