"""Photo -> maps of patches: the backbone, its features standardised by channel, and their embedding."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from anomaly.models.backbones import Backbone
from anomaly.models.filters import principal_directions
from anomaly.scorers import PatchMaps

Photo = NDArray[np.uint8]

WHITENING = 0.375
"""The power of its variance that a direction is divided by: 0 leaves it as it is, 0.5 whitens."""
WHITENING_FLOOR = 0.01
"""Added to variances before whitening, as a share of the mean variance of the features."""
MARGIN = 64
"""Pixels of context that a tile sees beyond the part of it that is kept."""


class Projection(nn.Module):
    """(B, C, h, w) features -> (B, D, h, w) embedding: a linear map, and a correction learnt by contrast.

    The linear map starts as the leading principal directions, partly whitened: directions in which good parts
    hardly vary, where faint defects show, count for more than in distances between features.
    """

    def __init__(self, channels: int, embedding_size: int, hidden: int = 256) -> None:
        super().__init__()
        self.linear = nn.Conv2d(channels, embedding_size, 1, bias=False)
        self.hidden = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.GELU())
        self.correction = nn.Conv2d(hidden, embedding_size, 1)

    def start_from(self, patches: Tensor) -> None:
        """Set the linear map to the partly whitened principal directions of `patches` (N, C), the correction
        to nothing."""
        every, directions = principal_directions(patches)
        kept = self.linear.out_channels
        variances, directions = every[:kept], directions[:, :kept]
        floor = WHITENING_FLOOR * every.mean() + 1e-12
        directions = directions * _signs(directions) / (variances.clamp_min(0) + floor) ** WHITENING
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.weight[: directions.shape[1], :, 0, 0] = directions.T.float()
            self.correction.weight.zero_()
            nn.init.zeros_(self.correction.bias)  # type: ignore[arg-type]

    @staticmethod
    def pool(features: Tensor) -> Tensor:
        """Half the patch itself, half the mean of the 3 x 3 around it: a little context, and tolerance to
        shifts of less than a patch, without averaging away what only one patch shows."""
        return (features + F.avg_pool2d(features, 3, 1, 1, count_include_pad=False)) / 2

    def of_pooled(self, pooled: Tensor) -> Tensor:
        """The embedding of features that were pooled before."""
        out: Tensor = self.linear(pooled) + self.correction(self.hidden(pooled))
        return out

    def forward(self, features: Tensor) -> Tensor:
        return self.of_pooled(self.pool(features))


def _signs(directions: Tensor) -> Tensor:
    """The sign that makes the largest entry of each column positive: eigenvectors have none of their own."""
    largest = directions.abs().argmax(0, keepdim=True)
    return directions.gather(0, largest).sign()


class Encoder(nn.Module):
    """Backbone and projection of one model, with the channel statistics of its training photos."""

    mean: Tensor
    spread: Tensor

    def __init__(self, backbone: Backbone, embedding_size: int, tile_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = Projection(backbone.channels, embedding_size)
        self.tile_size = tile_size
        self.register_buffer("mean", torch.zeros(backbone.channels, 1, 1))
        self.register_buffer("spread", torch.ones(backbone.channels, 1, 1))

    def standardise_by(self, raw: Iterable[Tensor]) -> None:
        """Take channel mean and spread from `raw` features (C, h, w) of training photos, a channel that the
        backbone emphasises counting as if it spread less."""
        count, first, second = (
            0,
            torch.zeros(self.mean.shape[0]).double(),
            torch.zeros(self.mean.shape[0]).double(),
        )
        for values in raw:
            flat = values.flatten(1).double()
            count += flat.shape[1]
            first += flat.sum(1)
            second += flat.square().sum(1)
        mean = first / count
        variance = (second / count - mean.square()).clamp_min(0)
        self.mean.copy_(mean.float()[:, None, None])
        self.spread.copy_(((variance.sqrt().float() + 1e-3) / self.backbone.emphasis())[:, None, None])

    def raw_features(self, photo: Photo) -> Tensor:
        """(H, W, 3) uint8, sides multiples of 32, -> (C, H / 16, W / 16) features before standardisation."""
        images = as_tensor(photo)
        with torch.inference_mode():
            whole = max(images.shape[2:]) <= self.tile_size
            features: Tensor = self.backbone.judging()(images) if whole else self._tiled(images)
        return features[0]

    def standardised(self, raw: Tensor) -> Tensor:
        """(..., C, h, w) raw features -> mean 0 in each channel over the training photos, and as spread what
        the backbone emphasises, 1 for most."""
        return (raw.float() - self.mean) / self.spread

    def embed(self, features: Tensor) -> Tensor:
        """(C, h, w) standardised features -> (D, h, w) embedding."""
        with torch.inference_mode():
            return self.projection(features[None])[0]  # type: ignore[no-any-return]

    def maps(self, photo: Photo) -> PatchMaps:
        """Everything that scorers read of one working photo (H, W, 3) uint8."""
        return self.maps_of(self.raw_features(photo), photo)

    def maps_of(self, raw: Tensor, photo: Photo) -> PatchMaps:
        """The same, where the photo's `raw` features are there already."""
        features = self.standardised(raw)
        return PatchMaps(features, self.embed(features), as_tensor(photo)[0] / 255)

    def _tiled(self, images: Tensor) -> Tensor:
        """Features of (1, 3, H, W) from overlapping tiles, of which only the middles are kept."""
        backbone = self.backbone.judging()
        stride, core = backbone.stride, self.tile_size - 2 * MARGIN
        height, width = images.shape[2:]
        out = images.new_empty((1, backbone.channels, height // stride, width // stride))
        for top in range(0, height, core):
            for left in range(0, width, core):
                bottom, right = min(top + core, height), min(left + core, width)
                y, x = max(top - MARGIN, 0), max(left - MARGIN, 0)
                tile = images[:, :, y : min(bottom + MARGIN, height), x : min(right + MARGIN, width)]
                rows = slice((top - y) // stride, (bottom - y) // stride)
                cols = slice((left - x) // stride, (right - x) // stride)
                part = backbone(tile)[:, :, rows, cols]
                out[:, :, top // stride : bottom // stride, left // stride : right // stride] = part
        return out


def as_tensor(photo: Photo) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in [0, 255]."""
    return torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1)[None].float()
