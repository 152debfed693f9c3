"""The search of a large memory bank through an inverted file, as a graph: in the cells that torch probes.

Each query asks its PROBES nearest cells. A loop over the cells takes the queries that ask it and finds their
nearest patch in it by one matrix product, so the work is that of the index, and so is the answer.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from anomaly.neighbours import PROBES, MemoryBank

FAR = 1e15
"""Where the only patch of an empty cell lies: no query is near it."""


class NearestInCells(nn.Module):
    """(B, D, h, w) embeddings -> (B, 1, h, w) distances, as `MemoryBank.distance` of a bank with cells."""

    centre: Tensor
    cells: Tensor
    patches: Tensor
    starts: Tensor

    def __init__(self, bank: MemoryBank) -> None:
        super().__init__()
        cell, count = bank.cells(), len(bank.centroids)
        empty = np.setdiff1d(np.arange(count), cell)
        centre = bank.patches.mean(0, dtype=np.float64).astype(np.float32)
        patches = np.concatenate([bank.patches - centre, np.full((len(empty), len(centre)), FAR, np.float32)])
        cell = np.concatenate([cell, empty])
        order = np.argsort(cell, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=count))])
        self.register_buffer("centre", torch.from_numpy(centre))
        self.register_buffer("cells", torch.from_numpy(bank.centroids - centre))
        self.register_buffer("patches", torch.from_numpy(patches[order]))
        self.register_buffer("starts", torch.from_numpy(starts))
        self.probes = min(PROBES, count)
        self._search = _scripted(search)

    def forward(self, values: Tensor) -> Tensor:
        batch, _, height, width = values.shape
        queries = values.permute(0, 2, 3, 1).flatten(0, 2) - self.centre
        squared = self._search(queries, self.cells, self.patches, self.starts, self.probes)
        return squared.sqrt().reshape(batch, 1, height, width)


def search(queries: Tensor, cells: Tensor, patches: Tensor, starts: Tensor, probes: int) -> Tensor:
    """Squared distance (Q,) of `queries` (Q, D) to the nearest of `patches`, which are sorted by cell, from
    `starts[i]` on those of cell i, none of them empty."""
    closeness = queries @ cells.t() - cells.square().sum(1) / 2
    nearest_cells = torch.topk(closeness, probes, dim=1).indices
    ones = torch.ones_like(nearest_cells, dtype=closeness.dtype)
    asked = torch.zeros_like(closeness).scatter(1, nearest_cells, ones).t()
    offsets = patches.square().sum(1) / 2
    squared = torch.full_like(closeness[:, 0], 3e38)
    for cell in range(cells.shape[0]):
        rows = torch.nonzero(asked[cell])[:, 0]
        asking = queries[rows]
        piece = patches[starts[cell] : starts[cell + 1]]
        nearest = (asking @ piece.t() - offsets[starts[cell] : starts[cell + 1]]).argmax(1)
        found = (asking - piece[nearest]).square().sum(1)
        squared = squared.index_put((rows,), torch.minimum(squared[rows], found))
    return squared


def _scripted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compiled, so that its loop becomes a loop of the graph instead of one copy for each turn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as old as the exporter by tracing, see `write_onnx`
        return torch.jit.script(function)  # type: ignore[no-any-return]
