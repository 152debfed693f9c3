"""A comparison of two models as figures and as a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from markupsafe import Markup

from anomaly.appraisal.compare.study import Comparison, Pair
from anomaly.appraisal.judging import policy_facts
from anomaly.bundle import Bundle
from anomaly.inspection.writer import model_facts
from anomaly.quality.paired import AurocDifference, McNemar
from anomaly.report.charts import Line, Points, line_chart
from anomaly.report.filed import Block, Cell, FiledReport, Section, Table

MOST_ROWS = 300
LEVEL = 0.05
"""Differences with a p-value below it are called more than chance."""


def figures(result: Comparison, bundles: tuple[Bundle, Bundle]) -> dict[str, Any]:
    """Everything that was found, for machines."""
    tests = ("delong", "bootstrap", "decisions", "escapes", "overkills")
    return {
        "models": {
            name: {
                "model": bundle.path.name,
                "model_hash": bundle.model_hash,
                "threshold": threshold,
                "version": bundle.detector.policy.version,
            }
            for name, bundle, threshold in zip("ab", bundles, result.thresholds, strict=True)
        },
        "confidence": result.confidence,
        "n_normal": sum(not pair.anomalous for pair in result.pairs),
        "n_anomalous": sum(pair.anomalous for pair in result.pairs),
        "grouped": result.grouped,
        **{name: asdict(test) if (test := getattr(result, name)) else None for name in tests},
        "photos": [
            {
                "path": str(pair.sample.path),
                "label": pair.sample.label,
                "type": pair.sample.defect_type,
                "group": pair.sample.group,
                "scores": pair.scores,
                "called": pair.called,
            }
            for pair in result.pairs
        ],
        "left_out": result.left_out,
        "notes": result.notes,
    }


def metrics(result: Comparison, side: int, other: Bundle) -> dict[str, float | None]:
    """What MLflow keeps in the run of model A (side 0) or B (side 1)."""
    name, sign = f"compare.{other.path.name}", 1 - 2 * side
    right = (result.decisions.only_a_right, result.decisions.only_b_right)
    values: dict[str, float | None] = {
        f"{name}.only_this_right": right[side],
        f"{name}.only_other_right": right[1 - side],
        f"{name}.mcnemar_p": result.decisions.p_value,
    }
    if result.auroc:
        values[f"{name}.auroc_difference"] = sign * result.auroc.difference
        values[f"{name}.auroc_p"] = result.auroc.p_value
    return values


def answer(result: Comparison) -> str:
    """The result in two sentences."""
    auroc, decisions = result.auroc, result.decisions
    if auroc is None:
        text = "These photos cannot tell which model ranks defects better."
    else:
        a, b = (f"{value:.3f}{_ends(ends)}" for value, ends in _each(auroc))
        text = f"AUROC of A is {a}, of B {b}: {_verdict(auroc)}."
    only_a, only_b = decisions.only_a_right, decisions.only_b_right
    if only_a == only_b == 0:
        return f"{text} At their thresholds both decide alike on every photo."
    chance = "more than chance" if decisions.p_value < LEVEL else "chance could explain it"
    if decisions.groups is not None and 0.5 ** (decisions.groups - 1) >= LEVEL:
        chance = "so few groups cannot show more than chance"
    return (
        f"{text} At their thresholds A alone is right on {only_a} photos and B alone on {only_b} "
        f"(p = {decisions.p_value:.2g}, {_unit(decisions)}: {chance})."
    )


def _each(auroc: AurocDifference) -> tuple[tuple[float, tuple[float, float] | None], ...]:
    """AUROC of A and of B, each with its interval."""
    return (auroc.auroc_a, auroc.interval_a), (auroc.auroc_b, auroc.interval_b)


def _ends(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"


def _unit(test: McNemar) -> str:
    """What the test counts as independent."""
    if test.groups is None:
        return "photos counted as independent"
    return f"by whole groups, {test.groups} of which differ"


def _verdict(auroc: AurocDifference) -> str:
    if auroc.p_value is None:
        return "the difference has no interval, as neither model varies on these photos"
    if auroc.difference == 0 and auroc.p_value == 1:
        return "no difference"
    better = "A" if auroc.difference > 0 else "B"
    if auroc.p_value < LEVEL:
        return f"{better} is better by more than chance"
    return "chance could explain the difference"


def report(result: Comparison, bundles: tuple[Bundle, Bundle], command: str) -> FiledReport:
    """The report to file; `command` is what was typed."""
    names = [f"{letter} = {bundle.path.name}" for letter, bundle in zip("AB", bundles, strict=True)]
    count = sum(pair.differs for pair in result.pairs)
    pictures: list[Block] = [*result.differing]
    if count > len(result.differing):
        pictures.insert(0, f"The first {len(result.differing)} of {count}; all are in result.json.")
    elif not count:
        pictures = ["Both models decide alike on every photo."]
    return FiledReport(
        title="Comparison of two models",
        subject=", ".join(names),
        answer=answer(result),
        warnings=result.notes,
        cards=_cards(result),
        asked=[
            "Which of two models tells these photos apart better, and is the difference more than chance?",
            f"Command: {command}",
        ],
        data=_data(result, bundles),
        method=_method(result),
        result=[
            Section("AUROC", [_auroc_table(result)]),
            Section("decisions", [_mcnemar_table(result), _types_table(result.pairs)]),
            Section("scores", [_chart(result)]),
            Section("photos that are judged differently", pictures),
        ],
        limits=[
            "The figures hold for these photos, for these two models, each at its own threshold in force.",
            "AUROC does not depend on a threshold, decisions do: a model may rank better and decide worse.",
            "A difference that is not shown is not shown to be none: see the interval.",
            "Scores of two models have different scales and are not compared with each other.",
        ],
    )


def _cards(result: Comparison) -> list[Mapping[str, str]]:
    cards: list[Mapping[str, str]] = []
    if result.auroc:
        auroc = result.auroc
        p_value = "no p-value" if auroc.p_value is None else f"p = {auroc.p_value:.2g}"
        cards += [
            *(
                {"value": f"{value:.3f}", "label": f"AUROC of {name}", "note": _ends(ends).strip(" ()")}
                for name, (value, ends) in zip("AB", _each(auroc), strict=True)
            ),
            {"value": f"{auroc.difference:+.3f}", "label": "A minus B", "note": p_value},
        ]
    cards.append({"value": str(result.decisions.only_a_right), "label": "photos that A alone has right"})
    cards.append({"value": str(result.decisions.only_b_right), "label": "photos that B alone has right"})
    return cards


def _data(result: Comparison, bundles: tuple[Bundle, Bundle]) -> list[Block]:
    bad = sum(pair.anomalous for pair in result.pairs)
    blocks: list[Block] = [
        {
            "normal photos": len(result.pairs) - bad,
            "defective photos": bad,
            "groups": len({p.sample.group for p in result.pairs} - {None}),
            "left out": len(result.left_out),
        }
    ]
    for letter, bundle in zip("AB", bundles, strict=True):
        blocks += [f"Model {letter}:", policy_facts(bundle), model_facts(bundle)]
    if result.left_out:
        rows = list(result.left_out.items())[:MOST_ROWS]
        blocks.append(Table(["left out", "why"], rows, "Photos that do not count"))
    return blocks


def _method(result: Comparison) -> list[Block]:
    unit = (
        "The bootstrap draws whole groups, as photos of one lot or part are alike: go by it."
        if result.grouped
        else "The photos have no groups, so each counts as independent: go by DeLong's test."
    )
    return [
        "Both models judge the same photos, so the tests are paired. The difference of the AUROCs: DeLong, "
        "DeLong and Clarke-Pearson (1988), and a percentile bootstrap of 2000 draws. " + unit,
        "Decisions: a photo is called when it does not pass, that is when it is anomalous or set aside for "
        "review. McNemar's exact test compares how many photos one model alone has right"
        + (
            "; whole groups count: were both models as good, the balance of a group could as well have had "
            "the other sign, and the p-value is the share of all signs that leave a balance as large. Fewer "
            "than six groups that differ cannot show a difference at 5 %."
            if result.grouped
            else ", each photo counted as independent."
        ),
    ]


def _auroc_table(result: Comparison) -> Table:
    interval = f"{result.confidence:.0%} interval#"
    by = "bootstrap by group" if result.grouped else "bootstrap by photo"
    rows = [_auroc_row(name, test) for name, test in (("DeLong", result.delong), (by, result.bootstrap))]
    return Table(["test", "A#", "B#", "A minus B#", interval, "p#"], rows)


def _auroc_row(name: str, test: AurocDifference | None) -> list[Cell]:
    if test is None:
        return [name, None, None, None, "cannot be told", None]
    interval = None if test.interval is None else f"{test.interval[0]:+.4f} to {test.interval[1]:+.4f}"
    p_value = None if test.p_value is None else f"{test.p_value:.3g}"
    a, b = (f"{value:.4f}{_ends(ends)}" for value, ends in _each(test))
    return [name, a, b, f"{test.difference:+.4f}", interval, p_value]


def _mcnemar_table(result: Comparison) -> Table:
    named: dict[str, McNemar | None] = {
        "all photos": result.decisions,
        "defective photos (escapes)": result.escapes,
        "normal photos (overkill)": result.overkills,
    }
    rows: list[list[Cell]] = [
        [name, None, None, None] if test is None
        else [name, test.only_a_right, test.only_b_right, f"{test.p_value:.3g}"]
        for name, test in named.items()
    ]  # fmt: skip
    by = f"McNemar, {'whole groups' if result.grouped else 'photos counted as independent'}"
    return Table([by, "A alone right#", "B alone right#", "p#"], rows)


def _types_table(pairs: tuple[Pair, ...]) -> Table:
    types: dict[str, list[Pair]] = {}
    for pair in pairs:
        kind = (pair.sample.defect_type or "unnamed") if pair.anomalous else "normal"
        types.setdefault(kind, []).append(pair)
    rows: list[list[Cell]] = [
        [kind, len(given), sum(p.called[0] for p in given), sum(p.called[1] for p in given)]
        for kind, given in sorted(types.items(), key=lambda item: (item[0] != "normal", item[0]))
    ]
    return Table(
        ["type", "photos#", "called by A#", "called by B#"], rows, "Photos that do not pass, by type"
    )


def _chart(result: Comparison) -> Markup:
    low, high = (end([pair.scores[0] for pair in result.pairs]) for end in (min, max))
    threshold_a, threshold_b = result.thresholds
    ends = [min(low, threshold_a), max(high, threshold_a)]
    dots = []
    for name, anomalous in (("normal", False), ("defective", True)):
        given = [pair.scores for pair in result.pairs if pair.anomalous is anomalous]
        if given:
            dots.append(Points(name, [a for a, _ in given], [b for _, b in given]))
    return line_chart(
        [Line("threshold of B", ends, [threshold_b, threshold_b])],
        x_label="score by A",
        y_label="score by B",
        marks={"threshold of A": threshold_a},
        points=dots,
    )
