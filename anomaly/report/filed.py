"""A report that a quality department files: what was asked, data, method, result, limits, signatures.

A study builds a FiledReport from blocks and knows nothing of HTML; the page and a `result.json` with the
same figures are written side by side.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from anomaly.errors import DataError
from anomaly.report import render_page

Cell = str | float | int | bool | None
PAGE, FIGURES = "report.html", "result.json"


@dataclass(frozen=True, slots=True)
class Table:
    """Columns whose name ends in "#" hold numbers. A None cell is a dash, a Markup cell stays as it is."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures of one photo side by side: (caption, PNG or JPEG file's bytes), best 480 px or less a side."""

    name: str
    pictures: Sequence[tuple[str, bytes]]
    note: str = ""


Block = str | Markup | Table | Pictures | Mapping[str, Any]
"""A paragraph, a chart, a table, pictures, or facts (name -> value)."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the result, under its own heading."""

    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class FiledReport:
    """All text may hold hostile names: it is escaped, and control characters are spelt out."""

    title: str
    subject: str
    """What was studied: the model's name."""
    answer: str
    """The result in one sentence."""
    asked: Sequence[Block]
    data: Sequence[Block]
    method: Sequence[Block]
    result: Sequence[Section]
    limits: Sequence[str]
    """What the figures do not say."""
    warnings: Sequence[str] = ()
    cards: Sequence[Mapping[str, str]] = ()
    """Key figures: value, label, and if wished note and tone (normal, review, anomalous, error)."""
    made: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))


def filed_page(report: FiledReport) -> str:
    """The report as one HTML page."""
    return render_page("filed.html", report=report)


def claim_folder(out: Path, *, overwrite: bool = False) -> None:
    """Make the folder `out`. Raises DataError where it holds an earlier report, unless `overwrite`."""
    there = [name for name in (PAGE, FIGURES) if (out / name).exists()]
    if there and not overwrite:
        raise DataError(f"{out} already holds {there[0]}: give another --out, or --overwrite")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {out} ({error.strerror}): give another --out") from None


def file_report(out: Path, report: FiledReport, figures: Mapping[str, Any]) -> Path:
    """Write the page and `figures` as JSON into the claimed folder `out`, each whole; the page's path."""
    text = json.dumps(finite(figures), indent=1, ensure_ascii=False, allow_nan=False, default=str)
    for name, content in ((FIGURES, text), (PAGE, filed_page(report))):
        fresh = out / f"{name}.new"
        try:
            fresh.write_text(content, encoding="utf-8", errors="backslashreplace")
            os.replace(fresh, out / name)
        except OSError as error:
            raise DataError(f"cannot write {out / name} ({error.strerror}): give another --out") from None
    return out / PAGE


def write_page(path: Path, report: FiledReport) -> None:
    """Write the page alone, as a whole or not at all. Raises DataError where it cannot be written."""
    fresh = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(filed_page(report), encoding="utf-8", errors="backslashreplace")
        os.replace(fresh, path)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror}): give another --report") from None


def finite(value: Any) -> Any:
    """`value` as JSON can hold it: infinity and not-a-number become None, tuples lists."""
    if isinstance(value, Mapping):
        return {str(key): finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
