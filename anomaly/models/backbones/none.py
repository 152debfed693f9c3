"""A backbone without pretrained weights: a residual network that starts empty."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly.models.backbones import BACKBONES, Backbone


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outputs),
    )


class ScratchBackbone(Backbone):
    """Residual stages of stride 4, 8 and 16, everything averaged to stride 16."""

    stride = 16

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 128)) -> None:
        super().__init__()
        a, b, c = widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, a, 5, 2, 2, bias=False), nn.BatchNorm2d(a), nn.ReLU(inplace=True)
        )
        self.stages = nn.ModuleList([_block(a, a, 2), _block(a, b, 2), _block(b, c, 2)])
        self.skips = nn.ModuleList([nn.Conv2d(a, a, 1, 2), nn.Conv2d(a, b, 1, 2), nn.Conv2d(b, c, 1, 2)])
        self.name = "none"
        self.channels = sum(widths)
        self.pretrained = False

    def forward(self, images: Tensor) -> Tensor:
        x = ((images - 127.5) / 64).contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        maps = []
        for stage, skip in zip(self.stages, self.skips, strict=True):
            x = F.relu(stage(x) + skip(x))
            maps.append(x)
        h = x.shape[2]
        return torch.cat([F.avg_pool2d(m, m.shape[2] // h) for m in maps], dim=1)


@BACKBONES.register("none")
def none(_: str, weights: bool) -> Backbone:
    """No pretrained weights: a small residual network, learnt from the user's photos alone."""
    return ScratchBackbone()
