"""Exports held against torch on every photo of every set: scores, verdicts, and what a precision costs.

    python -m pipelines.exports [--json] [--sets mvtec_bottle,...] [--models FOLDER] [--runtimes ...]

A model is taken from FOLDER/<set>, and fitted there where it is not. In float32 each score must lie within
0.001 of torch and each verdict must be the same, of both graphs of the export; the exit code is 1 where that
does not hold. Of lower precisions the loss is shown, and whether `anomaly export` would keep them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from anomaly.bundle import Bundle, read_bundle
from anomaly.cli.terminal import TerminalProgress, say
from anomaly.config import RunConfig
from anomaly.data.layouts import read_samples
from anomaly.export.loss import Loss, measure_losses
from anomaly.export.runtimes import FULL, VARIANTS, load_graph
from anomaly.export.verify import BranchScorer, Score, WholeScorer
from anomaly.export.write import write_branches, write_whole
from anomaly.fitting.run import fit
from anomaly.records import Sample
from pipelines.benchmark import CELLS, DRAWN, REAL, data_folder


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sets", default=",".join((*REAL, *CELLS, *DRAWN)))
    parser.add_argument("--models", type=Path, help="Folder of models, one for each set, by its name.")
    parser.add_argument("--runtimes", default=",".join(VARIANTS))
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    if not options.json:
        print(
            "| set | runtime | photos | largest deviation | verdicts changed | AUROC | lost | kept |\n"
            + "|" + "---|" * 8
        )  # fmt: skip
    whole = True
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.sets.split(","):
            data = data_folder(name, Path(scratch))
            if data is None:
                say(f"{name}: not here, left out (set ANOMALY_DATA, or install elpv-dataset)")
                continue
            bundle = model_of(name, data, options.models or Path(scratch), options.overrides)
            found = losses(bundle, read_samples(data), options.runtimes.split(","))
            for runtime, loss in found.items():
                whole = whole and (loss.precision != FULL or loss.trouble is None)
                print(json.dumps(row(name, runtime, loss)) if options.json else line(name, runtime, loss))
                sys.stdout.flush()
    sys.exit(0 if whole else 1)


def model_of(name: str, data: Path, models: Path, overrides: list[str]) -> Bundle:
    """The model of one set, fitted if it is not there."""
    if not (models / name).exists():
        say(f"fitting {name}")
        progress = TerminalProgress()
        with progress.running():
            settings = ["tracking.enabled=false", *overrides]
            fit(data, models / name, RunConfig.load(None, settings), progress=progress)
    return read_bundle(models / name)


def losses(bundle: Bundle, samples: list[Sample], runtimes: list[str]) -> dict[str, Loss]:
    """Each runtime beside torch; in float32 also the graph that does everything."""
    progress, threads = TerminalProgress(), torch.get_num_threads()
    scorers: dict[str, Score] = {}
    with tempfile.TemporaryDirectory() as scratch, progress.running():
        for runtime in runtimes:
            graph, precision = VARIANTS[runtime]
            folder = Path(scratch) / runtime
            folder.mkdir()
            path = write_branches(bundle, graph, precision, folder, samples)
            scorers[runtime] = BranchScorer(bundle.detector, load_graph(runtime, path, threads))
            if precision == FULL:
                path = write_whole(bundle, graph, folder)
                scorers[f"{runtime} alone"] = WholeScorer(bundle.detector, load_graph(runtime, path, threads))
        return measure_losses(bundle, samples, scorers, progress)


def row(name: str, runtime: str, loss: Loss) -> dict[str, Any]:
    """One runtime on one set."""
    found = asdict(loss) | {"auroc_loss": loss.auroc_loss, "trouble": loss.trouble}
    return {"set": name, "runtime": runtime, **found}


def line(name: str, runtime: str, loss: Loss) -> str:
    """The same as a row of the table."""
    auroc = loss.image_auroc[runtime]
    figures = ["-" if value is None else f"{value:.4f}" for value in (auroc, loss.auroc_loss)]
    cells = [name, runtime, loss.photos, f"{loss.deviation:.1e}", loss.verdicts_changed, *figures]
    return "| " + " | ".join(map(str, [*cells, loss.trouble or "yes"])) + " |"


if __name__ == "__main__":
    main()
