"""Batch normalisation folded into the convolution before it: the same network in fewer steps."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

N = TypeVar("N", bound=nn.Module)

SIDE = 64
"""Side of the picture on which the two networks are compared, px."""
TOLERANCE = 1e-4
"""Largest deviation allowed there, as a share of the largest value."""


def folded(network: N) -> N:
    """A copy of `network` (B, 3, H, W) -> Tensor, in evaluation mode, whose normalisations are folded.

    A normalisation that stands right after a convolution in one module is taken to follow it. Where that is
    wrong the copy gives other values on a picture of noise, and `network` itself is returned.
    """
    fast = copy.deepcopy(network).eval()
    for module in fast.modules():
        _fold_children(module)
    picture = 255 * torch.rand((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain: Tensor = network(picture)
        same = torch.allclose(fast(picture), plain, rtol=0, atol=TOLERANCE * float(plain.abs().max()))
    return fast if same else network


def _fold_children(module: nn.Module) -> None:
    before: nn.Module | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            if child.running_mean is None or child.running_var is None:
                continue
            before.weight, before.bias = fuse_conv_bn_weights(
                before.weight,
                before.bias,
                child.running_mean,
                child.running_var,
                child.eps,
                child.weight,
                child.bias,
            )
            before.to(memory_format=torch.channels_last)
            # Some normalisations have the activation in them.
            setattr(module, name, getattr(child, "act", nn.Identity()))
        before = child
