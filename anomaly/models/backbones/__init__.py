"""Where features come from. A backbone is one file here that registers a function building one.

A backbone maps photos (B, 3, H, W) in [0, 255], H and W multiples of its `stride`, to one map of features
(B, channels, H / stride, W / stride). It is fully convolutional, so photos of any size go through it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomaly.errors import ConfigError
from anomaly.models.folding import folded
from anomaly.registry import Registry

Photo = NDArray[np.uint8]


class Backbone(nn.Module):
    """A feature extractor, and what is needed to build it again: `name` and, in the bundle, its weights."""

    name: str
    stride: int
    channels: int
    pretrained: bool
    """False: there is nothing in it yet, the contrastive encoder trains it on the user's photos."""

    def __init__(self) -> None:
        super().__init__()
        self._judging: list[Backbone] = []
        """The copy of `judging`, in a list so that it is no part of this network and of its weights."""

    def emphasis(self) -> Tensor:
        """How much each channel, standardised, counts where principal directions are sought, (channels,)."""
        return torch.ones(self.channels)

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def judging(self) -> Backbone:
        """This backbone as it judges photos: no gradients, and about a quarter faster. Itself in training."""
        if self.training:
            return self
        if not self._judging:
            self._judging.append(folded(self))
        return self._judging[0]

    def train(self, mode: bool = True) -> Self:
        self._judging = []
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any) -> None:  # of this network, or of one that holds it
        self._judging = []
        super()._load_from_state_dict(*args)


BACKBONES: Registry[Callable[[str, bool], Backbone]] = Registry("backbone", package=__name__)
"""Builders: (what stands behind the colon of the name, whether to load weights) -> Backbone."""

AUTO = "efficientnet_lite0"


def build_backbone(name: str, *, weights: bool = True, seed: int = 0) -> Backbone:
    """The backbone called `name`: auto, none, a registered name, timm:<model>, or a weights file.

    `weights=False` builds the bare architecture, to be filled from a bundle. Raises ConfigError.
    """
    torch.manual_seed(seed)
    kind, _, rest = ("auto" if name == "auto" else name).partition(":")
    if kind == "auto":
        kind = AUTO
    elif kind not in BACKBONES.names() and Path(name).suffix in (".safetensors", ".pth", ".pt"):
        kind, rest = "file", name
    if kind not in BACKBONES.names():
        raise ConfigError(
            f"unknown backbone {name!r}: use auto, none, {AUTO}, timm:<model>, or a .safetensors file"
        )
    backbone = BACKBONES.get(kind)(rest, weights)
    for parameter in backbone.parameters():
        parameter.requires_grad_(not backbone.pretrained)
    return backbone.eval()
