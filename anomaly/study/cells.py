"""The grid: dials, seeds, and what one cell needs to be run anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.config import RunConfig
from anomaly.errors import ConfigError

if TYPE_CHECKING:
    from anomaly.study.prepare import Prepared

STEPS = 120
"""Training steps of a branch in a cell, at most; those of the contrastive encoder are not cut."""
VIEWS = 64
BACKBONE_STEPS = 200


@dataclass(frozen=True, order=True)
class Dials:
    """What a study turns."""

    augmentation_strength: float
    embedding_size: int
    temperature: float
    supervised_weight: float = 0.0
    """Of the joint loss: the share of the supervised term."""

    @classmethod
    def of(cls, config: RunConfig) -> Dials:
        """As `config` sets them."""
        now = config.contrastive
        return cls(now.augmentation_strength, now.embedding_size, now.temperature, config.supervised_weight)

    def __str__(self) -> str:
        text = f"strength {self.augmentation_strength:g}, {self.embedding_size} dimensions"
        return f"{text}, {self.loss}"

    @property
    def loss(self) -> str:
        """The dials beside strength and size."""
        weight = f", supervised weight {self.supervised_weight:g}" if self.supervised_weight else ""
        return f"temperature {self.temperature:g}{weight}"


@dataclass(frozen=True)
class Cell:
    """One setting of the dials under one seed."""

    dials: Dials
    seed: int

    @property
    def name(self) -> str:
        """A file name."""
        strength, size, temperature, weight = asdict(self.dials).values()
        return f"strength{strength:g}_size{size}_temperature{temperature:g}_weight{weight:g}_seed{self.seed}"

    def config(self, base: RunConfig) -> RunConfig:
        """`base` with these dials and this seed, and short training; turned copies are left out, and
        branches count alike, since finding their weights takes as long as the rest of a cell. A product that
        is known to lie at any angle has the branches of its fit, and maps standardised as there."""
        base = base.at_any_angle() if base.data.any_angle is True else base
        scorers = {
            name: options.model_copy(update={"steps": min(options.steps, STEPS)})
            if hasattr(options, "steps")
            else options
            for name, options in base.scorers.items()
        }
        contrastive = base.contrastive
        short = {
            "views": min(contrastive.views, VIEWS),
            "backbone_steps": min(contrastive.backbone_steps, BACKBONE_STEPS),
        }
        return base.model_copy(
            update={
                "seed": self.seed,
                "picture_steps": 0,
                "data": base.data.model_copy(update={"any_angle": False}),
                "scorers": scorers,
                "contrastive": contrastive.model_copy(update=asdict(self.dials) | short),
                "fusion": base.fusion.model_copy(update={"weighting": "equal"}),
            }
        )


@dataclass(frozen=True)
class Task:
    """A cell, and all it needs; the photos lie in `folder` at their working size."""

    cell: Cell
    photos: Prepared
    probes: tuple[str, ...]
    magnitudes: int
    folder: Path
    diagnosed: bool = True
    """Whether the health of the encoder is looked at."""

    @property
    def result(self) -> Path:
        """The JSON file that tells that the cell is done."""
        return self.folder / "cells" / f"{self.cell.name}.json"


def grid(
    config: RunConfig,
    strengths: Sequence[float],
    sizes: Sequence[int],
    temperatures: Sequence[float],
    weights: Sequence[float],
    seeds: int,
) -> list[Cell]:
    """All cells, by seed first, so that a study that is stopped early has whole surfaces.

    Raises ConfigError where a dial is out of its range.
    """
    dials = [
        Dials(float(strength), size, float(temperature), float(weight))
        for strength, size, temperature, weight in product(strengths, sizes, temperatures, weights)
    ]
    for one in dials:
        RunConfig.parse({"contrastive": asdict(one)})
    if not dials or seeds < 1:
        raise ConfigError("the grid is empty: give at least one strength, size, temperature, weight and seed")
    first = config.seed
    return [Cell(one, seed) for seed in range(first, first + seeds) for one in dict.fromkeys(dials)]
