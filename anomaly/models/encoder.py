"""Photo -> maps of patches: the features of the backbone, their embedding, coarse ones, and texture."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from anomaly.models.backbones import Backbone
from anomaly.models.filters import PrincipalFilters, principal_directions
from anomaly.scorers import Input, PatchMaps

Photo = NDArray[np.uint8]

WHITENING = 0.375
"""The power of its variance that a direction is divided by: 0 leaves it as it is, 0.5 whitens."""
WHITENING_FLOOR = 0.01
"""Added to variances before whitening, as a share of the mean variance of the features."""
COARSE_SIZE = 256
"""Directions of the coarse features that are kept."""
MARGIN = 64
"""Pixels of context that a tile sees beyond the part of it that is kept."""


@dataclass(frozen=True)
class Raw:
    """What the networks that are not trained further make of one photo, (C, h, w) each."""

    features: Tensor
    """The backbone's."""
    answers: Tensor | None
    """Those of the principal filters on the same grid, where they are read."""
    coarse: Tensor | None
    """The backbone's of the photo at half its size, on a grid half as fine, where they are read."""

    def half(self) -> Raw:
        """The same in float16."""
        return Raw(
            self.features.half(),
            None if self.answers is None else self.answers.half(),
            None if self.coarse is None else self.coarse.half(),
        )


