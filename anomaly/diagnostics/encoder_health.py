"""Numbers on a set of embeddings, and what each of them does and does not prove.

None of them shows that a defect is visible: an encoder that has lost the one feature that matters can be
aligned, uniform and of high rank (Chen et al., NeurIPS 2021; Xue et al., ICML 2023).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from sklearn.neighbors import NearestNeighbors

from anomaly.errors import DataError
from anomaly.models import losses

Floats = npt.NDArray[np.float64]


def alignment(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Mean squared distance in [0, 4] of two views' embeddings, (N, D) each, at unit length."""
    a, b = _embeddings(first, 1), _embeddings(second, 1)
    if a.shape != b.shape:
        raise DataError(f"views are {a.shape} and {b.shape}: give both views of every photo")
    return float(losses.alignment(torch.from_numpy(a), torch.from_numpy(b)))


def read_alignment(value: float) -> str:
    """`alignment` in words."""
    if value < 0.2:
        return (
            f"alignment {value:.2f}: two views of a photo get nearly the same embedding, so whatever the "
            "augmentations change is invisible, defects that look like them included"
        )
    if value < 1:
        return f"alignment {value:.2f}: two views of a photo get similar embeddings (0 is the same)"
    return (
        f"alignment {value:.2f}: two views of a photo get embeddings hardly more alike than those of two "
        "photos (2): train longer, or use weaker augmentations"
    )


def uniformity(embeddings: npt.ArrayLike) -> float:
    """log mean exp(-2 distance**2) over pairs of (N, D) at unit length: 0 one point, -4 evenly spread."""
    return float(losses.uniformity(torch.from_numpy(_embeddings(embeddings, 2))))


def read_uniformity(value: float) -> str:
    """`uniformity` in words."""
    if value > -0.5:
        return f"uniformity {value:.2f}: nearly all photos get one embedding; the encoder has collapsed"
    if value > -2.5:
        return f"uniformity {value:.2f}: photos share a part of the sphere (0 is one point, -4 evenly spread)"
    return (
        f"uniformity {value:.2f}: photos are spread evenly (-4 at best); that tells them apart by some "
        "feature, not that the feature is the one a defect changes"
    )


def effective_rank(embeddings: npt.ArrayLike) -> float:
    """exp(entropy of the normalised singular values) of (N, D), centred; in [1, min(N, D)].

    Roy and Vetterli, The effective rank (EUSIPCO 2007). 1 also where all rows are equal.
    """
    z = _embeddings(embeddings, 2)
    singular = np.linalg.svd(z - z.mean(0), compute_uv=False)
    if singular[0] <= np.finfo(float).eps * np.abs(z).max() * len(z):
        return 1.0
    share = singular[singular > 0] / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def read_effective_rank(value: float, embedding_size: int) -> str:
    """`effective_rank` in words."""
    used = f"effective rank {value:.1f} of {embedding_size}"
    if value < 0.05 * embedding_size or value < 1.5:
        return f"{used}: a few directions hold everything; the encoder has (nearly) collapsed"
    return (
        f"{used}: no collapse into a few directions, and no proof of health: irrelevant features such as "
        "a serial number fill directions as well"
    )


def nearest_neighbour_accuracy(embeddings: npt.ArrayLike, groups: npt.ArrayLike) -> float:
    """Share of (N, D) rows whose nearest other row is of their group; `groups` (N,).

    For groups that nobody labelled in training (lot, variant), a fall over training is class collapse.
    Distances are Euclidean, between embeddings as they are.
    """
    z, group = _embeddings(embeddings, 2), _groups(groups)
    if len(group) != len(z):
        raise DataError(f"{len(z)} embeddings but {len(group)} groups: give one group per photo")
    nearest = NearestNeighbors(n_neighbors=1).fit(z).kneighbors(return_distance=False)[:, 0]
    return float((group[nearest] == group).mean())


def chance_accuracy(groups: npt.ArrayLike) -> float:
    """`nearest_neighbour_accuracy` to expect where embeddings know nothing of `groups` (N,)."""
    size = np.unique(_groups(groups), return_counts=True)[1]
    return float((size * (size - 1)).sum() / (size.sum() * (size.sum() - 1)))


def read_group_accuracy(value: float, chance: float) -> str:
    """`nearest_neighbour_accuracy` in words; `chance` is `chance_accuracy` of the same groups."""
    known = f"{value:.0%} of photos have a nearest neighbour of their own group (chance {chance:.0%})"
    gain = (value - chance) / max(1 - chance, np.finfo(float).tiny)
    if gain < 0.1:
        return f"{known}: the groups are invisible, and so is a defect that turns one into another"
    if gain < 0.6:
        return f"{known}: the groups are partly visible"
    return f"{known}: the groups are visible"


def read_collapse(by_epoch: Mapping[int, float], chance: float, unit: str = "epoch") -> str:
    """Course of `nearest_neighbour_accuracy` over training, epoch (or another `unit`) -> value, in words."""
    last = max(by_epoch)
    best = max(by_epoch, key=lambda epoch: (by_epoch[epoch], -epoch))
    course = f"{read_group_accuracy(by_epoch[last], chance)} after {unit} {last}"
    if by_epoch[best] - by_epoch[last] > 0.05:
        return (
            f"{course}, down from {by_epoch[best]:.0%} after {unit} {best}: class collapse; stop earlier, or "
            "give the unsupervised term of the joint loss more weight"
        )
    return f"{course}, no lower than before"


def _embeddings(values: npt.ArrayLike, least: int) -> Floats:
    z = np.asarray(values, dtype=np.float64)
    if z.ndim != 2 or len(z) < least or z.shape[1] == 0:
        raise DataError(f"embeddings must be (N, D) with N at least {least}, got {z.shape}: add photos")
    if not np.isfinite(z).all():
        raise DataError("embeddings hold NaN or infinite values: train again with a lower learning rate")
    return z


def _groups(groups: npt.ArrayLike) -> npt.NDArray[np.generic]:
    group = np.asarray(groups)
    if group.ndim != 1 or np.unique(group, return_counts=True)[1].max(initial=0) < 2:
        raise DataError("no group holds two photos: name groups (lot, variant) that several photos share")
    return group
