"""Several processes of torchrun fit as one does, and one that is lost costs no more than a checkpoint."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import together
from conftest import AS_FITTED, QUICK
from test_commands import run

from anomaly.bundle import Bundle, read_bundle
from anomaly.models.training import Silent

ROOT = Path(__file__).parent.parent
LOST = "anomaly: another process of this fit was lost ("
LONGER = ("scorers.reconstruction.steps=300",)
"""Time enough to kill a process in the midst of it."""


def torchrun(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """`torchrun ARGUMENTS` of two processes at work in `folder`."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*launch, *map(str, arguments)],
        stderr=subprocess.PIPE, text=True, env=environment, cwd=folder,
    )  # fmt: skip


def fit(product: Path, out: Path, *options: str, settings: tuple[str, ...] = ()) -> list[str]:
    """The arguments of a quick fit."""
    changes = [part for setting in (*QUICK, *settings) for part in ("--set", setting)]
    return ["fit", str(product), "--out", str(out), *options, *changes]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """What together.py left, its exit code, and what it said."""
    folder = tmp_path_factory.mktemp("together")
    process = torchrun(folder, ROOT / "tests/together.py", folder)
    _, stderr = process.communicate()
    return folder, process.returncode, stderr


@pytest.mark.parametrize("number", [0, 1])
def test_processes_share_the_work_and_train_as_one(ended: tuple[Path, int, str], number: int) -> None:
    found = json.loads((ended[0] / f"{number}.json").read_text())
    assert found["shared"] == {
        "size": 2,
        "each": [[0, 0], [1, 1], [2, 0], [3, 1], [4, 0]],
        "told": [2, 4, 5],
        "failed": "item 3",
        "from_first": 0,
        "refused": "item 3",
        "any": [True, False],
        "one_row": [[2, 2]],
    }
    losses, weights = found["trained"]
    alone, alone_weights = together.trained(None, Silent())
    assert losses == pytest.approx(alone, rel=1e-4)
    for name, values in alone_weights.items():
        np.testing.assert_allclose(weights[name], values, atol=1e-3, err_msg=name)
    losses, given = found["rebuilt"]
    assert losses == pytest.approx(together.rebuilt()[0], rel=1e-4)
    assert set(given) == {(3, 2)[number]}


