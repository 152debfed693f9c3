"""Does the visibility that probes predict hold on real defects, and are the recommended dials better there?

    python -m pipelines.visibility_study --out OUT [--sets mvtec_bottle,...] [--strengths 0,0.3] [--json]

Models are fitted shortly with different dials on the good photos of each set, probed on held-out good
photos, and only then shown real defects. The sets are MVTec folders in $ANOMALY_DATA; see
`pipelines.dials.sets`. Cells are run in turns over the sets and leave a file each, so a run that was stopped
at any moment goes on from there, and `--only-done` tells what the finished ones say. All cells that lie in
OUT count, so give each other grid or training a folder of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

from anomaly.cli.terminal import TerminalProgress, say
from anomaly.config import RunConfig
from anomaly.detector import Detector, Photo, use_threads
from anomaly.errors import AnomalyError, ConfigError
from anomaly.models.training import Progress
from anomaly.probes import chosen
from anomaly.report.filed import file_report
from anomaly.study.cell import run_cell
from anomaly.study.cells import Task, grid
from anomaly.study.prepare import prepare
from anomaly.visibility.measure import FUSED
from pipelines.dials.agreement import EMBEDDING, summary
from pipelines.dials.page import report
from pipelines.dials.sets import SETS, load, shown
from pipelines.dials.twins import drawn

GOOD, PROBED, MAGNITUDES = 60, 8, 3
CHEAP = (
    "tracking.enabled=false",
    "picture_steps=0",
    "contrastive.steps=100",
    "contrastive.patches=128",
    "contrastive.views=16",
    "scorers.embedding.bank_size=2000",
    "scorers.reconstruction.steps=40",
)
"""What lets a cell end within seconds; the same for all."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--strengths", default="0.3,1,0")
    parser.add_argument("--sizes", default="256,4,16,64")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--image-size", type=int, help="instead of the size of each set")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--only-done", action="store_true", help="report finished cells, run none")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    use_threads(1)
    progress = TerminalProgress()
    names = options.sets.split(",")
    try:
        if not options.only_done:
            with progress.running():
                run_all(names, options, progress)
        found = {name: results for name in names if (results := done(options.out / name))}
        if not found:
            raise ConfigError(f"no cell in {options.out} is done: leave --only-done out")
    except AnomalyError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return 130
    result = summary(found, RunConfig.load(None, options.overrides))
    page = file_report(options.out, report(found, result), result)
    short = {key: value for key, value in result.items() if key not in ("points", "surfaces")}
    print(json.dumps(result) if options.json else json.dumps(short, indent=1))
    say(f"report: {page}")
    return 0


def run_all(names: Sequence[str], options: argparse.Namespace, progress: Progress) -> None:
    """Run the cells that are not done, in turns over the sets."""
    ready = [Cells(name, options, progress) for name in names]
    for turn in zip_longest(*(cells.tasks for cells in ready)):
        for cells, task in zip(ready, turn, strict=True):
            if task is not None and not task.result.exists():
                found = run_cell(task, progress, cells.real_scores)
                say(f"{cells.name}, {task.cell.dials}: {found['seconds']} s")


def done(folder: Path) -> list[dict[str, Any]]:
    """The results of all finished cells in the folder of a set."""
    return [json.loads(path.read_text()) for path in sorted((folder / "cells").glob("*.json"))]


class Cells:
    """The cells of one set, and the photos that they share."""

    def __init__(self, name: str, options: argparse.Namespace, progress: Progress) -> None:
        samples = load(name)
        size = options.image_size or SETS[name].image_size
        config = RunConfig.load(None, [f"image.image_size={size}", *CHEAP, *options.overrides])
        folder = options.out / name
        photos = prepare(samples, config, folder / "photos", GOOD, PROBED, progress)
        self.name = name
        self.test, self.catalogue = shown(samples, photos.geometry, folder / "test")
        self.held_out = photos.held_out
        probes = tuple(one.name for one in chosen())
        cells = grid(
            photos.config,
            [float(part) for part in options.strengths.split(",")],
            [int(part) for part in options.sizes.split(",")],
            [config.contrastive.temperature],
            [config.supervised_weight],
            options.seeds,
        )
        self.tasks = [
            Task(cell, photos, probes, MAGNITUDES, folder.resolve(), diagnosed=False) for cell in cells
        ]

    def real_scores(self, detector: Detector) -> dict[str, Any]:
        """Scores of each test photo with its type and place, of drawn twins of each type's defects and of the
        photos these are drawn on, untouched, and the median size of the type's defects."""
        stands_for = SETS[self.name].stands_for
        photos = [detector.read(sample.path) for sample in self.held_out]
        described = [(kind, known) for kind, known in self.catalogue.items() if known]
        return {
            "photos": [
                {
                    "type": sample.defect_type if sample.label == "anomalous" else None,
                    "place": sample.group or sample.path.stem,
                    **_scored(detector, detector.read(sample.path)),
                }
                for sample in self.test
            ],
            "untouched": [_scored(detector, photo) for photo in photos],
            "twins": {
                kind: [_scored(detector, twin) for twin in drawn(photos, probe, self.catalogue.get(kind, ()))]
                for kind, probe in stands_for.items()
            },
            "sizes": {kind: median(one.size for one in known) for kind, known in described},
            "contrasts": {kind: median(one.contrast for one in known) for kind, known in described},
        }


def _scored(detector: Detector, photo: Photo) -> dict[str, float]:
    scores = detector.score(photo)
    return {EMBEDDING: scores.branch_scores[EMBEDDING], FUSED: scores.image_score}


if __name__ == "__main__":
    sys.exit(main())
