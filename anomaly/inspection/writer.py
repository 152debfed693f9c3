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
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from anomaly.bundle import Bundle
from anomaly.errors import DataError
from anomaly.inspection.drawing import Drawn, colour_ceiling, draw, expected_jpeg
from anomaly.inspection.gallery import Gallery
from anomaly.inspection.identity import RUN, WORK, begun_run
from anomaly.inspection.journal import JOURNAL, PARQUET, TABLE, Journal, read_journal, write_parquet
from anomaly.inspection.stream import Judged
from anomaly.policy.policy import Policy
from anomaly.quality.likeness import Likeness, likeness
from anomaly.records import Decision, Verdict
from anomaly.report.inspection import inspection_report
from anomaly.report.tally import Tally

OUTPUTS = (
    JOURNAL, TABLE, PARQUET, "heatmaps", "maps", "summary.json", "report.html", WORK
)  # fmt: skip


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
    ) -> None:
        """`group` is that of photos which name none. `run` says what is inspected, see `run_of`; `resume`
        goes on with an unfinished one that said the same, or begins it. Raises DataError where `out` holds
        another inspection and not `overwrite`, or cannot be written."""
        run = run or {}
        begun = begun_run(out)
        going_on = resume and begun is not None
        there = [name for name in OUTPUTS if (out / name).exists()]
        if going_on and begun is not None and begun != run:
            changed = ", ".join(sorted(key for key in run if begun.get(key) != run[key])) or "its options"
            raise DataError(
                f"the unfinished inspection in {out} was of something else (changed: {changed}): resume with "
                "the same photos, model and options, or start afresh with --overwrite"
            )
        if there and not overwrite and not going_on:
            if begun is not None:
                raise DataError(
                    f"an unfinished inspection lies in {out}: go on with --resume, or start afresh with "
                    "--overwrite"
                )
            raise DataError(f"{out} already holds {there[0]}: give another --out, or --overwrite")
        self.out = out
        self.bundle = bundle
        self.run = run
        self.group = group
        self._tally = Tally()
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
                "--out; every verdict that was recorded is kept, go on with --resume"
            ) from None


def model_facts(bundle: Bundle) -> dict[str, Any]:
    """What a report says of the model."""
    manifest, config = bundle.manifest, bundle.detector.config
    return {
        "name": bundle.path.name,
        "fitted": manifest.get("created", "unknown"),
        "backbone": manifest["backbone"],
        "image_size": bundle.detector.geometry.image_size,
        "augmentation_strength": config.contrastive.augmentation_strength,
        "embedding_size": config.contrastive.embedding_size,
        "branches": {name: f"{100 * weight:.0f} %" for name, weight in bundle.detector.weights.items()},
        "training_photos": manifest.get("data", {}).get("n_train"),
        "at_any_angle": "yes" if manifest.get("data", {}).get("any_angle") else "no",
        "calibration_photos": len(bundle.calibration_photos),
        "threshold_version": bundle.detector.policy.version,
        "model_hash": bundle.model_hash[:16],
        "versions": manifest.get("versions", {}),
    }


def write_whole(path: Path, text: str) -> None:
    """Write `path` as a whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(fresh, path)
