"""Hostile and damaged model folders, whose checksums fit: what a loader must refuse in one sentence.

`SPOILS` maps a name to a function that spoils a whole model folder; `resign` makes its checksums fit again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from anomaly.bundle import FORMAT, MANIFEST, _checksum, write_bundle
from anomaly.calibration import Calibration
from anomaly.config import RunConfig
from anomaly.data.geometry import Geometry
from anomaly.detector import Detector
from anomaly.expected import Expected
from anomaly.maps import LIMIT, MapStatistics
from anomaly.models.backbones import build_backbone
from anomaly.models.encoder import Encoder
from anomaly.neighbours import MemoryBank
from anomaly.policy.policy import Policy
from anomaly.scorers import FitContext, build_scorers

Manifest = dict[str, Any]
Spoil = Callable[[Path, Manifest], None]
"""Changes the folder, its manifest or both; the manifest is written, with checksums that fit, afterwards."""


def small_model(folder: Path) -> None:
    """Write a whole model that was never fitted: parts of random numbers that fit together."""
    rng = np.random.default_rng(0)
    settings = ["backbone=none", "contrastive.embedding_size=8", "scorers.embedding.own_photo=true"]
    config = RunConfig.load(None, settings)
    encoder = Encoder(build_backbone("none"), 8, config.image.tile_size).eval()
    scorers = build_scorers(config.branches)
    scorers["reconstruction"]._build(encoder.channels)
    scorers["reconstruction"].expected = nothing_expected(encoder.channels)
    for name, width in (("embedding", 8), ("texture", encoder.filters.channels)):
        patches = rng.normal(size=(50, width)).astype(np.float32)
        scorers[name].bank = MemoryBank(patches, np.empty((0, width), np.float32))
        scorers[name].expected = nothing_expected(width)
    photos = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    scorers["eigenimages"].fit(photos, FitContext())
    maps = [*scorers, *(name + LIMIT for name, scorer in scorers.items() if scorer.limited)]
    statistics = {name: MapStatistics(*np.ones((2, 4, 4), np.float32)) for name in maps}
    scores = np.sort(rng.random(19))
    calibration = Calibration(scores, config.calibration, float(scores[-1]))
    detector = Detector(
        config, Geometry(64), None, encoder, scorers, statistics, dict.fromkeys(scorers, 1 / len(scorers)),
        calibration, None, Policy.born(calibration),
    )  # fmt: skip
    rows = [{"path": "a", "sha256": "", "group": None, "image_score": score} for score in scores.tolist()]
    facts = {"data": {"sha256": []}, "mlflow": {"run_id": None, "uri": None}}
    maps = [np.ones((4, 4), np.float32) for _ in rows]
    write_bundle(folder, detector, facts, rows, maps, [np.zeros((64, 64, 3), np.uint8)])


def nothing_expected(width: int) -> Expected:
    """Every patch is expected to score the same."""
    return Expected(np.zeros(width, np.float32), 0.0, 0.0, 0.0)


def resign(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` with the checksums that the folder's files have now."""
    for name in manifest["files"] if isinstance(manifest.get("files"), dict) else ():
        path = folder / name
        try:
            if path.stat().st_size > 2**30:
                continue
            manifest["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
        except (OSError, ValueError):
            continue
    manifest["checksum"] = _checksum(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8", errors="surrogatepass")


def field(*path: str, value: Any) -> Spoil:
    """Set one field of the manifest."""

    def spoil(folder: Path, manifest: Manifest) -> None:
        inner: Any = manifest
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return spoil


def without(*path: str) -> Spoil:
    """Remove one field of the manifest."""

    def spoil(folder: Path, manifest: Manifest) -> None:
        inner: Any = manifest
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]

    return spoil


def file(name: str, data: bytes) -> Spoil:
    """Replace a file."""

    def spoil(folder: Path, manifest: Manifest) -> None:
        (folder / name).write_bytes(data)

    return spoil


def tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor], which: str | None = None) -> Spoil:
    """Change one tensor of a file, by default the first of more than one number."""

    def spoil(folder: Path, manifest: Manifest) -> None:
        tensors = load_file(folder / name)
        key = which or next(key for key, value in sorted(tensors.items()) if value.numel() > 1)
        tensors[key] = change(tensors[key].clone()).contiguous()
        save_file(tensors, folder / name)

    return spoil


