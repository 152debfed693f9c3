"""Feature suppression: an easy feature that both views share erases the one that matters.

Chen, Luo & Li, Intriguing Properties of Contrastive Losses (NeurIPS 2021, arXiv 2011.02803), RandBit: b
random bits per picture are added as b constant channels, the same in both views. NT-Xent can tell pictures
apart by the bits alone, and unlearns the digit. Xue et al., Which Features are Learnt by Contrastive
Learning? (ICML 2023, arXiv 2305.16536): a larger embedding helps where the irrelevant feature is easy
(few bits) but not where it is high-dimensional (many bits); there augmentation of that feature helps, and
so does the joint loss (1 - beta) SupCon + beta NT-Xent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from anomaly.diagnostics.encoder_health import effective_rank, nearest_neighbour_accuracy
from anomaly.models.losses import joint_contrastive, nt_xent
from pipelines.papers.contrastive import Network, embed, probe, train, unit, warp
from pipelines.papers.digits import SIDE, WIDTHS, digits
from pipelines.papers.table import CHEN, EARLIER, SEEDS, Row


@dataclass(frozen=True)
class Recipe:
    bits: int = 8
    temperature: float = 0.2
    embedding_size: int = 32
    redraw: float = 0.0
    """Probability that a view draws a bit anew: augmentation of the irrelevant feature."""
    strength: float = 1.0
    """Of the warp and noise on the digit: augmentation of the relevant feature."""
    beta: float = 1.0
    """Weight of NT-Xent; the rest is supervised contrastive on the digit."""
    epochs: int = 30


@dataclass(frozen=True)
class Outcome:
    digit: float
    """Accuracy of a logistic regression on unit-length embeddings."""
    digit_raw: float
    """The same on embeddings as they come, where a feature of tiny variance can still be found."""
    bit: float
    """Mean accuracy over the bits, on unit-length embeddings."""
    neighbour: float
    """Share of test digits whose nearest other one, by embeddings as they come, is the same digit."""
    rank: float


@cache
def outcome(recipe: Recipe, seed: int) -> Outcome:
    """Train one encoder and probe it on the test digits."""
    data = digits()
    torch.manual_seed(seed)
    bits = torch.randint(2, (len(data.labels), recipe.bits)).float()
    rows_of_train, labels = torch.from_numpy(data.train), torch.from_numpy(data.labels)
    network = Network(1 + recipe.bits, SIDE, WIDTHS, recipe.embedding_size)

    def view(rows: Tensor) -> Tensor:
        rows = rows_of_train[rows]
        new = torch.rand(len(rows), recipe.bits) < recipe.redraw
        seen = torch.where(new, torch.randint(2, new.shape).float(), bits[rows])
        return _packed(warp(data.pictures[rows], recipe.strength), seen)

    def loss(first: Tensor, second: Tensor, rows: Tensor) -> Tensor:
        if recipe.beta == 1:
            return nt_xent(first, second, recipe.temperature)
        return joint_contrastive(first, second, labels[rows_of_train[rows]], recipe.beta, recipe.temperature)

    for _ in train(network, view, loss, len(data.train), recipe.epochs):
        pass
    raw = embed(network.encoder, _packed(data.pictures, bits))
    z = unit(raw)

    def accuracy(embeddings: np.ndarray, target: np.ndarray) -> float:
        a, b = data.train, data.test
        return probe(embeddings[a], target[a], embeddings[b], target[b])

    each_bit = [accuracy(z, column) for column in bits.int().numpy().T]
    return Outcome(
        accuracy(z, data.labels),
        accuracy(raw, data.labels),
        float(np.mean(each_bit)) if each_bit else float("nan"),
        nearest_neighbour_accuracy(raw[data.test], data.labels[data.test]),
        effective_rank(raw[data.test]),
    )


def _packed(pictures: Tensor, bits: Tensor) -> Tensor:
    """(B, 1 + b, 8, 8): each bit fills a channel."""
    return torch.cat([pictures, bits[:, :, None, None].expand(-1, -1, SIDE, SIDE)], dim=1)


def randbit() -> Iterator[Row]:
    """r1: bits, temperature, embedding size, augmentation of the right and the wrong feature, joint loss."""
    conditions: list[tuple[str, Recipe, float | None]] = [
        ("0 bits", Recipe(bits=0), 0.992),
        ("4 bits", Recipe(bits=4), 0.922),
        ("8 bits", Recipe(), 0.102),
        ("16 bits", Recipe(bits=16), 0.103),
        ("8 bits, temperature 0.05", Recipe(temperature=0.05), 0.859),
        ("8 bits, temperature 0.5", Recipe(temperature=0.5), 0.102),
    ]
    few = zip((2, 4, 8, 16, 64), (0.082, 0.098, 0.277, 0.711, 0.920), strict=True)
    conditions += [(f"4 bits, {d} dimensions", Recipe(bits=4, embedding_size=d), ref) for d, ref in few]
    many = zip((4, 16, 64, 256), (0.093, 0.101, 0.109, 0.118), strict=True)
    conditions += [(f"8 bits, {d} dimensions", Recipe(embedding_size=d), ref) for d, ref in many]
    conditions += [
        (f"8 bits, bits re-drawn with p {p:g}", Recipe(redraw=p), ref)
        for p, ref in zip((0.25, 0.5, 1), (0.947, 0.968, 0.975), strict=True)
    ]
    conditions += [
        (f"8 bits, warp of the digit x {s:g}", Recipe(strength=s), ref)
        for s, ref in zip((0, 0.5, 2), (0.863, 0.707, 0.114), strict=True)
    ]
    conditions += [
        (f"8 bits, joint loss beta {beta:g}", Recipe(beta=beta), ref)
        for beta, ref in zip((0.5, 0), (0.826, 0.992), strict=True)
    ]
    for condition, recipe, ref in conditions:
        yield _row("r1", condition, recipe, ref, EARLIER)
    for condition, recipe, ref in (("0 bits", Recipe(bits=0), 9.8), ("8 bits", Recipe(), 15.9)):
        ranks = tuple(outcome(recipe, seed).rank for seed in SEEDS)
        yield Row("r1", condition, "effective rank", ranks, ref, EARLIER, "no proxy for health")


def temperature_table() -> Iterator[Row]:
    """chen: bits by temperature, the grid of the authors' notebook `randbits_mnist`, and 0.5 besides."""
    bits = (0, 5, 10, 15, 20)
    paper = {
        0.05: (0.899, 0.706, 0.330, 0.143, 0.099),
        0.1: (0.892, 0.612, 0.187, 0.098, 0.103),
        0.2: (0.900, 0.330, 0.104, 0.100, 0.099),
        0.5: (None,) * 5,
    }
    for t, refs in paper.items():
        for b, ref in zip(bits, refs, strict=True):
            recipe = Recipe(bits=b, temperature=t)
            yield _row("chen", f"{b} bits, temperature {t:g}", recipe, ref, CHEN if ref else "")


def _row(experiment: str, condition: str, recipe: Recipe, reference: float | None, source: str) -> Row:
    outcomes = [outcome(recipe, seed) for seed in SEEDS]
    raw = np.mean([o.digit_raw for o in outcomes])
    neighbour = np.mean([o.neighbour for o in outcomes])
    note = f"not normalised {raw:.3f}, nearest neighbour {neighbour:.3f}"
    if recipe.bits:
        note += f", bits {np.mean([o.bit for o in outcomes]):.3f}"
    accuracies = tuple(o.digit for o in outcomes)
    return Row(experiment, condition, "digit accuracy", accuracies, reference, source, note)
