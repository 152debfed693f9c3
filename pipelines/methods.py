"""Every method of the toolkit, trained and scored alone on the same photos, beside the default's mix.

python -m pipelines.methods [--json] [--sets bracket,twill] [--backbone auto] [--set SECTION.KEY=VALUE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from anomaly.cli.terminal import say
from anomaly.config import DEFAULT_SCORERS, RunConfig
from anomaly.errors import ConfigError
from pipelines.benchmark import DRAWN, data_folder, run_one


@dataclass(frozen=True)
class Method:
    """One row: what is set for it, and who described it."""

    name: str
    source: str
    settings: tuple[str, ...]


NONE_OF_THE_DEFAULT = tuple(f"scorers.{name}=null" for name in DEFAULT_SCORERS)


def only(scorer: str) -> tuple[str, ...]:
    """Settings that leave one of the default's branches."""
    return tuple(f"scorers.{name}=null" for name in DEFAULT_SCORERS if name != scorer)


METHODS = (
    Method("autoencoder, denoising, features", "Vincent et al. 2008", only("reconstruction")),
    Method(
        "autoencoder, plain, features",
        "Hinton 2006",
        (*only("reconstruction"), "scorers.reconstruction.noise=0"),
    ),
    Method(
        "autoencoder, masked, features",
        "He et al. 2022",
        (*only("reconstruction"), "scorers.reconstruction.masked=0.5", "scorers.reconstruction.noise=0"),
    ),
    Method(
        "autoencoder, variational, features",
        "Kingma and Welling 2014",
        (
            *only("reconstruction"),
            "scorers.reconstruction.variational=0.01",
            "scorers.reconstruction.noise=0",
        ),
    ),
    Method(
        "autoencoder, denoising, pixels",
        "Bergmann et al. 2019 (SSIM)",
        (*only("reconstruction"), "scorers.reconstruction.target=pixels"),
    ),
    Method(
        "contrastive, unsupervised",
        "Chen et al. 2020 (NT-Xent)",
        (*only("embedding"), "contrastive.supervised_weight=0"),
    ),
    Method(
        "contrastive, supervised by synthetic defects",
        "Khosla et al. 2020",
        (*only("embedding"), "contrastive.supervised_weight=1"),
    ),
    Method(
        "contrastive, joint", "Xue et al. 2023", (*only("embedding"), "contrastive.supervised_weight=0.5")
    ),
    Method(
        "contrastive, backbone fine-tuned",
        "transfer learning",
        (
            *only("embedding"),
            "contrastive.fine_tune=true",
            "contrastive.backbone_steps=100",
            "contrastive.backbone_learning_rate=0.0001",
        ),
    ),
    Method(
        "frozen features, memory bank",
        "Roth et al. 2022 (PatchCore)",
        (*only("embedding"), "contrastive.steps=1", "contrastive.learning_rate=1e-12"),
    ),
    Method("frozen features at half size, memory bank", "Roth et al. 2022 (PatchCore)", only("coarse")),
    Method("principal filters, memory bank", "Chan et al. 2015 (PCANet)", only("texture")),
    Method("eigenimages of whole photos", "Turk and Pentland 1991", only("eigenimages")),
    Method("Gaussian", "Rippel et al. 2020", (*NONE_OF_THE_DEFAULT, "scorers.gaussian={}")),
    Method(
        "PCA residual, bottom subspace",
        "Balestriero and LeCun 2024",
        (*NONE_OF_THE_DEFAULT, "scorers.pca={subspace: bottom}"),
    ),
    Method(
        "PCA, top subspace",
        "Balestriero and LeCun 2024",
        (*NONE_OF_THE_DEFAULT, "scorers.pca={subspace: top}"),
    ),
    Method("default: all branches, mixed", "this toolkit", ()),
)


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sets", default=",".join(DRAWN))
    parser.add_argument("--backbone", default="auto")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    names = options.sets.split(",")
    if not options.json:
        print(f"| method | source | {' | '.join(names)} | mean |\n|{'---|' * (len(names) + 3)}")
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: data_folder(name, Path(scratch)) for name in names}
        for name in [name for name, folder in folders.items() if folder is None]:
            say(f"{name}: not here, left out (set ANOMALY_DATA, or install elpv-dataset)")
            del folders[name]
        for method in METHODS:
            if not serves(method, options.backbone):
                say(f"{method.name}: left out, it does not serve backbone: {options.backbone}")
                continue
            settings = ["picture_steps=0", *method.settings, *options.overrides]
            found = {}
            for name, folder in folders.items():
                assert folder is not None
                say(f"{method.name}: {name}")
                run = run_one(folder, options.backbone, 0, Path(scratch) / "model", settings)
                found[name] = run["image_auroc"]
            row = {"method": method.name, "source": method.source, "image_auroc": found}
            sys.stdout.write((json.dumps(row) if options.json else line(method, found)) + "\n")
            sys.stdout.flush()


def serves(method: Method, backbone: str) -> bool:
    """Whether anything of `method` is left with this backbone."""
    try:
        RunConfig.load(None, [f"backbone={backbone}", *method.settings])
    except ConfigError:
        return False
    return True


def line(method: Method, found: dict[str, float]) -> str:
    """One row of the table."""
    mean = sum(found.values()) / len(found)
    cells = [method.name, method.source, *(f"{value:.3f}" for value in found.values()), f"{mean:.3f}"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
