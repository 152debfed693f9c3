"""The detector as one network, fit to be traced: working photos in, image scores and anomaly maps out.

The arithmetic is that of `Detector.score`, with one difference: the memory bank is searched exactly, as
matrix products, whatever index the detector itself uses.
"""

from __future__ import annotations

import copy
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly.detector import Detector
from anomaly.errors import BundleError
from anomaly.maps import MapStatistics
from anomaly.models.autoencoder import PixelAutoencoder
from anomaly.models.losses import ssim_map
from anomaly.neighbours import MemoryBank
from anomaly.scorers import Input
from anomaly.scorers.embedding import EmbeddingDistance
from anomaly.scorers.reconstruction import Reconstruction

CHUNK = 8192
"""Patches of the memory bank that one matrix product compares: its result stays within the cache's reach."""
SMALLEST = 64
"""Side of the blank photo that tells how coarse each branch's map is, px."""


class DetectorGraph(nn.Module):
    """(B, H, W, 3) uint8 working photos, sides multiples of 32 -> scores (B,) and maps (B, h, w) float32."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(detector.encoder)
        _fix_padding(self.encoder)
        names = list(detector.scorers)
        self.inputs: list[Input] = [detector.scorers[name].input for name in names]
        self.branches = nn.ModuleList([branch(detector.scorers[name]) for name in names])
        self.standards = nn.ModuleList([_Standardise(detector.statistics[name]) for name in names])
        self.weights = [float(detector.weights[name]) for name in names]
        self.top_share = detector.config.fusion.top_share
        self.eval()
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, SMALLEST, SMALLEST, 3, dtype=torch.uint8))
        self.finest = max(range(len(maps)), key=lambda i: maps[i].numel())

    def forward(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        maps = self._maps(photos)
        size = maps[self.finest].shape[-2:]
        fused = torch.zeros_like(maps[self.finest])
        for index, values in enumerate(maps):
            same = values if index == self.finest else _resize(values, size)
            fused = fused + self.weights[index] * same
        flat = fused.flatten(1)
        count = torch._shape_as_tensor(flat)[1]
        largest = (self.top_share * count.double()).round().clamp(min=1).long()
        top = torch.topk(flat, largest, dim=1, sorted=False).values  # type: ignore[arg-type]
        return top.mean(1), fused[:, 0]

    def _maps(self, photos: Tensor) -> list[Tensor]:
        """The standardised map (B, 1, h, w) of every branch."""
        images = photos.permute(0, 3, 1, 2).float()
        features = self.encoder.standardised(self.encoder.backbone(images))
        values = {"features": features, "pixels": images / 255}
        if "embedding" in self.inputs:
            values["embedding"] = self.encoder.projection(features)
        return [
            standard(part(values[name]))
            for name, part, standard in zip(self.inputs, self.branches, self.standards, strict=True)
        ]


@singledispatch
def branch(scorer: object) -> nn.Module:
    """What a scorer computes, as a network (B, C, h, w) -> (B, 1, h', w'). Register one for a new scorer."""
    raise BundleError(f"the scorer {type(scorer).__name__} cannot be exported: judge with --runtime torch")


@branch.register
def _reconstruction(scorer: Reconstruction) -> nn.Module:
    return _Residual(scorer)


@branch.register
def _embedding(scorer: EmbeddingDistance) -> nn.Module:
    return NearestPatch(scorer.bank)


class _Residual(nn.Module):
    def __init__(self, scorer: Reconstruction) -> None:
        super().__init__()
        self.network = scorer.network
        self.target = scorer.options.target

    def forward(self, values: Tensor) -> Tensor:
        rebuilt = self.network(values)
        if self.target == "features":
            residual: Tensor = (rebuilt - values).square()
            return residual.mean(1, keepdim=True)
        residual = (rebuilt - values).abs() + (1 - ssim_map(rebuilt, values)) / 2
        return F.avg_pool2d(residual.mean(1, keepdim=True), PixelAutoencoder.stride // 2)


class NearestPatch(nn.Module):
    """(B, D, h, w) embeddings -> (B, 1, h, w) distances to the nearest patch of a memory bank, exact.

    |q - b|^2 = |q|^2 - 2 (q b - |b|^2 / 2): the bracket is one product of (q, 1) with (b, -|b|^2 / 2), and
    its largest value over the bank is the nearest patch. Both sides are centred on the bank first, so that
    little is lost to rounding.
    """

    centre: Tensor

    def __init__(self, bank: MemoryBank) -> None:
        super().__init__()
        patches = torch.from_numpy(bank.patches)
        self.register_buffer("centre", patches.double().mean(0).float())
        centred = patches - self.centre
        offsets = -centred.double().square().sum(1, keepdim=True).float() / 2
        table = torch.cat([centred, offsets], dim=1)
        self.chunks = len(table[::CHUNK])
        for index in range(self.chunks):
            part = table[index * CHUNK : (index + 1) * CHUNK].T.contiguous()
            self.register_buffer(f"part{index}", part)

    def forward(self, values: Tensor) -> Tensor:
        batch, _, height, width = values.shape
        queries = values.permute(0, 2, 3, 1).flatten(0, 2) - self.centre
        length = queries.square().sum(1)
        extended = torch.cat([queries, torch.ones_like(queries[:, :1])], dim=1)
        best = (extended @ self.get_buffer("part0")).amax(1)
        for index in range(1, self.chunks):
            best = torch.maximum(best, (extended @ self.get_buffer(f"part{index}")).amax(1))
        return (length - 2 * best).clamp(min=0).sqrt().reshape(batch, 1, height, width)


class _Standardise(nn.Module):
    """(values - mean) / spread, as `MapStatistics.standardise`, on (B, 1, h, w)."""

    mean: Tensor
    spread: Tensor

    def __init__(self, statistics: MapStatistics) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(statistics.mean)[None, None])
        self.register_buffer("spread", torch.from_numpy(statistics.spread)[None, None])
        self.by_position = statistics.mean.shape != (1, 1)

    def forward(self, values: Tensor) -> Tensor:
        mean, spread = self.mean, self.spread
        if self.by_position:
            size = values.shape[-2:]
            mean, spread = _resize(mean, size), _resize(spread, size)
        return (values - mean) / spread


class _FixedPadding(nn.Module):
    """A convolution with TensorFlow's "same" padding, for sides that are multiples of its stride.

    Written out, the padding is a constant that runtimes fold into the convolution.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride,  # type: ignore[arg-type]
            dilation=convolution.dilation,  # type: ignore[arg-type]
            groups=convolution.groups,
            bias=convolution.bias is not None,
        )
        self.convolution.load_state_dict(convolution.state_dict())
        sizes = zip(convolution.kernel_size, convolution.stride, convolution.dilation, strict=True)
        rows, cols = (max((k - 1) * dilation + 1 - stride, 0) for k, stride, dilation in sizes)
        self.padding = (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.convolution(F.pad(values, self.padding))
        return out


def _fix_padding(module: nn.Module) -> None:
    """Replace every convolution of timm's that pads by the size of what it sees."""
    from timm.layers import Conv2dSame

    for name, child in module.named_children():
        if isinstance(child, Conv2dSame):
            setattr(module, name, _FixedPadding(child))
        else:
            _fix_padding(child)


def _resize(values: Tensor, size: torch.Size) -> Tensor:
    """Bilinear, cell centres on cell centres, as `maps.resize`."""
    return F.interpolate(values, size=size, mode="bilinear", align_corners=False)
