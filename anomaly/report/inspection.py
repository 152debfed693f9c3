"""The report of one inspection: what was found, how sure that is, and the photos to look at first."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
from markupsafe import Markup
from numpy.typing import NDArray

from anomaly.detector import LOST
from anomaly.records import Decision, Verdict
from anomaly.render import legend
from anomaly.report import DASH, facts, number, render_page, visible
from anomaly.report.charts import histogram
from anomaly.report.tally import MOST_ROWS, Tally, worst_first

MOST_REGIONS = 5
FAR = 5
"""Scores beyond so many times the threshold share the histogram's last bar."""
WORDS = {"anomalous": "anomalous", "review": "review", "error": "not read", "normal": "normal"}


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """One photo to show. The pictures are JPEG or PNG files' bytes, best 480 px or less on a side."""

    path: str
    verdict: Verdict
    original: bytes
    heatmap: bytes
    outline: bytes
    expected: bytes | None = None
    """What the model expected to see, where it can say so."""

    @property
    def wide(self) -> bool:
        """A strip, whose pictures need more than a quarter of the page's width."""
        width, height = PIL.Image.open(io.BytesIO(self.original)).size
        return width > 2 * height

    def pictures(self) -> list[tuple[str, bytes]]:
        named = [("photo", self.original), ("heatmap", self.heatmap), ("outline", self.outline)]
        return named + ([("expected by the model", self.expected)] if self.expected else [])


def inspection_report(
    summary: Mapping[str, Any],
    tally: Tally,
    calibration_scores: NDArray[np.floating],
    gallery: Sequence[GalleryItem],
    model: Mapping[str, Any],
) -> str:
    """The page as HTML.

    `summary` holds `threshold`, `ceiling` (of the colour scale), `n_calibration`, `guarantee` (plain words),
    and if wished `likeness`, `shapes`, `target_fpr`, `review_threshold`, `version`, `versions`, `group`,
    `groups` and `finished` (when, as text).
    `model` maps facts to values (text, number, size, mapping); its `name` stands in the heading too. The
    gallery is shown whole.
    """
    threshold, calibration = float(summary["threshold"]), np.asarray(calibration_scores, np.float64)
    return render_page(
        "inspection.html",
        summary=summary,
        model=model,
        model_facts=facts(model),
        threshold_facts=_threshold_facts(summary),
        unlike=[
            sentence
            for about in ("likeness", "shapes")
            if (sentence := (summary.get(about) or {}).get("sentence"))
        ],
        headline=_headline(tally.counts),
        counts=tally.counts,
        total=tally.total,
        chart=_score_chart(tally.scores, calibration, threshold, summary.get("review_threshold")),
        scale=Markup(legend(threshold, float(summary["ceiling"]))),
        gallery=sorted(gallery, key=lambda item: worst_first(item.verdict)),
        unread=tally.unread,
        ranked=tally.ranked,
        groups=_group_rows(summary.get("groups", {})),
        own_thresholds=any(group["own"] for group in summary.get("groups", {}).values()),
        p_sentence=lambda verdict: _p_value_sentence(verdict, calibration, summary.get("version")),
        multiple=_multiple,
        split=_split,
        words=WORDS,
        most_rows=MOST_ROWS,
        most_regions=MOST_REGIONS,
    )


def _threshold_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("Threshold", number(summary["threshold"]))]
    if summary.get("review_threshold") is not None:
        facts.append(("Review from", number(summary["review_threshold"])))
    if summary.get("group") is not None:
        facts.append(("Group", visible(str(summary["group"]))))
    if summary.get("version") is not None:
        born = " (of the fit)" if summary["version"] == 0 else ""
        facts.append(("Version", f"{summary['version']}{born}"))
    if len(summary.get("versions", {})) > 1:
        decided = ", ".join(f"{name} ({number(n)} photos)" for name, n in summary["versions"].items())
        facts.append(("Versions that decided", decided))
    if summary.get("target_fpr") is not None:
        facts.append(("False alarms allowed for", f"{100 * summary['target_fpr']:.4g} %"))
    if alike := summary.get("likeness"):
        share = f"{100 * alike['above'] / alike['photos']:.0f} % (half expected)"
        facts.append(("Passed above the calibration middle", share))
    return [*facts, ("Calibration photos", number(summary["n_calibration"]))]


def _group_rows(groups: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Group, threshold, photos, anomalous, to review, not read."""
    rows = []
    for name, group in groups.items():
        threshold = number(group["threshold"]) + ("" if group["own"] else " (pooled)")
        counts = [group["anomalous"], group["review"], group["error"]]
        total = sum(counts) + group["normal"]
        rows.append([visible(name), threshold, *(number(n) for n in (total, *counts))])
    return rows


def _split(path: str) -> tuple[str, str]:
    """Folder with its last separator, and file name."""
    cut = max(path.rfind("/"), path.rfind("\\")) + 1
    return path[:cut], path[cut:]


def _headline(counts: Counter[Decision]) -> str:
    total = counts.total()
    if not total:
        return "No photos were inspected."
    if counts["error"] == total:
        return "None of the photos could be read, so nothing was judged."
    if counts["normal"] == total:
        return "The photo is normal." if total == 1 else f"All {number(total)} photos are normal."
    said = [f"{number(counts['anomalous'])} of {number(total)} photos {_be(counts['anomalous'])} anomalous"]
    if counts["review"]:
        said.append(f"{number(counts['review'])} {_be(counts['review'])} to be reviewed")
    if counts["error"]:
        said.append(f"{number(counts['error'])} could not be read")
    return ", ".join(said) + "."


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


def _score_chart(
    inspected: NDArray[np.float64],
    calibration: NDArray[np.float64],
    threshold: float,
    review_threshold: float | None,
) -> Markup:
    inspected, calibration = inspected[np.isfinite(inspected)], calibration[np.isfinite(calibration)]
    marks = {f"threshold {threshold:.4g}": threshold}
    if review_threshold is not None:
        marks[f"review from {review_threshold:.4g}"] = review_threshold
    return histogram(
        {"calibration photos, all normal": calibration, "inspected photos": inspected},
        marks,
        x_label="score of the photo",
        y_label="share of the photos",
        upper=FAR * threshold if threshold > 0 else None,
    )


def _multiple(verdict: Verdict) -> str:
    """A score in thresholds; a threshold of zero or less has no multiples."""
    if verdict.image_score is None or verdict.threshold is None or verdict.threshold <= 0:
        return DASH
    return f"{verdict.image_score / verdict.threshold:.2f}"


def _p_value_sentence(verdict: Verdict, calibration: NDArray[np.float64], version: int | None) -> str:
    """`version` is the one that `calibration` belongs to."""
    if verdict.image_score is None or verdict.p_value is None:
        return ""
    if verdict.remark is not None:
        return f"{verdict.remark.capitalize()}: that alone adds {LOST:g} to its score."
    n, p = number(calibration.size), f"{verdict.p_value:.2g}"
    if None not in (verdict.version, version) and verdict.version != version:
        return f"Decided by version {verdict.version}: p = {p}."
    higher = int((calibration >= verdict.image_score).sum())
    if not higher:
        return f"None of the {n} calibration photos scores this high: p = {p}, the least that {n} can show."
    score = "scores" if higher == 1 else "score"
    return f"{number(higher)} of the {n} calibration photos, all normal, {score} at least this high: p = {p}."
