"""One anomalib model on one product: a job file in, scores out. Runs in anomalib's own environment.

    python anomalib_worker.py JOB.json OUT.json

It imports nothing of this project, so that the two sets of dependencies never meet.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PADIM_FEATURES = 100
"""Channels that PaDiM draws at random: its default for ResNet-18; for Lite0, which has 176, it has none."""


def folder_of(job: dict[str, Any], root: Path) -> Any:
    """anomalib's Folder over links to the photos of the job; everything else at its defaults."""
    from anomalib.data import Folder

    for part in ("train", "normal", "anomalous"):
        (root / part).mkdir()
    for part, paths in (("train", job["train"]), ("normal", job["normal"]), ("anomalous", job["anomalous"])):
        for index, path in enumerate(paths):
            (root / part / f"{index:05d}{Path(path).suffix}").symlink_to(path)
    return Folder(
        name="product",
        root=root,
        normal_dir="train",
        normal_test_dir="normal",
        abnormal_dir="anomalous",
        num_workers=0,
        val_split_mode="same_as_test",
        seed=job["seed"],
    )


def model_of(job: dict[str, Any]) -> Any:
    """The model at its defaults; the pretrained ones with the weights and stages that the job names."""
    from anomalib import models

    raw = {"post_processor": False, "evaluator": False, "visualizer": False}
    name = job["model"]
    if name == "ganomaly":
        return models.Ganomaly(**raw)
    if name == "draem":
        return models.Draem(dtd_dir=job["textures"], **raw)
    layers = job["layers"]
    if name == "padim":
        raw["n_features"] = PADIM_FEATURES
    kind = {"patchcore": models.Patchcore, "padim": models.Padim}[name]
    model = kind(backbone=job["backbone"], layers=layers, pre_trained=False, **raw)
    from safetensors.torch import load_file

    extractor = model.model.feature_extractor.feature_extractor
    wanted = extractor.state_dict()
    weights = load_file(job["weights"])
    missing = [key for key in wanted if key not in weights and not key.endswith("num_batches_tracked")]
    if missing:
        raise SystemExit(f"the weights lack {missing[0]}")
    extractor.load_state_dict({key: weights[key] for key in wanted if key in weights}, strict=False)
    return model


def main() -> None:
    """Fit, predict, report."""
    job = json.loads(Path(sys.argv[1]).read_text())
    import torch
    from anomalib.engine import Engine
    from lightning.pytorch import seed_everything

    torch.set_num_threads(job["threads"])
    seed_everything(job["seed"], workers=True)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "photos"
        root.mkdir()
        data = folder_of(job, root)
        model = model_of(job)
        options: dict[str, Any] = {"default_root_dir": scratch, "logger": False, "accelerator": "cpu"}
        options["limit_val_batches"] = 1  # fitting ends with a validation, which is not to cost time here
        if job["minutes"]:
            options["max_time"] = {"minutes": job["minutes"]}
        engine = Engine(enable_progress_bar=False, **options)
        start = time.monotonic()
        engine.fit(model=model, datamodule=data)
        fit_seconds = time.monotonic() - start
        data.setup("test")
        start = time.monotonic()
        batches = engine.predict(model=model, dataloaders=data.test_dataloader(), return_predictions=True)
        predict_seconds = time.monotonic() - start
    scores = {}
    for batch in batches or []:
        for path, score in zip(batch.image_path, batch.pred_score, strict=True):
            scores["/".join(Path(path).parts[-2:])] = float(score)
    found = {
        part: [scores[f"{part}/{i:05d}{Path(path).suffix}"] for i, path in enumerate(job[part])]
        for part in ("normal", "anomalous")
    }
    result = {
        **found,
        "fit_seconds": fit_seconds,
        "photos_per_second": len(scores) / predict_seconds,
        "peak_mb": int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024,
    }
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
