"""An exported graph judges as the model does, or is not kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import QUICK, draw_photo
from test_commands import run

from anomaly.bundle import read_bundle
from anomaly.config import RunConfig
from anomaly.data.geometry import Geometry
from anomaly.data.layouts import read_samples
from anomaly.detector import Scores
from anomaly.errors import AnomalyError, BundleError, ConfigError
from anomaly.export.folder import default_folder, find_export
from anomaly.export.graph import branch
from anomaly.export.loss import Loss, measure_losses
from anomaly.export.runtimes import load_graph
from anomaly.export.verify import BranchScorer, Verification, run_one, verify
from anomaly.export.write import export, write_branches, write_onnx
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
    assert score.runtime == runtime
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
    if scorer.input == "pixels":
        maps = [torch.rand(3, 320, 288, generator=generator) for _ in range(3)]
        values = torch.rand(3, 144, 112, generator=generator)
    else:
        maps = [torch.randn(24, 20, 18, generator=generator) for _ in range(3)]
        values = torch.randn(24, 9, 7, generator=generator)
    scorer.fit(maps, FitContext())
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
        "fusion.standardise_by=radius",
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

        def forward(self, photos: torch.Tensor) -> tuple[torch.Tensor, ...]:
            first, *others = self.network(photos)
            return first * 1.01, *others

    monkeypatch.setattr(
        "anomaly.export.write.write_onnx",
        lambda network, path, **options: write_onnx(Off(network), path, **options),
    )
    with pytest.raises(BundleError, match=r"deviate by 0\.0\d+, more than 0\.001; nothing was kept"):
        export(read_bundle(model), "onnx", tmp_path / "x")
    assert not any(tmp_path.iterdir())


def test_a_changed_verdict_is_trouble_however_small_the_deviation(model: Path) -> None:
    bundle = read_bundle(model)
    calls = iter(range(99))

    def shifted(photo: np.ndarray) -> Scores:
        found = bundle.detector.score(photo)
        at = bundle.detector.calibration.threshold
        return replace(found, image_score=float(np.nextafter(at, np.inf))) if next(calls) == 0 else found

    found = verify(bundle, [shifted], "onnxruntime")
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


def test_photos_of_many_framings_are_brought_to_their_size_once(own: Path) -> None:
    bundle = read_bundle(own)
    detector = replace(bundle.detector, geometry=Geometry(128, factor=1.5))
    graph = load_graph("onnxruntime", own / "exports/onnx/branches.onnx", 1)
    assert verify(replace(bundle, detector=detector), [BranchScorer(detector, graph)], "x").trouble is None


@pytest.mark.slow
def test_a_lower_precision_is_left_alone_until_its_loss_is_measured(
    own: Path, product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(own, tmp_path / "m"))
    shutil.rmtree(copy / "exports")
    bundle, samples, runtime = read_bundle(copy), read_samples(product), "openvino-bfloat16"
    with pytest.raises(ConfigError, match="onnx is not computed in 'bfloat16': use float32, int8"):
        export(bundle, "onnx", precision="bfloat16")
    with monkeypatch.context() as patch:  # this model's reference photos lie near its threshold
        patch.setattr("anomaly.export.verify.decision", lambda *arguments: "normal")
        made = export(bundle, "openvino", precision="bfloat16")
    assert made.path == default_folder(copy, "openvino", "bfloat16") and not made.graph.exists()
    said: list[str] = []
    assert choose_scorer(bundle, "auto", threads=1, say=said.append).runtime == "torch"
    assert said == [f"not used: the loss of {runtime} was not measured: export it again with --data"]
    named = choose_scorer(bundle, runtime, threads=1)
    loss = measure_losses(bundle, samples, {runtime: named})[runtime]
    assert loss.photos == 12 and loss.image_auroc["torch"] == 1.0 and np.isfinite(loss.deviation)
    monkeypatch.setattr("anomaly.export.loss.LARGEST_CHANGE", -1.0)
    with pytest.raises(BundleError, match="of 12 verdicts, at most -12 may; nothing was kept"):
        export(bundle, "openvino", precision="bfloat16", samples=samples, overwrite=True)
    monkeypatch.setattr("anomaly.export.loss.LARGEST_CHANGE", 1.0)
    monkeypatch.setattr("anomaly.export.loss.LARGEST_LOSS", 1.0)
    made = export(bundle, "openvino", precision="bfloat16", samples=samples, overwrite=True)
    assert made.facts["loss"]["photos"] == 12 and made.facts["precision"] == "bfloat16"
    facts = json.loads((made.path / "detector.json").read_text())
    facts["verification"]["milliseconds"] = {"torch": 9.0, runtime: 1.0}
    (made.path / "detector.json").write_text(json.dumps(facts))
    assert choose_scorer(bundle, "auto", threads=1).runtime == runtime
    assert find_export(bundle, "openvino") is None


def test_an_8_bit_graph_computes_its_backbone_alone_in_8_bits(own: Path, tmp_path: Path) -> None:
    import onnx

    path = write_branches(read_bundle(own), "onnx", "int8", tmp_path, [])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    graph = onnx.load(path).graph
    made_by = {output: node for node in graph.node for output in node.output}
    weights = {node.name: made_by.get(node.input[1]) for node in graph.node if node.op_type == "Conv"}
    in_8_bits = {name for name, node in weights.items() if node and node.op_type == "DequantizeLinear"}
    assert in_8_bits == {name for name in weights if "backbone" in name} != set(weights)
    photo = draw_photo(np.random.default_rng(2))[None]
    whole = load_graph("onnxruntime", own / "exports/onnx/branches.onnx", 1).run(photo)
    for there, here in zip(load_graph("onnxruntime-int8", path, 1).run(photo), whole, strict=True):
        assert there.shape == here.shape and np.corrcoef(there.ravel(), here.ravel())[0, 1] > 0.2


def test_what_is_too_much_loss() -> None:
    fine = Loss(100, 0.05, 2, {"torch": 0.95, "x": 0.946}, "int8")
    assert fine.trouble is None
    for change, why in (
        ({"verdicts_changed": 3}, "changes 3 of 100 verdicts, at most 2 may"),
        ({"image_auroc": {"torch": 0.95, "x": 0.944}}, "costs 0.0060 of AUROC"),
        ({"image_auroc": {"torch": None, "x": None}}, "cannot be told"),
        ({"precision": "float32"}, "deviate by 0.05, more than 0.001"),
        ({"deviation": float("inf")}, "no numbers"),
    ):
        assert why in str(replace(fine, **change).trouble)
    found = Verification(6, 0.05, 0.5, 0, {}, "int8")
    assert found.trouble is None and replace(found, precision="float32").trouble is not None
    assert replace(found, deviation=float("inf")).trouble == "some of its scores are no numbers"


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
    assert set(made["milliseconds"]) == {"torch", "onnxruntime"} and made["loss"] is None
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


LATE = """
import sys
from pathlib import Path
from anomaly.bundle import read_bundle
from anomaly.inspection.scoring import choose_scorer
from anomaly.inspection.stream import judge
bundle = read_bundle(Path(sys.argv[1]), late=True)
score = choose_scorer(bundle, sys.argv[3], threads=1)
judged = judge(bundle.detector, Path(sys.argv[2]), score)
heavy = ("torch", "timm", "sklearn", "scipy", "faiss", "albumentations", "mlflow")
print(judged.verdict.image_score, [name for name in heavy if name in sys.modules])
bundle.load()
print(bundle.detector.score(judged.photo).image_score, [name for name in heavy if name in sys.modules])
"""


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_export_is_judged_with_before_torch_is_imported(own: Path, product: Path, runtime: str) -> None:
    """Importing torch would take longer than all else before the first verdict."""
    photo = sorted((product / "test/spot").iterdir())[0]
    done = subprocess.run(
        [sys.executable, "-c", LATE, own, photo, runtime], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.endswith(" []") and second.endswith(" ['torch']")
    assert float(first.split()[0]) == pytest.approx(float(second.split()[0]), rel=1e-3, abs=1e-3)


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
        assert there["p_value"] == pytest.approx(detector.policy.p_value(here))
    assert len(list((tmp_path / "heat").iterdir())) == 6  # names repeat: good and spot are numbered alike
