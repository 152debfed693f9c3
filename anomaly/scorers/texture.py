"""Distance of each patch's texture to the nearest patch of any normal photo.

The memory bank of `embedding`, over the answers of principal filters (PCANet, Chan et al., IEEE TIP 2015)
instead of a network's features: what no training has taught to overlook. Faint marks on fine patterns show
here first.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from anomaly.scorers import SCORERS, Input
from anomaly.scorers.embedding import EmbeddingDistance, EmbeddingOptions


class TextureOptions(EmbeddingOptions):
    """Options of the texture scorer."""

    bank_size: Annotated[int, Field(ge=1)] = 20_000
    """As of `embedding`."""
    own_photo: Literal["auto"] | bool = False
    """As of `embedding`: textures repeat themselves where defects lie as well."""


@SCORERS.register("texture")
class TextureDistance(EmbeddingDistance):
    """Distance to a memory bank of whitened filter answers of normal patches."""

    Config = TextureOptions

    @property
    def input(self) -> Input:
        return "texture"
