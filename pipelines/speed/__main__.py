"""How fast photos are judged, from decoding to written verdict, beside the backbone alone in each runtime.

    python -m pipelines.speed [--json] [--set bracket] [--python ANOMALIB_PYTHON] [--out FOLDER]

Fits models with few training steps (speed does not depend on them), exports them, and measures every runtime
in a process of its own. Rates are photos a second on all cores, memory is the peak of the process. With the
Python of an environment that has anomalib, its PatchCore runs on the same photos and weights. Run it on a
machine that does nothing else; it takes about ten minutes. `--set` takes the names of `pipelines.benchmark`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anomaly.bundle import Bundle
from anomaly.cli.terminal import say
from anomaly.errors import AnomalyError
from pipelines.benchmark import data_folder
from pipelines.speed import QUICK, bank, beside, limits, profile, rates, tables

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = "96:none"
"""The model whose memory and time are measured over many photos: those depend on the stream, not on it."""


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.speed", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--set", default="bracket", dest="data")
    parser.add_argument(
        "--models",
        default="256:auto,256:auto:fast,auto:auto,256:none",
        help="SIZE:BACKBONE[:FILE], ...; FILE is one of configs/, without its suffix",
    )
    parser.add_argument("--runtimes", default="torch,onnxruntime,openvino,openvino-bfloat16,onnxruntime-int8")
    parser.add_argument("--photos", type=int, default=100, help="photos for each rate")
    parser.add_argument("--many", default="500,20000", help="numbers of photos; empty: not measured")
    parser.add_argument("--banks", default=",".join(map(str, bank.SIZES)))
    parser.add_argument("--python", type=Path, help="Python of an environment that has anomalib.")
    parser.add_argument("--out", type=Path, help="folder for the report with its plots")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options, Path(scratch))
    if options.out:
        say(str(tables.report(found, options.out)))
    print(json.dumps(found) if options.json else tables.markdown(found))


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything, one process after the other."""
    data = data_folder(options.data, scratch)
    if data is None:
        sys.exit(f"{options.data} is not here: set ANOMALY_DATA, or take --set bracket")
    found: dict[str, Any] = {
        "set": options.data,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "rates": [],
        "stages": [],
        "limits": [],
        "many": [],
        "beside": [],
    }
    for name in options.models.split(","):
        bundle = fitted(name, data, scratch)
        runtimes = [runtime for runtime in options.runtimes.split(",") if exported(bundle, runtime)]
        rows = [rates.of(bundle.path, runtime, data / "test", options.photos) for runtime in runtimes]
        found["rates"] += [{"model": name, **row} for row in rows]
        best = max(rows, key=lambda row: row["rate"])
        found["stages"].append({"model": name, **profile.stages(bundle, data / "test", best["runtime"])})
        found["limits"].append({"model": name, **best, **limits.of(bundle, data / "test")})
        if options.python and name == options.models.split(",")[0]:
            say("anomalib beside it")
            found["beside"] = beside.patchcore(options.python, data, bundle, best["rate"], scratch)
    counts = [int(count) for count in options.many.split(",") if count]
    if counts:
        small = fitted(SMALL, data, scratch)
        for count in counts:
            say(f"{count} photos in one run")
            found["many"].append(rates.many(small.path, data / "train", count))
    say("search of memory banks")
    found["bank"] = bank.curve([int(size) for size in options.banks.split(",") if size])
    return found


def fitted(name: str, data: Path, scratch: Path) -> Bundle:
    """A model SIZE:BACKBONE[:FILE] with few training steps."""
    from anomaly.config import RunConfig
    from anomaly.fitting.run import fit

    say(f"fitting {name}")
    size, backbone, *files = name.split(":")
    path = CONFIGS / f"{files[0]}.yaml" if files else None
    branches = RunConfig.load(path).scorers
    quick = [one for one in QUICK if not one.startswith("scorers.") or one.split(".")[1] in branches]
    settings = [*quick, f"image.image_size={size}", f"backbone={backbone}"]
    return fit(data, scratch / name.replace(":", "_"), RunConfig.load(path, settings)).bundle


def exported(bundle: Bundle, runtime: str) -> bool:
    """Export the model for a runtime; False, and said why, where that cannot be."""
    from anomaly.export.runtimes import RUNTIMES, VARIANTS
    from anomaly.export.write import export

    if runtime == "torch":
        return True
    graph, precision = VARIANTS[runtime]
    try:
        if find_spec(RUNTIMES[graph]) is None:
            return False
        export(bundle, graph, precision=precision)
    except AnomalyError as error:
        say(f"{runtime} left out: {error}")
        return False
    return True


if __name__ == "__main__":
    main()
