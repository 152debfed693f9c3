"""A small convolutional encoder trained with a contrastive loss, and what can be read from it.

Chen, Luo & Li, Intriguing Properties of Contrastive Losses (NeurIPS 2021, arXiv 2011.02803): two augmented
views of each picture go through encoder f and projector g; the loss sees g(f(x)), the probes see f(x).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from anomaly.neighbours import MemoryBank

LEARNING_RATE = 2e-3
BATCH_SIZE = 256


class Network(nn.Module):
    """Encoder (B, channels, side, side) -> (B, embedding_size), and the projector 64-64 that the loss sees.

    Every convolution but the first halves the side. `normalised`: by batch, after each convolution.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        widths: tuple[int, ...],
        embedding_size: int = 32,
        *,
        normalised: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            layers += [nn.Conv2d(channels, width, 3, stride=2 if i else 1, padding=1)]
            layers += [nn.BatchNorm2d(width), nn.ReLU()] if normalised else [nn.ReLU()]
            channels = width
        flat = channels * (side >> (len(widths) - 1)) ** 2
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, embedding_size))
        self.projector = nn.Sequential(nn.Linear(embedding_size, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, pictures: Tensor) -> Tensor:
        projections: Tensor = self.projector(self.encoder(pictures))
        return projections


def train(
    network: Network,
    view: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    n: int,
    epochs: int,
) -> Iterator[int]:
    """Train `network` in place; yields the number of each finished epoch.

    `view(rows)` draws one augmented view of those of the `n` training pictures, `loss(first, second, rows)`
    compares the projections of two. Chance comes from torch's global generator: seed it before.
    """
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    for epoch in range(1, epochs + 1):
        network.train()
        for rows in torch.randperm(n).split(min(BATCH_SIZE, n)):
            if len(rows) < min(BATCH_SIZE, n):
                continue  # a small last batch would weigh as much as a full one
            first, second = network(view(rows)), network(view(rows))
            optimizer.zero_grad()
            loss(first, second, rows).backward()
            optimizer.step()
        yield epoch


def embed(network: nn.Module, pictures: Tensor) -> np.ndarray:
    """(N, D) float64 of (N, C, H, W), not normalised, by a network or by its encoder alone."""
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(part) for part in pictures.split(512)]).double().numpy()


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Rows at length 1: what the loss, and a distance between embeddings, sees of them."""
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def probe(train_z: np.ndarray, train_y: np.ndarray, test_z: np.ndarray, test_y: np.ndarray) -> float:
    """Accuracy of a logistic regression on the embeddings as they are."""
    model = LogisticRegression(max_iter=5000).fit(train_z, train_y)
    return float(model.score(test_z, test_y))


def defect_auroc(normal: np.ndarray, good: np.ndarray, bad: np.ndarray) -> float:
    """AUROC of the distance to the nearest of `normal`, at unit length, of `bad` against `good`."""
    bank = MemoryBank.build(unit(normal).astype(np.float32))
    scores = bank.distance(unit(np.concatenate([good, bad])).astype(np.float32))
    return float(roc_auc_score(np.repeat([0, 1], [len(good), len(bad)]), scores))


def warp(pictures: Tensor, strength: float) -> Tensor:
    """Each of (B, 1, H, W) turned up to 10 degrees, scaled up to 10 %, shifted up to 1/16 of the side, with
    noise of .1, all times `strength`."""
    n = len(pictures)
    angle = torch.deg2rad(_uniform(n) * 10 * strength)
    scale = 1 + _uniform(n) * 0.1 * strength
    shift = _uniform(n, 2) * 0.125 * strength  # in half sides
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = nn.functional.affine_grid(rows, list(pictures.shape), align_corners=False)
    moved = nn.functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    return moved + 0.1 * strength * torch.randn_like(moved)


def _uniform(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape) - 1
