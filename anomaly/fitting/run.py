"""fit: a data set in, a model folder out; resumable, tracked, and never half written."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from anomaly import distributed
from anomaly.bundle import MANIFEST, Bundle, read_bundle, read_manifest, write_bundle
from anomaly.config import RunConfig
from anomaly.data.images import contents, fingerprint, one_line
from anomaly.data.layouts import counts, describe, read_samples
from anomaly.errors import AnomalyError, ConfigError
from anomaly.fitting.oddities import to_look_at
from anomaly.fitting.photos import defects_wanted, good_photos, said_of_cut
from anomaly.fitting.stages import Fit, FitResult
from anomaly.inspection.drawing import colour_ceiling
from anomaly.lock import LOCK, sole_writer
from anomaly.models.training import Checkpoints, Progress, Silent, Together
from anomaly.policy.versions import Versions
from anomaly.records import Sample
from anomaly.render import overlay, png_bytes
from anomaly.report.charts import histogram
from anomaly.tracking import Run

LIBRARIES = ("anomaly", "torch", "timm", "faiss-cpu", "numpy", "opencv-python-headless", "albumentations")
REFERENCE = 3
"""Calibration photos kept with the model: a typical, a high and the highest score."""
NOTE = "fit.json"
"""File that says which fit half-done work belongs to."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Fitted:
    """The stored model, how it came about, and what tracking said."""

    bundle: Bundle
    result: FitResult
    tracking: Run


def fit(
    data: Path,
    out: Path,
    config: RunConfig | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    say: Say = lambda text: None,
) -> Fitted:
    """Fit a model on the good training photos of `data` and store it as the folder `out`. Where
    `contrastive.supervised_weight` is above 0, defective training photos with masks are learnt from as well.

    Progress is kept in `<out>.partial` until the model is whole; `resume` goes on from there. `say` is told
    what was found and done, in sentences. Raises AnomalyError where something cannot be used as it is.
    Of several processes that torchrun started the first stores the model; the others exit when they have
    done their part.
    """
    config = config or RunConfig()
    layout = config.data.layout
    samples = distributed.from_first(lambda: read_samples(data, layout))
    say(f"{one_line(data)}: {describe(samples)}")
    good = good_photos(config, samples, data)
    if len(good) < counts(samples)["train"]:
        say(f"{len(good)} of the good photos are used, evenly spread (data.most_photos)")
    defects = defects_wanted(config, samples)
    if defects:
        say(f"the encoder learns from {len(defects)} defective training photos as well")
    elif counts(samples)["train_defective"]:
        say("defective training photos are left alone: contrastive.supervised_weight 0.5 learns from them")
    with _claimed(out) as partial:
        key = _identity(config, [*good, *defects])
        _refuse_differences(config, key)
        distributed.from_first(lambda: _begin(out, partial, key, resume=resume, overwrite=overwrite))
        first = distributed.rank() == 0
        tracking = Run(config.tracking if first else config.tracking.model_copy(update={"enabled": False}))
        dials: dict[str, Any] = {}
        try:
            start = time.monotonic()
            if config.dials == "auto":
                config, dials = _dials(good, config, partial, progress or Silent(), say)
            checkpoints = Checkpoints(partial if first else None)
            result = Fit(config, checkpoints, Together(progress or Silent())).run([*good, *defects])
            distributed.first_goes_on()
            result.seconds["total"] = round(time.monotonic() - start, 3)
            if result.skipped:
                reason = next(iter(result.skipped.values()))
                say(f"{len(result.skipped)} training photos were left out: {reason}")
            if result.any_angle:
                say(
                    "the product lies at any angle: turned copies of the good photos are learnt from, and a "
                    "turned part is no anomaly (data.any_angle=false learns from the photos as they are)"
                )
            if result.uncut:
                say(result.uncut)
            if result.cut_out != "no":
                say(said_of_cut(result.cut_out))
            scores = [one.image_score for one in result.calibration_scores]
            for sentence in to_look_at(result.odd, result.calibration, scores):
                say(sentence)
            facts = _facts(data, samples, result, tracking) | ({"dials": dials} if dials else {})
            rows, reference = _calibration_photos(result)
            maps = [scores.anomaly_map for scores in result.calibration_scores]
            signed = _signed_version(out)
            write_bundle(out, result.detector, facts, rows, maps, reference)
            if signed:
                say(
                    f"version {signed} was in force for the model that lay here; it stays in the log, but "
                    "the new model begins with the threshold of its own fit: tune it anew"
                )
            bundle = read_bundle(out)
            _log(tracking, bundle, result)
            tracking.end()
        except BaseException as error:
            tracking.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
    return Fitted(bundle, result, tracking)


