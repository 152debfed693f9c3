"""The feature-visibility report of one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anomaly.bundle import Bundle
from anomaly.data.foreground import foregrounds
from anomaly.detector import Photo
from anomaly.inspection.drawing import colour_ceiling
from anomaly.inspection.writer import model_facts
from anomaly.render import jpeg_bytes, overlay, thumbnail
from anomaly.report.charts import heat_table
from anomaly.report.filed import Block, FiledReport, Pictures, Section, Table
from anomaly.visibility.measure import FUSED, Graded, Measured, generator
from anomaly.visibility.reading import FEWEST, answer, interval, magnitude, remedies
from anomaly.visibility.reading import photos as photos_of

SIDE = 320
"""Long side of a picture in the report, px."""
SUPERVISED = (
    "The encoder was supervised by synthetic defects of the kinds that probes draw (supervised_weight): the "
    "index flatters it."
)
TURNED_UPRIGHT = (
    "The product lies at any angle and is turned upright before it is judged: where it lies is normal to it."
)
TURNED = "The product lies at any angle, and the model learnt from turned photos: turning is normal to it."
FEW = 10
"""Photos below which the report warns."""


def figures(measured: Measured, px_per_mm: float | None = None) -> dict[str, Any]:
    """Everything measured, as JSON; sizes in mm as well where the width of a pixel is known."""
    return {
        "suppression_index": measured.index(),
        "suppression_index_interval": interval(measured),
        "photos": photos_of(measured),
        "scorers": {
            name: {"suppression_index": measured.index(name), "interval": interval(measured, name)}
            for name in measured.scorers
        },
        "probes": {
            graded.probe.name: {
                "kind": graded.probe.kind,
                "unit": graded.probe.unit,
                "contrast": graded.probe.contrast,
                "magnitudes": graded.magnitudes,
                **(
                    {"magnitudes_mm": [value / px_per_mm for value in graded.magnitudes]}
                    if px_per_mm and graded.probe.unit == "px"
                    else {}
                ),
                "scorers": {
                    name: {
                        "visibility": seen.visibility,
                        "passes_at": seen.passes_at,
                        "auroc": seen.auroc,
                        "auroc_interval": seen.intervals if photos_of(measured) >= FEWEST else None,
                    }
                    for name, seen in graded.seen.items()
                },
            }
            for graded in measured.graded
        },
        "without_effect": measured.without_effect,
    }


def metrics(measured: Measured) -> dict[str, float]:
    """What the model's MLflow run is told."""
    return {
        "suppression_index": measured.index(),
        **{f"suppression_index.{name}": measured.index(name) for name in measured.scorers},
        **{
            f"visibility.{name}.{graded.probe.name}": seen.visibility
            for graded in measured.graded
            for name, seen in graded.seen.items()
        },
    }


def visibility_report(
    bundle: Bundle,
    measured: Measured,
    photos: Sequence[Photo],
    names: Sequence[str],
    *,
    seed: int,
    px_per_mm: float | None = None,
    left_out: Sequence[str] = (),
) -> FiledReport:
    """`names` are the photos' file names, `left_out` sentences on those that could not be read."""
    detector = bundle.detector
    tried = remedies(measured, detector.config, detector.geometry.image_size)
    without = ", ".join(measured.without_effect)
    facts = model_facts(bundle)
    turned = TURNED_UPRIGHT if detector.geometry.upright else TURNED
    n = len(photos)
    warnings = [f"Only {n} photos: {'they have no' if n < FEWEST else 'wide'} intervals."] if n < FEW else []
    return FiledReport(
        title="Feature visibility",
        subject=bundle.path.name,
        answer=answer(measured),
        cards=[
            {
                "value": f"{measured.index():.2f}",
                "label": "suppression index",
                "note": _between(interval(measured)),
            },
            *(
                {
                    "value": f"{measured.index(name):.2f}",
                    "label": f"{name} alone",
                    "note": _between(interval(measured, name)),
                }
                for name in measured.scorers
                if name != FUSED
            ),
            {"value": str(n), "label": "held-out photos"},
        ],
        warnings=[*warnings, *left_out],
        asked=[
            "Which changes of the product does this model see, from which magnitude on, and to which is it "
            "blind?",
            facts,
        ],
        data=[
            f"{n} normal photos that the model was neither trained nor calibrated with.",
            Table(["photo"], [[name] for name in names]),
        ],
        method=[
            "Each photo is changed by each probe at each magnitude, inside the product, and scored untouched "
            "and changed. AUROC is the share of pairs in which the changed photo scores higher; a probe is "
            "seen from the magnitude on at which it stays at .9 or more.",
            "Visibility of a probe is the mean over its magnitudes of max(0, 2 AUROC - 1); the suppression "
            "index is 1 minus the mean visibility over probes: 0 sees everything that was tried, 1 nothing.",
        ],
        result=[
            *([Section("what to try", tried)] if tried else []),
            *(
                Section(f"AUROC of the {_called(name)}", _grid(measured, name, px_per_mm))
                for name in _order(measured)
            ),
            Section("from which magnitude on a probe is seen", [_passing(measured, px_per_mm)]),
            Section("examples", _examples(bundle, measured, photos, names, seed)),
        ],
        limits=[
            "Probes are drawn. They show which changes a model reacts to; they are no sample of the defects "
            "that your line makes.",
            *([SUPERVISED] if detector.config.supervised_weight else []),
            *([turned] if facts["at_any_angle"] == "yes" else []),
            "A change that is normal for the product, such as its position, should be invisible: leave such "
            "probes out with --probes, or read the index without them.",
            "The untouched and the changed photos are the same photos; the intervals of AUROC take them for "
            "different ones, which makes them wider than they need be.",
            *([f"Not on these photos, and not in the index: {without}."] if without else []),
        ],
    )


