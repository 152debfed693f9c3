"""Does the visibility that probes predict hold on real defects?

    python -m pipelines.visibility_study --out OUT [--sets mvtec_bottle,...] [--strengths 0,0.3,1] [--json]

Models are fitted shortly with different dials on the good photos of each set, probed on held-out good
photos, and only then shown the real defects. The sets are MVTec folders in $ANOMALY_DATA. Stopped, it goes on
from the cells that are done. Which probe stands for which type was fixed in `STANDS_FOR` before any result.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from anomaly.cli.terminal import TerminalProgress, say
from anomaly.config import RunConfig
from anomaly.data.layouts import read_samples
from anomaly.detector import Detector, use_threads
from anomaly.errors import AnomalyError, DataError
from anomaly.metrics import image_auroc
from anomaly.probes import chosen
from anomaly.records import Sample
from anomaly.report.charts import Points, line_chart
from anomaly.report.filed import FiledReport, Section, Table, file_report
from anomaly.study.cell import run_cell
from anomaly.study.cells import Dials, Task, grid
from anomaly.study.choice import recommend, summarise
from anomaly.study.prepare import prepare
from anomaly.visibility.measure import FUSED

STANDS_FOR = {
    "mvtec_bottle": {
        "broken_large": "missing_part",
        "broken_small": "missing_part",
        "contamination": "stain",
    },
    "magnetic_tile": {
        "blowhole": "spot",
        "break": "missing_part",
        "crack": "crack",
        "fray": "swapped_texture",
        "uneven": "fade",
    },
    "kolektor_sdd": {"defect": "crack"},
    "bsdata": {"pitting": "spot", "pitting_trainplace": "spot"},
}
EMBEDDING = "embedding"
GOOD, PROBED, MAGNITUDES = 60, 6, 2
NORMAL, OF_A_TYPE = 24, 10
"""Test photos, at most."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(STANDS_FOR))
    parser.add_argument("--strengths", default="0,0.3,1")
    parser.add_argument("--sizes", default="8,256")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    use_threads(1)
    progress = TerminalProgress()
    found = {}
    try:
        with progress.running():
            for name in options.sets.split(","):
                found[name] = one_set(name, options, progress)
    except AnomalyError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return 130
    result = summary(found)
    page = file_report(options.out, report(found, result), result)
    if options.json:
        print(json.dumps(result))
    else:
        print(json.dumps({key: value for key, value in result.items() if key != "points"}, indent=1))
    say(f"report: {page}")
    return 0


def one_set(name: str, options: argparse.Namespace, progress: TerminalProgress) -> list[dict[str, Any]]:
    """The results of all cells of one set, real defects under "more"."""
    root = os.environ.get("ANOMALY_DATA")
    if name not in STANDS_FOR or not root or not (Path(root) / name).is_dir():
        raise DataError(
            f"{name} is not in $ANOMALY_DATA ({root}): leave it out of --sets, or set the variable"
        )
    samples = read_samples(Path(root) / name)
    config = RunConfig.load(
        None, [f"image.image_size={options.image_size}", "tracking.enabled=false", "picture_steps=0"]
    )
    folder = options.out / name
    train, held_out, sized = prepare(samples, config, folder / "photos", GOOD, progress)
    probes = tuple(one.name for one in chosen())
    cells = grid(
        sized,
        [float(part) for part in options.strengths.split(",")],
        [int(part) for part in options.sizes.split(",")],
        [config.contrastive.temperature],
        [config.contrastive.supervised_weight],
        1,
    )
    results = []
    for cell in cells:
        task = Task(cell, sized, tuple(train), tuple(held_out), probes, PROBED, MAGNITUDES, folder.resolve())
        results.append(run_cell(task, progress, lambda detector: real_aurocs(detector, samples)))
        say(f"{name}, {cell.dials}: {results[-1]['more']}")
    return results


def real_aurocs(detector: Detector, samples: Sequence[Sample]) -> dict[str, dict[str, float | None]]:
    """Defect type -> scorer -> AUROC against the normal test photos."""
    test = [sample for sample in samples if sample.split == "test"]
    kinds = sorted({s.defect_type or "" for s in test if s.label == "anomalous"})
    normal = _scores(detector, _some([s for s in test if s.label == "normal"], NORMAL))
    out: dict[str, dict[str, float | None]] = {}
    for kind in kinds:
        bad = _scores(detector, _some([s for s in test if s.defect_type == kind], OF_A_TYPE))
        out[kind] = {
            name: image_auroc(
                [row[name] for row in (*normal, *bad)], np.repeat([0, 1], [len(normal), len(bad)])
            )
            for name in (EMBEDDING, FUSED)
        }
    return out


def _scores(detector: Detector, samples: Sequence[Sample]) -> list[dict[str, float]]:
    scored = [detector.score(detector.read(sample.path)) for sample in samples]
    return [{**scores.branch_scores, FUSED: scores.image_score} for scores in scored]


