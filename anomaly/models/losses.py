"""Losses of the contrastive encoders and of the autoencoders."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(first: Tensor, second: Tensor, temperature: float, negatives: Tensor | None = None) -> Tensor:
    """NT-Xent of N pairs: `first[i]` and `second[i]`, both (N, D), are views of one thing (SimCLR, eq. 1).

    The things may be photos or patches. `negatives` (N, N) bool: whether pair j repels pair i, for instance
    only patches of the same photo; None lets all others repel. Pair i itself never does.
    """
    logits = _similarity(first, second) / temperature
    n = len(first)
    partner = torch.arange(2 * n).roll(n)
    excluded = torch.eye(2 * n, dtype=torch.bool)
    if negatives is not None:
        excluded = ~(negatives & ~torch.eye(n, dtype=torch.bool)).repeat(2, 2)
        excluded[torch.arange(2 * n), partner] = False
    return F.cross_entropy(logits.masked_fill(excluded, float("-inf")), partner)


def supervised_contrastive(first: Tensor, second: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """L_out of Khosla et al. (NeurIPS 2020), eq. 2: all views of photos of one label attract each other.

    `first`, `second` (N, D) are two views of N photos, `labels` (N,) their classes.
    """
    logits = _similarity(first, second) / temperature
    itself = torch.eye(len(logits), dtype=torch.bool)
    log_share = F.log_softmax(logits.masked_fill(itself, float("-inf")), dim=1)
    positive = (labels[:, None] == labels).repeat(2, 2) & ~itself
    return -(log_share.masked_fill(~positive, 0).sum(1) / positive.sum(1)).mean()


def joint_contrastive(
    first: Tensor, second: Tensor, labels: Tensor, beta: float, temperature: float
) -> Tensor:
    """`(1 - beta)` supervised contrastive + `beta` NT-Xent, `beta` in [0, 1] (Xue et al., ICML 2023).

    The first term keeps what easy features suppress, the second what the labels do not tell apart.
    """
    supervised = supervised_contrastive(first, second, labels, temperature)
    return (1 - beta) * supervised + beta * nt_xent(first, second, temperature)


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of the two views of N things, (N, D) each, on the unit sphere.

    Wang and Isola (ICML 2020), alpha 2: 0 (the same) to 4 (opposite); unrelated embeddings have 2.
    """
    return (F.normalize(first, dim=1) - F.normalize(second, dim=1)).square().sum(1).mean()


def uniformity(embeddings: Tensor) -> Tensor:
    """log mean exp(-2 distance^2) over all pairs of (N, D) on the unit sphere (Wang and Isola, t 2).

    0 where all are one point; about -4 where they are spread evenly over many dimensions.
    """
    exponent = -2 * torch.pdist(F.normalize(embeddings, dim=1)).square()
    return exponent.logsumexp(0) - math.log(exponent.numel())


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
    rebuilt, target = _precise(rebuilt), _precise(target)  # variances in bfloat16 would cancel
    return (rebuilt - target).abs().mean() + (1 - ssim_map(rebuilt, target).mean()) / 2


def _similarity(first: Tensor, second: Tensor) -> Tensor:
    """(2 N, 2 N) cosine similarity of all views of N pairs, the first views before the second."""
    both = F.normalize(_precise(torch.cat([first, second])), dim=1)
    with torch.autocast("cpu", enabled=False):  # a small temperature magnifies what bfloat16 rounds off
        return both @ both.T


def _precise(values: Tensor) -> Tensor:
    """`values` in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
