"""A gauge study as figures and as a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from markupsafe import Markup

from anomaly.appraisal.gauge.study import GaugeResult
from anomaly.appraisal.judging import policy_facts
from anomaly.bundle import Bundle
from anomaly.inspection.writer import model_facts
from anomaly.quality.agreement import LIMITS, Kappa, Level, Part, Rate
from anomaly.quality.gauge import GaugeStudy
from anomaly.report.charts import Points, line_chart
from anomaly.report.filed import Block, Cell, FiledReport, Section, Table

MOST_ROWS = 300
SAID = {
    "effectiveness": ("parts", "judged right every time"),
    "miss rate": ("defective parts", "missed"),
    "false-alarm rate": ("good parts", "rejected"),
}
"""What each rate of AIAG counts."""
TONES: Mapping[Level, str] = {"acceptable": "normal", "marginal": "review", "unacceptable": "anomalous"}


def figures(result: GaugeResult, bundle: Bundle) -> dict[str, Any]:
    """Everything that was found, for machines."""
    study = asdict(result.study)
    study["warnings"] = result.warnings
    study["n_parts"] = study.pop("parts")
    study["photos_of_a_part"] = study.pop("photos")
    return {
        "model": bundle.path.name,
        "model_hash": bundle.model_hash,
        "threshold": result.threshold,
        "version": bundle.detector.policy.version,
        **study,
        "parts": [
            {
                "part": part.name,
                "defective": part.defective,
                "rejected": list(part.rejected),
                "scores": list(part.scores),
                "photos": [str(photo.path) for photo in result.photos[part.name]],
                "manual": part.manual,
            }
            for part in result.parts
        ],
        "left_out": result.left_out,
    }


def metrics(result: GaugeResult) -> dict[str, float | None]:
    """What MLflow keeps."""
    study = result.study
    rates = {"alike": study.alike, **_rates(study)}
    values = {f"gauge.{name.replace(' ', '_')}": rate.value for name, rate in rates.items() if rate}
    for name, kappa in (("reference", study.kappa_reference), ("repeats", study.kappa_repeats)):
        if kappa:
            values[f"gauge.kappa_{name}"] = kappa.value
    if study.scores:
        values["gauge.within_sd"] = study.scores.within_sd
    return dict(values)


def _rates(study: GaugeStudy) -> dict[str, Rate | None]:
    """The rates that AIAG limits, by their names there."""
    return dict(zip(LIMITS, (study.effectiveness, study.miss_rate, study.false_alarm_rate), strict=True))


def answer(result: GaugeResult) -> str:
    """The result in a sentence."""
    study = result.study
    said = [_said(name, rate) for name, rate in _rates(study).items() if rate]
    if said:
        return "; ".join(said) + "."
    if study.alike:
        return (
            f"{study.alike.count} of {study.alike.total} parts were judged alike every time; whether they "
            "were judged right, these data cannot say."
        )
    return "Each part has one photo and none a reference, so nothing can be said of repeats or correctness."


def _said(name: str, rate: Rate) -> str:
    """ "0 of 6 defective parts missed (0 to 45.9 %): not shown to be acceptable" """
    kind, event = SAID[name]
    photos = f"{rate.total} photos of " if rate.total != rate.parts else ""
    return f"{rate.count} of {photos}{rate.parts} {kind} {event} ({_ends(rate)}): {_shown(rate)}"


def _ends(rate: Rate) -> str:
    return f"{100 * rate.lower:.3g} to {100 * rate.upper:.3g} %"


def _shown(rate: Rate) -> str:
    """The verdict that the number of parts supports: that at the worse end of the interval."""
    if rate.verdict == rate.verdict_at_bound or rate.verdict == "unacceptable":
        return str(rate.verdict)
    if rate.verdict_at_bound == "marginal":
        return "marginal or better"
    return "not shown to be acceptable"


def report(result: GaugeResult, bundle: Bundle, command: str) -> FiledReport:
    """The report to file; `command` is what was typed."""
    study = result.study
    sections = [Section("decisions", [_rate_table(study)]), Section("kappa", _kappa_blocks(study))]
    if study.scores:
        sections.append(Section("scores", [_chart(result), _score_facts(study)]))
    sections.append(Section("Knapp's test", _knapp_blocks(study)))
    if result.flipping:
        sections.append(Section("parts that were judged both ways", result.flipping))
    sections.append(Section("every part", [_part_table(result)]))
    return FiledReport(
        title="Gauge study",
        subject=f"Model {bundle.path.name}",
        answer=answer(result),
        warnings=result.warnings,
        cards=_cards(study),
        asked=[
            "Does the system judge photos of the same part alike, and right, at the threshold in force?",
            f"Command: {command}",
        ],
        data=_data(result, bundle),
        method=[
            "A photo is rejected when it does not pass: when it is called anomalous or set aside for review. "
            "The part is the unit of evidence: photos of one part are not independent.",
            "Effectiveness, miss rate and false-alarm rate after AIAG, Measurement Systems Analysis, "
            "attribute study. Intervals are Clopper and Pearson's, with parts for trials.",
            "Cohen's kappa of decisions against the reference, Fleiss' kappa between the photos of a part, "
            "with intervals that count parts. Above 0.75 is good, below 0.40 poor.",
            "Scores: one-way random-effects analysis of variance; a part is in doubt within three "
            "repeatability standard deviations of the threshold. Knapp's test after USP <1790>.",
        ],
        result=sections,
        limits=[
            "The figures hold for these parts, placed and lit as they were, at the threshold in force.",
            "The reference is taken to be right: where experts err, effectiveness suffers.",
            "Photos taken one after the other without placing the part anew show less spread than the line "
            "will.",
        ],
    )


def _cards(study: GaugeStudy) -> list[Mapping[str, str]]:
    cards: list[Mapping[str, str]] = []
    for name, rate in _rates(study).items():
        if rate and rate.verdict_at_bound:
            tone = TONES[rate.verdict_at_bound]
            note = f"{_ends(rate)}: {_shown(rate)}"
            cards.append({"value": f"{rate.value:.1%}", "label": name, "note": note, "tone": tone})
    if study.alike:
        cards.append({"value": f"{study.alike.value:.1%}", "label": "parts judged alike every time"})
    return cards


def _data(result: GaugeResult, bundle: Bundle) -> list[Block]:
    parts = result.parts
    low, high = result.study.photos
    blocks: list[Block] = [
        {
            "parts": len(parts),
            "photos": sum(len(part.rejected) for part in parts),
            "photos of a part": str(low) if low == high else f"{low} to {high}",
            "defective by reference": sum(part.defective is True for part in parts),
            "good by reference": sum(part.defective is False for part in parts),
        },
        policy_facts(bundle),
        model_facts(bundle),
    ]
    if result.left_out:
        rows = list(result.left_out.items())[:MOST_ROWS]
        blocks.append(Table(["left out", "why"], rows, "Photos and parts that do not count"))
    return blocks


def _rate_table(study: GaugeStudy) -> Table:
    rows: list[list[Cell]] = []
    for name, rate in {**_rates(study), "judged alike every time": study.alike}.items():
        limits = LIMITS.get(name)
        shown = "" if limits is None else " / ".join(f"{limit:.0%}" for limit in limits)
        if rate is None:
            rows.append([name, None, None, None, shown, "cannot be told", ""])
            continue
        ends = f"{rate.lower:.1%} to {rate.upper:.1%}"
        count = f"{rate.count} of {rate.total}"
        rows.append([name, count, f"{rate.value:.1%}", ends, shown, rate.verdict, rate.verdict_at_bound])
    interval = f"{study.confidence:.0%} interval#"
    return Table(
        ["", "count#", "value#", interval, "AIAG limits#", "verdict", "at its worse end"],
        rows,
        "The worse end of the interval is what this number of parts supports.",
    )


def _kappa_blocks(study: GaugeStudy) -> list[Block]:
    named = {
        "with the reference (Cohen)": study.kappa_reference,
        "between repeats (Fleiss)": study.kappa_repeats,
    }
    return [
        Table(
            [
                "kappa",
                "value#",
                f"{study.confidence:.0%} interval#",
                "observed agreement#",
                "verdict",
                "skewed",
            ],
            [_kappa_row(name, kappa) for name, kappa in named.items()],
            "Where one side is rare (skewed), chance agreement deflates kappa: go by the observed agreement.",
        )
    ]


def _kappa_row(name: str, kappa: Kappa | None) -> list[Cell]:
    if kappa is None:
        return [name, None, None, None, "cannot be told", ""]
    interval = None if kappa.lower is None else f"{kappa.lower:.3f} to {kappa.upper:.3f}"
    return [name, f"{kappa.value:.3f}", interval, f"{kappa.agreement:.1%}", kappa.verdict, kappa.skewed]


def _score_facts(study: GaugeStudy) -> Mapping[str, Any]:
    scores = study.scores
    assert scores is not None
    low, high = scores.within_interval
    smallest, largest = (None if end is None else f"{end:.3g}" for end in scores.ratio_interval)
    return {
        "repeatability (standard deviation within parts)": scores.within_sd,
        "its interval": f"{low:.3g} to {high:.3g}",
        "standard deviation between parts": scores.between_sd,
        "ratio within to between": scores.ratio,
        "its interval ": f"{smallest or 'no bound'} to {largest or 'no bound'}",
        "parts in doubt": len(scores.in_doubt),
    }


def _knapp_blocks(study: GaugeStudy) -> list[Block]:
    knapp = study.knapp
    by = "people" if knapp.manual else "the system itself, as no decisions of people were given"
    zones = Table(
        ["zone", "rejected", "parts#"],
        [
            ["reject", "7 times in 10 or more", len(knapp.reject_zone)],
            ["grey", "in between", len(knapp.grey_zone)],
            ["accept", "3 times in 10 or less", len(knapp.accept_zone)],
        ],
        f"Zones by the rejections of {by}",
    )
    blocks: list[Block] = [zones]
    if knapp.defective_in_reject_zone:
        rate = knapp.defective_in_reject_zone
        blocks.append(
            f"Of the parts that are defective by reference, the system rejects {rate.count} of {rate.total} "
            f"at least 7 times in 10 ({rate.value:.1%}, {rate.lower:.1%} to {rate.upper:.1%})."
        )
    if knapp.passed is not None:
        between = ""
        if knapp.difference_interval:
            low, high = knapp.difference_interval
            between = f" (difference {low:+.1%} to {high:+.1%})"
        blocks.append(
            f"In the reject zone the system rejects {knapp.automated_efficiency:.1%} and people reject "
            f"{knapp.manual_efficiency:.1%}{between}: the system has "
            f"{'passed' if knapp.passed else 'not passed'} Knapp's test."
        )
    else:
        blocks.append(
            "Knapp's test compares the system with people: give a manifest with the columns rejections and "
            "looks to take it."
            if not knapp.manual
            else "People reject no part 7 times in 10, so there is no reject zone to compare in."
        )
    return blocks


def _chart(result: GaugeResult) -> Markup:
    """Every score, parts in the order of their mean score."""
    order = sorted(result.parts, key=lambda part: float(np.mean(part.scores)))
    names = {False: "good by reference", True: "defective by reference", None: "no reference"}
    dots = []
    for defective, name in names.items():
        x = [s for part in order if part.defective is defective for s in part.scores]
        y = [i for i, part in enumerate(order, 1) if part.defective is defective for _ in part.scores]
        if x:
            dots.append(Points(name, x, y))
    return line_chart(
        [],
        x_label="score of the photo",
        y_label="part, in the order of its mean score",
        marks={f"threshold {result.threshold:.4g}": result.threshold},
        points=dots,
    )


def _part_table(result: GaugeResult) -> Table:
    scores = result.study.scores
    margins = (scores.margins if scores else None) or {}
    doubt = set(scores.in_doubt) if scores else set()
    rows = [_part_row(part, margins.get(part.name), part.name in doubt) for part in result.parts[:MOST_ROWS]]
    rest = len(result.parts) - len(rows)
    caption = f"The first {MOST_ROWS}; {rest} more are in result.json." if rest else ""
    return Table(
        ["part", "reference", "rejected#", "mean score#", "spread#", "margin#", "in doubt"], rows, caption
    )


def _part_row(part: Part, margin: float | None, in_doubt: bool) -> list[Cell]:
    reference = {None: None, True: "defective", False: "good"}[part.defective]
    spread = float(np.std(part.scores, ddof=1)) if len(part.scores) > 1 else None
    share = f"{sum(part.rejected)} of {len(part.rejected)}"
    return [part.name, reference, share, float(np.mean(part.scores)), spread, margin, in_doubt]
