"""The model on disk: a folder of JSON, safetensors and a few photos. Nothing in it is ever executed.

manifest.json             what was fitted, on what, with what; the checksum of every other file
encoder.safetensors       backbone and projection
scorer.<name>.safetensors each branch
statistics.safetensors    what maps are standardised by
picture.safetensors       the autoencoder that draws what the model expected to see, if there is one
registration.safetensors  what finds the product on a photo, where it lies at any angle on a tray
calibration.json          score of every calibration photo
calibration.safetensors   anomaly map of each, from which thresholds under region rules are chosen
reference/                some calibration photos

What decides may change after the fit: its versions lie beside the model, in <folder>.versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from anomaly.calibration import Calibration
from anomaly.config import RunConfig
from anomaly.data.geometry import Geometry
from anomaly.data.images import one_line
from anomaly.data.registration import Registration
from anomaly.data.window import Window
from anomaly.detector import Detector, keep_threads, score_patches
from anomaly.errors import AnomalyError, BundleError
from anomaly.late import Late, LateMapping, Once
from anomaly.maps import LIMIT, Map, MapStatistics
from anomaly.policy.policy import Policy
from anomaly.policy.versions import Versions
from anomaly.render import png_bytes
from anomaly.scorers import Searching, build_scorers

if TYPE_CHECKING:
    from torch import Tensor

    from anomaly.models.autoencoder import PixelAutoencoder
    from anomaly.models.encoder import Encoder

HOSTILE = (
    AnomalyError, KeyError, TypeError, ValueError, RuntimeError, IndexError, AttributeError, ArithmeticError,
    AssertionError, MemoryError, OSError,
)  # fmt: skip
"""What libraries raise on a model that was made to hurt, with checksums that fit."""
FORMAT = 7
MANIFEST = "manifest.json"
REGISTRATION = "registration.safetensors"
BLANK = 64
"""Side of the blank photo that a model is tried out with, px."""
LARGEST = 4 * 2**30
"""Bytes above which a file of a bundle is not read."""

Json = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Bundle:
    """A model folder that was read and found whole."""

    path: Path
    manifest: Json
    detector: Detector
    calibration_photos: list[Json]
    """path, sha256, group, size and image_score of each calibration photo."""
    calibration_maps: list[Map]
    """Anomaly map (h, w) of each, standardised by the others."""

    @property
    def model_hash(self) -> str:
        """SHA-256 of the manifest, and through its checksums of everything."""
        return str(self.manifest["checksum"])

    @property
    def versions(self) -> Versions:
        return Versions(self.path, self.model_hash)

    def load(self) -> None:
        """Build the networks of a model that was read `late`. Raises BundleError where they do not fit."""
        encoder: object = self.detector.encoder
        if isinstance(encoder, Late):
            encoder.load()

    def refreshed(self) -> Bundle:
        """This model with the version of its policy that is in force now. Raises BundleError where the log
        does not verify."""
        policy = self.versions.current(Policy.born(self.detector.calibration))
        return replace(self, detector=replace(self.detector, policy=policy))


def write_bundle(
    folder: Path,
    detector: Detector,
    facts: Json,
    calibration_photos: list[Json],
    calibration_maps: Sequence[Map],
    reference: list[Any],
) -> None:
    """Write the model into the new folder `folder`, whole or not at all.

    `facts` (versions, data, timings ...) become part of the manifest; `reference` photos (H, W, 3) uint8
    are kept beside it.
    """
    import torch
    from safetensors.torch import save as save_tensors

    files = {"encoder.safetensors": save_tensors(_plain(detector.encoder.state_dict()))}
    for name, scorer in detector.scorers.items():
        files[f"scorer.{name}.safetensors"] = save_tensors(_plain(scorer.state()))
    statistics: dict[str, Tensor] = {}
    for name, values in detector.statistics.items():
        statistics[f"{name}.mean"] = torch.from_numpy(values.mean)
        statistics[f"{name}.spread"] = torch.from_numpy(values.spread)
    files["statistics.safetensors"] = save_tensors(_plain(statistics))
    if detector.picture is not None:
        files["picture.safetensors"] = save_tensors(_plain(detector.picture.state_dict()))
    geometry = detector.geometry
    if isinstance(geometry.cut, Registration):
        files[REGISTRATION] = save_tensors(
            {name: torch.from_numpy(values) for name, values in geometry.cut.arrays().items()}
        )
    maps = {str(index): torch.from_numpy(values) for index, values in enumerate(calibration_maps)}
    files["calibration.safetensors"] = save_tensors(_plain(maps))
    files["calibration.json"] = json.dumps(calibration_photos, indent=1, ensure_ascii=False).encode()
    for index, photo in enumerate(reference):
        files[f"reference/{index}.png"] = png_bytes(photo)
    window = None if geometry.window is None else asdict(geometry.window)
    manifest: Json = {
        "format": FORMAT,
        "config": detector.config.model_dump(mode="json"),
        "backbone": detector.encoder.backbone.name,
        "geometry": {"image_size": geometry.image_size, "factor": geometry.factor, "window": window},
        "white_level": detector.white_level,
        "weights": dict(detector.weights),
        "threshold": detector.calibration.threshold,
        **facts,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    manifest["checksum"] = _checksum(manifest)
    files[MANIFEST] = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
    try:
        _write(folder, files)
    except OSError as error:
        raise BundleError(
            f"cannot write {one_line(folder)} ({error.strerror}): free the place, and go on with --resume"
        ) from None


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put `files` in the place of `folder`, all or none of them."""
    fresh, old = (folder.with_name(folder.name + end) for end in (".new", ".old"))
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    (fresh / "reference").mkdir(parents=True)
    for name, data in files.items():
        with open(fresh / name, "wb") as file:
            file.write(data)
            os.fsync(file.fileno())
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def read_bundle(folder: Path, *, late: bool = False) -> Bundle:
    """The model in `folder`, with the version of its policy that is in force.

    With `late` the networks are built, and torch imported, when something is asked of them: an exported
    model is judged with without. Every file is read and held against its checksum all the same.
    Raises BundleError for anything that is not as it was written, also of the versions beside it.
    """
    manifest = read_manifest(folder)
    with _fitting_together(folder):
        files = {name: _read(folder, name, digest) for name, digest in manifest["files"].items()}
        config = RunConfig.of_model(manifest["config"])
        photos = json.loads(files["calibration.json"])
        scores = np.array([photo["image_score"] for photo in photos], dtype=np.float64)
        scorers = build_scorers(config.branches)
        loaded = _arrays(files, "statistics.safetensors")
        statistics = {
            name: MapStatistics(loaded[f"{name}.mean"], loaded[f"{name}.spread"])
            for name in [*scorers, *(name + LIMIT for name, scorer in scorers.items() if scorer.limited)]
        }
        if not len(scores) or not np.isfinite(scores).all():
            raise BundleError(
                "calibration.json has no scores, or some that are no numbers: fit the model again"
            )
        kept = _arrays(files, "calibration.safetensors")
        maps: list[Map] = [kept[str(index)] for index in range(len(photos))]
        for name, scorer in scorers.items():
            if isinstance(scorer, Searching):
                scorer.restore_arrays(_arrays(files, f"scorer.{name}.safetensors"))
                del files[f"scorer.{name}.safetensors"]
        geometry = _geometry(manifest, files)
        groups = tuple(sorted({str(photo["group"]) for photo in photos if photo.get("group")}))
        threshold = float(manifest["threshold"])
        calibration = Calibration(np.sort(scores), config.calibration, threshold, groups)
        policy = Versions(folder, manifest["checksum"]).current(Policy.born(calibration))

        def assembled(
            encoder: Encoder, scorers: Mapping[str, Any], picture: PixelAutoencoder | None
        ) -> Detector:
            return Detector(
                config,
                geometry,
                manifest["white_level"],
                encoder,
                scorers,
                statistics,
                {name: float(manifest["weights"][name]) for name in scorers},
                calibration,
                picture,
                policy,
            )

        def whole() -> Detector:
            from anomaly.networks import build_networks

            with _fitting_together(folder):
                networks = build_networks(_backbone_name(manifest), config, scorers, files, _arrays)
                detector = assembled(networks.encoder, scorers, networks.picture)
                _try_out(detector)
            return detector

        get = Once(whole)
        if not late:
            return Bundle(folder, manifest, get(), photos, maps)

        def networks() -> Detector:
            found = get()
            keep_threads()
            return found

        picture = Late(lambda: networks().picture) if "picture.safetensors" in files else None
        searching = {name: scorer for name, scorer in scorers.items() if isinstance(scorer, Searching)}
        detector = assembled(
            cast("Encoder", Late(lambda: networks().encoder)),
            LateMapping(list(scorers), searching, lambda: networks().scorers),
            cast("PixelAutoencoder | None", picture),
        )
        _check_numbers(detector)
    return Bundle(folder, manifest, detector, photos, maps)


