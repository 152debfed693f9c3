"""Residual of an autoencoder (denoising, masked or variational), over features by default.

Pixel reconstruction spends its capacity on high-variance appearance (Balestriero and LeCun, ICML 2024,
arXiv 2402.11337); features standardised by channel weigh what the backbone finds telling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from anomaly.config import Section
from anomaly.expected import Expected
from anomaly.scorers import SCORERS, FitContext, Input, Scorer, State, crops

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from anomaly.models.autoencoder import FeatureAutoencoder, PixelAutoencoder


class ReconstructionOptions(Section):
    """Options of the reconstruction scorer."""

    target: Literal["features", "pixels"] = "features"
    bottleneck: Annotated[int, Field(ge=1)] = 32
    """Channels of the narrowest layer."""
    noise: Annotated[float, Field(ge=0)] = 0.3
    """Standard deviation of the input noise: in those of a feature, or a tenth of full scale for pixels."""
    masked: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the input's patches that are blanked while training (He et al., CVPR 2022)."""
    variational: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the Kullback-Leibler term a dimension (Kingma and Welling, 2014); 0 is no variational one."""
    relative: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The power of the residual to be expected in such surroundings that a residual of features is divided
    by: 0 counts it as it is, 1 as a ratio."""
    steps: Annotated[int, Field(ge=1)] = 500
    batch_size: Annotated[int, Field(ge=1)] = 16
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3


PHOTOS, PATCHES = 100, 80
"""Training photos, and patches of each, whose residuals tell what is to be expected, at most."""


@SCORERS.register("reconstruction")
class Reconstruction(Scorer[ReconstructionOptions]):
    """Residual of a convolutional autoencoder: plain, denoising, masked or variational."""

    Config = ReconstructionOptions
    network: FeatureAutoencoder | PixelAutoencoder
    expected: Expected | None = None
    """The residual to be expected of features; None of pixels, and where none is asked for."""

    @property
    def input(self) -> Input:
        return self.options.target

    def fit(self, maps: Sequence[Tensor], context: FitContext) -> None:
        import torch
        import torch.nn.functional as F

        from anomaly import distributed
        from anomaly.models.autoencoder import PixelAutoencoder, sampled
        from anomaly.models.losses import l1_ssim_loss
        from anomaly.models.training import train

        options = self.options
        pixels = options.target == "pixels"
        torch.manual_seed(context.seed)
        self._build(maps[0].shape[0])
        size = 8 * PixelAutoencoder.stride if pixels else 16
        noise = 0.1 * options.noise if pixels else options.noise

        def loss(generator: torch.Generator) -> Tensor:
            clean = torch.stack(list(crops(maps, size, options.batch_size, generator)))
            seen = clean + noise * torch.randn(clean.shape, generator=generator)
            seen = seen * _kept(clean, PixelAutoencoder.stride if pixels else 2, options.masked, generator)
            code = distributed.rows(self.network.encode, seen)
            penalty = torch.zeros(())
            if options.variational:
                code, divergence = sampled(code, generator)
                penalty = options.variational * divergence
            rebuilt = distributed.rows(self.network.decode, code)
            return (l1_ssim_loss(rebuilt, clean) if pixels else F.mse_loss(rebuilt, clean)) + penalty

        context.losses["reconstruction"] = train(
            self.network,
            loss,
            stage="reconstruction",
            steps=options.steps,
            learning_rate=options.learning_rate,
            seed=context.seed,
            checkpoints=context.checkpoints,
            progress=context.progress,
        )
        if self.relative:
            self.expected = distributed.from_first(lambda: self._expected(maps, context.seed))

    @property
    def relative(self) -> bool:
        """Whether residuals are divided by those to be expected."""
        return self.options.target == "features" and self.options.relative > 0

    def score(self, values: Tensor) -> Tensor:
        import torch

        with torch.inference_mode():
            residual = self.residual(values[None])
            if self.expected is not None:
                around = self.expected.of_surroundings(values[None])
                residual = residual * torch.exp(-self.options.relative * around)
            return residual[0, 0]

    def residual(self, values: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 1, h', w'): how far the network's output lies from what it was given."""
        import torch.nn.functional as F

        from anomaly.models.autoencoder import PixelAutoencoder
        from anomaly.models.losses import ssim_map

        rebuilt = self.network(values)
        if self.options.target == "features":
            squared: Tensor = (rebuilt - values).square()
            return squared.mean(1, keepdim=True)
        residual = (rebuilt - values).abs() + (1 - ssim_map(rebuilt, values)) / 2
        return F.avg_pool2d(residual.mean(1, keepdim=True), PixelAutoencoder.stride // 2)

    def state(self) -> State:
        learnt = {f"network.{key}": value.contiguous() for key, value in self.network.state_dict().items()}
        return learnt if self.expected is None else learnt | self.expected.state()

    def restore(self, state: State) -> None:
        learnt = {
            name.removeprefix("network."): value
            for name, value in state.items()
            if name.startswith("network.")
        }
        channels = len(learnt["decoder.4.bias"]) if self.options.target == "features" else 3
        self._build(channels)
        self.network.load_state_dict(learnt)
        if self.relative:
            arrays = {name: state[name].numpy() for name in state if name.startswith("expected.")}
            self.expected = Expected.restored(arrays, channels)

    def _expected(self, maps: Sequence[Tensor], seed: int) -> Expected:
        """What residuals the network leaves on patches of the photos that it was trained on."""
        import torch

        rng = np.random.default_rng(seed)
        patches, residuals = [], []
        for photo in rng.permutation(len(maps))[:PHOTOS]:
            values = maps[int(photo)]
            some = rng.permutation(values[0].numel())[:PATCHES]
            with torch.inference_mode():
                residuals.append(self.residual(values[None]).flatten().numpy()[some])
            patches.append(values.flatten(1).T.numpy()[some])
        return Expected.of(np.concatenate(patches), np.concatenate(residuals))

    def _build(self, channels: int) -> None:
        from anomaly.models.autoencoder import FeatureAutoencoder, PixelAutoencoder

        options, variational = self.options, self.options.variational > 0
        if options.target == "features":
            self.network = FeatureAutoencoder(channels, options.bottleneck, variational).eval()
        else:
            self.network = PixelAutoencoder(options.bottleneck, variational=variational).eval()


def _kept(values: Tensor, patch: int, masked: float, generator: torch.Generator) -> Tensor:
    """1 where (B, C, h, w) stays visible, 0 in the `masked` share of its patches, (B, 1, h, w)."""
    import torch
    import torch.nn.functional as F

    b, _, h, w = values.shape
    grid = torch.rand((b, 1, -(-h // patch), -(-w // patch)), generator=generator) >= masked
    return F.interpolate(grid.float(), scale_factor=patch)[:, :, :h, :w]
