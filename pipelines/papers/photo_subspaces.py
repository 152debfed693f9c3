"""r3 on real photos: which share of the pixels' variance shows the defects.

Balestriero & LeCun (ICML 2024, arXiv 2402.11337), section 3: photos are standardised, projected on the PCA
subspace of most or of least variance, and a classifier is trained on the projections in pixel space.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch.nn.functional import binary_cross_entropy_with_logits

from anomaly.diagnostics.subspace import (
    GaussianNoise,
    PatchMasking,
    bottom_subspace,
    reconstruction_alignment,
    square_patches,
    top_subspace,
)
from pipelines.papers.contrastive import Network, embed
from pipelines.papers.photos import PHOTO_SIDE, PHOTO_WIDTHS, photos
from pipelines.papers.table import BALESTRIERO, SEEDS, Row

EPOCHS, BATCH, LEARNING_RATE = 30, 64, 3e-3


def perception_on_photos(data: Path | None) -> Iterator[Row]:
    """r3-photos: AUROC of a linear and of a convolutional classifier by subspace, and the alignment."""
    found = photos(data)
    normal, x = (_standardised(part.flatten(1).double().numpy()) for part in (found.normal, found.test))
    y = found.defective.astype(int)
    for part, subspace, paper in (
        ("all variance", top_subspace(normal, 1), 0.587),
        ("top 90 %", top_subspace(normal, 0.9), 0.45),
        ("bottom 20 %", bottom_subspace(normal, 0.2), 0.55),
        ("bottom 10 %", bottom_subspace(normal, 0.1), 0.49),
    ):
        z = subspace.coordinates(x)
        projected = _standardised(z @ subspace.directions.T)
        condition = f"{found.name}, {part}, {subspace.dimensions} dimensions"
        linear = tuple(_linear(z / z.std(), y, seed) for seed in SEEDS)
        network = tuple(_network(projected, y, seed) for seed in SEEDS)
        yield Row("r3-photos", condition, "defect AUROC, linear", linear)
        note = "theirs is accuracy over 200 classes"
        yield Row("r3-photos", condition, "defect AUROC, network", network, paper, BALESTRIERO, note)
    curves = {"no noise": reconstruction_alignment(x, y)}
    for size in (4, 8):
        masking = PatchMasking(0.5, square_patches(PHOTO_SIDE, PHOTO_SIDE, size))
        curves[f"{size} px patches masked with p 0.5"] = reconstruction_alignment(x, y, masking)
    for name, curve in curves.items():
        for k in (8, 32):
            condition = f"{found.name}, {name}, {k} dimensions"
            yield Row("r3-photos", condition, "alignment %", (float(curve[k - 1]),))
    change = float(np.abs(reconstruction_alignment(x, y, GaussianNoise(0.5)) - curves["no noise"]).max())
    condition = f"{found.name}, Gaussian noise 0.5"
    yield Row("r3-photos", condition, "largest change of alignment %", (change,), 0.0, "theory")


def _standardised(x: np.ndarray) -> np.ndarray:
    """(N, D), each row of mean 0 and standard deviation 1."""
    return (x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True) + 1e-6)


def _split(y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on (60 %) and to test on."""
    train, test = train_test_split(np.arange(len(y)), test_size=0.4, stratify=y, random_state=seed)
    return train, test


def _linear(z: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Test AUROC of a logistic regression."""
    train, test = _split(y, seed)
    model = LogisticRegression(max_iter=5000).fit(z[train], y[train])
    return float(roc_auc_score(y[test], model.decision_function(z[test])))


def _network(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Test AUROC of a small convolutional network; photos are mirrored and shifted by up to 2 px."""
    torch.manual_seed(seed)
    train, test = _split(y, seed)
    pictures = torch.from_numpy(x).float().reshape(-1, 1, PHOTO_SIDE, PHOTO_SIDE)
    target = torch.from_numpy(y).float()
    network = Network(1, PHOTO_SIDE, PHOTO_WIDTHS, embedding_size=1).encoder
    batch = min(BATCH, len(train))
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=1e-3)
    steps = EPOCHS * (len(train) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        rows = torch.from_numpy(train)[torch.randperm(len(train))[:batch]]
        mirrored = pictures[rows].flip([side for side in (2, 3) if torch.rand(()) < 0.5])
        seen = mirrored.roll(torch.randint(-2, 3, (2,)).tolist(), (2, 3))
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(network.train()(seen)[:, 0], target[rows]).backward()
        optimizer.step()
        schedule.step()
    return float(roc_auc_score(y[test], embed(network, pictures[test])[:, 0]))
