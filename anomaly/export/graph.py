"""The detector as one network, fit to be traced: working photos in, image scores and anomaly maps out.

The arithmetic is that of `Detector.score`.
"""

from __future__ import annotations

import copy
from functools import singledispatch
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly.detector import Detector
from anomaly.errors import BundleError
from anomaly.expected import Expected
from anomaly.export.cells import NearestInCells
from anomaly.maps import LIMIT, MapStatistics, bounds
from anomaly.models.encoder import halved
from anomaly.neighbours import MemoryBank
from anomaly.repetition import own_distances_of
from anomaly.scorers import Input, Searching
from anomaly.scorers.eigenimages import Eigenimages
from anomaly.scorers.embedding import EmbeddingDistance
from anomaly.scorers.mean_square import MeanSquare
from anomaly.scorers.reconstruction import Reconstruction

N = TypeVar("N", bound=nn.Module)

CHUNK = 8192
"""Patches of the memory bank that one matrix product compares: its result stays within the cache's reach."""
PADDING = ("SameConv", "Conv2dSame")
"""Convolutions that pad by the size of what they see: ours, and timm's, which may not be imported."""
SMALLEST = 64
"""Side of the blank photo that tells how coarse each branch's map is, px."""


class BranchGraph(nn.Module):
    """(B, H, W, 3) uint8 working photos, sides multiples of 32 -> one (B, C, h, w) float32 for each branch:
    its patch scores (C = 1), or the embedding that it searches a memory bank with, see `searches`."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.encoder = fixed_padding(detector.encoder)
        scorers = list(detector.scorers.values())
        self.inputs: list[Input] = [scorer.input for scorer in scorers]
        self.branches = nn.ModuleList(
            [nn.Identity() if searches(scorer) else branch(scorer) for scorer in scorers]
        )
        self.eval()

    def forward(self, photos: Tensor) -> tuple[Tensor, ...]:
        images = photos.permute(0, 3, 1, 2).float()
        encoder = self.encoder
        values = {"pixels": images / 255}
        features = encoder.backbone(images)
        answers = encoder.filters(images) if encoder.filtered else None
        values["features"] = encoder.standard(encoder.joined(features, answers))
        if "embedding" in self.inputs:
            values["embedding"] = encoder.projection(values["features"])
        if "texture" in self.inputs:
            values["texture"] = encoder.texture(answers)
        if "coarse" in self.inputs:
            values["coarse"] = encoder.coarse(encoder.coarse_standard(encoder.backbone(halved(images))))
        return tuple(part(values[name]) for name, part in zip(self.inputs, self.branches, strict=True))


class DetectorGraph(nn.Module):
    """(B, H, W, 3) uint8 working photos, sides multiples of 32 -> scores (B,) and maps (B, h, w) float32."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        names = list(detector.scorers)
        self.branches = BranchGraph(detector)
        self.searches = nn.ModuleList(
            [branch(scorer) if searches(scorer) else nn.Identity() for scorer in detector.scorers.values()]
        )
        self.standards = nn.ModuleList([_Standardise(detector.statistics[name]) for name in names])
        self.limits = nn.ModuleList(
            [
                nn.Sequential(limit(scorer), _Standardise(detector.statistics[name + LIMIT]))
                if scorer.limited
                else nn.Identity()
                for name, scorer in detector.scorers.items()
            ]
        )
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
        """The standardised map (B, 1, h, w) of every branch, limited."""
        found = []
        parts = zip(self.branches(photos), self.searches, self.standards, self.limits, strict=True)
        for values, search, standard, bound in parts:
            scores = standard(search(values))
            if not isinstance(bound, nn.Identity):
                scores = torch.minimum(scores, torch.maximum(*bounds(bound(values))))
            found.append(scores)
        return found


def searches(scorer: object) -> bool:
    """Whether a scorer looks its values up in a memory bank, which a loop in a graph does slowly."""
    return isinstance(scorer, Searching)


@singledispatch
def branch(scorer: object) -> nn.Module:
    """What a scorer computes, as a network (B, C, h, w) -> (B, 1, h', w'). Register one for a new scorer."""
    raise BundleError(f"the scorer {type(scorer).__name__} cannot be exported: judge with --runtime torch")


@branch.register
def _reconstruction(scorer: Reconstruction) -> nn.Module:
    residual = _Residual(scorer, scorer.network)
    expected = scorer.expected
    return residual if expected is None else _Relative(residual, expected, scorer.options.relative)


@branch.register
def _eigenimages(scorer: Eigenimages) -> nn.Module:
    return _Residual(scorer)


@branch.register
def _embedding(scorer: EmbeddingDistance) -> nn.Module:
    nearest = NearestInCells(scorer.bank) if len(scorer.bank.centroids) else NearestPatch(scorer.bank)
    relative = scorer.options.relative
    return _Relative(nearest, scorer.expected, relative) if relative else nearest


@branch.register
def _mean_square(scorer: MeanSquare) -> nn.Module:  # type: ignore[type-arg]
    return _MeanSquare(scorer.mean, scorer.axes)


@singledispatch
def limit(scorer: object) -> nn.Module:
    """What limits a scorer, as a network (B, C, h, w) -> (B, 1, h', w'). Register one for a new scorer that
    is limited."""
    raise BundleError(f"the scorer {type(scorer).__name__} cannot be exported: judge with --runtime torch")


@limit.register
def _own_photo(scorer: EmbeddingDistance) -> nn.Module:
    return _OwnDistances()


class _OwnDistances(nn.Module):
    """Distances to the rest of the own photo, (B, D, h, w) -> (B, 1, h, w)."""

    def forward(self, values: Tensor) -> Tensor:
        return own_distances_of(values)


