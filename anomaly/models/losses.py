"""Losses of the contrastive encoders and of the autoencoders."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent of N pairs: `first[i]` and `second[i]`, both (N, D), are views of one thing (SimCLR, eq. 1)."""
    both = F.normalize(torch.cat([first, second]), dim=1)
    logits = both @ both.T / temperature
    logits = logits.masked_fill(torch.eye(len(both), dtype=torch.bool), float("-inf"))
    n = len(first)
    return F.cross_entropy(logits, torch.cat([torch.arange(n) + n, torch.arange(n)]))


def ssim_map(first: Tensor, second: Tensor, window: int = 7) -> Tensor:
    """Structural similarity (Wang et al. 2004) of (B, C, H, W) in [0, 1] at each pixel, uniform window."""
    pad = window // 2

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(values, (pad,) * 4, mode="reflect"), window, 1)

    a, b = mean(first), mean(second)
    var_a, var_b = mean(first**2) - a**2, mean(second**2) - b**2
    covariance = mean(first * second) - a * b
    c1, c2 = 0.01**2, 0.03**2
    return (2 * a * b + c1) * (2 * covariance + c2) / ((a**2 + b**2 + c1) * (var_a + var_b + c2))


def l1_ssim_loss(rebuilt: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error plus (1 - SSIM) / 2."""
    return (rebuilt - target).abs().mean() + (1 - ssim_map(rebuilt, target).mean()) / 2