def outside(name: str) -> Spoil:
    """List a file that lies outside the folder."""

    def spoil(folder: Path, manifest: Manifest) -> None:
        secret = folder.parent / "secret.json"
        secret.write_text("[]")
        listed = os.path.join(folder.parent, "secret.json") if name == "absolute" else name
        manifest["files"][listed] = hashlib.sha256(b"[]").hexdigest()

    return spoil


def linked(folder: Path, manifest: Manifest) -> None:
    target = folder.parent / "elsewhere.safetensors"
    (folder / "encoder.safetensors").rename(target)
    (folder / "encoder.safetensors").symlink_to(target)


def linked_folder(folder: Path, manifest: Manifest) -> None:
    (folder / "reference").rename(folder.parent / "elsewhere")
    (folder / "reference").symlink_to(folder.parent / "elsewhere")


def looped(folder: Path, manifest: Manifest) -> None:
    (folder / "encoder.safetensors").unlink()
    (folder / "encoder.safetensors").symlink_to("encoder.safetensors")


def oversize(folder: Path, manifest: Manifest) -> None:
    with open(folder / "encoder.safetensors", "r+b") as large:
        large.truncate(5 * 2**30)


def piped(folder: Path, manifest: Manifest) -> None:
    (folder / "calibration.json").unlink()
    (folder / "calibration.json").mkdir()


def calibration(rows: object) -> Spoil:
    """Calibration photos as they would be written by hand."""

    def spoil(folder: Path, manifest: Manifest) -> None:
        (folder / "calibration.json").write_text(json.dumps(rows))

    return spoil


def nan(values: torch.Tensor) -> torch.Tensor:
    return torch.full_like(values, float("nan"))


def header(length: int, text: bytes = b"{}") -> bytes:
    """A safetensors file whose header says that it is `length` bytes long."""
    return length.to_bytes(8, "little") + text


