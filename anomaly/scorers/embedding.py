"""Distance of each patch's embedding to the nearest patch of any normal photo.

Roth et al., Towards Total Recall in Industrial Anomaly Detection (PatchCore), CVPR 2022, eq. 6, without the
re-weighting of eq. 7; over the embedding of the contrastive encoder, and with a far larger bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from anomaly.config import Section
from anomaly.expected import Expected
from anomaly.neighbours import Floats, MemoryBank, coreset
from anomaly.repetition import own_distances
from anomaly.scorers import SCORERS, FitContext, Input, Searching, State

if TYPE_CHECKING:
    from torch import Tensor


class EmbeddingOptions(Section):
    """Options of the embedding scorer."""

    bank_size: Annotated[int, Field(ge=1)] = 100_000
    """Largest number of patches of training photos in the memory bank; of more, a coreset is kept, and the
    same share of those of the calibration photos is added."""
    relative: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The power of the distance to be expected in such surroundings that a distance is divided by: 0 counts
    it as it is, 1 as a ratio."""
    own_photo: Literal["auto"] | bool = "auto"
    """Whether the distance to the rest of the patch's own photo limits what that to the bank counts for;
    auto: unless the backbone learns from nothing, whose features find a defect's like in the same photo."""


@SCORERS.register("embedding")
class EmbeddingDistance(Searching[EmbeddingOptions]):
    """Distance to a memory bank of contrastive embeddings of normal patches."""

    Config = EmbeddingOptions
    bank: MemoryBank
    expected: Expected

    @property
    def input(self) -> Input:
        return "embedding"

    @property
    def limited(self) -> bool:
        return self.options.own_photo is not False

    def fit(self, maps: Sequence[Tensor], context: FitContext) -> None:
        from anomaly import distributed

        photos = distributed.each(lambda photo: patches_of(maps[photo]), range(len(maps)))
        size, seed = self.options.bank_size, context.seed

        def learnt() -> tuple[Expected, MemoryBank]:
            bank = MemoryBank.build(coreset(np.concatenate(photos), size, seed))
            return Expected.of_distances(photos, seed), bank

        self.expected, self.bank = distributed.from_first(learnt)
        self._seed, self._kept = seed, len(self.bank.patches) / sum(map(len, photos))

    def extend(self, maps: Sequence[Tensor]) -> None:
        patches = np.concatenate([patches_of(values) for values in maps])
        added = coreset(patches, max(1, round(self._kept * len(patches))), self._seed)
        self.bank = MemoryBank(np.concatenate([self.bank.patches, added]), self.bank.centroids)

    def search(self, values: Floats) -> Floats:
        distance = self.bank.distance(values.reshape(len(values), -1).T).reshape(values.shape[1:])
        if not self.options.relative:
            return distance
        expected = self.expected.around(values)
        return np.asarray(distance * np.exp(np.float32(-self.options.relative) * expected), np.float32)

    def search_limit(self, values: Floats) -> Floats:
        return own_distances(values)

    def state(self) -> State:
        import torch

        return {
            "patches": torch.from_numpy(self.bank.patches),
            "centroids": torch.from_numpy(self.bank.centroids),
            **self.expected.state(),
        }

    def restore_arrays(self, state: dict[str, Any]) -> None:
        patches, centroids = state["patches"], state["centroids"]
        if patches.ndim != 2 or centroids.ndim != 2 or patches.shape[1] != centroids.shape[1]:
            raise ValueError("patches and centroids must be two tables of the same width")
        with np.errstate(over="ignore"):
            lengths = [np.square(table).sum(1) for table in (patches, centroids)]
        if not len(patches) or not all(np.isfinite(values).all() for values in lengths):
            raise ValueError("the memory bank is empty, or its patches are no numbers that can be compared")
        self.expected = Expected.restored(state, patches.shape[1])
        self.bank = MemoryBank(patches, centroids)


def patches_of(values: Tensor) -> Floats:
    """(D, h, w) -> (h * w, D)."""
    patches: Floats = values.flatten(1).T.float().numpy()
    return patches
