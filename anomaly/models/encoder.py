"""Photo -> maps of patches: the features of the backbone, their embedding, and texture."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from anomaly.models.backbones import Backbone
from anomaly.models.filters import PrincipalFilters, principal_directions
from anomaly.scorers import PatchMaps

Photo = NDArray[np.uint8]

WHITENING = 0.375
"""The power of its variance that a direction is divided by: 0 leaves it as it is, 0.5 whitens."""
WHITENING_FLOOR = 0.01
"""Added to variances before whitening, as a share of the mean variance of the features."""
MARGIN = 64
"""Pixels of context that a tile sees beyond the part of it that is kept."""


class Whitening(nn.Module):
    """(B, C, h, w) -> (B, D, h, w): the leading principal directions of normal patches, partly whitened.

    Directions in which good parts hardly vary, where faint defects show, count for more than in distances
    between what comes in.
    """

    def __init__(self, channels: int, directions: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(channels, directions, 1, bias=False)

    def start_from(self, patches: Tensor, emphasis: Tensor | None = None) -> None:
        """Set the linear map to the directions of `patches` (N, C), pooled before; `emphasis` (C,) is how
        much each channel counts in finding them."""
        emphasis = torch.ones(patches.shape[1]) if emphasis is None else emphasis
        every, directions = principal_directions(patches * emphasis)
        kept = self.linear.out_channels
        variances, directions = every[:kept], directions[:, :kept]
        floor = WHITENING_FLOOR * every.mean() + 1e-12
        directions = directions * _signs(directions) / (variances.clamp_min(0) + floor) ** WHITENING
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.weight[: directions.shape[1], :, 0, 0] = directions.T.float() * emphasis

    @staticmethod
    def pool(features: Tensor) -> Tensor:
        """Half the patch itself, half the mean of the 3 x 3 around it: a little context, and tolerance to
        shifts of less than a patch, without averaging away what only one patch shows."""
        return (features + F.avg_pool2d(features, 3, 1, 1, count_include_pad=False)) / 2

    def of_pooled(self, pooled: Tensor) -> Tensor:
        """The same of what was pooled before."""
        out: Tensor = self.linear(pooled)
        return out

    def forward(self, features: Tensor) -> Tensor:
        return self.of_pooled(self.pool(features))


class Projection(Whitening):
    """(B, C, h, w) features -> (B, D, h, w) embedding: whitened, and a correction learnt by contrast."""

    def __init__(self, channels: int, embedding_size: int, hidden: int = 256) -> None:
        super().__init__(channels, embedding_size)
        self.hidden = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.GELU())
        self.correction = nn.Conv2d(hidden, embedding_size, 1)

    def start_from(self, patches: Tensor, emphasis: Tensor | None = None) -> None:
        super().start_from(patches, emphasis)
        with torch.no_grad():
            self.correction.weight.zero_()
            nn.init.zeros_(self.correction.bias)  # type: ignore[arg-type]

    def of_pooled(self, pooled: Tensor) -> Tensor:
        out: Tensor = self.linear(pooled) + self.correction(self.hidden(pooled))
        return out

    def of_patches(self, patches: Tensor) -> Tensor:
        """(P, C) pooled patches -> (P, D), as matrix products: the gradient of a convolution over P photos of
        one patch waits for its threads once a photo, spinning, which takes seconds on a busy machine."""
        first = self.hidden[0]
        assert isinstance(first, nn.Conv2d)
        straight, inwards, outwards = (
            part.weight.flatten(1) for part in (self.linear, first, self.correction)
        )
        hidden = F.gelu(F.linear(patches, inwards, first.bias))
        return F.linear(patches, straight) + F.linear(hidden, outwards, self.correction.bias)


def _signs(directions: Tensor) -> Tensor:
    """The sign that makes the largest entry of each column positive: eigenvectors have none of their own."""
    largest = directions.abs().argmax(0, keepdim=True)
    return directions.gather(0, largest).sign()


class Encoder(nn.Module):
    """Backbone, filters and projections of one model, with the channel statistics of its training photos.

    `raw` features are the backbone's channels and, behind them, the answers of the filters. Of a pretrained
    backbone the first are the features; one that learnt from nothing counts the answers among them.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, backbone: Backbone, embedding_size: int, tile_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.filters = PrincipalFilters().requires_grad_(False)
        self.channels = backbone.channels + (0 if backbone.pretrained else self.filters.channels)
        self.projection = Projection(self.channels, embedding_size)
        self.texture = Whitening(self.filters.channels, self.filters.channels).requires_grad_(False)
        self.tile_size = tile_size
        self.register_buffer("mean", torch.zeros(self.channels, 1, 1))
        self.register_buffer("spread", torch.ones(self.channels, 1, 1))

    def standardise_by(self, raw: Iterable[Tensor]) -> None:
        """Take mean and spread of the features' channels from `raw` features of training photos."""
        count, first, second = 0, torch.zeros(()), torch.zeros(())
        for values in raw:
            flat = values[: self.channels].flatten(1).double()
            count += flat.shape[1]
            first = first + flat.sum(1)
            second = second + flat.square().sum(1)
        mean = first / count
        variance = (second / count - mean.square()).clamp_min(0)
        self.mean.copy_(mean.float()[:, None, None])
        self.spread.copy_((variance.sqrt().float() + 1e-3)[:, None, None])

    def raw_features(self, photo: Photo) -> Tensor:
        """(H, W, 3) uint8, sides multiples of 32, -> (C, H / 16, W / 16) raw features."""
        images = as_tensor(photo)
        with torch.inference_mode():
            whole = max(images.shape[2:]) <= self.tile_size
            features = self._raw(images) if whole else self._tiled(images)
        return features[0]

    def standardised(self, features: Tensor) -> Tensor:
        """(..., C, h, w) features -> mean 0 and spread 1 in each channel over the training photos."""
        return (features.float() - self.mean) / self.spread

    def parts(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """(C, h, w) raw features -> the features, standardised, and the answers of the filters."""
        return self.standardised(raw[: self.channels]), raw[self.backbone.channels :].float()

    def emphasis(self) -> Tensor:
        """How much each standardised channel counts where principal directions are sought, (channels,)."""
        return F.pad(self.backbone.emphasis(), (0, self.channels - self.backbone.channels), value=1.0)

    def learning(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D, h, w) embedding while the backbone is trained. The filters are silent: they
        are fixed, and cost more than the backbone that they stand beside."""
        features = self.backbone(images)
        silent = (0, 0, 0, 0, 0, self.channels - self.backbone.channels)
        out: Tensor = self.projection(F.pad(features, silent))
        return out

    def embed(self, features: Tensor) -> Tensor:
        """(C, h, w) standardised features -> (D, h, w) embedding."""
        with torch.inference_mode():
            return self.projection(features[None])[0]  # type: ignore[no-any-return]

    def texture_of(self, answers: Tensor) -> Tensor:
        """(C, h, w) answers of the filters -> (D, h, w) texture."""
        with torch.inference_mode():
            return self.texture(answers[None])[0]  # type: ignore[no-any-return]

    def maps(self, photo: Photo) -> PatchMaps:
        """Everything that scorers read of one working photo (H, W, 3) uint8."""
        return self.maps_of(self.raw_features(photo), photo)

    def maps_of(self, raw: Tensor, photo: Photo) -> PatchMaps:
        """The same, where the photo's `raw` features are there already."""
        features, answers = self.parts(raw)
        return PatchMaps(features, self.embed(features), self.texture_of(answers), as_tensor(photo)[0] / 255)

    def _raw(self, images: Tensor) -> Tensor:
        return torch.cat([self.backbone.judging()(images), self.filters(images)], dim=1)

    def _tiled(self, images: Tensor) -> Tensor:
        """Features of (1, 3, H, W) from overlapping tiles, of which only the middles are kept."""
        stride, core = self.backbone.stride, self.tile_size - 2 * MARGIN
        height, width = images.shape[2:]
        channels = self.backbone.channels + self.filters.channels
        out = images.new_empty((1, channels, height // stride, width // stride))
        for top in range(0, height, core):
            for left in range(0, width, core):
                bottom, right = min(top + core, height), min(left + core, width)
                y, x = max(top - MARGIN, 0), max(left - MARGIN, 0)
                tile = images[:, :, y : min(bottom + MARGIN, height), x : min(right + MARGIN, width)]
                rows = slice((top - y) // stride, (bottom - y) // stride)
                cols = slice((left - x) // stride, (right - x) // stride)
                part = self._raw(tile)[:, :, rows, cols]
                out[:, :, top // stride : bottom // stride, left // stride : right // stride] = part
        return out


def as_tensor(photo: Photo) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in [0, 255]."""
    return torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1)[None].float()
