"""Photos a second of `anomaly inspect` by engine and number of workers, and what a plant needs from that.

    python -m pipelines.scale [--json] [--set bracket] [--size 256] [--photos 400] [--model MODEL]

Fits a model with few training steps (speed does not depend on them), exports it where a runtime for that is
installed, and runs the command itself with one worker and two of each engine, on the same photos. The rate is
taken over the last three quarters of the verdicts, so that it holds for a long run, and so are `cpu_ms`, the
processor time that a photo costs in all processes, and `command_ms`, that in the command's own, which records
what Ray's workers judge; `start_s` is the time to the first verdict. `overhead` is what Ray costs beside
threads of one process: the share of photos a second, and processor time a photo. Rates mean something on a
quiet machine only; processor time is nearly the same on a busy one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from anomaly.cli.terminal import say
from pipelines.benchmark import data_folder
from pipelines.speed import QUICK
from pipelines.speed.rates import status_mb

ENGINES = ("local", "ray")
WORKERS = (1, 2)
DAY = 24 * 3600
FLAGGED = 0.02
"""Share of photos that are not normal, and have pictures."""
COLUMNS = {
    "engine": ("engine", "{}"),
    "workers": ("workers", "{}"),
    "photos/s": ("rate", "{:.1f}"),
    "CPU ms a photo": ("cpu_ms", "{:.1f}"),
    "of it in the command": ("command_ms", "{:.1f}"),
    "first verdict s": ("start_s", "{:.1f}"),
    "whole run s": ("whole_s", "{:.1f}"),
    "peak MB of the command": ("peak_mb", "{:.0f}"),
    "MB of a worker": ("worker_mb", "{:.0f}"),
}
"""Column of the table -> (figure, format)."""
WORKER = b"ray::MapWorker"
"""How the title of a worker process begins."""
LOAD = 0.6
"""Share of the cores' capacity that is planned with: the rest is for peaks, a node that is down, and catching
up behind it."""


def main() -> None:
    """Run the command in each way, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--set", default="bracket", dest="data")
    parser.add_argument("--size", default="256")
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--model", type=Path, help="judge with this model instead of fitting one")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--day", type=float, default=50e6, help="photos a day of the plant")
    parser.add_argument("--lines", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options, Path(scratch))
    print(json.dumps(found) if options.json else table(found))


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything, and the plant's needs."""
    data = data_folder(options.data, scratch)
    if data is None:
        sys.exit(f"{options.data} is not here: set ANOMALY_DATA, or take --set bracket")
    model = options.model or small_model(data, options.size, scratch / "model")
    photos = sorted(path for path in (data / "test").rglob("*") if path.is_file())
    listed = list(islice(cycle(photos), options.photos))
    runs = []
    for engine in filter(None, options.engines.split(",")):
        for workers in WORKERS:
            say(f"{engine}, {workers} workers")
            out = scratch / f"{engine}{workers}"
            runs.append({"engine": engine, "workers": workers, **timed(engine, workers, listed, model, out)})
    sizes = bytes_of(photos, scratch / f"{runs[0]['engine']}{WORKERS[0]}")
    by_kind = {(run["engine"], run["workers"]): run for run in runs}
    found: dict[str, Any] = {
        "set": options.data,
        "size": options.size,
        "photos": options.photos,
        "runs": runs,
        "bytes": sizes,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    if ("ray", 2) in by_kind:
        found["speedup"] = by_kind["ray", 2]["rate"] / by_kind["ray", 1]["rate"]
        found["plant"] = plant(by_kind["ray", 2]["cpu_ms"], sizes, options.day, options.lines)
    if len(by_kind) == len(ENGINES) * len(WORKERS):
        found["overhead"] = {
            str(n): {
                "rate": 1 - by_kind["ray", n]["rate"] / by_kind["local", n]["rate"],
                "cpu_ms": by_kind["ray", n]["cpu_ms"] - by_kind["local", n]["cpu_ms"],
            }
            for n in WORKERS
        }
    return found


def small_model(data: Path, size: str, model: Path) -> Path:
    """A model fitted in few steps and exported."""
    from anomaly.config import RunConfig
    from anomaly.export.runtimes import RUNTIMES
    from anomaly.export.write import export
    from anomaly.fitting.run import fit

    say(f"fitting at {size} px")
    bundle = fit(data, model, RunConfig.load(None, [*QUICK, f"image.image_size={size}"])).bundle
    for graph, runtime in RUNTIMES.items():
        if find_spec(runtime):
            export(bundle, graph)
    return model


def timed(engine: str, workers: int, photos: list[Path], model: Path, out: Path) -> dict[str, float]:
    """One run of the command: rate, seconds to the first verdict and to the end, memory."""
    command = [
        sys.executable, "-m", "anomaly", "inspect", *map(str, photos), "--json",
        "--model", str(model), "--out", str(out), "--engine", engine, "--workers", str(workers),
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as run:
        assert run.stdout
        warm = max(1, len(photos) // 4)
        moments, spent, largest, peak = [], {}, 0.0, 0.0
        for _ in run.stdout:
            moments.append(time.monotonic())
            if len(moments) in (warm, len(photos)):
                processes = family(run.pid)
                spent[len(moments)] = np.array([sum(map(cpu_seconds, processes)), cpu_seconds(run.pid)])
                largest, peak = max(largest, *map(worker_mb, processes)), status_mb(run.pid, "VmHWM:")
    if run.returncode or len(moments) != len(photos):
        sys.exit(f"{' '.join(command[-6:])} ended with {run.returncode} after {len(moments)} photos")
    counted = len(photos) - warm
    each, own = 1000 * (spent[len(photos)] - spent[warm]) / counted
    return {
        "rate": counted / (moments[-1] - moments[warm - 1]),
        "cpu_ms": float(each),
        "command_ms": float(own),
        "start_s": moments[0] - began,
        "whole_s": time.monotonic() - began,
        "peak_mb": peak,
        "worker_mb": largest,
    }


def family(pid: int) -> list[int]:
    """`pid`, the processes that it started, and these in turn."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(process.name)] = int(_stat(int(process.name))[1])
    found, new = [], {pid}
    while new:
        found += sorted(new)
        new = {child for child, parent in parents.items() if parent in new}
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken; 0 where it is gone."""
    with suppress(OSError):
        return sum(map(int, _stat(pid)[11:13])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def worker_mb(pid: int) -> float:
    """Private memory of a worker process of Ray, MB; 0 for any other process."""
    with suppress(OSError):
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(WORKER):
            return status_mb(pid, "RssAnon:")
    return 0.0


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat behind the name: state, parent ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def bytes_of(photos: list[Path], out: Path) -> dict[str, float]:
    """Mean size of a photo, of a verdict's line, and of the pictures of a photo that is not normal."""
    drawn = len(list((out / "heatmaps").iterdir()))
    pictures = sum(path.stat().st_size for name in ("heatmaps", "maps") for path in (out / name).iterdir())
    lines = (out / "verdicts.jsonl").read_bytes().splitlines()
    return {
        "photo": sum(path.stat().st_size for path in photos) / len(photos),
        "verdict": sum(map(len, lines)) / len(lines),
        "pictures": pictures / max(1, drawn),
    }


def plant(cpu_ms: float, sizes: dict[str, float], day: float, lines: int) -> dict[str, float]:
    """What `day` photos a day from `lines` lines need, where one costs `cpu_ms` of a core."""
    second = day / DAY
    return {
        "photos a second": second,
        "photos a second and line": second / lines,
        "cores busy": second * cpu_ms / 1000,
        "cores to have": math.ceil(second * cpu_ms / 1000 / LOAD),
        "MB a second read": second * sizes["photo"] / 1e6,
        "GB of verdicts a day": day * sizes["verdict"] / 1e9,
        "GB of pictures a day": day * FLAGGED * sizes["pictures"] / 1e9,
    }


def table(found: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    lines = [
        f"{found['set']} at {found['size']} px, {found['photos']} photos",
        f"{found['date']}, {found['machine']}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
    ]
    for run in found["runs"]:
        lines.append("| " + " | ".join(form.format(run[key]) for key, form in COLUMNS.values()) + " |")
    if "speedup" in found:
        lines += ["", f"two Ray workers / one: {found['speedup']:.2f}"]
    lines += [
        f"overhead of Ray with {workers} workers: {100 * cost['rate']:.0f} % of the rate, "
        f"{cost['cpu_ms']:.1f} ms of processor time a photo"
        for workers, cost in found.get("overhead", {}).items()
    ]
    for part in ("bytes", "plant"):
        lines += ["", f"| {part} | |", "|---|---|"]
        lines += [f"| {name} | {value:,.1f} |" for name, value in found.get(part, {}).items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
