"""How fast photos are judged, from decoding to written verdict, beside the backbone alone in each runtime.

    python -m pipelines.speed [--json] [--set bracket] [--photos 200] [--memory 500,20000]

Fits a model with few training steps (speed does not depend on them) at 256 px and at the default size,
exports it, and measures every runtime in a process of its own. Rates are photos a second, memory is the peak
of the process. `--set` takes the names of `pipelines.benchmark`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from anomaly.cli.terminal import say
from pipelines.benchmark import data_folder

QUICK = (
    "tracking.enabled=false", "contrastive.steps=2", "contrastive.views=2", "contrastive.patches=64",
    "contrastive.backbone_steps=2", "scorers.reconstruction.steps=2", "picture_steps=1",
)  # fmt: skip
BANKS = (1_000, 10_000, 50_000, 100_000, 150_000)
QUERIES = 1024
"""Patches of one photo of 512 x 512 px."""


def main() -> None:
    """Run all measurements, or one in this process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--set", default="bracket", dest="data")
    parser.add_argument("--backbone", default="auto")
    parser.add_argument("--sizes", default="256,auto")
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--memory", default="500,20000", help="numbers of photos; empty: not measured")
    parser.add_argument("--banks", default=",".join(map(str, BANKS)))
    parser.add_argument("--worker", nargs=4, metavar=("WHAT", "MODEL", "RUNTIME", "PHOTOS"))
    parser.add_argument("--folder", type=Path, help="photos that --worker judges")
    options = parser.parse_args()
    if options.worker:
        what, model, runtime, count = options.worker
        work = {"inspect": inspect, "backbone": backbone}[what]
        sys.stdout.write(json.dumps(work(Path(model), runtime, options.folder, int(count))) + "\n")
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options, Path(scratch))
    print(json.dumps(found) if options.json else table(found))


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything, one process after the other."""
    from anomaly.bundle import read_bundle
    from anomaly.config import RunConfig
    from anomaly.export.runtimes import RUNTIMES
    from anomaly.export.write import export
    from anomaly.fitting.run import fit

    data = data_folder(options.data, scratch)
    if data is None:
        sys.exit(f"{options.data} is not here: set ANOMALY_DATA, or take --set bracket")
    folder = data / "test"
    runtimes = ["torch", *(name for name in RUNTIMES.values() if find_spec(name))]
    rates: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    stages: dict[str, float] = {}
    for size in options.sizes.split(","):
        model = scratch / f"model_{size}"
        say(f"fitting {options.data} at {size} px")
        settings = [*QUICK, f"image.image_size={size}", f"backbone={options.backbone}"]
        fit(data, model, RunConfig.load(None, settings))
        bundle = read_bundle(model)
        for graph, runtime in RUNTIMES.items():
            if runtime in runtimes:
                export(bundle, graph)
        for runtime in runtimes:
            say(f"{size} px, {runtime}")
            whole = spawn("inspect", model, runtime, folder, options.photos)
            alone = spawn("backbone", model, runtime, folder, options.photos)
            share = whole["rate"] / alone["rate"]
            rates.append(
                {"size": size, "runtime": runtime, **whole, "backbone": alone["rate"], "share": share}
            )
        for count in filter(None, options.memory.split(",")) if size == "auto" else ():
            say(f"memory of {count} photos")
            memory.append({"photos": int(count), **spawn("inspect", model, runtimes[-1], folder, int(count))})
        if size == "auto":
            stages = profile(model, folder)
    return {
        "set": options.data,
        "rates": rates,
        "stages_ms": stages,
        "memory": memory,
        "bank": bank_curve([int(size) for size in options.banks.split(",")]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def spawn(what: str, model: Path, runtime: str, folder: Path, photos: int) -> dict[str, Any]:
    """One measurement in a fresh process."""
    command = [sys.executable, "-m", "pipelines.speed", "--worker", what, str(model), runtime, str(photos)]
    done = subprocess.run([*command, "--folder", str(folder)], stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def inspect(model: Path, runtime: str, folder: Path, count: int) -> dict[str, float]:
    """Decode, judge and write `count` photos, those of `folder` over and over."""
    start = time.monotonic()
    from anomaly.bundle import read_bundle
    from anomaly.inspection.inputs import expand
    from anomaly.inspection.scoring import choose_scorer
    from anomaly.inspection.stream import in_order, judge
    from anomaly.inspection.writer import Writer

    bundle = read_bundle(model)
    workers = os.cpu_count() or 1
    score = choose_scorer(bundle, runtime, threads=1)
    photos = itertools.islice(itertools.cycle(expand(folder)), count)
    with tempfile.TemporaryDirectory() as scratch, Writer(Path(scratch) / "out", bundle) as writer:
        first, began = 0.0, time.monotonic()
        for drawn in in_order(lambda path: writer.draw(judge(bundle.detector, path, score)), photos, workers):
            writer.write(drawn)
            first = first or time.monotonic() - start
        rate = count / (time.monotonic() - began)
        writer.finish()
    return {"rate": rate, "first_verdict_s": first, "peak_mb": peak_mb()}


def backbone(model: Path, runtime: str, folder: Path, count: int) -> dict[str, float]:
    """The backbone alone on decoded working photos, as many at a time as `inspect` has in work."""
    import torch

    from anomaly.bundle import read_bundle
    from anomaly.export.graph import fixed_padding
    from anomaly.export.runtimes import RUNTIMES, load_graph
    from anomaly.export.write import write_onnx
    from anomaly.inspection.inputs import expand
    from anomaly.inspection.stream import in_order

    class Alone(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = self.network(photos.permute(0, 3, 1, 2).float())
            return features.mean((1, 2, 3)), features.mean(1)

    detector = read_bundle(model).detector
    alone = Alone(fixed_padding(detector.encoder.backbone)).eval()
    photos = [detector.geometry.working(detector.read(path)) for path in expand(folder)[:32]]
    if runtime == "torch":

        def run(photo: np.ndarray) -> Any:
            with torch.inference_mode():
                return detector.encoder.raw_features(photo)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            write_onnx(alone, Path(scratch) / "backbone.onnx")
            assert runtime in RUNTIMES.values()  # both read ONNX
            graph = load_graph(runtime, Path(scratch) / "backbone.onnx", 1)

        def run(photo: np.ndarray) -> Any:
            return graph.run(photo[None])

    torch.set_num_threads(1)
    run(photos[0])
    began = time.monotonic()
    for _ in in_order(run, itertools.islice(itertools.cycle(photos), count), os.cpu_count() or 1):
        pass
    return {"rate": count / (time.monotonic() - began)}


def profile(model: Path, folder: Path, photos: int = 8) -> dict[str, float]:
    """Milliseconds of each stage of one photo in torch, one thread, the least of a few."""
    import torch

    from anomaly.bundle import read_bundle
    from anomaly.detector import use_threads
    from anomaly.inspection.inputs import expand
    from anomaly.render import overlay, png_bytes

    use_threads(1)
    detector = read_bundle(model).detector
    times: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        times[stage] = min(times.get(stage, np.inf), round(1000 * (time.perf_counter() - start), 2))
        return result

    with torch.inference_mode():
        for path in expand(folder)[:photos]:
            photo = timed("decode", lambda path=path: detector.read(path))
            working = timed("resize", lambda photo=photo: detector.geometry.working(photo))
            raw = timed("backbone", lambda working=working: detector.encoder.raw_features(working))
            features = timed("standardise", lambda raw=raw: detector.encoder.standardised(raw))
            timed("embedding", lambda features=features: detector.encoder.embed(features))
            maps = detector.encoder.maps(working)
            found = {
                name: timed(
                    f"scorer {name}", lambda s=scorer, maps=maps: s.score(getattr(maps, s.input)).numpy()
                )
                for name, scorer in detector.scorers.items()
            }
            scores = timed("fusion", lambda found=found: detector.combine(found))
            full = timed("map to photo", lambda s=scores, photo=photo: detector.full_map(s, photo))
            timed("heatmap", lambda photo=photo, full=full: png_bytes(overlay(photo, full, 1.0, 2.0)))
    return times


def bank_curve(sizes: list[int], dimension: int = 128) -> list[dict[str, Any]]:
    """Milliseconds that QUERIES patches take against banks of several sizes, one thread: the index that torch
    uses, and the exact products that an exported graph makes."""
    import torch

    from anomaly.detector import use_threads
    from anomaly.export.graph import NearestPatch
    from anomaly.neighbours import MemoryBank

    use_threads(1)
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(16, dimension))  # features lie near few directions
    rows = []
    for size in sizes:
        patches = (rng.normal(size=(size, 16)) @ mixing + rng.normal(size=(size, dimension))).astype(
            np.float32
        )
        queries = (rng.normal(size=(QUERIES, 16)) @ mixing).astype(np.float32)
        bank = MemoryBank.build(patches)
        row: dict[str, Any] = {
            "patches": size,
            "index_ms": least(lambda bank=bank, queries=queries: bank.distance(queries)),
        }
        exact = NearestPatch(bank).eval()
        values = torch.from_numpy(queries.T.reshape(1, dimension, 32, -1).copy())
        with torch.inference_mode():
            row["product_torch_ms"] = least(lambda exact=exact, values=values: exact(values))
            found = exact(values).flatten().numpy()
        close = np.abs(bank.distance(queries) - found) <= 1e-3 * found
        rows.append({**row, "recall": float(close.mean())})
    return rows


def least(work: Callable[[], Any], rounds: int = 3) -> float:
    """The shortest time of a few, ms."""

    def times() -> Iterator[float]:
        for _ in range(rounds):
            start = time.perf_counter()
            work()
            yield 1000 * (time.perf_counter() - start)

    return round(min(times()), 2)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(found: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    lines = [
        f"{found['set']}, {found['date']}, {found['machine']}",
        "",
        "| size | runtime | photos/s | backbone alone | share | first verdict s | peak MB |\n"
        + "|"
        + "---|" * 7,
    ]
    lines += [
        f"| {row['size']} | {row['runtime']} | {row['rate']:.1f} | {row['backbone']:.1f} | "
        f"{row['share']:.2f} | {row['first_verdict_s']:.1f} | {row['peak_mb']:.0f} |"
        for row in found["rates"]
    ]
    lines += ["", "| stage in torch | ms |\n|---|---|"]
    lines += [f"| {name} | {value:g} |" for name, value in found["stages_ms"].items()]
    lines += ["", "| photos | peak MB | photos/s |\n|---|---|---|"]
    lines += [f"| {row['photos']} | {row['peak_mb']:.0f} | {row['rate']:.1f} |" for row in found["memory"]]
    lines += ["", "| patches | index ms | exact product ms | recall of the index |\n|---|---|---|---|"]
    lines += [
        f"| {row['patches']} | {row['index_ms']:g} | {row['product_torch_ms']:g} | {row['recall']:.3f} |"
        for row in found["bank"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
