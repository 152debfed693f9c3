"""A model folder is foreign input: whatever is in it, it loads whole or is refused in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from bundles import MANIFESTS, SPOILS, resign, small_model

from anomaly.bundle import MANIFEST, read_bundle, read_manifest
from anomaly.errors import AnomalyError, BundleError


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "model"
    small_model(folder)
    return folder


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    shutil.copytree(small, tmp_path / "model")
    return tmp_path / "model"


def refused(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    sentence = str(caught.value)
    with pytest.raises(BundleError):
        read_bundle(folder, late=True).load()
    assert "\n" not in sentence and len(sentence) < 1000
    assert any(cure in sentence for cure in ("restore the model", "fit it again", "fit the model again"))
    return sentence


def test_signed_anew_the_model_still_loads(copy: Path) -> None:
    resign(copy, json.loads((copy / MANIFEST).read_text()))
    read_bundle(copy)


@pytest.mark.parametrize("name", SPOILS)
def test_hostile_models_are_refused(copy: Path, name: str) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    SPOILS[name](copy, manifest)
    resign(copy, manifest)
    refused(copy)


def test_a_pipe_that_nobody_writes_into_is_not_waited_for(copy: Path) -> None:
    (copy / "calibration.json").unlink()
    os.mkfifo(copy / "calibration.json")
    refused(copy)


@pytest.mark.parametrize("name", MANIFESTS)
def test_hostile_manifests_are_refused(copy: Path, name: str) -> None:
    (copy / MANIFEST).write_bytes(MANIFESTS[name])
    with pytest.raises(BundleError, match=r"restore the model|upgrade anomaly"):
        read_bundle(copy)


def fuzz(copy: Path, seconds: float, least: int) -> int:
    """Damage a random file at random places, its checksums made to fit, until time is over; how often."""
    rng = np.random.default_rng(int(os.environ.get("ANOMALY_FUZZ_SEED", "0")))
    whole = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    manifest = json.loads((copy / MANIFEST).read_text())
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end or rounds < least:
        path = list(whole)[rng.integers(len(whole))]
        data = bytearray(whole[path])
        for place in rng.integers(0, min(len(data), 4000), rng.integers(1, 8)):
            data[place] = rng.integers(256)
        if rng.random() < 0.2:
            data = data[: rng.integers(len(data))]
        path.write_bytes(data)
        if path.name == MANIFEST:
            with suppress(ValueError, TypeError, AttributeError):  # damaged, with a checksum that fits
                resign(copy, json.loads(bytes(data)))
        else:
            resign(copy, json.loads(json.dumps(manifest)))
        try:
            read_bundle(copy)
        except AnomalyError as error:
            assert "\n" not in str(error)
        path.write_bytes(whole[path])
        (copy / MANIFEST).write_bytes(whole[copy / MANIFEST])
        rounds += 1
    return rounds


def fuzz_manifest(folder: Path, seconds: float, least: int) -> int:
    """Damage manifests alone, which is quick."""
    rng = np.random.default_rng(1)
    whole = (folder / MANIFEST).read_bytes()
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end or rounds < least:
        data = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            place, length = rng.integers(len(data)), rng.integers(1, 30)
            piece = data[rng.integers(len(data)) :][: rng.integers(30)]
            data[place : place + length] = piece if rng.random() < 0.7 else rng.bytes(length)
        (folder / MANIFEST).write_bytes(data)
        try:
            read_manifest(folder)
        except BundleError as error:
            assert "\n" not in str(error)
        rounds += 1
    (folder / MANIFEST).write_bytes(whole)
    return rounds


def test_random_damage_never_escapes_as_another_exception(copy: Path) -> None:
    assert fuzz(copy, 0, 15) == 15
    assert fuzz_manifest(copy, 0, 150) == 150


@pytest.mark.slow
def test_ten_minutes_of_random_damage(copy: Path) -> None:
    fuzz(copy, 420, 100)
    fuzz_manifest(copy, 180, 1000)
