"""Some of many, evenly spread: the same ones each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of `items` in their order, the first and, where there are two or more, the last among
    them."""
    count = min(most, len(items))
    if count < 1:
        return []
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int).tolist()]