def test_a_killed_process_is_told_of_once_and_what_was_trained_is_kept(
    ended: tuple[Path, int, str], tmp_path: Path
) -> None:
    folder, code, stderr = ended
    assert code != 0
    assert stderr.count(LOST) == 1 and "start again with --resume" in stderr
    seen: list[int] = []

    class Noting(Silent):
        def step(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
            seen.append(done)

    shutil.copytree(folder, tmp_path / "kept")
    losses, _ = together.trained(tmp_path / "kept", Noting())
    assert seen[0] in (together.KILLED_AT, together.KILLED_AT + 1)
    assert losses == pytest.approx(together.trained(None, Silent())[0], rel=1e-4)


def check_the_same(found: Bundle, expected: Bundle) -> None:
    """The same losses, threshold and calibration scores, but for the last digits."""
    for name, values in expected.manifest["losses"].items():
        assert found.manifest["losses"][name] == pytest.approx(values, rel=0.01), name
    scores = [[photo["image_score"] for photo in b.calibration_photos] for b in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=0.05 * float(np.std(scores[1])))
    assert found.detector.calibration.threshold == pytest.approx(
        expected.detector.calibration.threshold, abs=0.05 * float(np.std(scores[1]))
    )


@pytest.mark.slow
def test_the_documented_fit_makes_the_model_of_one_process(
    product: Path, model: Path, tmp_path: Path
) -> None:
    page = (ROOT / "docs/distributed.md").read_text()
    command = next(line for line in page.splitlines() if line.startswith("torchrun --standalone"))
    words = shlex.split(command)
    assert words[:3] == ["torchrun", "--standalone", "--nproc-per-node"]
    shutil.copytree(product / "train/good", tmp_path / "photos/good")
    settings = [*AS_FITTED, "tracking.enabled=true", "tracking.uri=sqlite:///runs.db"]
    changes = [part for setting in settings for part in ("--set", setting)]
    process = torchrun(tmp_path, *words[4:], *changes)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert stderr.count("next: anomaly inspect") == 1
    check_the_same(read_bundle(tmp_path / "models/cap"), read_bundle(model))
    assert not (tmp_path / "models/cap.partial").exists()
    from mlflow import MlflowClient

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own dependencies deprecate each other
        client = MlflowClient(f"sqlite:///{tmp_path / 'runs.db'}")
    (tracked,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert len(client.get_metric_history(tracked.info.run_id, "loss.reconstruction")) == 20


@pytest.mark.slow
def test_a_fit_without_pretrained_weights_has_the_same_losses(product: Path, tmp_path: Path) -> None:
    from anomaly.config import RunConfig
    from anomaly.fitting import run as fitting

    settings = ("backbone=none", "contrastive.backbone_steps=4", "fusion.weighting=visibility")
    alone = fitting.fit(product, tmp_path / "alone", RunConfig.load(None, [*QUICK, *settings]))
    process = torchrun(tmp_path, "-m", "anomaly", *fit(product, tmp_path / "both", settings=settings))
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    found = read_bundle(tmp_path / "both").manifest
    for name, values in alone.bundle.manifest["losses"].items():
        assert found["losses"][name] == pytest.approx(values, rel=0.02), name
    assert found["weights"] == pytest.approx(alone.bundle.manifest["weights"], abs=0.1)


def worker(parent: int, rank: int) -> int:
    """The process id of one of torchrun's processes; 0 where it is not there."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            if b"RANK=%d" % rank in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                return int(child)
        except OSError:
            continue
    return 0


def until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_fit_that_loses_a_process_ends_in_one_sentence_and_one_process_goes_on(
    capfd: pytest.CaptureFixture[str], product: Path, tmp_path: Path, killed: int
) -> None:
    out = tmp_path / "model"
    process = torchrun(tmp_path, "-m", "anomaly", *fit(product, out, settings=LONGER))
    until((tmp_path / "model.partial/contrastive.safetensors").exists, process)
    os.kill(worker(process.pid, killed), signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode != 0
    assert stderr.count("anomaly: ") == stderr.count(LOST) == 1, stderr
    assert not out.exists()
    code, _, stderr = run(capfd, *fit(product, out, settings=LONGER))
    assert code == 2 and "go on with --resume" in stderr
    code, _, stderr = run(capfd, *fit(product, out, "--resume", settings=LONGER))
    assert code == 0, stderr
    assert "contrastive:" not in stderr
    assert read_bundle(out).manifest["losses"]["reconstruction"][1] < 0.5


@pytest.mark.slow
def test_torchrun_starts_a_lost_fit_again_by_itself(product: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    arguments = fit(product, out, "--resume", settings=LONGER)
    process = torchrun(tmp_path, "--max-restarts", 1, "-m", "anomaly", *arguments)
    until((tmp_path / "model.partial/contrastive.safetensors").exists, process)
    os.kill(worker(process.pid, 1), signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert stderr.count(LOST) == 1 and stderr.count("next: anomaly inspect") == 1
    assert read_bundle(out).manifest["losses"]["reconstruction"][1] < 0.5


@pytest.mark.slow
def test_terminated_it_stops_in_all_processes_and_says_how_to_go_on(product: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    process = torchrun(tmp_path, "-m", "anomaly", *fit(product, out, settings=LONGER))
    until((tmp_path / "model.partial/contrastive.safetensors").exists, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode != 0 and LOST not in stderr
    assert stderr.count("stopped; go on with: anomaly fit") == 1
    assert (tmp_path / "model.partial/reconstruction.safetensors").exists()


@pytest.mark.slow
def test_a_mistake_is_told_once(product: Path, model: Path, tmp_path: Path) -> None:
    process = torchrun(tmp_path, "-m", "anomaly", *fit(product, model))
    _, stderr = process.communicate()
    assert process.returncode != 0
    assert stderr.count("already exists: give another --out") == 1
    assert stderr.count("anomaly: ") == 1
