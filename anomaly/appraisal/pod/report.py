"""A POD study as figures and as a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from anomaly.appraisal.judging import policy_facts
from anomaly.appraisal.pod.study import POOLED, Curve, PodStudy
from anomaly.appraisal.sizes import WORDS, in_mm
from anomaly.bundle import Bundle
from anomaly.inspection.writer import model_facts
from anomaly.quality.intervals import clopper_pearson
from anomaly.report import DASH, number
from anomaly.report.charts import Line, Points, line_chart
from anomaly.report.filed import Block, Cell, FiledReport, Section, Table

MOST_ROWS = 300
SIZES, LABELS = ("a50", "a90", "a90_95"), ("a50", "a90", "a90/95")
EXTRAPOLATED = "* lies outside the sizes of the defects and is extrapolated."


def figures(study: PodStudy, bundle: Bundle) -> dict[str, Any]:
    """Everything that was found, for machines. Sizes are in px, and in mm where the scale is known."""
    options, blanks = study.options, study.blanks
    return {
        "model": bundle.path.name,
        "model_hash": bundle.model_hash,
        "threshold": study.threshold,
        "version": bundle.detector.policy.version,
        "source": study.source,
        "size": options.measure,
        "px_per_mm": options.px_per_mm,
        "link": options.link,
        "confidence": options.confidence,
        "blanks": blanks.photos,
        "false_calls": blanks.calls,
        "false_call_rate": blanks.calls / blanks.photos if blanks.photos else None,
        "false_call_interval": clopper_pearson(blanks.calls, blanks.photos) if blanks.photos else None,
        "types": {curve.name: _curve_figures(curve, options.px_per_mm) for curve in study.curves},
        "defects": [
            {
                "path": trial.path,
                "type": trial.kind,
                "size_px": trial.size,
                "contrast": trial.contrast,
                "found": trial.found,
                "score": trial.score,
            }
            for trial in study.curves[0].trials
        ],
        "left_out": study.left_out,
        "notes": study.notes,
    }


def _curve_figures(curve: Curve, px_per_mm: float | None) -> dict[str, Any]:
    fit = curve.fit
    sizes = {name: getattr(fit, name) if fit else None for name in SIZES}
    fitted, lower, upper = curve.pod
    return {
        "defects": len(curve.trials),
        "found": curve.found,
        **{f"{name}_px": size for name, size in sizes.items()},
        **{f"{name}_mm": in_mm(size, px_per_mm) for name, size in sizes.items()},
        "parameters": fit.parameters if fit else None,
        "slope_p_value": fit.slope_p_value if fit else None,
        "asymptote_p_value": fit.asymptote_p_value if fit else None,
        "penalised": fit.penalised if fit else None,
        "curve": [
            dict(zip(("size_px", "pod", "lower", "upper"), map(float, point), strict=True))
            for point in zip(curve.sizes, fitted, lower, upper, strict=False)
        ],
        "method": fit.method if fit else None,
        "warnings": curve.warnings,
    }


def metrics(study: PodStudy) -> dict[str, float | None]:
    """What MLflow keeps."""
    values: dict[str, float | None] = {}
    for curve in study.curves:
        name = "pooled" if curve.name == POOLED else curve.name
        for size in SIZES if curve.fit else ():
            values[f"pod.{name}.{size}_px"] = getattr(curve.fit, size)
    if study.blanks.photos:
        values["pod.false_call_rate"] = study.blanks.calls / study.blanks.photos
    return values


def report(study: PodStudy, bundle: Bundle, command: str) -> FiledReport:
    """The report to file; `command` is what was typed."""
    options, first = study.options, study.curves[0]
    result = [
        Section("sizes that are found", _size_tables(study)),
        *(Section(curve.name, _curve_blocks(curve, study)) for curve in study.curves),
    ]
    if study.missed:
        result.append(Section("the largest defects that were missed", study.missed))
    result.append(Section("every defect", [_trials_table(first)]))
    return FiledReport(
        title="Probability of detection",
        subject=f"Model {bundle.path.name}",
        answer=answer(study),
        warnings=[*study.notes, *_short_warnings(first)],
        cards=_cards(study),
        asked=[
            "How large must a defect be for the model to find it, at the threshold in force?",
            f"Size is the {WORDS[options.measure]}.",
            f"Command: {command}",
        ],
        data=_data(study, bundle),
        method=[
            "A defect is found when its photo does not pass: when it is called anomalous or set aside for "
            "review. Found or missed is fitted against the logarithm of size, by type and for all together.",
            "After MIL-HDBK-1823A (2009) for hit/miss data, with bounds by likelihood ratio. How each curve "
            "was fitted is said beneath it. a50 and a90 are the sizes found with a probability of 50 and "
            f"90 %; from a90/95 on it is at least 90 % with {options.confidence:.4g} confidence.",
        ],
        result=result,
        limits=_limits(study),
    )


def answer(study: PodStudy) -> str:
    """The result in a sentence or two."""
    options, first = study.options, study.curves[0]
    size, largest = first.fit.a90_95 if first.fit else None, float(first.sizes[-1])
    if size is not None and size <= largest:
        text = (
            f"Defects of {_size(size, options.px_per_mm)} or more are found with a probability of 90 % or "
            f"more, with {options.confidence:.0%} confidence."
        )
    else:
        seen = f"the largest has {_size(largest, options.px_per_mm)}"
        if first.fit and first.fit.found == first.fit.defects:
            smallest = _size(float(first.sizes[0]), options.px_per_mm)
            seen = f"all {first.fit.defects} were found, the smallest of {smallest} too"
        text = f"These data show no size from which defects are found with 90 % probability: {seen}."
    given = {
        c.name: c.fit.a90_95 if c.fit and (c.fit.a90_95 or np.inf) <= c.sizes[-1] else None
        for c in study.curves[1:]
    }
    if size is None or size > largest:
        shown = [f"{name} from {_size(at, options.px_per_mm)}" for name, at in given.items() if at]
        text += f" By themselves: {', '.join(shown)}." if shown else ""
    elif without := [name for name, at in given.items() if at is None]:
        text += f" By themselves, these types show no such size: {', '.join(without)}."
    return text


def lines(study: PodStudy) -> list[str]:
    """The curves in the terminal, and what an asterisk there means."""
    scale = study.options.px_per_mm
    unit = "px" if scale is None else "mm"
    told = []
    for curve in study.curves:
        sizes = ", ".join(
            f"{label} {DASH if size is None else f'{size} {unit}'}"
            for label, size in zip(LABELS, shown_sizes(curve, scale or 1.0), strict=True)
        )
        told.append(f"  {curve.name}: {curve.found} of {len(curve.trials)} found, {sizes}")
    return [*told, f"  {EXTRAPOLATED}"] if any("*" in line for line in told) else told


def _size(px: float, px_per_mm: float | None) -> str:
    mm = in_mm(px, px_per_mm)
    return f"{_short(px)} px" if mm is None else f"{_short(mm)} mm"


def _size_tables(study: PodStudy) -> list[Block]:
    """One table in px, and one in mm where the scale is known."""
    units = {"px": 1.0}
    if study.options.px_per_mm is not None:
        units["mm"] = study.options.px_per_mm
    return [
        Table(
            ["type", "defects#", "found#", *(f"{label} {unit}#" for label in LABELS)],
            [[c.name, len(c.trials), c.found, *shown_sizes(c, scale)] for c in study.curves],
            EXTRAPOLATED if unit == "px" else "",
        )
        for unit, scale in units.items()
    ]


def shown_sizes(curve: Curve, px_per_unit: float = 1.0) -> list[str | None]:
    """a50, a90 and a90/95 of a curve; an asterisk marks what is extrapolated."""
    shown: list[str | None] = []
    for name in SIZES:
        size = getattr(curve.fit, name) if curve.fit else None
        beyond = "*" if size is not None and _extrapolated(curve, size) else ""
        shown.append(None if size is None else _short(size / px_per_unit) + beyond)
    return shown


def _extrapolated(curve: Curve, size: float) -> bool:
    return not curve.sizes[0] <= size <= curve.sizes[-1]


def _short(size: float) -> str:
    return f"{size:.3g}" if size < 1000 else number(size)


def _cards(study: PodStudy) -> list[Mapping[str, str]]:
    first, blanks = study.curves[0], study.blanks
    found = f"{first.found} of {len(first.trials)}"
    cards: list[Mapping[str, str]] = [{"value": found, "label": "defects found"}]
    for name, label in zip(SIZES, LABELS, strict=True):
        size = getattr(first.fit, name) if first.fit else None
        shown = DASH if size is None else _size(size, study.options.px_per_mm)
        note = "extrapolated" if size is not None and _extrapolated(first, size) else first.name
        cards.append({"value": shown, "label": label, "note": note})
    if blanks.photos:
        cards.append({"value": f"{blanks.calls} of {blanks.photos}", "label": "false calls on blanks"})
    return cards


def _short_warnings(curve: Curve) -> list[str]:
    return [f"{curve.name}: {warning}" for warning in curve.warnings]


def _data(study: PodStudy, bundle: Bundle) -> list[Block]:
    blanks = study.blanks
    facts: dict[str, Any] = {
        "defects": len(study.curves[0].trials),
        "normal photos (blanks)": blanks.photos,
        "left out": len(study.left_out),
    }
    if study.options.px_per_mm is not None:
        facts["px per mm"] = study.options.px_per_mm
    blocks: list[Block] = [
        study.source,
        facts,
        policy_facts(bundle),
        model_facts(bundle),
    ]
    if study.left_out:
        rows = list(study.left_out.items())[:MOST_ROWS]
        blocks.append(Table(["left out", "why"], rows, "Photos that do not count"))
    return blocks


def _curve_blocks(curve: Curve, study: PodStudy) -> list[Block]:
    if curve.fit is None:
        return [*curve.warnings]
    scale = study.options.px_per_mm
    sizes = (getattr(curve.fit, name) for name in SIZES)
    shown = (None if size is None else _size(size, scale) + _in_px(size, scale) for size in sizes)
    facts = {"found": f"{curve.found} of {len(curve.trials)}", **dict(zip(LABELS, shown, strict=True))}
    chart = _chart(curve, study.options.confidence)
    return [chart, facts, *curve.warnings, f"Fitted: {curve.fit.method}"]


def _in_px(px: float, px_per_mm: float | None) -> str:
    """What to add to a size in mm, for the eye that goes on to a chart in px."""
    return "" if px_per_mm is None else f" ({_short(px)} px)"


def _chart(curve: Curve, confidence: float) -> Markup:
    assert curve.fit is not None
    fitted, lower, upper = curve.pod
    marks = {
        f"{label} {size:.3g} px": size
        for name, label in zip(SIZES[1:], LABELS[1:], strict=True)
        if (size := getattr(curve.fit, name)) is not None and size <= curve.sizes[-1] * 4
    }
    dots = [
        Points(name, [t.size for t in curve.trials if t.found is found], [float(found)] * count)
        for name, found, count in (
            ("found", True, curve.found),
            ("missed", False, len(curve.trials) - curve.found),
        )
        if count
    ]
    band = f"probability of detection, with {confidence:.0%} bounds on either side"
    return line_chart(
        [Line(band, curve.sizes, fitted, lower, upper)],
        x_label="size of the defect in px (logarithmic)",
        y_label="probability of detection",
        y_range=(-0.04, 1.04),
        marks=marks,
        points=dots,
        log_x=True,
    )


def _trials_table(curve: Curve) -> Table:
    trials = sorted(curve.trials, key=lambda trial: (trial.kind, trial.size))
    rows: list[list[Cell]] = [
        [t.path, t.kind, t.size, t.contrast, "found" if t.found else "missed", t.score]
        for t in trials[:MOST_ROWS]
    ]
    rest = len(trials) - len(rows)
    caption = f"The first {MOST_ROWS}; {rest} more are in result.json." if rest else ""
    columns = ["photo", "type", "size px#", "contrast, grey levels#", "", "score#"]
    if all(trial.contrast is None for trial in trials):
        columns.pop(3)
        for row in rows:
            row.pop(3)
    return Table(columns, rows, caption)


def _limits(study: PodStudy) -> list[str]:
    limits = [
        "The figures hold for photos taken as these were, and for defects like these: a type that is not "
        "among them may be found at other sizes.",
        *study.limits,
        "A defect counts as found when its photo is called, wherever on the photo the model looked.",
        "The figures belong to the threshold in force. Another threshold needs another study.",
    ]
    if len(study.curves) > 1:
        limits.append(
            "The curve of all types is that of this mixture of types; where they differ, go by each type."
        )
    return limits