class _MeanSquare(nn.Module):
    """Mean square of the coordinates `matrix` (D, C) times (values - mean)."""

    def __init__(self, mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean[None, :, None, None])
        self.register_buffer("matrix", matrix[:, :, None, None])

    def forward(self, values: Tensor) -> Tensor:
        coordinates: Tensor = F.conv2d(values - self.mean, self.matrix)  # type: ignore[operator,arg-type]
        return coordinates.square().mean(1, keepdim=True)


class _Relative(nn.Module):
    """Scores divided by a power of those to be expected in such surroundings."""

    def __init__(self, scores: nn.Module, expected: Expected, power: float) -> None:
        super().__init__()
        self.scores, self.expected, self.power = scores, expected, power

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.scores(values) * torch.exp(-self.power * self.expected.of_surroundings(values))
        return out


class _Residual(nn.Module):
    """The residual of a scorer; `network` is the part of it that is a module."""

    def __init__(self, scorer: Reconstruction | Eigenimages, network: nn.Module | None = None) -> None:
        super().__init__()
        self.scorer, self.network = scorer, network

    def forward(self, values: Tensor) -> Tensor:
        return self.scorer.residual(values)


class NearestPatch(nn.Module):
    """(B, D, h, w) embeddings -> (B, 1, h, w) distances to the nearest patch of a memory bank, exact.

    |q - b|^2 = |q|^2 - 2 (q b - |b|^2 / 2): the largest bracket, one matrix product with an offset, tells the
    nearest patch of each piece of the bank. Its distance is then taken as it stands, for the product rounds
    away what is left between near patches. Both sides are centred on the bank first.
    """

    centre: Tensor

    def __init__(self, bank: MemoryBank) -> None:
        super().__init__()
        patches = torch.from_numpy(bank.patches)
        self.register_buffer("centre", patches.double().mean(0).float())
        centred = patches - self.centre
        offsets = -centred.double().square().sum(1).float() / 2
        self.pieces = len(centred[::CHUNK])
        for index in range(self.pieces):
            piece = slice(index * CHUNK, (index + 1) * CHUNK)
            self.register_buffer(f"patches{index}", centred[piece].clone())
            self.register_buffer(f"offsets{index}", offsets[piece].clone())

    def forward(self, values: Tensor) -> Tensor:
        batch, _, height, width = values.shape
        queries = values.permute(0, 2, 3, 1).flatten(0, 2) - self.centre
        squared = self._squared(queries, 0)
        for index in range(1, self.pieces):
            squared = torch.minimum(squared, self._squared(queries, index))
        return squared.sqrt().reshape(batch, 1, height, width)

    def _squared(self, queries: Tensor, index: int) -> Tensor:
        """Squared distance of each query to the nearest patch of one piece."""
        patches = self.get_buffer(f"patches{index}")
        nearest = F.linear(queries, patches, self.get_buffer(f"offsets{index}")).argmax(1)
        return (queries - patches[nearest]).square().sum(1)


class _Standardise(nn.Module):
    """(values - mean) / spread, as `MapStatistics.standardise`, on (B, 1, h, w)."""

    mean: Tensor
    spread: Tensor

    def __init__(self, statistics: MapStatistics) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(statistics.mean)[None, None])
        self.register_buffer("spread", torch.from_numpy(statistics.spread)[None, None])
        self.resized = [part.shape != (1, 1) for part in (statistics.mean, statistics.spread)]

    def forward(self, values: Tensor) -> Tensor:
        size = values.shape[-2:]
        mean, spread = (
            _resize(part, size) if resized else part
            for part, resized in zip((self.mean, self.spread), self.resized, strict=True)
        )
        return (values - mean) / spread


class _FixedPadding(nn.Module):
    """A convolution with TensorFlow's "same" padding, for sides that are multiples of its stride."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.stride, self.dilation = list(convolution.stride), list(convolution.dilation)
        self.groups = convolution.groups
        sizes = zip(convolution.kernel_size, self.stride, self.dilation, strict=True)
        rows, cols = (max((k - 1) * dilation + 1 - stride, 0) for k, stride, dilation in sizes)
        self.padding = [rows // 2, cols // 2, rows - rows // 2, cols - cols // 2]

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = _PaddedConvolution.apply(
            values, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        return out


class _PaddedConvolution(torch.autograd.Function):
    """A convolution with padding (top, left, bottom, right): one node in a graph, where torch, whose own pads
    both sides alike, leaves two that runtimes do not always join."""

    @staticmethod
    def forward(
        context: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> Tensor:
        top, left, bottom, right = padding
        padded = F.pad(values, (left, right, top, bottom))
        return F.conv2d(padded, weight, bias, stride, 0, dilation, groups)

    @staticmethod
    def symbolic(
        graph: Any,
        values: Any,
        weight: Any,
        bias: Any,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ) -> Any:
        inputs = (values, weight) if bias is None else (values, weight, bias)
        return graph.op(
            "Conv", *inputs, strides_i=stride, pads_i=padding, dilations_i=dilation, group_i=groups
        )


def fixed_padding(network: N) -> N:
    """A copy of `network` in which no convolution pads by the size of what it sees, as timm's do."""
    network = copy.deepcopy(network)
    _fix_padding(network)
    return network


def _fix_padding(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child).__name__ in PADDING and isinstance(child, nn.Conv2d):
            setattr(module, name, _FixedPadding(child))
        else:
            _fix_padding(child)


def _resize(values: Tensor, size: torch.Size) -> Tensor:
    """Bilinear, cell centres on cell centres, as `maps.resize`."""
    return F.interpolate(values, size=size, mode="bilinear", align_corners=False)
