"""Write the detector's graph for a runtime, and keep it only if it judges as the detector does."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from anomaly.bundle import Bundle
from anomaly.data.geometry import MULTIPLE
from anomaly.errors import BundleError, ConfigError, nearest
from anomaly.export.folder import FACTS, FORMAT, GRAPHS, Export, default_folder, file_hash, scoring_hash
from anomaly.export.graph import DetectorGraph
from anomaly.export.runtimes import INSTALL, RUNTIMES, load_graph
from anomaly.export.verify import verify

OPSET = 18
EXAMPLE = torch.zeros(1, 96, 160, 3, dtype=torch.uint8)
DYNAMIC = {
    "photos": {0: "batch", 1: "height", 2: "width"},
    "scores": {0: "batch"},
    "maps": {0: "batch", 1: "rows", 2: "columns"},
}


def export(bundle: Bundle, graph: str, out: Path | None = None, *, overwrite: bool = False) -> Export:
    """Write the model as an exported folder, verified. Raises ConfigError for what cannot be written where it
    was asked for, BundleError for a graph that deviates, of which nothing is kept."""
    if graph not in GRAPHS:
        raise ConfigError(f"unknown format {graph!r}: {nearest(graph, GRAPHS)}")
    out = out or default_folder(bundle.path, graph)
    if out.exists() and not (overwrite and (out / FACTS).exists()):
        cure = "give --overwrite" if (out / FACTS).exists() else "give another --out"
        raise ConfigError(f"{out} already exists: {cure}")
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        facts = _write(bundle, graph, fresh)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(fresh, out)
    except OSError as error:
        raise ConfigError(f"cannot write {out} ({error.strerror}): give another --out") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Export(out, facts)


def _write(bundle: Bundle, graph: str, folder: Path) -> dict[str, object]:
    """Graph and facts into the new `folder`; the facts."""
    detector, runtime = bundle.detector, RUNTIMES[graph]
    path = folder / GRAPHS[graph][0]
    try:
        if graph == "onnx":
            write_onnx(DetectorGraph(detector), path)
        else:
            import openvino

            write_onnx(DetectorGraph(detector), folder / "graph.onnx")
            openvino.save_model(
                openvino.Core().read_model(folder / "graph.onnx"), path, compress_to_fp16=False
            )
            (folder / "graph.onnx").unlink()
    except ImportError as error:
        raise ConfigError(f"{error.name or runtime} is not installed: {INSTALL}") from None
    loaded = load_graph(runtime, path, torch.get_num_threads())
    found = verify(bundle, loaded, runtime)
    if found.trouble:
        raise BundleError(
            f"the exported graph does not judge as the model does: {found.trouble}; nothing was kept: "
            "judge with --runtime torch"
        )
    policy = detector.policy
    facts = {
        "format": FORMAT,
        "graph": graph,
        "runtime": runtime,
        "model": bundle.path.resolve().name,
        "model_hash": bundle.model_hash,
        "scoring_hash": scoring_hash(bundle),
        "photo": {
            "image_size": detector.geometry.image_size,
            "factor": detector.geometry.factor,
            "multiple": MULTIPLE,
            "largest_side": detector.config.image.tile_size,
            "white_level": detector.white_level,
        },
        "threshold": policy.cut.threshold,
        "review_threshold": policy.cut.review_threshold,
        "threshold_version": policy.version,
        "region_rules": policy.rules is not None,
        "calibration_scores": policy.normal_scores.tolist(),
        "verification": asdict(found),
        "files": {name: file_hash(folder / name) for name in GRAPHS[graph]},
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return facts


def write_onnx(network: torch.nn.Module, path: Path, example: torch.Tensor = EXAMPLE) -> None:
    """`network` as an ONNX file with dynamic batch and size, traced on `example`, photos or whatever it
    takes under that name. Raises ImportError without the package onnx."""
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
            output_names=["scores", "maps"],
            dynamic_axes=DYNAMIC,
        )
