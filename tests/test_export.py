"""An exported graph judges as the model does, or is not kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import QUICK, draw_photo
from test_commands import run

from anomaly.bundle import read_bundle
from anomaly.config import RunConfig
from anomaly.errors import AnomalyError, BundleError, ConfigError
from anomaly.export.graph import branch
from anomaly.export.runtimes import load_graph
from anomaly.export.verify import run_one, verify
from anomaly.export.write import export, write_onnx
from anomaly.fitting.run import fit
from anomaly.inspection.scoring import choose_scorer
from anomaly.neighbours import EXACT_BELOW, MemoryBank
from anomaly.scorers import SCORERS, FitContext
from anomaly.scorers.embedding import EmbeddingDistance

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def own(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the model with exports inside it."""
    pytest.importorskip("openvino")
    copy = tmp_path_factory.mktemp("own") / "plate"
    shutil.copytree(model, copy)
    for graph in ("onnx", "openvino"):
        export(read_bundle(copy), graph)
    return copy


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_photos_of_many_sizes_score_as_in_torch(own: Path, runtime: str) -> None:
    bundle = read_bundle(own)
    score = choose_scorer(bundle, runtime, threads=1)
    assert score.graph is not None
    rng = np.random.default_rng(5)
    for bad in (False, True):
        for size in ((96, 128), (300, 200), (64, 640)):
            photo = cv2.resize(draw_photo(rng, bad=bad), size[::-1])
            here, there = bundle.detector.score(photo), score(photo)
            assert there.image_score == pytest.approx(here.image_score, rel=1e-3, abs=1e-3)
            np.testing.assert_allclose(there.anomaly_map, here.anomaly_map, rtol=1e-3, atol=2e-3)


def test_a_batch_of_three_scores_as_three_batches_of_one(own: Path) -> None:
    graph = load_graph("onnxruntime", own / "exports/onnx/detector.onnx", 1)
    rng = np.random.default_rng(6)
    photos = np.stack([draw_photo(rng, bad=bool(i % 2)) for i in range(3)])
    together = graph.run(photos)[0]
    np.testing.assert_allclose(together, [run_one(graph, photo)[0] for photo in photos], rtol=1e-4)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("size", [300, EXACT_BELOW + 500])
def test_a_bank_is_searched_as_torch_does_small_or_large(tmp_path: Path, size: int, runtime: str) -> None:
    pytest.importorskip(runtime)
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(size, 6)).astype(np.float32) + 40
    bank = MemoryBank.build(patches)
    if len(bank.centroids):  # one more cell, which no patch lies in
        bank = MemoryBank(patches, np.concatenate([bank.centroids, np.full((1, 6), 40 + 3e3, np.float32)]))
    scorer = EmbeddingDistance(EmbeddingDistance.Config(relative=0))
    scorer.bank = bank
    queries = rng.normal(size=(2, 6, 8, 5)).astype(np.float32) + 40
    queries[0, :, 0, 0] = patches[7]  # a known patch, and one that is almost known
    queries[0, :, 0, 1] = patches[8] + 1e-4
    queries[1, :, 0, 0] = 40 + 3e3

    class Alone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = branch(scorer)

        def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found = self.branch(values)
            return found.flatten(1).mean(1), found[:, 0]

    write_onnx(Alone(), tmp_path / "search.onnx", torch.from_numpy(queries))
    found = load_graph(runtime, tmp_path / "search.onnx", 1).run(queries)[1]
    expected = [scorer.score(torch.from_numpy(values)).numpy() for values in queries]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
    assert found[0, 0, 0] < 1e-4 and 1e-4 < found[0, 0, 1] < 4e-4


@pytest.mark.parametrize("name", SCORERS.names())
def test_every_scorer_has_a_branch_of_the_graph(name: str) -> None:
    """A new scorer is exported as well, or this says that it is not."""
    generator = torch.Generator().manual_seed(0)
    kind = SCORERS.get(name)
    scorer = kind(kind.Config(**({"steps": 1} if "steps" in kind.Config.model_fields else {})))
    maps = [torch.randn(24, 20, 18, generator=generator) for _ in range(3)]
    scorer.fit(maps, FitContext())
    values = torch.randn(24, 9, 7, generator=generator)
    with torch.no_grad():
        found = branch(scorer)(values[None])
    assert found.shape == (1, 1, 9, 7)
    torch.testing.assert_close(found[0, 0], scorer.score(values), rtol=1e-3, atol=1e-4)


