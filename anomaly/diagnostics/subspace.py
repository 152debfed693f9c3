"""Which part of the pixels' variance a method sees: PCA subspaces, and reconstruction against perception.

Balestriero and LeCun, Learning by Reconstruction Produces Uninformative Features For Perception (ICML 2024,
arXiv 2402.11337): reconstruction learns the directions of most variance first; what tells classes, or
defects, apart often lies in those of least.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg

from anomaly.errors import ConfigError, DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RIDGE = 1e-9
"""Added to the second moment, as a share of its mean diagonal: pixels that never change stay solvable."""


@dataclass(frozen=True, slots=True)
class Subspace:
    """Some of the principal directions of a set of vectors of size D."""

    mean: Floats
    """(D,)"""
    directions: Floats
    """(D, K), orthonormal, in order of falling variance."""

    @property
    def dimensions(self) -> int:
        return len(self.directions.T)

    def coordinates(self, x: npt.ArrayLike) -> Floats:
        """(N, K) of (N, D)."""
        out: Floats = (np.asarray(x, dtype=np.float64) - self.mean) @ self.directions
        return out


def top_subspace(x: npt.ArrayLike, share: float) -> Subspace:
    """The fewest first principal directions of (N, D) that hold `share` in (0, 1] of the variance."""
    mean, directions, variance = _pca(x, share)
    held = np.cumsum(variance)
    k = int(np.searchsorted(held, (share - 1e-12) * held[-1])) + 1
    return Subspace(mean, directions[:, :k])


def bottom_subspace(x: npt.ArrayLike, share: float) -> Subspace:
    """The most last principal directions of (N, D) that hold at most `share` in (0, 1] of the variance.

    Directions without any variance are among them. Shares of `top` and `bottom` need not sum to one: the
    paper compares a top of 90 % with a bottom of 20 %.
    """
    mean, directions, variance = _pca(x, share)
    held = np.cumsum(variance[::-1])
    k = int(np.searchsorted(held, (share + 1e-12) * held[-1], side="right"))
    return Subspace(mean, directions[:, directions.shape[1] - k :])


def score_share(residuals: npt.ArrayLike, x: npt.ArrayLike, share: float = 0.9) -> tuple[float, float]:
    """How much of a squared-residual score lies in the top and in the bottom subspace of the photos `x`.

    `residuals` (M, D), for instance x minus its reconstruction; `x` (N, D) normal photos. The top holds
    `share` of the variance of `x`, the bottom is all the rest: the two parts sum to 1.
    """
    top = top_subspace(x, share)
    e = _matrix(residuals)
    if e.shape[1] != len(top.mean):
        raise DataError(f"residuals have {e.shape[1]} values, photos {len(top.mean)}: give both one size")
    total = float(np.square(e).sum())
    if total == 0:
        raise DataError("all residuals are zero, there is no score to share out: give photos that score")
    part = float(np.square(e @ top.directions).sum() / total)
    return part, 1 - part


def read_score_share(top: float, bottom: float) -> str:
    """`score_share` in words."""
    held = f"{top:.0%} of the score lies in the directions of most variance, {bottom:.0%} in the rest"
    if top > 0.5:
        return f"{held}: lighting and position drive it more than fine structure does"
    return f"{held}: fine structure drives it"


@dataclass(frozen=True, slots=True)
class GaussianNoise:
    """Denoising with independent noise of standard deviation `sigma`, in the units of the pixels."""

    sigma: float


@dataclass(frozen=True, slots=True)
class PatchMasking:
    """Masked reconstruction: each patch is set to the mean photo with probability `drop` in [0, 1)."""

    drop: float
    patches: Ints
    """(D,) number of the patch that each pixel belongs to, see `square_patches`."""


def square_patches(height: int, width: int, size: int) -> Ints:
    """(height * width,) number of the size x size patch of each pixel, row by row."""
    row, col = np.divmod(np.arange(height * width), width)
    out: Ints = (row // size) * -(-width // size) + col // size
    return out


def reconstruction_alignment(
    x: npt.ArrayLike, y: npt.ArrayLike, corruption: GaussianNoise | PatchMasking | None = None
) -> Floats:
    """(rank,) percent of the signal `y` that the best linear autoencoder of `x` keeps with K = 1, 2, ...

    `x` (N, D) is centred here; `y` is classes (N,) or a signal (N, C). With M1 X' = E[X~ X'] and
    M2 = E[X~ X~'] of the corrupted input X~ (D x N), the encoder V solves (M1 X')(X M1') v = l M2 v, and
    alignment(K) = 100 sqrt(sum_{k<=K} |Y q_k|^2 / sum_k |Y q_k|^2) with q_k from the QR of X'V.
    """
    photos = _matrix(x)
    photos = photos - photos.mean(0)
    signal = np.asarray(y)
    if len(signal) != len(photos):
        raise DataError(f"{len(photos)} photos but {len(signal)} labels: give one each")
    if signal.ndim == 1:
        signal = signal[:, None] == np.unique(signal)
    target = signal - signal.mean(0)
    m1, m2 = _moments(photos.T @ photos, len(photos), corruption)
    m2 = m2 + RIDGE * np.trace(m2) / len(m2) * np.eye(len(m2))
    # v = L^-T u with M2 = L L', u the left singular vectors of L^-1 M1 X': eigenvalues are not squared twice
    lower = np.linalg.cholesky(m2)
    u = np.linalg.svd(linalg.solve_triangular(lower, m1, lower=True))[0]
    encoder = linalg.solve_triangular(lower, u, lower=True, trans=1)
    rank = int(np.linalg.matrix_rank(photos))
    q = np.linalg.qr(photos @ encoder[:, :rank])[0]
    power = np.square(target.T @ q).sum(0)
    if not power.sum() > 0:
        raise DataError("no direction of the photos carries the signal: give labels of two classes or more")
    out: Floats = 100 * np.sqrt(np.cumsum(power) / power.sum())
    return out


def read_alignment_curve(curve: npt.ArrayLike, bottleneck: int) -> str:
    """`reconstruction_alignment` at a bottleneck of that many dimensions, in words."""
    values = np.asarray(curve, dtype=np.float64)
    if not 1 <= bottleneck <= len(values):
        raise ConfigError(f"the bottleneck is {bottleneck}: choose one from 1 to {len(values)}")
    enough = int(np.searchsorted(values, 90)) + 1
    kept = (
        f"a linear autoencoder of {bottleneck} dimensions keeps {values[bottleneck - 1]:.0f} % of the signal"
    )
    if enough <= bottleneck:
        return f"{kept}: what it reconstructs first is what matters"
    return f"{kept}, 90 % need {enough}: it spends its dimensions on variance that the signal is not in"


def _moments(
    moment: Floats, n: int, corruption: GaussianNoise | PatchMasking | None
) -> tuple[Floats, Floats]:
    """(M1 X', M2), both (D, D), of inputs whose second moment X X' is `moment`."""
    match corruption:
        case None:
            return moment, moment
        case GaussianNoise(sigma):
            if not sigma >= 0:
                raise ConfigError(f"sigma is {sigma}: noise needs a standard deviation of 0 or more")
            return moment, moment + n * sigma**2 * np.eye(len(moment))
        case PatchMasking(drop, patches):
            if not 0 <= drop < 1:
                raise ConfigError(f"drop is {drop}: a share of at least 0 and below 1 can be masked")
            if patches.shape != (len(moment),):
                raise DataError(f"{patches.size} patch numbers for {len(moment)} pixels: give one per pixel")
            keep = 1 - drop
            both_kept = np.where(patches[:, None] == patches, keep, keep**2)
            return keep * moment, both_kept * moment


def _pca(x: npt.ArrayLike, share: float) -> tuple[Floats, Floats, Floats]:
    """Mean (D,), all D principal directions (D, D) in columns, their variance (D,), falling."""
    if not 0 < share <= 1:
        raise ConfigError(f"share is {share}: a subspace holds more than 0 and at most 1 of the variance")
    x = _matrix(x)
    mean = x.mean(0)
    variance, directions = np.linalg.eigh(np.cov(x.T, bias=True).reshape(x.shape[1], -1))
    variance = np.maximum(variance[::-1], 0)
    if not variance.sum() > 0:
        raise DataError("all photos are the same, there is no variance to share out: give different photos")
    return mean, directions[:, ::-1], variance


def _matrix(x: npt.ArrayLike) -> Floats:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 2 or len(values) < 2 or values.shape[1] == 0:
        raise DataError(f"expected (N, D) with N at least 2, got {values.shape}: give one row per photo")
    if not np.isfinite(values).all():
        raise DataError("photos hold NaN or infinite values: decode them again, or leave them out")
    return values
