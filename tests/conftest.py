"""A small product, drawn once, and a model fitted on it with few steps."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
import pytest

from anomaly.models.training import Silent

QUICK = (
    "image.image_size=128",
    "contrastive.steps=5",
    "contrastive.views=4",
    "contrastive.patches=64",
    "scorers.reconstruction.steps=20",
    "scorers.reconstruction.batch_size=4",
    "picture_steps=3",
    "fusion.weighting=equal",
    "data.any_angle=false",
    "data.cut_out=false",
    "tracking.enabled=false",
)
AS_FITTED = (*QUICK, "fusion.weighting=visibility", "data.any_angle=auto")
"""Of the fixture `model`; weighing and copies take longer than the rest of a quick fit, so most tests do
without."""
SPOT = (70, 40)
"""(row, col) of the middle of the defect on every bad photo."""


class StopIn(Silent):
    """Ctrl-C in one stage."""

    def __init__(self, stage: str, when: int) -> None:
        self.where = (stage, when)

    def step(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
        if (stage, done) == self.where:
            raise KeyboardInterrupt


def draw_photo(
    rng: np.random.Generator, *, bad: bool = False, size: tuple[int, int] = (96, 128)
) -> np.ndarray:
    """A grey plate with a ring on it, a little noise and a little shift; bad ones have a bright spot."""
    photo = np.full((*size, 3), 90.0)
    centre = (size[1] // 2 + int(rng.integers(-1, 2)), size[0] // 2 + int(rng.integers(-1, 2)))
    cv2.circle(photo, centre, 25, (160, 150, 140), 6)
    if bad:
        cv2.circle(photo, (SPOT[1], SPOT[0]), 7, (250, 250, 250), -1)
    photo += rng.normal(0, 3, photo.shape)
    return np.clip(photo, 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Commands that ran in this process leave the number of threads as it was."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    yield
    if torch:
        torch.set_num_threads(before)
    if torch and (faiss := sys.modules.get("faiss")):
        faiss.omp_set_num_threads(before)


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MVTec layout: 45 good training photos, 6 good and 6 spotted test photos with masks."""
    root = tmp_path_factory.mktemp("product")
    rng = np.random.default_rng(7)
    for name, count, bad in (("train/good", 45, False), ("test/good", 6, False), ("test/spot", 6, True)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(root / name / f"{i:03d}.png"), draw_photo(rng, bad=bad))
    (root / "ground_truth/spot").mkdir(parents=True)
    mask = np.zeros((96, 128), np.uint8)
    cv2.circle(mask, (SPOT[1], SPOT[0]), 7, 255, -1)
    for i in range(6):
        cv2.imwrite(str(root / f"ground_truth/spot/{i:03d}_mask.png"), mask)
    return root


@pytest.fixture(scope="session")
def model(product: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of `product`."""
    from anomaly.config import RunConfig
    from anomaly.fitting.run import fit

    out = tmp_path_factory.mktemp("models") / "plate"
    fit(product, out, RunConfig.load(None, list(AS_FITTED)))
    return out


@pytest.fixture
def own_model(model: Path, tmp_path: Path) -> Path:
    """A copy of the model, whose versions and cache of scores are this test's alone."""
    return Path(shutil.copytree(model, tmp_path / "plate"))


def fake_anomalib(folder: Path, *, train: int) -> Path:
    """A Python that runs no job: it checks its photos and ranks the anomalous ones above the normal ones."""
    fake = folder / "python"
    fake.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "job = json.load(open(sys.argv[2]))\n"
        f"assert len(job['train']) == {train} and len(job['normal']) == len(job['anomalous']) == 6\n"
        "if job['model'] == 'draem': sys.exit('no memory')\n"
        "rank = {'normal': [0.1] * 6, 'anomalous': [0.2] * 6}\n"
        "costs = {'fit_seconds': 1, 'photos_per_second': 2, 'peak_mb': 3}\n"
        "json.dump({**rank, **costs}, open(sys.argv[3], 'w'))\n"
    )
    fake.chmod(0o755)
    return fake