def _between(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def _called(scorer: str) -> str:
    return "fused score, which decides" if scorer == FUSED else f"{scorer} branch"


def _order(measured: Measured) -> list[str]:
    return [FUSED, *(name for name in measured.scorers if name != FUSED)]


def _grid(measured: Measured, scorer: str, px_per_mm: float | None) -> list[Block]:
    most = max(len(graded.magnitudes) for graded in measured.graded)
    known = photos_of(measured) >= FEWEST
    rows = [_row_name(graded, px_per_mm) for graded in measured.graded]
    under = [
        [_between(ends) if known else "" for ends in graded.seen[scorer].intervals]
        + [""] * (most - len(graded.magnitudes))
        for graded in measured.graded
    ]
    values = [
        [*graded.seen[scorer].auroc, *[float("nan")] * (most - len(graded.magnitudes))]
        for graded in measured.graded
    ]
    columns = ["weakest", *(str(k) for k in range(2, most)), "strongest"][:most]
    return [
        heat_table(
            rows,
            columns,
            values,
            low=0.5,
            high=1.0,
            corner="probe and magnitudes",
            digits=2,
            legend="AUROC with its 95 % interval" if known else "AUROC",
            under=under,
        )
    ]


def _row_name(graded: Graded, px_per_mm: float | None) -> str:
    levels = ", ".join(f"{value:g}" for value in graded.magnitudes)
    contrast = f" at {graded.probe.contrast:g} grey levels" if graded.probe.contrast else ""
    mm = ""
    if px_per_mm and graded.probe.unit == "px":
        mm = f" ({', '.join(f'{value / px_per_mm:.3g}' for value in graded.magnitudes)} mm)"
    return f"{graded.probe.name.replace('_', ' ')}: {levels} {graded.probe.unit}{mm}{contrast}"


def _passing(measured: Measured, px_per_mm: float | None) -> Table:
    order = _order(measured)
    rows = []
    for graded in measured.graded:
        row: list[str | float] = [graded.probe.name.replace("_", " ")]
        for name in order:
            text, at = magnitude(graded, name), graded.seen[name].passes_at
            if px_per_mm and at is not None and graded.probe.unit == "px":
                text += f" ({at / px_per_mm:.3g} mm)"
            row.append(text)
        seen = graded.seen[FUSED]
        known = photos_of(measured) >= FEWEST
        strongest = f"{seen.auroc[-1]:.2f}" + (f" ({_between(seen.intervals[-1])})" if known else "")
        rows.append([*row, seen.visibility, strongest])
    return Table(["probe", *order, "visibility#", "AUROC at the strongest, 95 %#"], rows)


def _examples(
    bundle: Bundle, measured: Measured, photos: Sequence[Photo], names: Sequence[str], seed: int
) -> list[Block]:
    """Each probe once, best seen last, on photos in turn, at the magnitude nearest to where it is seen."""
    detector = bundle.detector
    policy = detector.policy
    threshold = policy.cut.threshold
    ceiling = colour_ceiling(policy.normal_scores, threshold)
    areas = foregrounds(photos)
    blocks: list[Block] = []
    for turn, graded in enumerate(sorted(measured.graded, key=lambda one: one.seen[FUSED].visibility)):
        i = turn % len(photos)
        seen = graded.seen[FUSED]
        at = graded.magnitudes[-1] if seen.passes_at is None else seen.passes_at
        k = int(np.argmin(np.abs(np.log(np.array(graded.magnitudes) / at))))
        level = graded.magnitudes[k]
        changed, _ = graded.probe.apply(photos[i], areas[i], level, generator(seed, graded.probe.name, i))
        seen_map = policy.seen(detector.full_map(detector.score(changed), changed))
        heat = overlay(changed, seen_map, threshold, ceiling)
        pictures = (
            ("untouched", photos[i]),
            ("changed", changed),
            ("anomaly map of the changed photo", heat),
        )
        blocks.append(
            Pictures(
                f"{graded.probe.name.replace('_', ' ')}, {level:g} {graded.probe.unit}, on {names[i]}",
                [(caption, jpeg_bytes(thumbnail(picture, SIDE))) for caption, picture in pictures],
                f"AUROC {seen.auroc[k]:.2f} at this magnitude, visibility {seen.visibility:.2f}. "
                + str(graded.probe.__doc__).partition("\n")[0],
            )
        )
    return blocks
