"""One row per number: what was asked, what the paper or an earlier run found, what this run found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

SEEDS = (0, 1)

CHEN = "Chen et al. 2021, MNIST"
BALESTRIERO = "Balestriero & LeCun 2024, TinyImageNet"
EARLIER = "earlier run"
"""An independent earlier implementation of the same experiment on the same kind of data."""


class Skipped(Exception):
    """Why an experiment cannot be run here, in a sentence."""


@dataclass(frozen=True, slots=True)
class Row:
    experiment: str
    condition: str
    measure: str
    runs: tuple[float, ...]
    """One value per seed; a single one where nothing is random."""
    reference: float | None = None
    source: str = ""
    note: str = ""

    @property
    def ours(self) -> float:
        return sum(self.runs) / len(self.runs)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ours": self.ours}


HEADER = ("condition", "measure", "reference", "ours", "source and note")


def markdown(rows: Sequence[Row]) -> str:
    """The rows of one experiment as a Markdown table that also reads well as text."""
    cells = [HEADER] + [
        (
            row.condition,
            row.measure,
            "" if row.reference is None else _number(row.reference),
            _number(row.ours),
            "; ".join(part for part in (row.source, row.note) if part),
        )
        for row in rows
    ]
    width = [max(len(line[i]) for line in cells) for i in range(len(HEADER))]
    lines = [" | ".join(cell.ljust(w) for cell, w in zip(line, width, strict=True)) for line in cells]
    lines.insert(1, " | ".join("-" * w for w in width))
    return "\n".join(f"| {line} |" for line in lines)


def _number(value: float) -> str:
    if 0 < abs(value) < 1e-3:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.2f}"