@contextmanager
def _fitting_together(folder: Path) -> Iterator[None]:
    """Turn whatever a hostile model makes libraries raise into a BundleError."""
    try:
        yield
    except BundleError:
        raise
    except HOSTILE as error:
        reason = one_line(str(error).strip().partition("\n")[0])[:200] or type(error).__name__
        raise BundleError(
            f"{folder} does not hold a model that fits together ({reason}): fit it again"
        ) from None


def _geometry(manifest: Json, files: Mapping[str, bytes]) -> Geometry:
    """What of a photo is judged."""
    facts = dict(manifest["geometry"])
    window = facts.pop("window")
    cut: Registration | Window | None = None
    if window is not None:
        cut = Window(**{name: float(value) for name, value in window.items()})
        if not (0 <= cut.top < cut.bottom <= 1 and 0 <= cut.left < cut.right <= 1 and 0 <= cut.tray < 1e6):
            raise ValueError("the window is no part of a photo")
    elif REGISTRATION in files:
        cut = Registration.restored(_arrays(files, REGISTRATION))
    return Geometry(**facts, cut=cut)


def _backbone_name(manifest: Json) -> str:
    """The backbone's name; one that would have a file read from outside the model is refused."""
    from anomaly.models.backbones import BACKBONES

    name = str(manifest["backbone"])
    if name not in BACKBONES.names() and not name.startswith("timm:"):
        raise ValueError(f"unknown backbone {name[:80]!r}")
    return name


