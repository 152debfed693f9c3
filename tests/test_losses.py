"""Contrastive losses against naive loops and closed forms; SSIM against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from anomaly.models.losses import (
    alignment,
    joint_contrastive,
    l1_ssim_loss,
    nt_xent,
    ssim_map,
    supervised_contrastive,
    uniformity,
)

T = 0.3


def views(n: int = 6, d: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    first, second = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return first, second


def kernel(first: Tensor, second: Tensor) -> np.ndarray:
    """exp(cosine / T) of all 2 N views."""
    z = torch.cat([first, second]).numpy()
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    return np.exp(z @ z.T / T)


def naive_nt_xent(first: Tensor, second: Tensor, negatives: np.ndarray) -> float:
    n, e = len(first), kernel(first, second)
    total = 0.0
    for i in range(2 * n):
        positive = e[i, (i + n) % (2 * n)]
        repelling = sum(e[i, j] for j in range(2 * n) if i % n != j % n and negatives[i % n, j % n])
        total -= math.log(positive / (positive + repelling))
    return total / (2 * n)


def test_nt_xent_is_the_mean_over_both_views() -> None:
    first, second = views()
    expected = naive_nt_xent(first, second, np.ones((6, 6), dtype=bool))
    assert float(nt_xent(first, second, T)) == pytest.approx(expected, rel=1e-9)


def test_nt_xent_repels_only_the_negatives_it_is_given() -> None:
    first, second = views()
    photo = torch.tensor([0, 0, 0, 1, 1, 2])
    same_photo = photo[:, None] == photo
    expected = naive_nt_xent(first, second, same_photo.numpy())
    assert float(nt_xent(first, second, T, same_photo)) == pytest.approx(expected, rel=1e-9)


def test_nt_xent_without_any_negative_is_zero_with_finite_gradients() -> None:
    first, second = views()
    first.requires_grad_()
    loss = nt_xent(first, second, T, torch.zeros(6, 6, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert first.grad is not None and torch.isfinite(first.grad).all()


def test_nt_xent_ignores_the_length_of_embeddings() -> None:
    first, second = views()
    assert float(nt_xent(7 * first, second, T)) == pytest.approx(float(nt_xent(first, second, T)))


def test_supervised_contrastive_averages_over_all_positives() -> None:
    first, second = views()
    labels = [0, 1, 0, 2, 1, 0]
    e, n = kernel(first, second), 6
    total = 0.0
    for i in range(2 * n):
        others = [j for j in range(2 * n) if j != i]
        positives = [j for j in others if labels[j % n] == labels[i % n]]
        whole = sum(e[i, j] for j in others)
        total -= sum(math.log(e[i, j] / whole) for j in positives) / len(positives)
    got = supervised_contrastive(first, second, torch.tensor(labels), T)
    assert float(got) == pytest.approx(total / (2 * n), rel=1e-9)


def test_supervised_contrastive_with_a_label_per_photo_is_nt_xent() -> None:
    first, second = views()
    got = supervised_contrastive(first, second, torch.arange(6), T)
    assert float(got) == pytest.approx(float(nt_xent(first, second, T)), rel=1e-9)


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
def test_joint_loss_weighs_nt_xent_by_beta(beta: float) -> None:
    first, second = views()
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    supervised = float(supervised_contrastive(first, second, labels, T))
    expected = (1 - beta) * supervised + beta * float(nt_xent(first, second, T))
    assert float(joint_contrastive(first, second, labels, beta, T)) == pytest.approx(expected)


def test_alignment_of_equal_orthogonal_and_opposite_views() -> None:
    x = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    orthogonal = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    assert float(alignment(x, 2 * x)) == pytest.approx(0, abs=1e-6)
    assert float(alignment(x, orthogonal)) == pytest.approx(2)
    assert float(alignment(x, -x)) == pytest.approx(4)


def test_uniformity_of_a_point_and_of_three_known_points() -> None:
    assert float(uniformity(torch.ones(5, 3))) == pytest.approx(0, abs=1e-5)
    corners = torch.tensor([[1.0, 0.0], [0.0, 4.0], [-1.0, 0.0]])  # squared distances 2, 2, 4
    assert float(uniformity(corners)) == pytest.approx(math.log((2 * math.exp(-4) + math.exp(-8)) / 3))


def test_ssim_map_matches_scipy_at_each_pixel() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 12, 15))

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, 7, mode="mirror")

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    expected = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    got = ssim_map(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])[0, 0]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9)


def test_l1_ssim_loss_is_zero_on_a_perfect_copy_and_grows_with_the_error() -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    losses = [float(l1_ssim_loss(x + shift, x)) for shift in (0.0, 0.05, 0.2)]
    assert losses[0] == pytest.approx(0, abs=1e-5)
    assert losses[0] < losses[1] < losses[2]
