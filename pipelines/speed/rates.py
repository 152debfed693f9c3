"""Photos a second, first verdict and memory, each measured in a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from anomaly.cli.terminal import say

WARM = 4
"""Photos before time is taken."""
MARKS = 8
"""Moments of a long run whose time is kept."""


def of(model: Path, runtime: str, folder: Path, photos: int) -> dict[str, Any]:
    """A runtime judging the test photos in `folder`, over and over, and the good ones alone (no pictures are
    drawn of those that pass), beside the backbone alone in it."""
    say(f"{model.name}, {runtime}")
    job = {"model": str(model), "runtime": runtime, "folder": str(folder), "photos": photos}
    whole, alone = _spawn("inspect", job), _spawn("backbone", job)
    return {
        "runtime": runtime,
        "rate": whole["rate"],
        "rate_good": _spawn("inspect", {**job, "folder": str(folder / "good")})["rate"],
        "backbone": alone["rate"],
        "share": whole["rate"] / alone["rate"],
        "first_verdict_s": first_verdict(model, runtime, folder),
        "peak_mb": whole["peak_mb"],
    }


def many(model: Path, folder: Path, photos: int) -> dict[str, Any]:
    """Memory and time of one long run in torch: seconds by number of photos."""
    job = {"model": str(model), "runtime": "torch", "folder": str(folder), "photos": photos}
    return {"photos": photos, **_spawn("inspect", job)}


def first_verdict(model: Path, runtime: str, folder: Path) -> float:
    """Seconds from the start of `anomaly inspect` to its first verdict."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "anomaly", "inspect", str(folder), "--model", str(model), "--json"]
        start = time.monotonic()
        with subprocess.Popen(
            [*command, "--out", f"{scratch}/out", "--runtime", runtime],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as running:
            assert running.stdout is not None
            line = running.stdout.readline()
            seconds = time.monotonic() - start
            running.kill()
    json.loads(line)
    return seconds


def _spawn(what: str, job: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "pipelines.speed.rates", what, json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def inspect(model: str, runtime: str, folder: str, photos: int) -> dict[str, Any]:
    """Decode, judge and write `photos` photos as `anomaly inspect` does."""
    from anomaly.bundle import read_bundle
    from anomaly.inspection.drawing import Drawn
    from anomaly.inspection.inputs import expand
    from anomaly.inspection.scoring import choose_scorer
    from anomaly.inspection.stream import in_order, judge
    from anomaly.inspection.writer import Writer

    bundle = read_bundle(Path(model))
    workers = os.cpu_count() or 1
    score = choose_scorer(bundle, runtime, threads=1, calls=workers)
    paths = itertools.cycle(expand(Path(folder)))
    marks = {round(photos * (mark + 1) / MARKS) for mark in range(MARKS)}
    points = []
    with tempfile.TemporaryDirectory() as scratch, Writer(Path(scratch) / "out", bundle) as writer:

        def draw(path: Path) -> Drawn:
            return writer.draw(judge(bundle.detector, path, score))

        for _ in in_order(draw, itertools.islice(paths, WARM), workers):
            pass
        start = time.monotonic()
        for done, drawn in enumerate(in_order(draw, itertools.islice(paths, photos), workers), start=1):
            writer.write(drawn)
            if done in marks:
                points.append([done, time.monotonic() - start])
        seconds = time.monotonic() - start
        writer.finish()
    return {"rate": photos / seconds, "peak_mb": peak_mb(), "points": points}


def backbone(model: str, runtime: str, folder: str, photos: int) -> dict[str, float]:
    """The backbone alone on decoded working photos, as many at a time as `inspect` has in work."""
    import torch

    from anomaly.bundle import read_bundle
    from anomaly.detector import use_threads
    from anomaly.inspection.inputs import expand
    from anomaly.inspection.stream import in_order
    from anomaly.models.encoder import as_tensor

    detector = read_bundle(Path(model)).detector
    working = [detector.geometry.working(detector.read(path)) for path in expand(Path(folder))[:32]]
    workers = os.cpu_count() or 1
    if runtime == "torch":

        def run(photo: np.ndarray) -> Any:
            with torch.inference_mode():
                return detector.encoder.backbone.judging()(as_tensor(photo))
    else:
        run = _graph(detector.encoder.backbone, runtime, working, workers)
    use_threads(1)

    def single(photo: np.ndarray) -> Any:
        if torch.get_num_threads() != 1:  # each thread has a number of its own
            torch.set_num_threads(1)
        return run(photo)

    photos_in_turn = itertools.cycle(working)
    for _ in in_order(single, itertools.islice(photos_in_turn, WARM), workers):
        pass
    start = time.monotonic()
    for _ in in_order(single, itertools.islice(photos_in_turn, photos), workers):
        pass
    return {"rate": photos / (time.monotonic() - start)}


def _graph(network: Any, runtime: str, photos: list[np.ndarray], calls: int) -> Callable[[np.ndarray], Any]:
    """The backbone in an exported runtime, in the precision that the runtime is named by."""
    import torch

    from anomaly.export.graph import fixed_padding
    from anomaly.export.quantise import quantise
    from anomaly.export.runtimes import load_graph
    from anomaly.export.write import write_onnx

    class Alone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = fixed_padding(network)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.backbone(values.permute(0, 3, 1, 2).float())
            return found

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "backbone.onnx"  # both libraries read ONNX
        write_onnx(Alone().eval(), path, outputs={"features": {0: "batch", 2: "rows", 3: "columns"}})
        if runtime.endswith("int8"):
            quantise(path, photos[:8])
        graph = load_graph(runtime, path, 1, calls)
    return lambda photo: graph.run(photo[None])


def peak_mb() -> float:
    """Most memory that this process held since it began, or since `forget_peak`, MB. `ru_maxrss` would begin
    with the peak of what started it."""
    return status_mb(os.getpid(), "VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak() -> None:
    """Let `peak_mb` count from here, where the kernel allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def status_mb(pid: int, field: str) -> float:
    """A field of /proc/PID/status, MB; 0 where the process is gone, and where there is no such file."""
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().partition(field)[2].split()[0]) / 1024
    return 0.0


if __name__ == "__main__":
    work = {"inspect": inspect, "backbone": backbone}[sys.argv[1]]
    sys.stdout.write(json.dumps(work(**json.loads(sys.argv[2]))) + "\n")
