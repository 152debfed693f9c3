"""The networks of a model, from the files that it was read from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from anomaly.config import RunConfig
from anomaly.models.autoencoder import PixelAutoencoder
from anomaly.models.backbones import build_backbone
from anomaly.models.encoder import Encoder
from anomaly.scorers import Scorer, Searching, State

Files = Mapping[str, bytes]
Read = Callable[[Files, str], dict[str, NDArray[Any]]]
"""Gives the arrays of one file."""


@dataclass(frozen=True)
class Networks:
    """What a model computes with."""

    encoder: Encoder
    picture: PixelAutoencoder | None


def build_networks(
    backbone: str, config: RunConfig, scorers: Mapping[str, Scorer[Any]], files: Files, read: Read
) -> Networks:
    """The networks in `files`; what `scorers` learnt is put into them, where they do not have it yet."""

    def tensors(name: str) -> State:
        return {key: torch.from_numpy(values) for key, values in read(files, name).items()}

    size, tile = config.contrastive.embedding_size, config.image.tile_size
    inputs = [scorer.input for scorer in scorers.values()]
    encoder = Encoder(build_backbone(backbone, weights=False), size, tile, inputs)
    encoder.load_state_dict(tensors("encoder.safetensors"))
    for name, scorer in scorers.items():
        if not isinstance(scorer, Searching):
            scorer.restore(tensors(f"scorer.{name}.safetensors"))
    picture = None
    if "picture.safetensors" in files:
        weights = tensors("picture.safetensors")
        picture = PixelAutoencoder(len(weights["decoder.0.weight"][0]))
        picture.load_state_dict(weights)
        picture.eval()
    return Networks(encoder.eval(), picture)