def _try_out(detector: Detector) -> None:
    """Raise unless the parts fit together: a blank photo must go through all of them to a finite score."""
    _check_numbers(detector)
    blank = np.zeros((BLANK, BLANK, 3), np.uint8)
    with np.errstate(all="ignore"):  # numbers too large show in the score
        maps = score_patches(detector.scorers, detector.encoder.maps(blank))
        score = detector.combine(maps).image_score
    if not np.isfinite(score):
        raise ValueError("the score of a blank photo is no number")


def _check_numbers(detector: Detector) -> None:
    """Raise unless sizes, weights and statistics are within reason."""
    geometry, white = detector.geometry, detector.white_level
    for name, value, least, most in (
        ("image_size", geometry.image_size, 1, 2**15),
        ("factor", 1 if geometry.factor is None else geometry.factor, 1e-6, 1e3),
        ("white_level", 1 if white is None else white, 1e-6, 2**33),
        *((f"weight of {name}", weight, 0, 1 + 1e-6) for name, weight in detector.weights.items()),
    ):
        if isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{name} is {value!r:.40}")
    for name, statistics in detector.statistics.items():
        mean, spread = statistics.mean, statistics.spread
        if spread.ndim != 2 or mean.shape not in ((1, 1), spread.shape) or not (spread > 0).all():
            raise ValueError(f"the statistics of {name} are no maps of means and of spreads above zero")


def read_manifest(folder: Path) -> Json:
    """The checked manifest of a model folder."""
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder} is not a model: it has no {MANIFEST}; make one with `anomaly fit`")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes(), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{folder / MANIFEST} cannot be read ({error}): restore the model") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise BundleError(f"{folder / MANIFEST} is not the manifest of a model: restore the model")
    if manifest["format"] > FORMAT:
        raise BundleError(
            f"{folder} has model format {manifest['format']}, this program reads up to {FORMAT}: "
            "upgrade anomaly"
        )
    if manifest["format"] < FORMAT:
        raise BundleError(
            f"{folder} was fitted by an earlier version (model format {manifest['format']}, this program "
            f"reads {FORMAT}): fit it again"
        )
    if manifest.get("checksum") != _checksum(manifest):
        raise BundleError(f"{folder / MANIFEST} was changed after it was written: restore the model")
    return manifest


def _read(folder: Path, name: str, digest: str) -> bytes:
    """A file of the bundle whose bytes are those that were written."""
    path = folder / name
    shown = one_line(folder / name[:80])
    if os.path.isabs(name) or path.resolve() != folder.resolve() / name:
        raise BundleError(f"{shown} leads out of the model folder: restore the model")
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{shown} is no file: restore the model")
        if found.st_size > LARGEST:
            raise BundleError(f"{shown} is larger than any file of a model: restore the model")
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{shown} cannot be read ({error.strerror}): restore the model") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise BundleError(f"{shown} was changed after it was written: restore the model")
    return data


def _arrays(files: Mapping[str, bytes], name: str) -> Arrays:
    """The arrays of one file; numbers that are not finite are refused."""
    try:
        arrays: Arrays = {key: np.array(values) for key, values in load_arrays(files[name]).items()}
    except SafetensorError as error:
        raise BundleError(f"{name} is not a safetensors file ({error}): fit the model again") from None
    for key, values in arrays.items():
        if not np.isfinite(values).all():
            raise BundleError(f"{name} holds numbers that are not finite in {key!r}: fit the model again")
    return arrays


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().contiguous() for key, value in tensors.items()}


def _checksum(manifest: Json) -> str:
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key stands twice")
    return fields
