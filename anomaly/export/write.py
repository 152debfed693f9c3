"""Write the detector's graphs for a runtime, and keep them only if they judge as the detector does."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from anomaly.bundle import Bundle
from anomaly.data.geometry import MULTIPLE
from anomaly.errors import BundleError, ConfigError, ImageError, nearest
from anomaly.export.folder import (
    BRANCHES,
    FACTS,
    FORMAT,
    SUFFIXES,
    WHOLE,
    Export,
    default_folder,
    file_hash,
    graph_files,
    scoring_hash,
)
from anomaly.export.graph import BranchGraph, DetectorGraph
from anomaly.export.loss import Loss, measure_losses
from anomaly.export.quantise import quantise
from anomaly.export.runtimes import FULL, INSTALL, PRECISIONS, load_graph, runtime_name
from anomaly.export.verify import BranchScorer, Score, WholeScorer, reference_photos, verify
from anomaly.models.training import Progress
from anomaly.records import Sample

OPSET = 18
EXAMPLE = torch.zeros(1, 96, 160, 3, dtype=torch.uint8)
OUTPUTS = {"scores": {0: "batch"}, "maps": {0: "batch", 1: "rows", 2: "columns"}}
RANGES_FROM = 32
"""Training photos, beside the reference photos, that the ranges of an int8 graph are taken from."""


def export(
    bundle: Bundle,
    graph: str,
    out: Path | None = None,
    *,
    precision: str = FULL,
    samples: Sequence[Sample] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Export:
    """Write the model as an exported folder, verified; on the labelled test photos among `samples` its loss
    is measured. Raises ConfigError for what cannot be written where it was asked for, BundleError for graphs
    that deviate, of which nothing is kept."""
    if graph not in PRECISIONS:
        raise ConfigError(f"unknown format {graph!r}: {nearest(graph, PRECISIONS)}")
    if precision not in PRECISIONS[graph]:
        known = ", ".join(PRECISIONS[graph])
        raise ConfigError(f"the format {graph} is not computed in {precision!r}: use {known}")
    out = out or default_folder(bundle.path, graph, precision)
    if out.exists() and not (overwrite and (out / FACTS).exists()):
        cure = "give --overwrite" if (out / FACTS).exists() else "give another --out"
        raise ConfigError(f"{out} already exists: {cure}")
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        facts = _write(bundle, graph, precision, fresh, samples, progress)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(fresh, out)
    except OSError as error:
        raise ConfigError(f"cannot write {out} ({error.strerror}): give another --out") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Export(out, facts)


def _write(
    bundle: Bundle,
    graph: str,
    precision: str,
    folder: Path,
    samples: Sequence[Sample],
    progress: Progress | None,
) -> dict[str, object]:
    """Graphs and facts into the new `folder`; the facts."""
    detector, runtime = bundle.detector, runtime_name(graph, precision)
    try:
        branches = write_branches(bundle, graph, precision, folder, samples)
        whole = write_whole(bundle, graph, folder) if precision == FULL else None
    except ImportError as error:
        raise ConfigError(f"{error.name or runtime} is not installed: {INSTALL}") from None
    scorers: list[Score] = []
    threads = torch.get_num_threads()
    if whole is not None:
        scorers.append(WholeScorer(detector, load_graph(runtime, whole, threads)))
    scorers.append(BranchScorer(detector, load_graph(runtime, branches, threads)))
    found = verify(bundle, scorers, runtime, precision)
    labelled = any(sample.split == "test" and sample.label is not None for sample in samples)
    if precision == FULL or not labelled:
        _refuse(found.trouble)
    loss: Loss | None = None
    if labelled:
        loss = measure_losses(bundle, samples, {runtime: scorers[-1]}, progress)[runtime]
        _refuse(loss.trouble)
    policy = detector.policy
    window = detector.geometry.window
    facts = {
        "format": FORMAT,
        "graph": graph,
        "precision": precision,
        "runtime": runtime,
        "model": bundle.path.resolve().name,
        "model_hash": bundle.model_hash,
        "scoring_hash": scoring_hash(bundle),
        "photo": {
            "image_size": detector.geometry.image_size,
            "factor": detector.geometry.factor,
            "window": None if window is None else [window.top, window.left, window.bottom, window.right],
            "multiple": MULTIPLE,
            "largest_side": detector.config.image.tile_size,
            "white_level": detector.white_level,
        },
        "threshold": policy.cut.threshold,
        "review_threshold": policy.cut.review_threshold,
        "threshold_version": policy.version,
        "region_rules": policy.rules is not None,
        "upright": detector.geometry.upright,
        "calibration_scores": policy.normal_scores.tolist(),
        "verification": asdict(found),
        "loss": None if loss is None else asdict(loss),
        "files": {name: file_hash(folder / name) for name in graph_files(graph, precision)},
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return facts


def _refuse(trouble: str | None) -> None:
    if trouble:
        raise BundleError(
            f"the exported graph does not judge as the model does: {trouble}; nothing was kept: "
            "judge with --runtime torch"
        )


def write_branches(
    bundle: Bundle, graph: str, precision: str, folder: Path, samples: Sequence[Sample]
) -> Path:
    """The graph from photo to branches, in `folder`; its path. The ranges of an int8 graph come from the
    reference photos and the good training photos among `samples`. Raises ImportError."""
    detector, path = bundle.detector, folder / f"{BRANCHES}.onnx"
    outputs = {name: {0: "batch", 2: f"rows_{name}", 3: f"columns_{name}"} for name in detector.scorers}
    write_onnx(BranchGraph(detector), path, outputs=outputs)
    if precision == "int8":
        photos = reference_photos(bundle)
        good = [s.path for s in samples if s.split == "train" and s.label == "normal"]
        for sample in good[:: max(1, len(good) // RANGES_FROM)][:RANGES_FROM]:
            try:
                photos.append(detector.read(sample))
            except ImageError:
                continue
        quantise(path, [detector.geometry.working(photo) for photo in photos])
    return _as(graph, path)


def write_whole(bundle: Bundle, graph: str, folder: Path) -> Path:
    """The graph from photo to score and map, in `folder`; its path. Raises ImportError."""
    path = folder / f"{WHOLE}.onnx"
    write_onnx(DetectorGraph(bundle.detector), path)
    return _as(graph, path)


def _as(graph: str, path: Path) -> Path:
    """The ONNX file at `path` in the format `graph`, in its place."""
    if graph == "onnx":
        return path
    import openvino

    converted = path.with_suffix(SUFFIXES[graph][0])
    openvino.save_model(openvino.Core().read_model(path), converted, compress_to_fp16=False)
    path.unlink()
    return converted


def write_onnx(
    network: torch.nn.Module,
    path: Path,
    example: torch.Tensor = EXAMPLE,
    outputs: dict[str, dict[int, str]] = OUTPUTS,
) -> None:
    """`network` as an ONNX file with dynamic batch and size, traced on `example`, photos or whatever it
    takes under that name; `outputs` names its outputs and their dynamic axes. Raises ImportError without the
    package onnx."""
    import onnx  # noqa: F401  # the exporter needs it, and says so less plainly

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter(
            "ignore"
        )  # the exporter by tracing needs no further package, and warns of its age
        torch.onnx.export(
            network,
            (example,),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=["photos"],
            output_names=list(outputs),
            dynamic_axes={"photos": {0: "batch", 1: "height", 2: "width"}, **outputs},
        )
