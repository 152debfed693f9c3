"""What an inspection leaves behind: verdicts, heatmaps, raw maps, a summary and the report.

Pictures of a photo are on disk before its verdict is, and its verdict is one line of the journal: whatever
kills the program, `resume` goes on behind the last whole line, and ends with the files that an uninterrupted
run would have left.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from anomaly.bundle import Bundle
from anomaly.data.geometry import Geometry
from anomaly.errors import DataError
from anomaly.inspection.drawing import Drawn, colour_ceiling, draw, expected_jpeg
from anomaly.inspection.gallery import Gallery
from anomaly.inspection.identity import RUN, WORK, begun_run, earlier_run
from anomaly.inspection.journal import JOURNAL, PARQUET, TABLE, Journal, read_journal, write_parquet
from anomaly.inspection.stream import Judged
from anomaly.policy.policy import Policy
from anomaly.quality.likeness import Likeness, likeness
from anomaly.quality.shapes import Shapes
from anomaly.records import Decision, Verdict
from anomaly.report.inspection import inspection_report
from anomaly.report.tally import Tally

OUTPUTS = (
    JOURNAL, TABLE, PARQUET, "heatmaps", "maps", "summary.json", "report.html", WORK
)  # fmt: skip

UPRIGHT = "the product, found on each photo and turned upright"
"""What of a photo is judged, where that is so."""


@dataclass(frozen=True)
class Advice:
    """How sentences about a folder that cannot be written go on."""

    same: str
    """Where an earlier run judged something else."""
    other: str
    """Where something else lies there."""
    again: str
    """Where the disk was full."""


INSPECTING = Advice(
    "resume with the same photos, model and options, or start afresh with --overwrite",
    "give another --out, or --overwrite",
    "go on with --resume",
)
WATCHING = Advice(
    "watch the same folder with the same model and groups, or give another --out",
    "give another --out",
    "start it again",
)


class Writer:
    """Writes verdicts one by one as they come, and the summary and report at the end; a context manager.

    `draw` may be called from several threads, all else from one.
    """

    def __init__(
        self,
        out: Path,
        bundle: Bundle,
        *,
        overwrite: bool = False,
        resume: bool = False,
        group: str | None = None,
        run: dict[str, Any] | None = None,
        advice: Advice = INSPECTING,
    ) -> None:
        """`group` is that of photos which name none. `run` says what is inspected, see `run_of`; `resume`
        goes on with an unfinished one that said the same, or begins it. Raises DataError, which ends in
        `advice`, where `out` holds another inspection and not `overwrite`, or cannot be written."""
        run = run or {}
        going_on = resume and begun_run(out) == run
        there = [name for name in OUTPUTS if (out / name).exists()]
        if there and not overwrite and not going_on:
            raise DataError(_taken(out, run, there[0], resume, advice))
        self.out = out
        self.bundle = bundle
        self.run = run
        self.group = group
        self.advice = advice
        self._tally = Tally()
        self._shapes = Shapes.of_photos(bundle.calibration_photos)
        self._milliseconds = array("f")
        with self.writing():
            if not going_on:
                for name in there:
                    shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
            for name in ("heatmaps", "maps", WORK):
                (out / name).mkdir(parents=True, exist_ok=True)
            write_whole(out / WORK / RUN, json.dumps(run))
            self._journal = Journal(out, resume=going_on)
            self._gallery = Gallery(out / WORK / "gallery")
        for index, verdict in enumerate(read_journal(out)):
            self._count(index, verdict)

    @property
    def policy(self) -> Policy:
        """What decides; `watch` changes it between two photos."""
        return self.bundle.detector.policy

    @property
    def counts(self) -> Mapping[Decision, int]:
        """Photos that are recorded, by decision."""
        return self._tally.counts

    @property
    def done(self) -> int:
        """Photos that are recorded."""
        return self._journal.count

    def draw(self, judged: Judged) -> Drawn:
        """Encode the pictures of what is not normal."""
        return draw(self.bundle.detector, judged, self._gallery.wants)

    def write(self, drawn: Drawn) -> Verdict:
        """Record one verdict, its pictures first; the verdict as recorded. Raises DataError where the disk is
        full or gone: what was recorded before stays whole."""
        verdict, index = drawn.verdict, self.done
        with self.writing():
            if drawn.heatmap is not None and drawn.anomaly_map is not None:
                stem = f"{index:06d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', Path(verdict.path).stem)[:60]}"
                verdict = replace(verdict, heatmap=f"heatmaps/{stem}.png", anomaly_map=f"maps/{stem}.tiff")
                (self.out / f"heatmaps/{stem}.png").write_bytes(drawn.heatmap)
                (self.out / f"maps/{stem}.tiff").write_bytes(drawn.anomaly_map)
                self._gallery.store(index, drawn.gallery or {})
            self._journal.append(verdict.to_dict())
            self._count(index, verdict)
        return verdict

    def finish(self, *, interrupted: bool = False, parquet: bool = False) -> dict[str, Any]:
        """Write summary and report; the summary. An interrupted inspection can be resumed."""
        policy, calibration = self.policy, self.bundle.detector.calibration
        counts, cut = self._tally.counts, self.policy.cut_of(self.group)
        alike = self._likeness()
        summary: dict[str, Any] = {
            "photos": self.done,
            **{decision: counts[decision] for decision in ("normal", "review", "anomalous", "error")},
            "interrupted": interrupted,
            "version": policy.version,
            "versions": {str(number): n for number, n in sorted(self._tally.versions.items())},
            "group": self.group,
            "groups": {name: self._group(name) for name in sorted(self._tally.groups)},
            "threshold": cut.threshold,
            "review_threshold": cut.review_threshold,
            "target_fpr": None if policy.version else calibration.config.target_fpr,
            "n_calibration": len(policy.normal_scores),
            "guarantee": policy.promise,
            "likeness": None if alike is None else asdict(alike) | {"sentence": alike.sentence},
            "shapes": {"unlike": self._shapes.unlike, "sentence": self._shapes.sentence},
            "ceiling": colour_ceiling(policy.normal_scores, cut.threshold),
            "model": self.bundle.path.name,
            "model_hash": self.bundle.model_hash,
            "milliseconds_median": float(np.median(self._milliseconds)) if self._milliseconds else None,
            "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "run": self.run,
        }
        with self.writing():
            if parquet:
                write_parquet(self.out)
            facts = model_facts(self.bundle)
            gallery = self._gallery.items(lambda small: expected_jpeg(self.bundle.detector, small))
            page = inspection_report(summary, self._tally, policy.normal_scores, gallery, facts)
            write_whole(self.out / "report.html", page)
            write_whole(self.out / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False))
            if not interrupted:
                shutil.rmtree(self.out / WORK)
        return summary

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.close()

    def _likeness(self) -> Likeness | None:
        """How what passed compares with the normal photos that the threshold rests on; None where groups have
        thresholds of their own, for these photos may be different."""
        policy = self.policy
        if policy.groups:
            return None
        return likeness(policy.normal_scores, self._tally.scores, policy.cut.lowest)

    def _group(self, name: str) -> dict[str, Any]:
        """Photos of one group by decision, and where its scores are cut now."""
        counts, cut = self._tally.groups[name], self.policy.cut_of(name)
        return {
            **{decision: counts[decision] for decision in ("normal", "review", "anomalous", "error")},
            "threshold": cut.threshold,
            "review_threshold": cut.review_threshold,
            "own": name in self.policy.groups,
        }

    def _count(self, index: int, verdict: Verdict) -> None:
        self._tally.add(verdict)
        if verdict.size is not None:
            self._shapes.add(verdict.size)
        if verdict.milliseconds is not None:
            self._milliseconds.append(verdict.milliseconds)
        if verdict.heatmap is not None:
            self._gallery.add(index, verdict)

    @contextmanager
    def writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"cannot write to {self.out} ({error.strerror or error}): make room there, or give another "
                f"--out; every verdict that was recorded is kept, {self.advice.again}"
            ) from None


def _taken(out: Path, run: dict[str, Any], there: str, resume: bool, advice: Advice) -> str:
    """Why `run` cannot be written into `out`, which holds `there`."""
    before, unfinished = earlier_run(out), begun_run(out) is not None
    if before and ("watched" in before) != ("watched" in run):
        kind = "verdicts of a watched folder" if "watched" in before else "an inspection"
        return f"{out} holds {kind}: give another --out"
    if resume and before is not None and before != run:
        changed = ", ".join(sorted(key for key in run if before.get(key) != run[key])) or "its options"
        kind = "watch" if "watched" in run else f"{'unfinished' if unfinished else 'finished'} inspection"
        return f"the {kind} in {out} was of something else (changed: {changed}): {advice.same}"
    if unfinished:
        return (
            f"an unfinished inspection lies in {out}: go on with --resume, or start afresh with --overwrite"
        )
    return f"{out} already holds {there}: {advice.other}"


def model_facts(bundle: Bundle) -> dict[str, Any]:
    """What a report says of the model."""
    manifest, config = bundle.manifest, bundle.detector.config
    data = manifest.get("data", {})
    return {
        "name": bundle.path.name,
        "fitted": manifest.get("created", "unknown"),
        "backbone": manifest["backbone"],
        "image_size": bundle.detector.geometry.image_size,
        "augmentation_strength": config.contrastive.augmentation_strength,
        "embedding_size": config.contrastive.embedding_size,
        "branches": {name: f"{100 * weight:.0f} %" for name, weight in bundle.detector.weights.items()},
        "training_photos": data.get("n_train"),
        "at_any_angle": "yes" if bundle.detector.geometry.upright or data.get("any_angle") else "no",
        "judged": _judged(bundle.detector.geometry),
        "calibration_photos": len(bundle.calibration_photos),
        "threshold_version": bundle.detector.policy.version,
        "model_hash": bundle.model_hash[:16],
        "versions": manifest.get("versions", {}),
    }


def _judged(geometry: Geometry) -> str:
    """What of a photo is judged, in words."""
    if geometry.upright:
        return UPRIGHT
    window = geometry.window
    if window is None:
        return "whole photos"
    shares = [f"{100 * share:.0f}" for share in (window.top, window.bottom, window.left, window.right)]
    return "of each photo rows {} to {} %, columns {} to {} %".format(*shares)


def write_whole(path: Path, text: str) -> None:
    """Write `path` as a whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(fresh, path)
