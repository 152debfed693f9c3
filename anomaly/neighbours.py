"""Nearest-neighbour distance to a large memory bank, fast enough that coverage need not be cut down."""

from __future__ import annotations

import math

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

EXACT_BELOW = 20_000
"""Banks up to this size are searched exactly; above it by an inverted file, PROBES cells a query."""
PROBES = 16


def coreset(patches: Floats, size: int, seed: int) -> Floats:
    """At most `size` rows of `patches` (N, D): half of them random, half those the first half covers worst.

    A cheap stand-in for greedy k-centre selection (Roth et al., PatchCore, CVPR 2022), whose cost grows
    with N times size.
    """
    if len(patches) <= size:
        return patches
    order = np.random.default_rng(seed).permutation(len(patches))
    chosen, rest = order[: size - size // 2], order[size - size // 2 :]
    distance = MemoryBank.build(patches[chosen]).distance(patches[rest])
    worst = rest[np.argsort(-distance, kind="stable")[: size // 2]]
    kept: Floats = patches[np.sort(np.concatenate([chosen, worst]))]
    return kept


class MemoryBank:
    """Patches of normal photos, (N, D) float32, and the index that searches them."""

    def __init__(self, patches: Floats, centroids: Floats) -> None:
        """`centroids` (0, D) for exact search, else the cells of the inverted file."""
        self.patches = np.ascontiguousarray(patches, dtype=np.float32)
        self.centroids = np.ascontiguousarray(centroids, dtype=np.float32)
        dimension = self.patches.shape[1]
        self._cells = faiss.IndexFlatL2(dimension)
        self._index: faiss.Index = faiss.IndexFlatL2(dimension)
        if len(self.centroids):
            self._cells.add(self.centroids)
            inverted = faiss.IndexIVFFlat(self._cells, dimension, len(self.centroids))
            inverted.nprobe = PROBES
            self._index = inverted
        self._index.add(self.patches)

    @classmethod
    def build(cls, patches: Floats) -> MemoryBank:
        """A bank over all rows of `patches`; k-means finds the cells of a large one."""
        patches = np.ascontiguousarray(patches, dtype=np.float32)
        centroids = np.empty((0, patches.shape[1]), dtype=np.float32)
        if len(patches) > EXACT_BELOW:
            cells = int(2 * math.sqrt(len(patches)))
            kmeans = faiss.Kmeans(patches.shape[1], cells, niter=8, seed=1, max_points_per_centroid=48)
            kmeans.train(patches)
            centroids = np.asarray(kmeans.centroids, dtype=np.float32)
        return cls(patches, centroids)

    def cells(self) -> NDArray[np.int64]:
        """The cell of each patch, (N,), in a bank that has cells."""
        found: NDArray[np.int64] = self._cells.search(self.patches, 1)[1][:, 0]
        return found

    def distance(self, queries: Floats) -> Floats:
        """Euclidean distance of each row of `queries` (Q, D) to its nearest patch, (Q,) float32."""
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        squared, nearest = self._index.search(queries, 1)
        # Searched by |q|^2 - 2 q b + |b|^2, which rounds away what is left between near patches.
        found: Floats = np.linalg.norm(queries - self.patches[nearest[:, 0]], axis=1)
        distance: Floats = np.where(nearest[:, 0] < 0, np.sqrt(squared[:, 0]), found)
        return distance