class Channels(nn.Module):
    """(..., C, h, w) -> mean 0 and spread 1 in each channel over the training photos."""

    mean: Tensor
    spread: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("spread", torch.ones(channels, 1, 1))

    def learn(self, maps: Iterable[Tensor]) -> None:
        """Take mean and spread from `maps` (C, h, w) of training photos."""
        count, first, second = 0, torch.zeros(()), torch.zeros(())
        for values in maps:
            flat = values.flatten(1).double()
            count += flat.shape[1]
            first = first + flat.sum(1)
            second = second + flat.square().sum(1)
        mean = first / count
        variance = (second / count - mean.square()).clamp_min(0)
        self.mean.copy_(mean.float()[:, None, None])
        self.spread.copy_((variance.sqrt().float() + 1e-3)[:, None, None])

    def forward(self, values: Tensor) -> Tensor:
        return (values.float() - self.mean) / self.spread


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

    Of a pretrained backbone its channels are the features; one that learnt from nothing counts the answers of
    the filters among them. `inputs` names what is read of it: nothing else is computed.
    """

    def __init__(
        self,
        backbone: Backbone,
        embedding_size: int,
        tile_size: int,
        inputs: Collection[Input] = get_args(Input),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.give(inputs)
        self.filtered = not backbone.pretrained or "texture" in inputs
        self.filters = PrincipalFilters().requires_grad_(False)
        self.channels = backbone.channels + (0 if backbone.pretrained else self.filters.channels)
        self.standard = Channels(self.channels)
        self.projection = Projection(self.channels, embedding_size)
        self.coarse_standard = Channels(backbone.channels)
        self.coarse = Whitening(backbone.channels, COARSE_SIZE).requires_grad_(False)
        self.texture = Whitening(self.filters.channels, self.filters.channels).requires_grad_(False)
        self.tile_size = tile_size

    def give(self, inputs: Collection[Input]) -> None:
        """From here on, compute `inputs` and nothing else."""
        self.inputs = [name for name in get_args(Input) if name in inputs]

    def standardise_by(self, raws: Sequence[Raw]) -> None:
        """Take mean and spread of all channels from what training photos gave."""
        self.standard.learn(self.joined(raw.features, raw.answers) for raw in raws)
        if "coarse" in self.inputs:
            self.coarse_standard.learn(raw.coarse for raw in raws if raw.coarse is not None)

    def raw(self, photo: Photo, inputs: Collection[Input] | None = None) -> Raw:
        """What the fixed networks make of (H, W, 3) uint8, sides multiples of 32; patches of 16 px. As far as
        `inputs` need it, where they are given, else for all that is read."""
        inputs = self.inputs if inputs is None else inputs
        filtered = not self.backbone.pretrained or "texture" in inputs
        images = as_tensor(photo)
        with torch.inference_mode():
            backbone = self.backbone.judging()
            features = self._seen(backbone, images)
            answers = self._seen(self.filters, images) if filtered else None
            coarse = self._seen(backbone, halved(images)) if "coarse" in inputs else None
        return Raw(features, answers, coarse)

    def features_of(self, photo: Photo) -> Tensor:
        """The standardised features (C, h, w) of a working photo, and nothing besides."""
        return self.features(self.raw(photo, ["features"]))

    def features(self, raw: Raw) -> Tensor:
        """The standardised features (C, h, w)."""
        out: Tensor = self.standard(self.joined(raw.features, raw.answers))
        return out

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

    def maps(self, photo: Photo) -> PatchMaps:
        """Everything that is read of one working photo (H, W, 3) uint8."""
        return self.maps_of(self.raw(photo), photo)

    def maps_of(self, raw: Raw, photo: Photo) -> PatchMaps:
        """The same, where what the fixed networks make of the photo is there already."""
        maps: dict[Input, Tensor] = {}
        for name in self.inputs:
            known = maps.get("features") if name == "embedding" else None
            maps[name] = self.map_of(name, raw, photo) if known is None else self.embed(known)
        return maps

    def map_of(self, name: Input, raw: Raw, photo: Photo) -> Tensor:
        """One of the maps, (C, h, w); the encoder must have been built to give it."""
        if name == "pixels":
            return as_tensor(photo)[0] / 255
        if name in ("features", "embedding"):
            features = self.features(raw)
            return features if name == "features" else self.embed(features)
        with torch.inference_mode():
            if name == "coarse":
                assert raw.coarse is not None
                return self.coarse(self.coarse_standard(raw.coarse)[None])[0]  # type: ignore[no-any-return]
            assert raw.answers is not None
            return self.texture(raw.answers.float()[None])[0]  # type: ignore[no-any-return]

    def joined(self, features: Tensor, answers: Tensor | None) -> Tensor:
        """The channels (..., C, h, w) that count as features, float32, of what backbone and filters give."""
        if self.backbone.pretrained:
            return features.float()
        assert answers is not None
        return torch.cat([features.float(), answers.float()], dim=-3)

    def _seen(self, network: nn.Module, images: Tensor) -> Tensor:
        """What `network` makes of (1, 3, H, W), (C, H / 16, W / 16); of large photos from overlapping tiles,
        of which only the middles are kept."""
        height, width = images.shape[2:]
        if max(height, width) <= self.tile_size:
            return network(images)[0]  # type: ignore[no-any-return]
        stride, core = self.backbone.stride, self.tile_size - 2 * MARGIN
        bands = []
        for top in range(0, height, core):
            band = []
            for left in range(0, width, core):
                bottom, right = min(top + core, height), min(left + core, width)
                y, x = max(top - MARGIN, 0), max(left - MARGIN, 0)
                tile = images[:, :, y : min(bottom + MARGIN, height), x : min(right + MARGIN, width)]
                rows = slice((top - y) // stride, (bottom - y) // stride)
                cols = slice((left - x) // stride, (right - x) // stride)
                band.append(network(tile)[0, :, rows, cols])
            bands.append(torch.cat(band, dim=2))
        return torch.cat(bands, dim=1)


def halved(images: Tensor) -> Tensor:
    """(B, 3, H, W), sides multiples of 32 -> at half their size, sides rounded up to such multiples."""
    rows, columns = ((side + 63) // 64 * 32 for side in images.shape[2:])
    smaller = F.avg_pool2d(images, 2)
    return F.interpolate(smaller, (rows, columns), mode="bilinear", align_corners=False)


def as_tensor(photo: Photo) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in [0, 255]."""
    return torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1)[None].float()
