"""Nearest-neighbour distance to a large memory bank, fast enough that coverage need not be cut down."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

Floats = NDArray[np.float32]

EXACT_BELOW = 4_000
"""Banks up to this size are searched exactly; above it in the cells that k-means finds, PROBES a query."""
PROBES = 8
QUERIES, PATCHES = 1024, 8192
"""Queries and patches that one matrix product compares: its result stays within the cache's reach. Cells are
asked by PATCHES queries at a time: the more ask a cell at once, the less reading it costs each."""


@cache
def _blas() -> ThreadpoolController:
    """What multiplies numpy's matrices."""
    return ThreadpoolController().select(user_api="blas")


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
    """Patches of normal photos, (N, D) float32, and their search.

    |q - b|^2 = |q|^2 - 2 (q b - |b|^2 / 2): matrix products tell which patch is nearest, by the bracket, for
    many queries at once. Its distance is then taken as it stands, for products round away what is left
    between near patches.
    """

    def __init__(self, patches: Floats, centroids: Floats) -> None:
        """`centroids` (0, D) for exact search, else the centres of the cells."""
        self.patches = np.ascontiguousarray(patches, dtype=np.float32)
        self.centroids = np.ascontiguousarray(centroids, dtype=np.float32)
        self._centre = self.patches.mean(0, dtype=np.float64).astype(np.float32)
        self._cells = self._with_offset(self.centroids)
        cell = self.cells()
        self._order = np.argsort(cell, kind="stable")
        """The patches, sorted by cell."""
        ends = np.cumsum(np.bincount(cell, minlength=max(1, len(self.centroids))))
        self._starts = np.concatenate([[0], ends])
        rows = np.split(self._order, ends[:-1])
        self._columns = [np.ascontiguousarray(self._with_offset(self.patches[some]).T) for some in rows]
        """The patches of each cell, (D + 1, n): products read them faster lying so."""

    def __reduce__(self) -> tuple[type[MemoryBank], tuple[Floats, Floats]]:
        return MemoryBank, (self.patches, self.centroids)

    @classmethod
    def build(cls, patches: Floats) -> MemoryBank:
        """A bank over all rows of `patches`; k-means finds the cells of a large one."""
        patches = np.ascontiguousarray(patches, dtype=np.float32)
        centroids = np.empty((0, patches.shape[1]), dtype=np.float32)
        if len(patches) > EXACT_BELOW:
            import faiss

            cells = int(math.sqrt(len(patches)))
            limits = {"min_points_per_centroid": 1, "max_points_per_centroid": 48}  # 1: without a warning
            kmeans = faiss.Kmeans(patches.shape[1], cells, niter=8, seed=1, **limits)
            kmeans.train(patches)
            centroids = np.asarray(kmeans.centroids, dtype=np.float32)
        return cls(patches, centroids)

    def cells(self) -> NDArray[np.int64]:
        """The cell of each patch, (N,); all 0 in a bank without cells."""
        found = np.zeros(len(self.patches), np.int64)
        for start in range(0, len(found) if len(self.centroids) else 0, PATCHES):
            piece = slice(start, start + PATCHES)
            found[piece] = (self._with_one(self.patches[piece]) @ self._cells.T).argmax(1)
        return found

    def distance(self, queries: Floats) -> Floats:
        """Euclidean distance of each row of `queries` (Q, D) to its nearest patch, (Q,) float32."""
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        search, many = (self._in_cells, PATCHES) if len(self.centroids) else (self._in_all, QUERIES)
        distance = np.empty(len(queries), np.float32)
        for start in range(0, len(queries), many):
            some = queries[start : start + many]
            closeness, place = search(self._with_one(some))
            found = np.linalg.norm(some - self.patches[self._order[place]], axis=1)
            distance[start : start + many] = np.where(np.isneginf(closeness), np.inf, found)
        return distance

    def _in_all(self, queries: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """Closeness to the nearest patch, (Q,), and its place in `_order`, (Q,)."""
        best = np.full(len(queries), -np.inf, np.float32)
        place = np.zeros(len(queries), np.int64)
        for start in range(0, len(self.patches), PATCHES):
            closeness = queries @ self._columns[0][:, start : start + PATCHES]
            nearest = closeness.argmax(1)
            value = closeness[np.arange(len(queries)), nearest]
            closer = ~(value <= best)  # what is no number is kept
            best[closer], place[closer] = value[closer], start + nearest[closer]
        return best, place

    def _in_cells(self, queries: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """The same, among the patches of the PROBES cells that are nearest to each query.

        Cell by cell: one product compares all queries that ask it with all its patches. A photo's few
        hundred queries ask about as many cells, so what is done cell by cell is that product alone.
        """
        probes = min(PROBES, len(self._cells))
        asks = np.argpartition(queries @ self._cells.T, -probes, axis=1)[:, -probes:].ravel()
        size = np.diff(self._starts)[asks]
        turn = np.argsort(asks, kind="stable")
        turn = turn[size[turn] > 0]
        best = np.full(len(asks), -np.inf, np.float32)
        place = np.zeros(len(queries), np.int64)
        if not len(turn):
            return best[::probes], place
        cell, asked = asks[turn], queries.take(turn // probes, 0)
        ends = np.concatenate([[0], np.cumsum(size[turn])])
        closeness = np.empty(ends[-1], np.float32)
        first = np.flatnonzero(np.diff(cell, prepend=-1))
        last = np.append(first[1:], len(cell))
        runs = np.stack([cell[first], first, last, ends[first], ends[last]], axis=1)
        with _blas().limit(limits=1):  # products this small only wait for a second thread
            for each, start, stop, begin, end in runs.tolist():
                out = closeness[begin:end].reshape(stop - start, -1)
                np.matmul(asked[start:stop], self._columns[each], out=out)
        best[turn] = np.maximum.reduceat(closeness, ends[:-1])
        nearest = best.reshape(-1, probes).argmax(1) + probes * np.arange(len(queries))
        row = np.zeros(len(asks), np.int64)
        row[turn] = np.arange(len(turn))
        found = row[nearest]
        for query, (begin, end) in enumerate(np.stack([ends[found], ends[found + 1]], axis=1).tolist()):
            place[query] = closeness[begin:end].argmax()
        return best[nearest], place + self._starts[cell[found]]

    def _with_one(self, values: Floats) -> Floats:
        """`values` (n, D) from the bank's centre, and a column of 1, (n, D + 1)."""
        out = np.ones((len(values), values.shape[1] + 1), np.float32)
        np.subtract(values, self._centre, out=out[:, :-1])
        return out

    def _with_offset(self, values: Floats) -> Floats:
        """`values` (n, D) from the bank's centre, and a column of minus half their squared length."""
        out = self._with_one(values)
        for start in range(0, len(out), PATCHES):
            piece = slice(start, start + PATCHES)
            out[piece, -1] = -np.square(out[piece, :-1], dtype=np.float64).sum(1) / 2
        return out