def _some(samples: list[Sample], most: int) -> list[Sample]:
    return [samples[i] for i in np.unique(np.linspace(0, len(samples) - 1, most).round().astype(int))]


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Points, rank correlations, and what the recommended dials are worth on real defects."""
    points = [
        {
            "set": name,
            "type": kind,
            "probe": STANDS_FOR[name][kind],
            "strength": one["augmentation_strength"],
            "size": one["embedding_size"],
            "scorer": scorer,
            "predicted": one["visibility_by_scorer"][scorer].get(STANDS_FOR[name][kind]),
            "mean_visibility": 1 - one["suppression_by_scorer"][scorer],
            "auroc": aurocs[scorer],
        }
        for name, results in found.items()
        for one in results
        for kind, aurocs in one["more"].items()
        for scorer in (EMBEDDING, FUSED)
    ]
    out: dict[str, Any] = {"points": points, "spearman": {}, "recommended": {}}
    for scorer in (EMBEDDING, FUSED):
        of = [p for p in points if p["scorer"] == scorer]
        kinds = sorted({(p["set"], p["type"]) for p in of})
        within = [_rank(p for p in of if (p["set"], p["type"]) == kind) for kind in kinds]
        known = [value for value in within if value is not None]
        out["spearman"][scorer] = {
            "all points, the probe that stands for the type": _rank(of),
            "all points, mean visibility": _rank(of, "mean_visibility"),
            "between models, within a type, mean over types": float(np.mean(known)) if known else None,
            "between models, mean visibility, within a set": {
                name: _rank(_by_model(of, name), "mean_visibility") for name in found
            },
        }
    for name, results in found.items():
        config = RunConfig()
        choice = recommend(summarise(results), Dials.of(config), config.calibration.target_fpr)
        real = {
            Dials(**{dial: one[dial] for dial in Dials.__dataclass_fields__}): float(
                np.mean([aurocs[FUSED] for aurocs in one["more"].values()])
            )
            for one in results
        }
        out["recommended"][name] = {
            "dials": str(choice.best.dials),
            "auroc": real[choice.best.dials],
            "default": real.get(Dials.of(config)),
            "worst": min(real.values()),
            "best": max(real.values()),
        }
    return out


def _by_model(points: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """One point for each model of a set: mean AUROC over its types."""
    models = sorted({(p["strength"], p["size"]) for p in points if p["set"] == name})
    groups = [[p for p in points if p["set"] == name and (p["strength"], p["size"]) == m] for m in models]
    return [
        {"mean_visibility": group[0]["mean_visibility"], "auroc": float(np.mean([p["auroc"] for p in group]))}
        for group in groups
    ]


def _rank(points: Any, key: str = "predicted") -> float | None:
    """Spearman's rank correlation of `key` with the real AUROC; None where one of them never changes."""
    pairs = [(p[key], p["auroc"]) for p in points if p[key] is not None]
    x, y = zip(*pairs, strict=True) if pairs else ((), ())
    if len(pairs) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return float(spearmanr(x, y).statistic)


def report(found: dict[str, list[dict[str, Any]]], result: dict[str, Any]) -> FiledReport:
    """The scatter of all points by set, and the tables."""
    parts = []
    for scorer in (FUSED, EMBEDDING):
        of = [p for p in result["points"] if p["scorer"] == scorer and p["predicted"] is not None]
        dots = [
            Points(
                name,
                [p["predicted"] for p in of if p["set"] == name],
                [p["auroc"] for p in of if p["set"] == name],
            )
            for name in found
        ]
        label = "visibility of the probe that stands for the type"
        chart = line_chart([], x_label=label, y_label="AUROC on real defects", points=dots)
        told = {
            key: value for key, value in result["spearman"][scorer].items() if not isinstance(value, dict)
        }
        within = result["spearman"][scorer]["between models, mean visibility, within a set"]
        parts.append(
            Section(f"{scorer} score", [chart, {**told, **{f"within {k}": v for k, v in within.items()}}])
        )
    rows = [
        [name, one["dials"], one["auroc"], one["default"], one["worst"], one["best"]]
        for name, one in result["recommended"].items()
    ]
    columns = ["set", "recommended", "AUROC there#", "at the default#", "worst#", "best#"]
    parts.append(Section("the dials that probes recommend, on real defects", [Table(columns, rows)]))
    pooled = result["spearman"][FUSED]["all points, the probe that stands for the type"]
    return FiledReport(
        title="Predicted visibility against real defects",
        subject=", ".join(found),
        answer="Rank correlation of predicted visibility and real AUROC: "
        + ("cannot be told." if pooled is None else f"{pooled:.2f}."),
        asked=["Do probes on good photos predict which real defects a model sees?"],
        data=[f"{', '.join(found)}; at most {NORMAL} normal photos and {OF_A_TYPE} of each defect type."],
        method=[
            "Each point is one defect type under one setting of the dials. Spearman's rank correlation.",
            Table(
                ["set", "defect type", "probe"],
                [[name, kind, probe] for name in found for kind, probe in STANDS_FOR[name].items()],
            ),
        ],
        result=parts,
        limits=["Short training and few photos: an AUROC from ten defects has a standard error of up to .1."],
    )


if __name__ == "__main__":
    sys.exit(main())
