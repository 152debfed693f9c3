"""Distance of each patch of the photo at half its size to the nearest such patch of any normal photo.

The memory bank of `embedding`, over what the backbone makes of a smaller photo: it sees twice as far, so
large defects and parts in the wrong place are plainer, and fine grain is gone. It needs a pretrained
backbone: one that learns from nothing learns from photos of one size. And it needs a product that always lies
alike: twice the surroundings of a patch, at its angle in the lamp's light, are seldom seen.
"""

from __future__ import annotations

from anomaly.scorers import SCORERS, Input
from anomaly.scorers.embedding import EmbeddingDistance


@SCORERS.register("coarse")
class CoarseDistance(EmbeddingDistance):
    """Distance to a memory bank of whitened features of normal photos at half their size."""

    from_nothing = False
    at_any_angle = False

    @property
    def input(self) -> Input:
        return "coarse"

    @property
    def kin(self) -> str:
        return "embedding"
