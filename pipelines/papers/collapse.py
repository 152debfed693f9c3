"""Class collapse: supervised contrastive learning learns subclasses early, then unlearns them.

Xue et al., Which Features are Learnt by Contrastive Learning? (ICML 2023, arXiv 2305.16536). The class is
the parity of the digit, its subclasses the ten digits; the joint loss (1 - beta) SupCon + beta NT-Xent keeps
them. The probe reads the projection, which is what the loss sees. The network has no batch normalisation,
with which subclasses are unlearnt less. How fast they are unlearnt depends on the augmentation too, so views
are warped weakly, and for comparison not at all and as strongly as in r1.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from anomaly.diagnostics.encoder_health import nearest_neighbour_accuracy
from anomaly.models.losses import joint_contrastive
from pipelines.papers.contrastive import Network, embed, probe, train, unit, warp
from pipelines.papers.digits import SIDE, WIDTHS, digits
from pipelines.papers.table import EARLIER, SEEDS, Row

EPOCHS = (3, 10, 30, 80)
TEMPERATURE = 0.2
WARP = 0.25
"""Strength of the augmentation."""


@cache
def course(beta: float, strength: float, seed: int) -> dict[int, tuple[float, float]]:
    """epoch -> (digit accuracy of a logistic regression, of the nearest neighbour), at unit length."""
    data = digits()
    torch.manual_seed(seed)
    rows_of_train, parity = torch.from_numpy(data.train), torch.from_numpy(data.labels % 2)
    network = Network(1, SIDE, WIDTHS, normalised=False)

    def view(rows: Tensor) -> Tensor:
        return warp(data.pictures[rows_of_train[rows]], strength)

    def loss(first: Tensor, second: Tensor, rows: Tensor) -> Tensor:
        return joint_contrastive(first, second, parity[rows_of_train[rows]], beta, TEMPERATURE)

    out = {}
    for epoch in train(network, view, loss, len(data.train), EPOCHS[-1]):
        if epoch in EPOCHS:
            z = unit(embed(network, data.pictures))
            a, b = data.train, data.test
            linear = probe(z[a], data.labels[a], z[b], data.labels[b])
            out[epoch] = linear, nearest_neighbour_accuracy(z[b], data.labels[b])
    return out


def class_collapse() -> Iterator[Row]:
    """r2: the ten digits, read from networks that were told only odd or even."""
    none = (None,) * len(EPOCHS)
    conditions: list[tuple[str, float, float, tuple[float | None, ...]]] = [
        ("supervised", 0.0, WARP, (0.814, 0.838, 0.814, 0.724)),
        ("joint beta 0.1", 0.1, WARP, (None, None, None, 0.952)),
        ("joint beta 0.5", 0.5, WARP, (0.876, 0.924, 0.956, 0.958)),
        ("unsupervised", 1.0, WARP, (None, None, None, 0.962)),
        ("supervised, no warp", 0.0, 0, none),
        ("joint beta 0.5, no warp", 0.5, 0, none),
        ("supervised, warp x 1", 0.0, 1, none),
        ("joint beta 0.5, warp x 1", 0.5, 1, none),
    ]
    for condition, beta, strength, references in conditions:
        courses = [course(beta, strength, seed) for seed in SEEDS]
        for epoch, reference in zip(EPOCHS, references, strict=True):
            neighbour = sum(c[epoch][1] for c in courses) / len(courses)
            yield Row(
                "r2",
                f"{condition}, epoch {epoch}",
                "digit accuracy",
                tuple(c[epoch][0] for c in courses),
                reference,
                EARLIER if reference else "",
                f"nearest neighbour {neighbour:.3f}",
            )
