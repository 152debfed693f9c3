"""Convolutional denoising autoencoders with a bottleneck, over features and over pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FeatureAutoencoder(nn.Module):
    """(B, C, h, w) features -> the same, through `bottleneck` channels a patch.

    Hidden layers see 3 x 3 patches on either side of the bottleneck, so a patch is rebuilt from what its
    neighbours make likely, not copied.
    """

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        wide, narrow = 192, 128
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, wide, 1),
            nn.GELU(),
            nn.Conv2d(wide, narrow, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(narrow, bottleneck, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(bottleneck, narrow, 1),
            nn.GELU(),
            nn.Conv2d(narrow, wide, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(wide, channels, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.encoder(features))
        return out


class PixelAutoencoder(nn.Module):
    """(B, 3, H, W) pixels in [0, 1], H and W multiples of 16 -> the same, through a stride-16 bottleneck."""

    stride = 16

    def __init__(self, bottleneck: int, width: int = 32) -> None:
        super().__init__()
        widths = (width, width, 2 * width, 4 * width)
        down: list[nn.Module] = []
        for inputs, outputs in zip((3, *widths), widths, strict=False):
            down += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.GELU()]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], bottleneck, 1))
        up: list[nn.Module] = [nn.Conv2d(bottleneck, widths[-1], 1), nn.GELU()]
        for inputs, outputs in zip(widths[::-1], (*widths[-2::-1], width), strict=True):
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1), nn.GELU()]
        self.decoder = nn.Sequential(*up, nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.decoder(self.encoder(pixels)).sigmoid()  # type: ignore[no-any-return]


def to_multiple(values: Tensor, multiple: int) -> Tensor:
    """Repeat the lower and right edge of (B, C, H, W) until both sides are multiples of `multiple`."""
    h, w = values.shape[2:]
    return F.pad(values, (0, -w % multiple, 0, -h % multiple), mode="replicate")