def _dials(
    good: Sequence[Sample], config: RunConfig, partial: Path, progress: Progress, say: Say
) -> tuple[RunConfig, dict[str, Any]]:
    """`config` with the dials that a short study chooses, once for a fit and all its resumptions; what the
    manifest says of it."""
    from anomaly.study.auto import choose_dials, with_dials

    kept = partial / "dials.json"
    if kept.exists():
        told: dict[str, Any] = json.loads(kept.read_text())
        return with_dials(config, told), told
    told = choose_dials(good, config, partial / "dials", progress, say)
    fresh = kept.with_suffix(".new")
    fresh.write_text(json.dumps(told))
    os.replace(fresh, kept)
    return with_dials(config, told), told


def _refuse_differences(config: RunConfig, key: str) -> None:
    """Raise where the processes of one fit would not do the same."""
    if distributed.size() > 1 and config.dials == "auto":
        raise ConfigError(
            "dials: auto needs one process: leave torchrun away, or choose the dials with `anomaly study`"
        )
    if distributed.any_of(distributed.from_first(lambda: key) != key):
        raise ConfigError(
            "the processes of this fit do not see the same photos, or have another configuration: give all "
            "machines the same files under the same paths"
        )


@contextmanager
def _claimed(out: Path) -> Iterator[Path]:
    """The folder of half-done work, where no other fit writes meanwhile. It goes when the model is whole, and
    where a fit is refused before anything was trained."""
    partial = distributed.from_first(lambda: _partial_of(out))
    with ExitStack() as held:
        distributed.from_first(lambda: held.enter_context(sole_writer(partial, out)))
        first = distributed.rank() == 0
        try:
            yield partial
        except AnomalyError:
            if first and not _worked_on(partial):
                shutil.rmtree(partial, ignore_errors=True)
            raise
        if first:
            shutil.rmtree(partial, ignore_errors=True)


