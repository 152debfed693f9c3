"""Detection on real and drawn products: one table, both configurations, no choice made from test photos.

    python -m pipelines.benchmark [--json] [--seeds 1] [--sets mvtec_bottle,...] [--backbones auto,none]

The MVTec-layout folders are looked for in $ANOMALY_DATA; `sample_data` is always there, and solar cells where
the package elpv-dataset is installed. What is absent is named and left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from anomaly.cli.terminal import TerminalProgress, say
from anomaly.config import DEFAULT_SCORERS, RunConfig
from anomaly.data.layouts import read_samples
from anomaly.evaluation import evaluate
from anomaly.fitting.run import fit
from anomaly.records import Sample
from pipelines.speed.rates import forget_peak, peak_mb

REAL = ("mvtec_bottle", "magnetic_tile", "kolektor_sdd", "bsdata")
DRAWN = ("bracket", "twill")
TURNED = "turned_bracket"
"""The bracket at any angle, drawn by the generator of the sample line for the run."""
CELLS = {"elpv": "mono", "elpv_poly": "poly"}
"""Solar cells by kind. The polycrystalline ones were looked at when every default had been chosen."""
FIGURES = ("image_auroc", "aupro_0.3", "pixel_auroc", "overkill_rate", "escape_rate")


def data_folder(name: str, scratch: Path) -> Path | None:
    """Where the set `name` lies; None where it does not."""
    if name in DRAWN:
        return Path(__file__).parent.parent / "sample_data" / name
    if name == TURNED:
        return _turned(scratch)
    if name in CELLS:
        return _elpv(scratch, name)
    root = os.environ.get("ANOMALY_DATA")
    folder = Path(root) / name if root else None
    return folder if folder and (folder / "train" / "good").is_dir() else None


def _turned(scratch: Path) -> Path:
    generator = Path(__file__).parent.parent / "sample_data" / "generate.py"
    command = [sys.executable, generator, "--out", scratch, "--product", TURNED]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return scratch / TURNED


def _elpv(scratch: Path, name: str) -> Path | None:
    """Solar cells of one kind: probability 0 is good, 1 defective; 70 % of the good are for training."""
    try:
        from elpv_dataset.utils import load_dataset
    except ImportError:
        return None
    import cv2

    images, probabilities, kinds = load_dataset()
    wanted = np.array([str(kind) == CELLS[name] for kind in kinds])
    good = np.flatnonzero(wanted & (probabilities == 0.0))
    bad = np.flatnonzero(wanted & (probabilities == 1.0))
    good = np.random.default_rng(0).permutation(good)
    train = good[: round(0.7 * len(good))]
    folder = scratch / name
    folder.mkdir(exist_ok=True)
    with open(folder / "manifest.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "split", "label"))
        for index in [*good, *bad]:
            cv2.imwrite(str(folder / f"{index}.png"), images[index])
            label = "anomalous" if probabilities[index] else "normal"
            rows.writerow((f"{index}.png", "train" if index in train else "test", label))
    return folder / "manifest.csv"


def mean_difference(samples: list[Sample], size: int = 128) -> float | None:
    """AUROC of the plainest method there is: the largest blurred difference from the mean training photo."""
    import cv2

    from anomaly.data.images import read_image
    from anomaly.metrics import image_auroc

    def small(sample: Sample) -> Any:
        return cv2.resize(read_image(sample.path), (size, size), interpolation=cv2.INTER_AREA).astype(
            np.float32
        )

    mean = np.mean([small(sample) for sample in samples if sample.split == "train"], axis=0)
    test = [sample for sample in samples if sample.split == "test"]
    scores = [cv2.GaussianBlur(np.abs(small(s) - mean).mean(2), (0, 0), 2).max() for s in test]
    return image_auroc(np.array(scores), np.array([s.label == "anomalous" for s in test]))


def run_one(folder: Path, backbone: str, seed: int, model: Path, overrides: list[str]) -> dict[str, Any]:
    """Fit `model` and evaluate it once."""
    settings = [f"backbone={backbone}", f"seed={seed}", "tracking.enabled=false", *overrides]
    progress = TerminalProgress()
    forget_peak()
    with progress.running():
        start = time.monotonic()
        fitted = fit(folder, model, RunConfig.load(None, settings), overwrite=True, progress=progress)
        fit_seconds = time.monotonic() - start
        samples = read_samples(folder)
        test = [sample for sample in samples if sample.split == "test"]
        start = time.monotonic()
        for sample in test[:50]:
            fitted.bundle.detector.score(fitted.bundle.detector.read(sample.path))
        rate = min(50, len(test)) / (time.monotonic() - start)
        metrics = evaluate(fitted.bundle, samples, progress=progress)
    costs = {"fit_seconds": fit_seconds, "photos_per_second": rate, "peak_mb": peak_mb()}
    angles = {"any_angle": fitted.result.any_angle, "cut_out": fitted.result.cut_out}
    return {**metrics, **costs, **angles}


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sets", default=",".join((*REAL, *CELLS, *DRAWN, TURNED)))
    parser.add_argument("--backbones", default="auto,none")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--keep", type=Path, help="Folder that gets each set's last model, by its name.")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.sets.split(","):
            folder = data_folder(name, Path(scratch))
            if folder is None:
                say(f"{name}: not here, left out (set ANOMALY_DATA, or install elpv-dataset)")
                continue
            plain = mean_difference(read_samples(folder))
            for backbone in options.backbones.split(","):
                runs = []
                for seed in range(options.seeds):
                    say(f"{name}, backbone {backbone}, seed {seed}")
                    model = (options.keep or Path(scratch) / "models") / name
                    runs.append(run_one(folder, backbone, seed, model, options.overrides))
                rows.append({"set": name, "backbone": backbone, "mean_difference": plain, **summarise(runs)})
                if options.json:
                    sys.stdout.write(json.dumps(rows[-1]) + "\n")
                    sys.stdout.flush()
                else:
                    say(line(rows[-1]))
    if not options.json:
        print(table(rows, options.seeds))


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds of every figure, the standard deviation of the image AUROC, and of each seed
    whether its fit learnt from turned copies, or turned the photos."""

    def mean(values: list[Any]) -> float | None:
        return None if any(value is None for value in values) else float(np.mean(values))

    figures = {
        name: mean([run[name] for run in runs]) for name in (*FIGURES, "fit_seconds", "photos_per_second")
    }
    branches = {name: mean([run["branches"][name] for run in runs]) for name in runs[0]["branches"]}
    types = {
        kind: mean([run["per_defect_type"][kind]["image_auroc"] for run in runs])
        for kind in runs[0]["per_defect_type"]
    }
    peak = max(run["peak_mb"] for run in runs)
    spread = float(np.std([run["image_auroc"] for run in runs]))
    angles = {name: [run[name] for run in runs] for name in ("any_angle", "cut_out")}
    return {
        **figures, "std": spread, "branches": branches, "types": types, "peak_mb": peak, **angles
    }  # fmt: skip


def table(rows: list[dict[str, Any]], seeds: int) -> str:
    """The rows as a Markdown table with the machine and the date."""
    head = (
        f"| set | backbone | image AUROC | std | AUPRO .3 | {' | '.join(DEFAULT_SCORERS)} "
        "| mean difference | overkill | escapes | fit s | photos/s |\n|" + "---|" * 14
    )
    where = f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, {seeds} seed(s)"
    return "\n".join([head, *(line(row) for row in rows), "", where])


def line(row: dict[str, Any]) -> str:
    """One row of the table."""

    def figure(value: float | None, digits: int = 3) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    cells = [
        row["set"],
        row["backbone"],
        figure(row["image_auroc"]),
        figure(row["std"]),
        figure(row["aupro_0.3"]),
        *(figure(row["branches"].get(branch)) for branch in DEFAULT_SCORERS),
        figure(row["mean_difference"]),
        figure(row["overkill_rate"]),
        figure(row["escape_rate"]),
        figure(row["fit_seconds"], 0),
        figure(row["photos_per_second"], 1),
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