def test_an_exported_pixel_branch_on_a_finer_grid_and_no_pretrained_backbone(
    product: Path, tmp_path: Path
) -> None:
    settings = [
        *QUICK,
        "backbone=none",
        "contrastive.backbone_steps=2",
        "scorers.reconstruction.target=pixels",
    ]
    fitted = fit(product, tmp_path / "m", RunConfig.load(None, settings))
    made = export(fitted.bundle, "onnx", tmp_path / "x")
    graph = load_graph("onnxruntime", made.graph, 1)
    photo = draw_photo(np.random.default_rng(1), bad=True)
    detector = fitted.bundle.detector
    here, working = detector.score(photo), detector.geometry.working(photo)
    score, anomaly_map = run_one(graph, working)
    assert anomaly_map.shape == here.anomaly_map.shape == (working.shape[0] // 8, working.shape[1] // 8)
    assert score == pytest.approx(here.image_score, rel=1e-3)


def test_a_graph_that_deviates_is_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Off(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores, maps = self.network(photos)
            return scores * 1.01, maps

    monkeypatch.setattr(
        "anomaly.export.write.write_onnx", lambda network, path: write_onnx(Off(network), path)
    )
    with pytest.raises(BundleError, match=r"deviate by 0\.0\d+, more than 0\.001; nothing was kept"):
        export(read_bundle(model), "onnx", tmp_path / "x")
    assert not any(tmp_path.iterdir())


def test_a_changed_verdict_is_trouble_however_small_the_deviation(model: Path) -> None:
    bundle = read_bundle(model)
    calls = iter(range(99))

    def shifted(photos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = bundle.detector.score(photos[0])
        at = bundle.detector.calibration.threshold
        score = np.nextafter(at, np.inf) if next(calls) == 0 else found.image_score
        return np.array([score]), found.anomaly_map[None]

    found = verify(bundle, SimpleNamespace(run=shifted), "onnxruntime")
    assert found.verdicts_changed == 1
    assert found.trouble is not None


def test_auto_takes_the_fastest_that_is_whole_and_says_so(own: Path, tmp_path: Path) -> None:
    copy = tmp_path / "m"
    shutil.copytree(own, copy)
    for graph, runtime, milliseconds in (("onnx", "onnxruntime", 2.0), ("openvino", "openvino", 3.0)):
        path = copy / "exports" / graph / "detector.json"
        facts = json.loads(path.read_text())
        facts["verification"]["milliseconds"] = {"torch": 9.0, runtime: milliseconds}
        path.write_text(json.dumps(facts))
    said: list[str] = []
    bundle = read_bundle(copy)
    assert choose_scorer(bundle, "auto", threads=1, say=said.append).runtime == "onnxruntime"
    assert said == ["judging with onnxruntime (2 ms a photo when it was verified, torch 9 ms)"]
    with open(copy / "exports/onnx/detector.onnx", "r+b") as file:
        file.seek(5000)
        file.write(b"?")
    said.clear()
    assert choose_scorer(bundle, "auto", threads=1, say=said.append).runtime == "openvino"
    assert "detector.onnx was changed after it was written" in said[0]
    with pytest.raises(BundleError, match="was changed after it was written"):
        choose_scorer(bundle, "onnxruntime", threads=1)
    shutil.rmtree(copy / "exports")
    assert choose_scorer(bundle, "auto", threads=1).runtime == "torch"
    with pytest.raises(ConfigError, match="run `anomaly export --model"):
        choose_scorer(bundle, "openvino", threads=1)


def test_an_export_of_another_model_is_refused(own: Path, product: Path, tmp_path: Path) -> None:
    other = fit(product, tmp_path / "m", RunConfig.load(None, [*QUICK, "seed=3"]))
    shutil.copytree(own / "exports", tmp_path / "m/exports")
    with pytest.raises(BundleError, match="was exported from another model"):
        choose_scorer(read_bundle(other.bundle.path), "onnxruntime", threads=1)


@pytest.mark.parametrize(
    "facts",
    ["", "{", "[]", "{}", '{"format": 9}', '{"format": 1, "graph": "onnx", "files": {}}', "[" * 100_000],
)
def test_broken_facts_of_an_export_are_one_sentence(own: Path, tmp_path: Path, facts: str) -> None:
    copy = tmp_path / "m"
    shutil.copytree(own, copy)
    (copy / "exports/onnx/detector.json").write_text(facts)
    with pytest.raises(AnomalyError, match=r"export the model again|upgrade anomaly"):
        choose_scorer(read_bundle(copy), "onnxruntime", threads=1)


def test_the_commands(capfd: pytest.CaptureFixture[str], model: Path, product: Path, tmp_path: Path) -> None:
    own = tmp_path / "m"
    shutil.copytree(model, own)
    code, stdout, stderr = run(capfd, "export", "--model", own, "--format", "onnx", "--json")
    assert code == 0, stderr
    made = json.loads(stdout)
    assert made["verdicts_changed"] == 0 and made["photos"] == 6
    assert set(made["milliseconds"]) == {"torch", "onnxruntime"}
    assert run(capfd, "export", "--model", own)[0] == 2
    assert run(capfd, "export", "--model", own, "--overwrite")[0] == 0
    assert run(capfd, "export", "--model", own, "--format", "onx")[2].endswith("did you mean 'onnx'?\n")
    verdicts = {}
    for runtime in ("torch", "onnxruntime"):
        out = tmp_path / runtime
        code, stdout, stderr = run(
            capfd, "inspect", product / "test", "--model", own, "--out", out, "--runtime", runtime, "--json"
        )
        assert code == 0, stderr
        verdicts[runtime] = [json.loads(line) for line in stdout.splitlines()]
    assert "judging with onnxruntime" in stderr
    for here, there in zip(*verdicts.values(), strict=True):
        assert here["decision"] == there["decision"]
        assert there["image_score"] == pytest.approx(here["image_score"], rel=1e-3)
        assert [r["box"] for r in here["regions"]] == [r["box"] for r in there["regions"]]
    out = tmp_path / "tpu"
    code, _, stderr = run(
        capfd, "inspect", product / "test", "--model", own, "--out", out, "--runtime", "tpu"
    )
    assert code == 2 and "unknown runtime 'tpu'" in stderr


def test_the_exported_folder_runs_without_torch(own: Path, product: Path, tmp_path: Path) -> None:
    """In a process that can import neither torch nor this package."""
    script = (ROOT / "examples/judge_without_torch.py").read_text()
    assert len(script.splitlines()) <= 100
    blocked = (
        "import runpy, sys\nfor name in ('torch', 'anomaly', 'faiss', 'PIL'): sys.modules[name] = None\n"
    )
    start = (
        blocked
        + f"runpy.run_path({os.fspath(ROOT / 'examples/judge_without_torch.py')!r}, run_name='__main__')"
    )
    shutil.copytree(own / "exports/onnx", tmp_path / "exported")
    (tmp_path / "torn.png").write_bytes(b"?")
    photos = [*sorted((product / "test/good").iterdir()), *sorted((product / "test/spot").iterdir())]
    arguments = ["-c", start, "exported", *map(str, photos), "torn.png", "--heatmaps", "heat"]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    judged = [json.loads(line) for line in done.stdout.splitlines()]
    assert judged.pop()["decision"] == "error"
    detector = read_bundle(own).detector
    for path, there in zip(photos, judged, strict=True):
        here = detector.score(detector.read(path)).image_score
        assert there["image_score"] == pytest.approx(here, rel=1e-3, abs=1e-3)
        assert there["decision"] == ("anomalous" if here > detector.calibration.threshold else "normal")
        assert there["p_value"] == pytest.approx(detector.calibration.p_value(here))
    assert len(list((tmp_path / "heat").iterdir())) == 6  # names repeat: good and spot are numbered alike
