"""Distance of each patch's embedding to the nearest patch of any normal photo.

Roth et al., Towards Total Recall in Industrial Anomaly Detection (PatchCore), CVPR 2022, eq. 6, without the
re-weighting of eq. 7; over the embedding of the contrastive encoder, and with a far larger bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from anomaly.config import Section
from anomaly.neighbours import MemoryBank, coreset
from anomaly.scorers import SCORERS, FitContext, Input, Scorer, State


class EmbeddingOptions(Section):
    """Options of the embedding scorer."""

    bank_size: Annotated[int, Field(ge=1)] = 100_000
    """Largest number of patches of training photos in the memory bank; of more, a coreset is kept, and the
    same share of those of the calibration photos is added."""


@SCORERS.register("embedding")
class EmbeddingDistance(Scorer[EmbeddingOptions]):
    """Distance to a memory bank of contrastive embeddings of normal patches."""

    Config = EmbeddingOptions
    bank: MemoryBank

    @property
    def input(self) -> Input:
        return "embedding"

    def fit(self, maps: Sequence[Tensor], context: FitContext) -> None:
        patches = torch.cat([values.flatten(1).T for values in maps]).float().numpy()
        self.bank = MemoryBank.build(coreset(patches, self.options.bank_size, context.seed))
        self._seed, self._kept = context.seed, len(self.bank.patches) / len(patches)

    def extend(self, maps: Sequence[Tensor]) -> None:
        patches = torch.cat([values.flatten(1).T for values in maps]).float().numpy()
        added = coreset(patches, max(1, round(self._kept * len(patches))), self._seed)
        self.bank = MemoryBank(np.concatenate([self.bank.patches, added]), self.bank.centroids)

    def score(self, values: Tensor) -> Tensor:
        distance = self.bank.distance(values.flatten(1).T.numpy())
        return torch.from_numpy(distance).reshape(values.shape[1:])

    def state(self) -> State:
        return {
            "patches": torch.from_numpy(self.bank.patches),
            "centroids": torch.from_numpy(self.bank.centroids),
        }

    def restore(self, state: State) -> None:
        patches, centroids = state["patches"], state["centroids"]
        if patches.ndim != 2 or centroids.ndim != 2 or patches.shape[1] != centroids.shape[1]:
            raise ValueError("patches and centroids must be two tables of the same width")
        self.bank = MemoryBank(patches.numpy(), centroids.numpy())
