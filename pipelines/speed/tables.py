"""The measurements as Markdown, and as a report with plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from anomaly.report.charts import Line, line_chart
from anomaly.report.filed import FiledReport, Section, Table, claim_folder, file_report
from anomaly.scorers import Input

Rows = list[list[Any]]


def tables(found: dict[str, Any]) -> dict[str, tuple[list[str], Rows]]:
    """Title -> columns and rows of every table that was measured."""
    stages = [
        [one["model"], stage, value, f"{value / _total(one):.0%}" if _counts(stage, one) else ""]
        for one in found["stages"]
        for stage, value in one["ms"].items()
    ]
    limited = [
        {**row, "now_ms": 1000 / row["rate"], "share": row["least_ms"] * row["rate"] / 1000}
        for row in found["limits"]
    ]
    return {
        "Photos a second": (
            [
                *("model", "runtime", "photos/s#", "of good ones#", "backbone alone#", "share#"),
                *("first verdict, s#", "peak MB#"),
            ],
            _rows(found["rates"], "model runtime rate rate_good backbone share first_verdict_s peak_mb"),
        ),
        "Time of one photo on one core; shares of the fastest runtime, overlay and files only where needed": (
            ["model", "stage", "ms#", "share"],
            stages,
        ),
        "Distance to the limit": (
            ["model", "runtime", "GFLOP#", "MB#", "GFLOP/s#", "GB/s#", "least ms#", "ms now#", "share#"],
            _rows(limited, "model runtime gflop megabytes gflop_s gigabytes_s least_ms now_ms share"),
        ),
        "Many photos in one run": (
            ["photos#", "peak MB#", "photos/s#"],
            _rows(found["many"], "photos peak_mb rate"),
        ),
        "Search of the memory bank for the patches of one photo, one core": (
            ["patches#", "search ms#", "exact product ms#", "backbone ms#", "recall#"],
            _rows(found["bank"], "patches search_ms exact_ms backbone_ms recall"),
        ),
        "Beside anomalib": (
            ["model", "fit of the memory bank, s#", "AUROC#", "photos/s#"],
            _rows(found["beside"], "model fit_seconds image_auroc photos_per_second"),
        ),
    }


def _rows(found: list[dict[str, Any]], keys: str) -> Rows:
    return [[row[key] for key in keys.split()] for row in found]


def _counts(stage: str, one: dict[str, Any]) -> bool:
    """Whether a stage is part of judging a photo in the runtime of `one`: its graph does what torch does."""
    scorers = ("scorer reconstruction", "scorer eigenimages")
    in_graph = ("backbone", "backbone at half size", "filters", *get_args(Input), *scorers)
    aside = ("overlay", "overlay to PNG", "map to TIFF")
    return stage not in aside and (one["runtime"] == "torch" or stage not in in_graph)


def _total(one: dict[str, Any]) -> float:
    return float(sum(value for stage, value in one["ms"].items() if _counts(stage, one)))


def markdown(found: dict[str, Any]) -> str:
    """Every table, one after the other."""
    lines = [f"{found['set']}, {found['date']}, {found['machine']}"]
    for title, (columns, rows) in tables(found).items():
        if rows:
            lines += ["", title, "", _line([name.removesuffix("#") for name in columns])]
            lines += ["|" + "---|" * len(columns), *(_line(row) for row in rows)]
    return "\n".join(lines)


def _line(cells: list[Any]) -> str:
    return "| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"


def report(found: dict[str, Any], out: Path) -> Path:
    """The tables and both plots as a page in the folder `out`; its path."""
    claim_folder(out, overwrite=True)
    charts = {}
    if len(found["bank"]) > 1:
        sizes = [row["patches"] for row in found["bank"]]
        lines = [
            Line(name, sizes, [row[key] for row in found["bank"]])
            for name, key in (("search", "search_ms"), ("exact", "exact_ms"), ("backbone", "backbone_ms"))
        ]
        charts["Cost against bank size"] = line_chart(
            lines, x_label="patches in the bank", y_label="ms for one photo, one core"
        )
    if found["many"]:
        points = [[0, 0.0], *found["many"][-1]["points"]]
        line = Line("one run", [x for x, _ in points], [y for _, y in points])
        charts["Time against photos"] = line_chart([line], x_label="photos judged", y_label="seconds")
    sections = [Section(name, [chart]) for name, chart in charts.items()]
    sections += [
        Section(name, [Table(columns, rows)]) for name, (columns, rows) in tables(found).items() if rows
    ]
    best = max(found["rates"], key=lambda row: row["share"])
    page = FiledReport(
        title="Speed of inspection",
        subject=found["set"],
        answer=f"From decoding to written verdict up to {best['share']:.2f} of the backbone alone.",
        asked=["How fast are photos judged, and what does the time go into?"],
        data=[f"{found['set']}, {found['date']}, {found['machine']}"],
        method=["Every rate in a process of its own, one after the other, on all cores."],
        result=sections,
        limits=["Rates of one machine on one day; shares and ratios travel better than rates."],
    )
    return file_report(out, page, found)
