"""Reconstruction against perception: what an autoencoder learns first is seldom what tells things apart.

Balestriero & LeCun, Learning by Reconstruction Produces Uninformative Features For Perception (ICML 2024,
arXiv 2402.11337): classes are compared by a probe on the PCA subspace of most variance and on that of least;
the alignment of the optimal linear autoencoder with the classes has a closed form, which Gaussian noise
leaves as it is and masking changes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from anomaly.diagnostics.subspace import (
    GaussianNoise,
    PatchMasking,
    Subspace,
    bottom_subspace,
    reconstruction_alignment,
    square_patches,
    top_subspace,
)
from pipelines.papers.contrastive import probe
from pipelines.papers.digits import SIDE, digits
from pipelines.papers.table import EARLIER, SEEDS, Row

TOP, BOTTOM = 0.9, 0.2


def perception() -> Iterator[Row]:
    """r3: the alignment curve under noise and masking; probes on the top and the bottom subspace."""
    x, y = digits().flat, digits().labels
    plain = reconstruction_alignment(x, y)
    for k, ref in ((4, 64.7), (8, 82.87), (16, 93.0)):
        yield Row("r3", f"no noise, {k} dimensions", "alignment %", (float(plain[k - 1]),), ref, EARLIER)
    for sigma in (0.1, 0.5, 1.0):
        noisy = reconstruction_alignment(x, y, GaussianNoise(sigma))
        change = float(np.abs(noisy - plain).max())
        condition = f"Gaussian noise {sigma:g}"
        yield Row("r3", condition, "largest change of alignment %", (change,), 0.0, EARLIER)
    for size, drop, ref in ((4, 0.25, 93.67), (2, 0.75, 91.97)):
        masked = reconstruction_alignment(x, y, PatchMasking(drop, square_patches(SIDE, SIDE, size)))
        condition = f"{size} px patches masked with p {drop:g}, 16 dimensions"
        yield Row("r3", condition, "alignment %", (float(masked[15]),), ref, EARLIER)
    backgrounds = ((0, 0.950, 0.407, 83.0), (1, 0.315, 0.702, 48.9), (3, 0.106, 0.574, 25.2))
    for amplitude, *references in backgrounds:
        runs = [_on_background(amplitude, seed) for seed in SEEDS]
        top_size, bottom_size = (f"{np.mean([run[i] for run in runs]):g} dimensions" for i in (3, 4))
        measures = ("digit accuracy, top 90 %", "digit accuracy, bottom 20 %", "alignment % at 8 dimensions")
        for i, (measure, ref) in enumerate(zip(measures, references, strict=True)):
            note = (top_size, bottom_size, "")[i]
            values = tuple(run[i] for run in runs)
            condition = f"background of amplitude {amplitude}"
            yield Row("r3", condition, measure, values, ref, EARLIER, note)


def _on_background(amplitude: float, seed: int) -> tuple[float, float, float, int, int]:
    """Top and bottom accuracy, alignment at 8, top and bottom dimensions of digits on smooth background.

    The background is white noise smoothed by 2 px, scaled to a standard deviation of `amplitude`; digits
    are in [0, 1].
    """
    data = digits()
    noise = np.random.default_rng(seed).standard_normal((len(data.labels), SIDE, SIDE))
    smooth = gaussian_filter(noise, (0, 2, 2)).reshape(len(noise), -1)
    x = data.flat + amplitude * smooth / smooth.std()
    a, b = data.train, data.test

    def accuracy(subspace: Subspace) -> float:
        z = subspace.coordinates(x)
        scale = z[a].std()
        return probe(z[a] / scale, data.labels[a], z[b] / scale, data.labels[b])

    top, bottom = top_subspace(x[a], TOP), bottom_subspace(x[a], BOTTOM)
    aligned = float(reconstruction_alignment(x, data.labels)[7])
    return accuracy(top), accuracy(bottom), aligned, top.dimensions, bottom.dimensions


def nuisance_rank() -> Iterator[Row]:
    """r4: the residual of a linear autoencoder against the number of nuisance factors.

    32 x 32 pictures of 6 smooth illumination factors, which hold 99.8 % of the variance, and sensor noise;
    the defect is a square of 3 x 3 pixels, brighter by .35. The score is the squared residual.
    """
    references = {0: 0.509, 4: 0.576, 6: 1.0, 8: 1.0, 16: 1.0}
    for k, ref in references.items():
        values = tuple(_residual_auroc(k, seed) for seed in SEEDS)
        yield Row("r4", f"{k} dimensions", "AUROC of the residual", values, ref, EARLIER)


def _residual_auroc(k: int, seed: int, factors: int = 6, side: int = 32, n: int = 400) -> float:
    rng = np.random.default_rng(seed)
    at = np.pi * (np.arange(side) + 0.5) / side
    orders = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)][:factors]
    waves = np.stack([np.outer(np.cos(p * at), np.cos(q * at)).ravel() for p, q in orders])
    waves /= waves.std(1, keepdims=True) + (waves.std(1, keepdims=True) == 0)
    light = rng.standard_normal((2 * n, factors)) @ waves * 0.25
    noise = light.std() * np.sqrt(0.002 / 0.998)
    x = light + noise * rng.standard_normal(light.shape)
    train, good, bad = x[:n], x[n : n + n // 2], x[n + n // 2 :].reshape(-1, side, side).copy()
    for picture in bad:
        row, col = rng.integers(side - 2, size=2)
        picture[row : row + 3, col : col + 3] += 0.35
    mean = train.mean(0)
    directions = np.linalg.svd(train - mean, full_matrices=False)[2][:k]

    def scores(pictures: np.ndarray) -> np.ndarray:
        e = pictures.reshape(len(pictures), -1) - mean
        return np.square(e - e @ directions.T @ directions).sum(1)

    return float(
        roc_auc_score(np.repeat([0, 1], [len(good), len(bad)]), np.concatenate([scores(good), scores(bad)]))
    )