BANK = "scorer.embedding.safetensors"
SPOILS: dict[str, Spoil] = {
    "file outside, by dots": outside("../secret.json"),
    "file outside, absolute": outside("absolute"),
    "file outside, by a folder and dots": outside("reference/../../secret.json"),
    "name with a zero byte": field("files", "a\0b", value="0"),
    "name far too long": field("files", "n" * 5000, value="0"),
    "name of the folder itself": field("files", ".", value="0"),
    "name that is empty": field("files", "", value="0"),
    "link out of the folder": linked,
    "folder that is a link": linked_folder,
    "link to itself": looped,
    "file of five gigabytes": oversize,
    "folder instead of a file": piped,
    "no calibration photos": calibration([]),
    "calibration score that is no number": calibration([{"image_score": float("nan"), "size": [8, 8]}]),
    "no list of files": without("files"),
    "files in a list": field("files", value=["encoder.safetensors"]),
    "no files": field("files", value={}),
    "encoder not listed": without("files", "encoder.safetensors"),
    "statistics not listed": without("files", "statistics.safetensors"),
    "no configuration": without("config"),
    "configuration that is text": field("config", value="default"),
    "configuration with another field": field("config", "sudo", value=True),
    "unknown scorer": field("config", "scorers", "quantum", value={}),
    "another embedding size": field("config", "contrastive", "embedding_size", value=7),
    "tiles of no size": field("config", "image", "tile_size", value=0),
    "share above one": field("config", "fusion", "top_share", value=3.0),
    "no backbone": without("backbone"),
    "backbone from a file outside": field("backbone", value="/etc/passwd.safetensors"),
    "backbone that needs a file": field("backbone", value="file:/etc/passwd"),
    "unknown timm model": field("backbone", value="timm:no_such_model"),
    "another backbone": field("backbone", value="efficientnet_lite0"),
    "no geometry": without("geometry"),
    "geometry of a billion pixels": field("geometry", "image_size", value=10**9),
    "geometry of no size": field("geometry", "image_size", value=0),
    "geometry of text": field("geometry", "image_size", value="large"),
    "geometry with another field": field("geometry", "depth", value=3),
    "factor that is no number": field("geometry", "factor", value=float("nan")),
    "factor below zero": field("geometry", "factor", value=-1.0),
    "white level of zero": field("white_level", value=0),
    "white level of text": field("white_level", value="white"),
    "threshold that is no number": field("threshold", value=float("nan")),
    "threshold of infinity": field("threshold", value=float("inf")),
    "threshold of text": field("threshold", value="high"),
    "threshold beyond all floats": field("threshold", value=10**400),
    "no threshold": without("threshold"),
    "weight that is no number": field("weights", "embedding", value=float("nan")),
    "weight below zero": field("weights", "embedding", value=-0.5),
    "no weights": field("weights", value={}),
    "encoder that is no safetensors": file("encoder.safetensors", b"PK\x03\x04" + bytes(100)),
    "encoder that is a pickle": file("encoder.safetensors", b"\x80\x04cos\nsystem\n(S'true'\ntR."),
    "encoder that is empty": file("encoder.safetensors", b""),
    "safetensors header of exabytes": file("encoder.safetensors", header(2**62)),
    "safetensors header that is no JSON": file("encoder.safetensors", header(4, b"####")),
    "safetensors with the same tensor twice": file(
        "encoder.safetensors", header(58, b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":1}')
    ),
    "safetensors beyond its end": file(
        "encoder.safetensors", header(60, b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}     ')
    ),
    "encoder of one tensor": lambda folder, manifest: save_file(
        {"mean": torch.zeros(3)}, folder / "encoder.safetensors"
    ),
    "encoder weights that are no numbers": tensor("encoder.safetensors", nan),
    "encoder weights of another shape": tensor(
        "encoder.safetensors", lambda values: values[:1], "standard.mean"
    ),
    "autoencoder of another shape": tensor("scorer.reconstruction.safetensors", lambda values: values[:1]),
    "bank that is empty": tensor(BANK, lambda values: values[:0], "patches"),
    "bank of another width": tensor(BANK, lambda values: values[:, :5], "patches"),
    "bank and cells of another width": lambda folder, manifest: save_file(
        {"patches": torch.zeros(9, 5), "centroids": torch.zeros(0, 5)}, folder / BANK
    ),
    "bank of infinity": tensor(BANK, lambda values: values / 0, "patches"),
    "bank of integers in three dimensions": tensor(BANK, lambda values: values[None], "patches"),
    "expected distance beyond all numbers": tensor(BANK, lambda v: v + 1e188, "expected.range"),
    "expected distance in no range": tensor(
        BANK, lambda v: torch.tensor([0, 1, -1], dtype=v.dtype), "expected.range"
    ),
    "expected residual of another width": tensor(
        "scorer.reconstruction.safetensors", lambda values: values[:3], "expected.weights"
    ),
    "model of an earlier format": field("format", value=1),
    "eigenimages that are no numbers": tensor("scorer.eigenimages.safetensors", nan, "components"),
    "eigenimages of other photos": tensor("scorer.eigenimages.safetensors", lambda v: v[:, :5], "components"),
    "eigenimages of two channels": tensor("scorer.eigenimages.safetensors", lambda v: v[:2], "mean"),
    "eigenimages thinner than a patch": tensor(
        "scorer.eigenimages.safetensors", lambda v: v.reshape(3, 1, -1), "mean"
    ),
    "spread of zero": tensor("statistics.safetensors", lambda values: values * 0, "embedding.spread"),
    "spread below zero": tensor("statistics.safetensors", lambda values: -values, "embedding.spread"),
    "limit without a spread": tensor(
        "statistics.safetensors", lambda values: values * 0, "embedding.limit.spread"
    ),
    "statistics in one dimension": tensor("statistics.safetensors", lambda v: v.flatten(), "embedding.mean"),
    "calibration that is no JSON": file("calibration.json", b"{"),
    "calibration nested without end": file("calibration.json", b"[" * 200_000),
    "calibration without scores": file("calibration.json", b'[{"path": "a"}]'),
    "calibration of text": file("calibration.json", b'[{"image_score": "high"}]'),
    "calibration of an object": file("calibration.json", b'{"image_score": 1}'),
}

NOW = b'{"format": %d' % FORMAT
"""How a manifest that this program reads may begin."""
MANIFESTS: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(1000),
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "no format": b"{}",
    "format of text": b'{"format": "1"}',
    "format of the future": b'{"format": 99}',
    "a key twice": NOW + b", " + NOW[1:] + b"}",
    "no checksum": NOW + b"}",
    "nested without end": NOW + b', "a": ' + b"[" * 200_000,
    "a number of a million digits": b'{"format": ' + b"9" * 1_000_000 + b"}",
    "no Unicode": NOW + b', "a": "\xff\xfe"}',
    "half a surrogate": NOW + b', "checksum": "\\ud800"}',
    "UTF-16": (NOW + b"}").decode().encode("utf-16"),
    "cut": NOW + b', "files": {"enc',
    "a zip": b"PK\x05\x06" + bytes(18),
}
