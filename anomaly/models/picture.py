"""The picture of what the model expected to see: a small pixel autoencoder, for the eye alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly import distributed
from anomaly.data.geometry import small_picture
from anomaly.models.autoencoder import PixelAutoencoder, to_multiple
from anomaly.models.losses import l1_ssim_loss
from anomaly.models.training import Checkpoints, Progress, train

Photo = NDArray[np.uint8]

BATCH = 8
NOISE = 0.05


def train_picture(
    photos: Sequence[Photo], steps: int, *, seed: int, checkpoints: Checkpoints, progress: Progress
) -> tuple[PixelAutoencoder, list[float]]:
    """A pixel autoencoder over whole small photos, L1 + SSIM, denoising; and the loss of every step."""
    torch.manual_seed(seed)
    network = PixelAutoencoder(bottleneck=8)
    small = [_small(photo) for photo in photos]
    height = max(values.shape[2] for values in small)
    width = max(values.shape[3] for values in small)
    stack = torch.cat([_grown(values, height, width) for values in small])

    def loss(generator: torch.Generator) -> Tensor:
        clean = stack[torch.randint(len(stack), (BATCH,), generator=generator)]
        noisy = clean + NOISE * torch.randn(clean.shape, generator=generator)
        return l1_ssim_loss(distributed.rows(network, noisy), clean)

    losses = train(
        network,
        loss,
        stage="picture",
        steps=steps,
        learning_rate=3e-3,
        seed=seed,
        checkpoints=checkpoints,
        progress=progress,
    )
    return network, losses


def expected_picture(network: PixelAutoencoder, photo: Photo) -> Photo:
    """(H, W, 3) uint8 -> the same scene, small, as the network rebuilds it."""
    small = _small(photo)
    h, w = small.shape[2:]
    with torch.inference_mode():
        rebuilt = network(to_multiple(small, PixelAutoencoder.stride))[0, :, :h, :w]
    picture: Photo = (255 * rebuilt.permute(1, 2, 0)).round().byte().numpy()
    return picture


def _small(photo: Photo) -> Tensor:
    """(1, 3, h, w) in [0, 1], small."""
    return torch.from_numpy(small_picture(photo)).permute(2, 0, 1)[None].float() / 255


def _grown(values: Tensor, height: int, width: int) -> Tensor:
    """Edges repeated to (1, 3, height, width), rounded up to the network's stride."""
    grown = torch.nn.functional.pad(
        values, (0, width - values.shape[3], 0, height - values.shape[2]), mode="replicate"
    )
    return to_multiple(grown, PixelAutoencoder.stride)
