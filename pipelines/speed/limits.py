"""How far from what the machine could do: arithmetic over its matrix products, bytes over its bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anomaly.bundle import Bundle
from anomaly.detector import Detector, score_patches
from anomaly.inspection.inputs import expand
from anomaly.neighbours import PROBES, MemoryBank
from anomaly.scorers.eigenimages import Eigenimages

SIDE = 2048
BYTES = 2**28


def of(bundle: Bundle, folder: Path) -> dict[str, float]:
    """Gigaflops and megabytes of one photo, the rates of this machine on all cores, and the least time that
    follows: arithmetic and traffic may overlap, so the larger of the two."""
    detector = bundle.detector
    photo = detector.geometry.working(detector.read(expand(folder)[0]))
    flops, traffic = work_of(detector, photo)
    product, copy = product_rate(), bandwidth()
    return {
        "gflop": flops / 1e9,
        "megabytes": traffic / 1e6,
        "gflop_s": product / 1e9,
        "gigabytes_s": copy / 1e9,
        "least_ms": 1000 * max(flops / product, traffic / copy),
    }


def work_of(detector: Detector, photo: np.ndarray) -> tuple[float, float]:
    """Floating-point operations of one working photo, and bytes of weights and memory bank that it reads."""
    flops = 0.0

    def count(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal flops
        flops += 2.0 * output[0].numel() * module.weight[0].numel()  # type: ignore[index, union-attr]

    encoder = detector.encoder
    networks = [
        encoder.backbone.judging(),
        encoder.filters,
        encoder.projection,
        encoder.texture,
        encoder.coarse,
    ]
    networks += [getattr(scorer, "network", None) for scorer in detector.scorers.values()]
    layers = [m for network in networks if network for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        maps = score_patches(detector.scorers, detector.encoder.maps(photo))
    finally:
        for hook in hooks:
            hook.remove()
    traffic = 4.0 * sum(layer.weight.numel() for layer in layers)
    for name, scorer in detector.scorers.items():
        if isinstance(scorer, Eigenimages):
            twice = 2.0 * scorer.components.numel()  # there, and back
            flops += 2.0 * twice
            traffic += 4.0 * twice
        bank = getattr(scorer, "bank", None)
        if isinstance(bank, MemoryBank):
            patches, size = bank.patches.shape
            cells = len(bank.centroids)
            compared = cells + patches * min(1, PROBES / cells) if cells else patches
            flops += 2.0 * maps[name].size * size * compared
            traffic += 4.0 * size * min(patches + cells, maps[name].size * compared)
    return flops, traffic


def product_rate() -> float:
    """Floating-point operations a second of a float32 matrix product, the better of numpy and torch."""
    left = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    tensor = torch.from_numpy(left)
    return 2.0 * SIDE**3 / min(_least(lambda: left @ left), _least(lambda: tensor @ tensor))


def bandwidth() -> float:
    """Bytes a second that are read and written by a copy far larger than the caches."""
    source = np.ones(BYTES // 8)
    target = np.empty_like(source)
    return 2.0 * BYTES / _least(lambda: np.copyto(target, source))


def _least(work: Callable[[], Any], rounds: int = 4) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
