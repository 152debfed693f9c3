"""The benchmark, the table of methods and the table beside peers, with next to no training."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomaly.config import RunConfig
from pipelines import benchmark, methods, peers
from tests.conftest import QUICK, fake_anomalib

SETTINGS = [part for setting in QUICK for part in ("--set", setting)]


@pytest.fixture
def small(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_DATA", str(product.parent))
    monkeypatch.setattr(benchmark, "REAL", (product.name,))


def run(
    module, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> list[dict]:
    monkeypatch.setattr(sys, "argv", ["pipeline", "--json", *arguments])
    module.main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_benchmark_prints_a_row_for_each_set_that_is_here(small, product, capsys, monkeypatch) -> None:
    rows = run(
        benchmark, capsys, monkeypatch, "--sets", f"{product.name},absent", "--backbones", "auto", *SETTINGS
    )
    assert [row["set"] for row in rows] == [product.name]
    assert 0 <= rows[0]["image_auroc"] <= 1 and list(rows[0]["branches"]) == [*RunConfig().branches]
    assert rows[0]["fit_seconds"] > 0 and "escape" in benchmark.table(rows, 1)


def test_every_method_has_a_row(small, product, capsys, monkeypatch) -> None:
    monkeypatch.setattr(methods, "METHODS", methods.METHODS[10:12])
    rows = run(methods, capsys, monkeypatch, "--sets", product.name, *SETTINGS)
    assert [row["method"] for row in rows] == [method.name for method in methods.METHODS]
    assert all(0 <= row["image_auroc"][product.name] <= 1 for row in rows)


@pytest.mark.parametrize("method", methods.METHODS, ids=lambda method: method.name)
def test_the_settings_of_every_method_are_known(method: methods.Method) -> None:
    assert any(methods.serves(method, backbone) for backbone in ("auto", "none"))


def test_peers_are_given_the_same_photos_and_their_failure_is_told(
    small, product, capsys, monkeypatch, tmp_path
) -> None:
    fake = fake_anomalib(tmp_path, train=20)
    monkeypatch.setattr(
        sys, "argv", ["peers", "--json", "--sets", product.name, "--train", "20", "--python", str(fake)]
    )
    peers.main()
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["model"] for row in rows] == ["anomalib patchcore", "anomalib padim", "anomalib ganomaly"]
    assert all(row["image_auroc"] == 1.0 for row in rows)
    assert "draem failed: no memory" in err


@pytest.mark.parametrize("as_json", [True, False])
def test_stopped_experiments_keep_what_they_found(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines import reproduce_papers
    from pipelines.papers.table import Row, Skipped

    def stopped(_: Path | None) -> Iterator[Row]:
        yield Row("x", "no bits", "accuracy", (0.5, 0.75))
        raise KeyboardInterrupt

    def missing(_: Path | None) -> Iterator[Row]:
        raise Skipped("no photos here")
        yield

    experiments = {"missing": ("of photos", missing), "x": ("of bits", stopped)}
    monkeypatch.setattr(reproduce_papers, "EXPERIMENTS", experiments)
    assert reproduce_papers.main(["--json"] if as_json else []) == 130
    told = capsys.readouterr().out
    if as_json:
        skipped, row = (json.loads(line) for line in told.splitlines())
        assert skipped == {"experiment": "missing", "skipped": "no photos here"}
        assert row["ours"] == 0.625
    else:
        assert "skipped: no photos here" in told and "| 0.625 |" in " ".join(told.split())