def _partial_of(out: Path) -> Path:
    """Where half-done work for `out` is kept. Raises ConfigError where `out` can be no model's folder."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{one_line(out)} is a file: give another --out")
    here = Path.cwd()
    if out.resolve() in (here, *here.parents):
        raise ConfigError(
            f"a model needs a folder of its own, {one_line(out)} is that of this shell: give another --out"
        )
    return out.with_name(out.name + ".partial")


def _worked_on(partial: Path) -> bool:
    """Whether anything lies in `partial` that took time to make."""
    return partial.is_dir() and any(path.name not in (LOCK, NOTE) for path in partial.iterdir())


def _begin(out: Path, partial: Path, key: str, *, resume: bool, overwrite: bool) -> None:
    """Make `partial` the folder of the fit of this identity, with what that has done already on `resume`.

    Raises ConfigError where it holds work of another one, or `out` a model, and not `overwrite`.
    """
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise ConfigError(f"{one_line(out)} already exists: give another --out, or --overwrite")
        if not (out / MANIFEST).exists():
            raise ConfigError(f"{one_line(out)} is not a model, so it is not overwritten: give another --out")
    if _worked_on(partial) and resume:
        try:
            before = json.loads((partial / NOTE).read_text())["identity"]
        except (OSError, ValueError, KeyError, TypeError):
            before = None
        if before != key:
            raise ConfigError(
                f"{one_line(partial)} was begun with other photos or another configuration: resume with "
                "those, or start afresh with --overwrite"
            )
        return
    if _worked_on(partial) and not overwrite:
        raise ConfigError(
            f"an interrupted fit lies in {one_line(partial)}: go on with --resume, "
            "or start afresh with --overwrite"
        )
    try:
        partial.mkdir(parents=True, exist_ok=True)
        for left in partial.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != LOCK:
                left.unlink()
        (partial / NOTE).write_text(json.dumps({"identity": key}))
    except OSError as error:
        raise ConfigError(
            f"cannot write {one_line(partial)} ({error.strerror}): give another --out"
        ) from None


def _signed_version(out: Path) -> int:
    """The version in force of the model in `out`; 0 where there is no model, or none that can be read."""
    try:
        versions = Versions(out, str(read_manifest(out)["checksum"]))
        own = versions.own(versions.records())
    except AnomalyError:
        return 0
    return int(own[-1]["index"]) + 1 if own else 0


def _identity(config: RunConfig, photos_used: Sequence[Sample]) -> str:
    """Hash of all that decides the result: the configuration and the training photos with their masks."""
    fields = config.model_dump(mode="json")
    del fields["tracking"]
    photos = [
        [str(sample.path), contents(sample.path), sample.group, *_mask(sample)] for sample in photos_used
    ]
    return hashlib.sha256(json.dumps([fields, photos], sort_keys=True).encode("utf-8", "replace")).hexdigest()


def _mask(sample: Sample) -> list[str]:
    """What tells the mask of a defective training photo from another one."""
    if sample.label == "normal" or sample.mask is None or not sample.mask.exists():
        return []
    return [str(sample.mask), fingerprint(sample.mask)]


def _facts(data: Path, samples: Sequence[Sample], result: FitResult, tracking: Run) -> dict[str, Any]:
    """What the manifest says beside the model itself."""
    used = [*result.train, *result.calibration, *result.defects]
    hashes = sorted(fingerprint(sample.path) for sample in used)
    found = counts(samples)
    return {
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "data": {
            "name": data.resolve().name,
            "fingerprint": hashlib.sha256("".join(hashes).encode()).hexdigest(),
            "n_train": len(result.train),
            "n_calibration": len(result.calibration),
            "n_defects": len(result.defects),
            "groups": found["train_groups"],
            "skipped": result.skipped,
            "any_angle": result.any_angle,
            "cut_out": result.cut_out,
            "sha256": hashes,
        },
        "seconds": result.seconds,
        "losses": {name: [values[0], values[-1]] for name, values in result.losses.items() if values},
        "mlflow": {"run_id": tracking.run_id, "uri": tracking.uri},
    }


def _calibration_photos(result: FitResult) -> tuple[list[dict[str, Any]], list[Any]]:
    """Rows for the bundle, and the reference photos."""
    rows = [
        {
            "path": str(sample.path),
            "sha256": fingerprint(sample.path),
            "group": sample.group,
            "size": size,
            "image_score": scores.image_score,
            "branch_scores": scores.branch_scores,
        }
        for sample, scores, size in zip(
            result.calibration, result.calibration_scores, result.calibration_sizes, strict=True
        )
    ]
    order = np.argsort([scores.image_score for scores in result.calibration_scores])
    places = dict.fromkeys(int(order[round(q * (len(order) - 1))]) for q in (0.5, 0.9, 1.0))
    photos = [result.detector.read(result.calibration[i].path) for i in list(places)[:REFERENCE]]
    return rows, photos


def _log(run: Run, bundle: Bundle, result: FitResult) -> None:
    """Everything of this fit into its MLflow run: the two dials first."""
    detector, manifest = bundle.detector, bundle.manifest
    contrastive = detector.config.contrastive
    run.parameters(
        {
            "augmentation_strength": contrastive.augmentation_strength,
            "embedding_size": contrastive.embedding_size,
            **detector.config.flat(),
            "backbone.used": manifest["backbone"],
            "supervised_weight.used": detector.config.supervised_weight,
            "image.size_used": detector.geometry.image_size,
            "any_angle.used": result.any_angle,
            "cut_out.used": result.cut_out,
            **{f"weight.{name}": value for name, value in detector.weights.items()},
        }
    )
    run.tags(
        {
            "model_hash": bundle.model_hash,
            "data.name": manifest["data"]["name"],
            "data.fingerprint": manifest["data"]["fingerprint"],
            "anomaly.version": manifest["versions"]["anomaly"],
        }
    )
    for name, values in result.losses.items():
        run.curve(f"loss.{name}", values)
    scores = detector.calibration.scores
    run.metrics(
        {
            "threshold": detector.calibration.threshold,
            "target_fpr": detector.calibration.config.target_fpr,
            "calibration.n": len(scores),
            "calibration.median": float(np.median(scores)),
            "calibration.max": float(scores.max()),
            "n_train": len(result.train),
            **{f"seconds.{stage}": value for stage, value in result.seconds.items()},
        }
    )
    if run.trouble:
        return
    chart = histogram(
        {"calibration photos": scores},
        {"threshold": detector.calibration.threshold},
        x_label="image score",
        y_label="share of the photos",
    )
    run.text(str(chart), "score_histogram.svg")
    threshold = detector.calibration.threshold
    for path in sorted((bundle.path / "reference").iterdir()):
        photo = detector.read(path)
        anomaly_map = detector.full_map(detector.score(photo), photo)
        heat = overlay(photo, anomaly_map, threshold, colour_ceiling(scores, threshold))
        run.picture(png_bytes(heat), f"heatmaps/{path.name}")
    run.folder(bundle.path, "model")


def describe_fit(fitted: Fitted) -> dict[str, Any]:
    """The result as one JSON object."""
    detector, manifest = fitted.bundle.detector, fitted.bundle.manifest
    return {
        "model": os.fspath(fitted.bundle.path),
        "model_hash": fitted.bundle.model_hash,
        "backbone": manifest["backbone"],
        "image_size": detector.geometry.image_size,
        "augmentation_strength": detector.config.contrastive.augmentation_strength,
        "embedding_size": detector.config.contrastive.embedding_size,
        "n_train": len(fitted.result.train),
        "n_calibration": len(fitted.result.calibration),
        "skipped": fitted.result.skipped,
        "threshold": detector.calibration.threshold,
        "guarantee": detector.calibration.guarantee,
        "weights": dict(detector.weights),
        "any_angle": fitted.result.any_angle,
        "cut_out": fitted.result.cut_out,
        "seconds": fitted.result.seconds,
        "mlflow": {
            "run_id": fitted.tracking.run_id,
            "uri": fitted.tracking.uri,
            "trouble": fitted.tracking.trouble,
        },
    }
