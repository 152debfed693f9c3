"""Convolutional autoencoders with a bottleneck, over features and over pixels; variational if asked."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Encoder and decoder; a variational one encodes mean and log-variance, and rebuilds from the mean."""

    encoder: nn.Sequential
    decoder: nn.Sequential

    def __init__(self, variational: bool) -> None:
        super().__init__()
        self.variational = variational

    def encode(self, values: Tensor) -> Tensor:
        """(B, C, h, w) -> the code, (B, bottleneck, ...), twice as many channels if variational."""
        code: Tensor = self.encoder(values)
        return code

    def decode(self, code: Tensor) -> Tensor:
        """The code (B, bottleneck, ...) -> (B, C, h, w)."""
        out: Tensor = self.decoder(code)
        return out

    def forward(self, values: Tensor) -> Tensor:
        code = self.encode(values)
        return self.decode(code.chunk(2, dim=1)[0] if self.variational else code)


def sampled(code: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(a draw from the code's normal distribution, its mean Kullback-Leibler divergence from N(0, 1)).

    Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014, eq. 10.
    """
    mean, log_variance = code.float().chunk(2, dim=1)
    log_variance = log_variance.clamp(-10, 10)
    draw = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=generator)
    return draw, 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


class FeatureAutoencoder(Autoencoder):
    """(B, C, h, w) features -> the same, through `bottleneck` channels a patch.

    Hidden layers see 3 x 3 patches on either side of the bottleneck, so a patch is rebuilt from what its
    neighbours make likely, not copied.
    """

    def __init__(self, channels: int, bottleneck: int, variational: bool = False) -> None:
        super().__init__(variational)
        wide, narrow = 192, 128
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, wide, 1),
            nn.GELU(),
            nn.Conv2d(wide, narrow, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(narrow, bottleneck * (1 + variational), 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(bottleneck, narrow, 1),
            nn.GELU(),
            nn.Conv2d(narrow, wide, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(wide, channels, 1),
        )


class PixelAutoencoder(Autoencoder):
    """(B, 3, H, W) pixels in [0, 1], H and W multiples of 16 -> the same, through a stride-16 bottleneck."""

    stride = 16

    def __init__(self, bottleneck: int, width: int = 32, variational: bool = False) -> None:
        super().__init__(variational)
        widths = (width, width, 2 * width, 4 * width)
        down: list[nn.Module] = []
        for inputs, outputs in zip((3, *widths), widths, strict=False):
            down += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.GELU()]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], bottleneck * (1 + variational), 1))
        up: list[nn.Module] = [nn.Conv2d(bottleneck, widths[-1], 1), nn.GELU()]
        for inputs, outputs in zip(widths[::-1], (*widths[-2::-1], width), strict=True):
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1), nn.GELU()]
        self.decoder = nn.Sequential(*up, nn.Conv2d(width, 3, 3, padding=1))

    def decode(self, code: Tensor) -> Tensor:
        return super().decode(code).sigmoid()


def to_multiple(values: Tensor, multiple: int) -> Tensor:
    """Repeat the lower and right edge of (B, C, H, W) until both sides are multiples of `multiple`."""
    h, w = values.shape[2:]
    return F.pad(values, (0, -w % multiple, 0, -h % multiple), mode="replicate")
