"""The report of the visibility study: scatter plots, surfaces of the dials, margins."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from anomaly.report.charts import Points, heat_table, line_chart
from anomaly.report.filed import Block, FiledReport, Section, Table
from anomaly.visibility.measure import FUSED
from pipelines.dials.agreement import EMBEDDING, PREDICTIONS, dials_of
from pipelines.dials.margins import AGAINST
from pipelines.dials.sets import DEFECTIVE, NORMAL, SETS

VISIBLE = "visibility of the probe that stands for the type"
LEAST = 0.05
"""Difference that takes the whole range of shades, at least."""


def report(found: dict[str, list[dict[str, Any]]], result: dict[str, Any]) -> FiledReport:
    """`result` is the summary of `found`, set -> results of its cells."""
    told = result["spearman"][FUSED][PREDICTIONS["twins"]]
    pooled = told["all points"]
    answer = "cannot be told" if pooled is None else f"{pooled:.2f} over all points"
    mean = told["between models, for one type, mean"]
    if mean is not None:
        answer += f", {mean:.2f} between models of one product"
    return FiledReport(
        title="Predicted visibility against real defects",
        subject=", ".join(found),
        answer=f"Rank correlation of the AUROC of drawn twins and of real defects, fused score: {answer}.",
        asked=[
            "Do probes on good photos predict which real defects a model sees?",
            "Are the dials that they recommend better on real defects than others?",
        ],
        data=[
            {f"cells, {name}": count for name, count in result["cells"].items()},
            f"At most {NORMAL} normal test photos of each set and {DEFECTIVE} defective ones of each type. "
            "What is known of sizes and contrasts comes from other photos, which no model was shown.",
        ],
        method=[
            "Each point is one defect type under one setting of the dials. Spearman's rank correlation; "
            "intervals are 95 %, over defect types drawn again for correlations, over photos for margins.",
            "Four predictions are held against the AUROC of a type: the visibility of the probe that stands "
            "for it (its probe), the same at the median size of the type's defects (at its size), the mean "
            "visibility of the model (all probes), and the AUROC of that probe drawn as large and as faint "
            "as the type's defects are (drawn twins).",
            Table(
                ["set", "defect type", "probe that stands for it"],
                [[name, kind, probe] for name in found for kind, probe in SETS[name].stands_for.items()],
            ),
        ],
        result=[
            *(
                Section(
                    f"{scorer} score",
                    [
                        *(
                            _scatter(result["points"], scorer, key, label)
                            for key, label in (
                                ("twins", "AUROC of drawn twins of the type's defects"),
                                ("standing", f"{VISIBLE}, mean over magnitudes"),
                                ("at_size", f"{VISIBLE}, at the size of the type's defects"),
                            )
                        ),
                        _ranks(result["spearman"][scorer]),
                    ],
                )
                for scorer in (FUSED, EMBEDDING)
            ),
            Section("margins of the recommended dials", [_margins(result["margins"])]),
            *(Section(name, _surfaces(name, results, result["margins"])) for name, results in found.items()),
        ],
        limits=[
            "Short training and few photos: an AUROC from ten defects has a standard error of up to .1.",
            "A probe is drawn: it has the size and the contrast of a defect, not its look.",
            "The worst and the best cell were found on the very photos that tell their margins, which makes "
            "these larger than they would be on others. The least visible cell was named by probes.",
        ],
    )


def _scatter(points: list[dict[str, Any]], scorer: str, key: str, label: str) -> Markup:
    of = [point for point in points if point["scorer"] == scorer]
    dots = []
    for name in dict.fromkeys(point["set"] for point in of):
        here = [point for point in of if point["set"] == name]
        dots.append(Points(name, [p[key] for p in here], [p["auroc"] for p in here]))
    lowest = min(point["auroc"] for point in of)
    return line_chart(
        [],
        x_label=label,
        y_label="AUROC on real defects",
        y_range=(min(0.5, lowest), 1.0),
        points=dots,
    )


def _ranks(spearman: dict[str, dict[str, Any]]) -> Table:
    """One row for each way to look at the points, one column for each prediction."""
    names = list(spearman)
    rows: list[list[Any]] = []
    for what, value in spearman[names[0]].items():
        if isinstance(value, dict):
            rows += [[f"{what}: {one}", *(spearman[name][what].get(one) for name in names)] for one in value]
        elif what.endswith("95 %"):
            rows.append([what, *(_interval(spearman[name][what]) for name in names)])
        else:
            rows.append([what, *(spearman[name][what] for name in names)])
    return Table(["rank correlation", *(f"{name}#" for name in names)], rows)


def _margins(margins: dict[str, Any]) -> Table:
    rows: list[list[Any]] = []
    for scorer, told in margins.items():
        for name, one in told["by_set"].items():
            against = [_margin(one["against"].get(what)) for what in AGAINST]
            rows.append([name, scorer, one["recommended"], one["auroc"], *against])
        against = [_margin(told["mean over sets"].get(what)) for what in AGAINST]
        rows.append(["mean over sets", scorer, "", None, *against])
    columns = ["set", "score", "recommended", "AUROC#", *(f"minus {what}#" for what in AGAINST)]
    return Table(columns, rows, "AUROC is the mean over the set's defect types")


def _surfaces(name: str, results: list[dict[str, Any]], margins: dict[str, Any]) -> list[Block]:
    """AUROC on real defects and suppression index over the dials, for both scores."""
    places = {str(dials_of(one)): dials_of(one) for one in results}
    strengths = sorted({dials.augmentation_strength for dials in places.values()})
    sizes = sorted({dials.embedding_size for dials in places.values()})
    out: list[Block] = []
    for scorer in (FUSED, EMBEDDING):
        told = margins[scorer]["by_set"][name]
        for key, legend in (
            ("surface", "AUROC on real defects"),
            ("suppression_index", "suppression index"),
        ):
            table = np.full((len(strengths), len(sizes)), np.nan)
            for words, value in told[key].items():
                dials = places[words]
                table[strengths.index(dials.augmentation_strength), sizes.index(dials.embedding_size)] = value
            low = float(np.nanmin(table))
            out.append(
                heat_table(
                    [f"{strength:g}" for strength in strengths],
                    [f"{size} dimensions" for size in sizes],
                    table,
                    low=low,
                    high=max(float(np.nanmax(table)), low + LEAST),
                    corner="strength",
                    digits=2,
                    legend=f"{legend}, {scorer} score",
                )
            )
    return out


def _margin(told: dict[str, Any] | None) -> str:
    return "" if told is None else f"{told['margin']:+.3f} ({_interval(told['interval'])})"


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
