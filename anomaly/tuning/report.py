"""What was tuned, for the terminal and for the file of a quality department."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from anomaly.quality.thresholds import OperatingPoint
from anomaly.report.charts import histogram
from anomaly.report.filed import Block, FiledReport, Section, Table
from anomaly.tuning.limits import CLAIM_CONFIDENCE
from anomaly.tuning.points import Row, cheapest, cost_words, percent
from anomaly.tuning.tuned import Tuned

COST = "cost of 1000 parts"
FAIR, OPTIMISTIC = "fair", "optimistic"
METHOD = (
    "A photo is anomalous when its score is above the threshold, and to be reviewed when it lies in the band "
    "below it. A promise rests on order statistics: among n normal ones of which k lie above the threshold, "
    "the rate of others like them follows a beta distribution, whatever the scores are like; k is chosen so "
    "that the rate is kept with the stated confidence. The same holds for anomalous ones below it.",
    "Counts called fair are of photos that did not choose the threshold: in five folds, photos of one group "
    "together, each fold is judged by the threshold that the others choose. Counts called optimistic are of "
    "the photos that chose it; where a row has both, its wish was kept by these (in choosing), and the fair "
    "counts may exceed it. Intervals are exact and two-sided (Clopper and Pearson); what is promised, or "
    "could be, is a one-sided bound.",
)
COSTS = (
    "What a threshold costs follows from its two rates as counted in its row: 1000 (d e E + (1 - d) o O), "
    "where d is the share of defective parts, e and o the rates of escapes and overkill, E and O what they "
    "cost. Its interval is made of those of the two rates (Zou and Donner 2008)."
)


def plain_table(tuned: Tuned) -> str:
    """The operating points as aligned text, the chosen one marked."""
    marked = _all(tuned)
    columns = _columns([row for _, row in marked])
    least = cheapest(tuned.chosen, tuned.rows)
    table = [(["", *columns], "")]
    for mark, row in marked:
        cells = _cells(row, row is least)
        reason = "" if cells else f"not supported: {row.reason or ''}"
        table.append(([f"{mark} {row.wish}", *(cells[name] for name in columns if cells)], reason))
    widths = [max(len(row[i]) for row, _ in table if len(row) > i) for i in range(len(columns) + 1)]
    lines = []
    for texts, reason in table:
        padded = [text.ljust(width) for text, width in zip(texts, widths, strict=False)]
        lines.append("  ".join([*padded, reason]).rstrip())
    sure = percent(tuned.asked.rule.confidence or CLAIM_CONFIDENCE)
    lines.append(
        f"In brackets: two-sided intervals at {sure} confidence; what can be promised is a one-sided bound."
    )
    if any(row.fair for _, row in marked):
        lines.append(
            "fair: counted on photos that did not choose the threshold; in choosing: overkills and escapes "
            "among those that did."
        )
    return "\n".join(lines)


def _columns(rows: Sequence[Row]) -> list[str]:
    points = [row.point for row in rows if row.point is not None]
    review = ["reviewed: normal + anomalous"] if any(p.review_threshold is not None for p in points) else []
    cost = [COST] if any(point.cost_per_1000 is not None for point in points) else []
    return ["threshold", "overkill", "escapes", *review, *cost, "figures"]


def _cells(row: Row, least: bool) -> dict[str, str]:
    """What the columns show of a row; nothing where it has no threshold."""
    point = row.point
    if point is None:
        return {}
    threshold = f"{point.threshold:.6g}"
    reviewed = "-"
    if point.review_threshold is not None:
        threshold += f" (review from {point.review_threshold:.6g})"
        reviewed = f"{point.normal_reviews} + {point.anomalous_reviews}"
    return {
        "threshold": threshold,
        "overkill": _rate(point.overkills, point.n_normal, point.overkill_interval),
        "escapes": _rate(point.escapes, point.n_anomalous, point.escape_interval),
        "reviewed: normal + anomalous": reviewed,
        COST: cost_words(point) + (", least" if least else ""),
        "figures": _kind(row),
    }


def _kind(row: Row) -> str:
    """How the figures were counted, and what the photos that chose say where they say something else."""
    fair, chose = row.fair, row.optimistic
    if fair is None:
        return OPTIMISTIC
    if chose is None or (fair.overkills, fair.escapes) == (chose.overkills, chose.escapes):
        return FAIR
    counts = [
        str(count)
        for count, n in ((chose.overkills, chose.n_normal), (chose.escapes, chose.n_anomalous))
        if n
    ]
    return f"{FAIR}; {' + '.join(counts)} in choosing"


def tuning_report(tuned: Tuned, why: str) -> FiledReport:
    """The report of one version, or of a trial that changed nothing."""
    record, policy, data = tuned.record, tuned.policy, tuned.data()
    version = "a trial, nothing was changed" if record is None else f"version {record['index'] + 1}"
    point = tuned.chosen.point
    if policy is None or point is None:
        answer = f"No threshold does what was asked: {tuned.chosen.reason}."
    else:
        answer = f"Threshold {policy.cut.threshold:.6g} ({version}). {policy.promise}"
    names = ("source", "photos", "normal", "anomalous", "groups", "duplicates", "counted", "fingerprint")
    asked: list[Block] = [*(f"{words[:1].upper()}{words[1:]}." for words in tuned.asked.words())]
    facts: dict[str, object] = {"model": tuned.bundle.path.name, "model_hash": tuned.bundle.model_hash}
    if why:
        facts["reason"] = why
    if record is not None:
        facts |= {
            "version": record["index"] + 1,
            "signed_by": record["who"],
            "time": record["time"],
            "hash_of_the_log_line": record["sha256"],
        }
    result = [Section("the chosen threshold", _chosen(tuned))]
    if tuned.groups:
        result.append(Section("a threshold for each group", [_table(list(tuned.groups.values()))]))
    points = [tuned.chosen, *tuned.rows]
    result.append(Section("operating points", [_table(points, cheapest(tuned.chosen, tuned.rows))]))
    if tuned.suspects:
        result.append(
            Section(
                "labels worth a second look",
                [
                    Table(
                        ["normal, scored highest", "anomalous, scored lowest"],
                        list(_zip_long(*tuned.suspects.values())),
                    )
                ],
            )
        )
    left_out = [f"Left out: {reason}" for reason in list(data["unreadable"].values())[:20]]
    return FiledReport(
        title="Threshold report",
        subject=f"Model {tuned.bundle.path.name}, {version}",
        answer=answer,
        asked=[*asked, facts],
        data=[{name: data[name] for name in names}, *left_out],
        method=METHOD if tuned.asked.rule.costs is None else [*METHOD, COSTS],
        result=result,
        limits=[
            *tuned.limits,
            "Every promise is about photos taken as these were, of parts drawn like these. After any change "
            "of camera, light, product or model, tune again.",
        ],
        warnings=[str(tuned.refusal)] if tuned.refusal else (),
        cards=_cards(point),
    )


def _chosen(tuned: Tuned) -> list[Block]:
    scores, anomalous = tuned.units.scores, tuned.units.anomalous
    series = {"normal": scores[~anomalous], "anomalous": scores[anomalous]}
    cut = tuned.chosen.cut
    marks = {} if cut is None else {f"threshold {cut.threshold:.4g}": cut.threshold}
    if cut is not None and cut.review_threshold is not None:
        marks[f"review from {cut.review_threshold:.4g}"] = cut.review_threshold
    upper = None
    if cut is not None and cut.threshold > 0:
        upper = max(5 * cut.threshold, float(np.quantile(scores, 0.5)))
    chart = histogram(
        {name: values for name, values in series.items() if values.size},
        marks,
        x_label="score",
        y_label="share of each",
        upper=upper,
    )
    rows = [row for row in _kinds(tuned.chosen) if row.point]
    blocks: list[Block] = [chart, _table(rows)] if rows else [chart]
    point = tuned.chosen.point
    if point is not None and point.review_threshold is not None:
        blocks.append(
            f"To be reviewed: {point.normal_reviews} of {point.n_normal} normal, "
            f"{point.anomalous_reviews} of {point.n_anomalous} anomalous."
        )
    return blocks


def _kinds(row: Row) -> list[Row]:
    """The fair and the optimistic figures of a row, one below the other."""
    return [Row(row.wish, fair=row.fair), Row(row.wish, optimistic=row.optimistic)]


def _all(tuned: Tuned) -> list[tuple[str, Row]]:
    """Every row with its mark, the chosen one first."""
    return [
        ("*", tuned.chosen),
        *(("*", row) for row in tuned.groups.values()),
        *((" ", row) for row in tuned.rows),
    ]


def _table(rows: Sequence[Row], least: Row | None = None) -> Table:
    """Narrow enough to be printed."""
    review = any(row.cut is not None and row.cut.review_threshold is not None for row in rows)
    cost = any(row.point is not None and row.point.cost_per_1000 is not None for row in rows)
    last = ["overkill", "escapes", *([COST] if cost else [])]
    columns = ["", "threshold#", *(["review from#"] if review else []), *last]
    printed: list[list[str | float | None]] = []
    for row in rows:
        point, cells = row.point, _cells(row, row is least)
        if point is None:
            printed.append([f"{row.wish}; not supported: {row.reason}", *[None] * (len(columns) - 1)])
            continue
        low = [point.review_threshold] if review else []
        shown = [cells[name] for name in last]
        printed.append([f"{row.wish} ({cells['figures']})", point.threshold, *low, *shown])
    return Table(columns, printed)


def _rate(count: int, n: int, interval: tuple[float, float]) -> str:
    if not n:
        return "unknown"
    low, high = (f"{100 * end:.3g}" for end in interval)
    return f"{count} of {n} ({low} to {high} %)"


def _cards(point: OperatingPoint | None) -> list[dict[str, str]]:
    if point is None:
        return []
    kind = OPTIMISTIC if point.optimistic else FAIR
    cards = [{"value": f"{point.threshold:.4g}", "label": "threshold"}]
    for count, n, name, tone in (
        (point.overkills, point.n_normal, "overkills", "review"),
        (point.escapes, point.n_anomalous, "escapes", "anomalous"),
    ):
        if n:
            cards.append({"value": f"{count} of {n}", "label": name, "note": f"{kind} count", "tone": tone})
    if point.cost_per_1000 is not None:
        low, high = point.cost_interval or (0.0, math.inf)
        note = f"{low:.3g} to {high:.3g}"
        cards.append({"value": f"{point.cost_per_1000:.4g}", "label": COST, "note": note})
    cards.append({"value": percent(point.confidence), "label": "confidence"})
    return cards


def _zip_long(first: Sequence[str], second: Sequence[str]) -> list[list[str]]:
    n = max(len(first), len(second))
    return [[*part] for part in zip(*([*x, *[""] * (n - len(x))] for x in (first, second)), strict=True)]
