"""How photos lie in folders. A layout is one file here: a registered class that detects and reads it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from anomaly.data.images import duplicates, one_line
from anomaly.errors import DataError
from anomaly.records import Sample
from anomaly.registry import Registry


class Layout(Protocol):
    """What each layout answers. `read` gives the samples in a fixed order or raises DataError."""

    def detects(self, path: Path) -> bool: ...

    def read(self, path: Path) -> list[Sample]: ...


LAYOUTS: Registry[type[Layout]] = Registry("layout", package=__name__)
FALLBACK = "flat"
"""The layout that any folder of photos has, tried after all others."""


def read_samples(data: Path, layout: str = "auto") -> list[Sample]:
    """The photos of `data` in a fixed order, read by the layout named, or by the one that detects it.

    Raises DataError where there are none or several layouts fit, ConfigError for an unknown layout.
    """
    if not os.path.exists(data):
        raise DataError(f"{one_line(data)} does not exist: give a folder of photos or a CSV manifest")
    if layout == "auto":
        fitting = [n for n in LAYOUTS.names() if n != FALLBACK and LAYOUTS.get(n)().detects(data)]
        if len(fitting) > 1:
            raise DataError(
                f"{one_line(data)} fits several layouts ({', '.join(fitting)}): name one with data.layout"
            )
        layout = fitting[0] if fitting else FALLBACK
    samples = LAYOUTS.get(layout)().read(data)
    if not samples:
        raise DataError(
            f"no photos in {one_line(data)} (read as the layout {layout!r}; links that lead out of it are "
            "not followed): give a folder of good photos, an MVTec folder with train/good, or a CSV manifest"
        )
    return samples


def refuse_leaks(samples: Sequence[Sample]) -> None:
    """Raise DataError where a photo of the same content (SHA-256) is both in train and in test."""
    leaks = []
    for indices in duplicates([sample.path for sample in samples]):
        sides = {samples[index].split: samples[index].path for index in reversed(indices)}
        if len(sides) > 1:
            leaks.append(sides)
    if leaks:
        more = f" (and {len(leaks) - 1} more such pairs)" if len(leaks) > 1 else ""
        raise DataError(
            f"{one_line(leaks[0]['train'])} and {one_line(leaks[0]['test'])} are the same photo{more}: "
            "remove one of them, for a test on photos that were trained on proves nothing"
        )


def counts(samples: Sequence[Sample]) -> dict[str, Any]:
    """Photos by split, label and defect type, masks of the test photos, groups of the training photos."""
    train = [sample for sample in samples if sample.split == "train" and sample.label == "normal"]
    test = [sample for sample in samples if sample.split == "test"]
    types = Counter(s.defect_type or "unnamed" for s in test if s.label == "anomalous")
    return {
        "train": len(train),
        "train_defective": sum(s.split == "train" and s.label == "anomalous" for s in samples),
        "train_groups": len({sample.group for sample in train if sample.group is not None}),
        "test": len(test),
        "test_normal": sum(sample.label == "normal" for sample in test),
        "test_anomalous": sum(types.values()),
        "defect_types": dict(sorted(types.items())),
        "masks": sum(sample.mask is not None for sample in test),
    }


def describe(samples: Sequence[Sample]) -> str:
    """One sentence on what was found, to print before work starts."""
    n = counts(samples)
    text = f"training: {n['train']} good"
    if n["train_defective"]:
        text += f", {n['train_defective']} defective"
    if n["train_groups"]:
        text += f" (groups: {n['train_groups']})"
    text += f"; test: {n['test_normal']} normal, {n['test_anomalous']} anomalous"
    if n["defect_types"]:
        types = ", ".join(f"{one_line(name)} {count}" for name, count in n["defect_types"].items())
        text += f" ({types}; masks: {n['masks']})"
    return text
