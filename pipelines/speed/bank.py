"""What the search of a memory bank costs by its size, beside the backbone on as many patches, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from anomaly.detector import use_threads
from anomaly.models.backbones import build_backbone
from anomaly.neighbours import MemoryBank

SIZES = (1_000, 10_000, 50_000, 100_000, 150_000)
SIDE = 512
QUERIES = (SIDE // 16) ** 2
"""Patches of one photo of SIDE x SIDE px."""
DIMENSION = 256
ROUNDS = 3


def curve(sizes: list[int]) -> list[dict[str, Any]]:
    """Milliseconds of processor time for the patches of one photo: the search as models do it, the exact one,
    and the backbone; and the share of patches whose distance is the exact one."""
    threads = torch.get_num_threads()
    use_threads(1)
    try:
        backbone, photo = build_backbone("auto"), torch.zeros(1, 3, SIDE, SIDE)
        with torch.inference_mode():
            alone = _least(lambda: backbone(photo))[0]
        return [{**_row(size), "backbone_ms": alone} for size in sizes]
    finally:
        use_threads(threads)


def _row(size: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(16, DIMENSION))  # features lie near few directions

    def draw(count: int) -> np.ndarray:
        noise = rng.normal(size=(count, DIMENSION))
        return (rng.normal(size=(count, 16)) @ mixing + noise).astype(np.float32)

    patches, queries = draw(size), draw(QUERIES)
    bank, exact = MemoryBank.build(patches), MemoryBank(patches, np.empty((0, DIMENSION), np.float32))
    search, found = _least(lambda: bank.distance(queries))
    product, nearest = _least(lambda: exact.distance(queries))
    recall = float((found <= nearest * (1 + 1e-3)).mean())
    return {"patches": size, "search_ms": search, "exact_ms": product, "recall": recall}


def _least(work: Callable[[], Any]) -> tuple[float, Any]:
    """The shortest time of a few, ms, and the result."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        result = work()
        times.append(1000 * (time.process_time() - start))
    return round(min(times), 2), result
