"""The report of a study: surfaces, the recommendation, and the health of the encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from markupsafe import Markup

from anomaly.report import TIMES
from anomaly.report.charts import LINE_TONES, Line, heat_table, line_chart
from anomaly.report.filed import Block, FiledReport, Section, Table
from anomaly.spread import evenly
from anomaly.study.choice import Summary
from anomaly.study.diagnose import reconstruction_reading
from anomaly.study.run import Studied

LEAST = 0.05
"""Difference that takes the whole range of shades, at least."""
HEALTH = ("alignment", "uniformity", "effective_rank", "group_accuracy", "score_in_top_subspace")


def figures(studied: Studied) -> dict[str, Any]:
    """Everything found, as JSON."""
    return {
        "recommended": asdict(studied.choice.best.dials),
        "reason": studied.choice.reason,
        "suppression_index": studied.choice.best.index,
        "suppression_index_error": studied.choice.best.error,
        "overkill_rate": studied.choice.best.overkill,
        "surface": [
            {**asdict(one.dials), **{k: v for k, v in asdict(one).items() if k != "dials"}}
            for one in studied.summaries
        ],
        "reconstruction": _reconstruction(studied),
        "cells": studied.results,
        "mlflow_run_id": studied.tracking.run_id,
    }


def study_report(studied: Studied, subject: str, data: str, config_path: str) -> FiledReport:
    """`subject` names the product, `data` says what was found, `config_path` where config.yaml lies."""
    choice, effort = studied.choice, studied.effort
    best = choice.best
    seeds = len({found["seed"] for found in studied.results})
    reconstruction = _reconstruction(studied)
    low, high = best.overkill_interval
    return FiledReport(
        title="Study of the dials",
        subject=subject,
        answer=f"Recommended: {best.dials}.",
        cards=[
            {"value": f"{best.dials.augmentation_strength:g}", "label": "augmentation strength"},
            {"value": str(best.dials.embedding_size), "label": "embedding size"},
            {
                "value": f"{best.index:.3f}",
                "label": "suppression index",
                "note": f"standard error {best.error:.3f}",
            },
            {
                "value": f"{best.overkill:.1%}",
                "label": "overkill, held out",
                "note": f"{low:.1%} to {high:.1%}",
            },
        ],
        warnings=["One seed: the uncertainty is that over photos alone."] if seeds == 1 else [],
        asked=[
            "Which augmentation strength and which embedding size let the model see most, and keep it steady "
            "on normal photos?",
            f"To use the answer: anomaly fit DATA --out MODEL --config {config_path}",
        ],
        data=[
            data,
            {
                "photos to fit and calibrate": studied.train,
                "held-out photos": studied.held_out,
                "photos probed": f"{len(studied.photos)}, {studied.known} of them of lots trained on"
                if studied.known
                else f"{len(studied.photos)} of these",
                "groups": studied.groups or "none known",
            },
        ],
        method=[
            f"{len(studied.results)} cells: every setting under {seeds} seed(s), each a short fit on the "
            f"same photos, then {effort.magnitudes} magnitudes of each probe on held-out normal photos. The "
            f"suppression index is 1 minus the mean visibility over probes (docs/visibility.md): 0 sees "
            f"everything, 1 nothing.",
            "Recommended is the setting of the lowest index among those whose overkill on held-out normal "
            "photos is not shown to exceed what was asked for; the configured dials stay unless the gain "
            "is shown with 95 % confidence (Student, one-sided).",
        ],
        result=[
            Section("recommendation", [_sentence(choice.reason)]),
            Section(
                "suppression index",
                [
                    *_surfaces(
                        studied,
                        lambda one: one.index,
                        "suppression index, mean over seeds, with its standard error",
                        3,
                        lambda one: f"\N{PLUS-MINUS SIGN} {one.error:.3f}",
                    ),
                    *_lines(studied),
                ],
            ),
            Section(
                "steadiness on normal photos",
                [
                    *_surfaces(
                        studied,
                        lambda one: one.overkill,
                        "overkill on held-out photos, with its 95 % interval",
                        3,
                        lambda one: "{:.2f} to {:.2f}".format(*one.overkill_interval),
                    ),
                    *_surfaces(
                        studied, lambda one: one.steadiness, "AUROC of held-out against calibration photos", 2
                    ),
                ],
            ),
            Section("which probes the dials move", [_probes(studied)]),
            Section("health of the encoder", _health(studied)),
            *(
                [Section("reconstruction against defects", [_sentence(reconstruction["reading"])])]
                if reconstruction
                else []
            ),
        ],
        limits=[
            "Cells are trained shortly; the index of the finished model differs, and `anomaly probe` "
            "measures it.",
            "Probes are drawn. The setting that sees most of them need not see most of the defects of your "
            "line.",
            "Where the encoder is supervised by synthetic defects (supervised_weight), it has seen the kinds "
            "of marks that probes draw, and the index flatters it.",
            "Alignment, uniformity and effective rank prove no health: an encoder that has lost the feature "
            "that matters can score well on each.",
        ],
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _reconstruction(studied: Studied) -> dict[str, Any] | None:
    options = studied.config.scorers.get("reconstruction")
    return reconstruction_reading(studied.photos, getattr(options, "bottleneck", 32))


def _surfaces(
    studied: Studied,
    value: Callable[[Summary], float],
    legend: str,
    digits: int,
    words: Callable[[Summary], str] = lambda one: "",
) -> list[Markup]:
    """A table of strengths by sizes for each temperature; `words` stand below the value."""
    found = {one.dials: value(one) for one in studied.summaries}
    strengths = sorted({dials.augmentation_strength for dials in found})
    sizes = sorted({dials.embedding_size for dials in found})
    losses = sorted({dials.loss for dials in found})
    low = min(found.values())
    high = max(*found.values(), low + LEAST)
    out = []
    for loss in losses:
        by_place = {
            (d.augmentation_strength, d.embedding_size): v for d, v in found.items() if d.loss == loss
        }
        below = {
            (one.dials.augmentation_strength, one.dials.embedding_size): words(one)
            for one in studied.summaries
            if one.dials.loss == loss
        }
        out.append(
            heat_table(
                [f"{strength:g}" for strength in strengths],
                [f"{size} dimensions" for size in sizes],
                [[by_place.get((s, d), np.nan) for d in sizes] for s in strengths],
                low=low,
                high=high,
                corner=f"strength ({loss})" if len(losses) > 1 else "strength",
                digits=digits,
                legend=legend,
                under=[[below.get((s, d), "") for d in sizes] for s in strengths],
            )
        )
    return out


def _lines(studied: Studied) -> list[Block]:
    """The index over the strength with its standard error, for up to as many sizes as there are tones."""
    loss = studied.choice.best.dials.loss
    shown = [one for one in studied.summaries if one.dials.loss == loss]
    sizes = sorted({one.dials.embedding_size for one in shown})
    if len({one.dials.augmentation_strength for one in shown}) < 2:
        return []
    lines = []
    for size in evenly(sizes, len(LINE_TONES)):
        row = [one for one in shown if one.dials.embedding_size == size]
        index, error = (np.array([getattr(one, part) for one in row]) for part in ("index", "error"))
        x = [one.dials.augmentation_strength for one in row]
        lines.append(Line(f"{size} dimensions", x, index, index - error, index + error))
    return [
        line_chart(lines, x_label="augmentation strength", y_label="suppression index, with standard error")
    ]


def _probes(studied: Studied) -> Table:
    """Visibility of each probe at either end of what the grid turned, and at the recommended dials."""
    best = studied.choice.best.dials
    ends: dict[str, dict[str, float]] = {}
    for dial, told in (("augmentation_strength", "strength {:g}#"), ("embedding_size", "{:g} dimensions#")):
        values = sorted({found[dial] for found in studied.results})
        if len(values) > 1:
            ends |= {told.format(value): {dial: value} for value in (values[0], values[-1])}

    def mean(probe: str, chosen: Sequence[dict[str, Any]]) -> float | None:
        values = [found["visibility"][probe] for found in chosen if probe in found["visibility"]]
        return float(np.mean(values)) if values else None

    def of(**wanted: float) -> list[dict[str, Any]]:
        return [f for f in studied.results if all(f[name] == value for name, value in wanted.items())]

    rows = [
        [
            probe.replace("_", " "),
            *(mean(probe, of(**end)) for end in ends.values()),
            mean(probe, of(**asdict(best))),
        ]
        for probe in sorted({name for found in studied.results for name in found["visibility"]})
    ]
    columns = ["probe", *ends, "recommended#"]
    return Table(columns, rows, "Visibility in the fused score, mean over the other settings and seeds")


def _health(studied: Studied) -> list[Block]:
    """Each diagnostic over the settings, and its reading at the recommended dials."""
    best = studied.choice.best.dials
    at_best = next(f for f in studied.results if all(f[k] == v for k, v in asdict(best).items()))
    readings = [_sentence(told["reading"]) for told in at_best["diagnostics"].values()]
    if "group_accuracy" not in at_best["diagnostics"]:
        readings.append("No groups (lots, variants) are known, so class collapse cannot be followed.")
    names = [name for name in HEALTH if any(name in found["diagnostics"] for found in studied.results)]
    several = len({one.dials.loss for one in studied.summaries}) > 1
    rows: list[list[str | float | None]] = []
    for one in studied.summaries:
        cells = [f for f in studied.results if all(f[k] == v for k, v in asdict(one.dials).items())]
        values = [
            [f["diagnostics"][name]["value"] for f in cells if name in f["diagnostics"]] for name in names
        ]
        dials = f"{one.dials.augmentation_strength:g} {TIMES} {one.dials.embedding_size}"
        setting = dials + (f", {one.dials.loss}" if several else "")
        rows.append([setting, *(float(np.mean(part)) if part else None for part in values)])
    head = f"strength {TIMES} size" + (", loss" if several else "")
    columns = [head, *(f"{name.replace('_', ' ')}#" for name in names)]
    return ["At the recommended dials:", *readings, Table(columns, rows, "Mean over seeds")]
