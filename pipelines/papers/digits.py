"""scikit-learn's handwritten digits: 1,797 pictures of 8 x 8, 1,297 to train on and 500 to test on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

WIDTHS = (16, 32)
SIDE = 8


@dataclass(frozen=True)
class Digits:
    pictures: Tensor
    """(1797, 1, 8, 8) float32 in [0, 1]"""
    labels: np.ndarray
    train: np.ndarray
    test: np.ndarray
    """Row numbers."""

    @property
    def flat(self) -> np.ndarray:
        """(1797, 64) float64"""
        return self.pictures.flatten(1).double().numpy()


@cache
def digits() -> Digits:
    x, y = load_digits(return_X_y=True)
    pictures = torch.from_numpy(x / 16).float().reshape(-1, 1, SIDE, SIDE)
    train, test = train_test_split(np.arange(len(y)), test_size=500, random_state=0, stratify=y)
    return Digits(pictures, y, train, test)
