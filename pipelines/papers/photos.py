"""Real photos, small and grey, for the experiments that can be run on them.

ELPV: Buerhop-Lutz et al., A Benchmark for Visual Identification of Defective Solar Cells in
Electroluminescence Imagery (EU PVSEC 2018); package `elpv-dataset`, CC BY-NC-SA 4.0. Or any folder of
labelled photos in a layout that the toolkit reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from anomaly.data.images import read_image
from anomaly.data.layouts import read_samples
from anomaly.errors import DataError
from pipelines.papers.table import Skipped

PHOTO_SIDE = 32
PHOTO_WIDTHS = (16, 32, 64, 64)


@dataclass(frozen=True)
class Photos:
    name: str
    normal: Tensor
    """(N, 1, 32, 32) float32 in [0, 1]: good photos to train on."""
    test: Tensor
    defective: np.ndarray
    """bool, one per test photo"""


@cache
def photos(data: Path | None) -> Photos:
    """The photos of `data`, without it those of ELPV. Raises Skipped where there are none."""
    if data is not None:
        return _folder(data)
    if find_spec("elpv_dataset") is None:
        raise Skipped("no photos: pip install elpv-dataset, or give a folder with --data")
    return _elpv()


def _elpv() -> Photos:
    """Half of the cells that are surely good to train on; the other half and the surely defective to test."""
    from elpv_dataset.utils import load_dataset

    cells, probability, _ = load_dataset()
    good = np.random.default_rng(0).permutation(np.flatnonzero(probability == 0))
    train, test = good[: len(good) // 2], good[len(good) // 2 :]
    test = np.concatenate([test, np.flatnonzero(probability == 1)])
    return Photos("ELPV", _shrunk(cells[train]), _shrunk(cells[test]), probability[test] == 1)


def _folder(data: Path) -> Photos:
    samples = [sample for sample in read_samples(data) if sample.label]
    train = [s.path for s in samples if s.split == "train" and s.label == "normal"]
    test = [s.path for s in samples if s.split == "test"]
    defective = np.array([s.label == "anomalous" for s in samples if s.split == "test"], dtype=bool)
    good, bad = int((~defective).sum()), int(defective.sum())
    if len(train) < 20 or min(good, bad) < 10:
        raise DataError(
            f"{data} holds {len(train)} good photos to train on, and {good} good and {bad} defective ones to "
            "test on: give a folder with at least 20, 10 and 10"
        )
    return Photos(data.name, _shrunk(map(_grey, train)), _shrunk(map(_grey, test)), defective)


def _grey(path: Path) -> np.ndarray:
    return cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY)


def _shrunk(pictures: Iterable[np.ndarray]) -> Tensor:
    """(N, 1, 32, 32) float32 in [0, 1] of grey uint8 pictures of any size."""
    small = [
        cv2.resize(picture, (PHOTO_SIDE, PHOTO_SIDE), interpolation=cv2.INTER_AREA) for picture in pictures
    ]
    return torch.from_numpy(np.stack(small)[:, None] / 255).float()
