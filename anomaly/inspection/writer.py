"""What an inspection leaves behind: verdicts, heatmaps, raw maps, a summary and the report."""

from __future__ import annotations

import csv
import heapq
import json
import os
import re
import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from anomaly.bundle import Bundle
from anomaly.errors import DataError
from anomaly.inspection.stream import Judged
from anomaly.records import Verdict
from anomaly.render import jpeg_bytes, outline, overlay, png_bytes, thumbnail
from anomaly.report.inspection import GalleryItem, inspection_report

COLUMNS = (
    "path",
    "decision",
    "image_score",
    "threshold",
    "p_value",
    "regions",
    "milliseconds",
    "error",
    "version",
    "group",
    "review_threshold",
)
GALLERY = 40
"""Photos that the report shows: the worst ones."""
SIDE = 360
"""Longest side of a picture in the report, px."""
OUTPUTS = ("verdicts.jsonl", "verdicts.csv", "heatmaps", "maps", "summary.json", "report.html")


class Writer:
    """Writes verdicts one by one as they come, and the summary and report at the end; a context manager."""

    def __init__(
        self, out: Path, bundle: Bundle, *, overwrite: bool = False, group: str | None = None
    ) -> None:
        """For photos of `group`. Raises DataError where `out` holds an earlier inspection, unless
        `overwrite`, or is no folder."""
        there = [name for name in OUTPUTS if (out / name).exists()]
        if there and not overwrite:
            raise DataError(f"{out} already holds {there[0]}: give another --out, or --overwrite")
        try:
            for name in there:
                shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
            (out / "heatmaps").mkdir(parents=True)
            (out / "maps").mkdir()
        except OSError as error:
            raise DataError(f"cannot write to {out} ({error.strerror}): give another --out") from None
        self.out = out
        self.bundle = bundle
        self.policy = bundle.detector.policy
        self.group = group
        self.cut = self.policy.cut_of(group)
        self.ceiling = colour_ceiling(self.policy.normal_scores, self.cut.threshold)
        self._jsonl = open(out / "verdicts.jsonl", "w", encoding="utf-8")  # noqa: SIM115
        self._csv_file = open(out / "verdicts.csv", "w", encoding="utf-8", newline="")  # noqa: SIM115
        self._csv = csv.writer(self._csv_file)
        self._csv.writerow(COLUMNS)
        self._verdicts: list[Verdict] = []
        self._worst: list[tuple[float, int, GalleryItem]] = []

    def write(self, judged: Judged) -> Verdict:
        """Record one verdict, with pictures where it is not normal; the verdict as recorded."""
        fields = judged.verdict.to_dict()
        if judged.photo is not None and judged.verdict.decision in ("anomalous", "review"):
            fields |= self._pictures(judged)
        verdict = Verdict(**{**fields, "regions": judged.verdict.regions})
        self._jsonl.write(json.dumps(fields, ensure_ascii=False) + "\n")
        self._csv.writerow([_cell(fields[column]) for column in COLUMNS])
        self._jsonl.flush()
        self._csv_file.flush()
        self._verdicts.append(verdict)
        return verdict

    def finish(self, *, interrupted: bool = False) -> dict[str, Any]:
        """Write summary and report; the summary."""
        policy, calibration = self.policy, self.bundle.detector.calibration
        counts = Counter(verdict.decision for verdict in self._verdicts)
        summary: dict[str, Any] = {
            "photos": len(self._verdicts),
            **{decision: counts[decision] for decision in ("normal", "review", "anomalous", "error")},
            "interrupted": interrupted,
            "version": policy.version,
            "group": self.group,
            "threshold": self.cut.threshold,
            "review_threshold": self.cut.review_threshold,
            "target_fpr": None if policy.version else calibration.config.target_fpr,
            "n_calibration": len(policy.normal_scores),
            "guarantee": policy.promise,
            "ceiling": self.ceiling,
            "model": self.bundle.path.name,
            "model_hash": self.bundle.model_hash,
            "milliseconds_median": _median([v.milliseconds for v in self._verdicts]),
            "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }
        _write_whole(self.out / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False))
        gallery = [item for _, _, item in self._worst]
        facts = model_facts(self.bundle)
        page = inspection_report(summary, self._verdicts, policy.normal_scores, gallery, facts)
        _write_whole(self.out / "report.html", page)
        return summary

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jsonl.close()
        self._csv_file.close()

    def _pictures(self, judged: Judged) -> dict[str, str]:
        """Write overlay and raw map; keep small pictures for the report if this is one of the worst."""
        verdict, photo, values = judged.verdict, judged.photo, judged.anomaly_map
        assert photo is not None and values is not None and verdict.image_score is not None
        threshold = self.cut.threshold
        index = len(self._verdicts)
        stem = f"{index:06d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', Path(verdict.path).stem)[:60]}"
        seen = self.policy.seen(values)
        heat = overlay(photo, seen, threshold, self.ceiling)
        (self.out / "heatmaps" / f"{stem}.png").write_bytes(png_bytes(heat))
        cv2.imwrite(str(self.out / "maps" / f"{stem}.tiff"), values)
        entry = (verdict.image_score, -index)
        if len(self._worst) < GALLERY or entry > self._worst[0][:2]:
            expected = self.bundle.detector.expected(photo)
            low = threshold if verdict.decision == "anomalous" else self.cut.lowest
            item = GalleryItem(
                verdict.path,
                verdict,
                jpeg_bytes(thumbnail(photo, SIDE)),
                jpeg_bytes(thumbnail(heat, SIDE)),
                jpeg_bytes(thumbnail(outline(photo, seen, low), SIDE)),
                None if expected is None else jpeg_bytes(expected),
            )
            heapq.heappush(self._worst, (*entry, item))
            if len(self._worst) > GALLERY:
                heapq.heappop(self._worst)
        return {"heatmap": f"heatmaps/{stem}.png", "anomaly_map": f"maps/{stem}.tiff"}


def colour_ceiling(scores: np.ndarray[Any, np.dtype[np.float64]], threshold: float) -> float:
    """Where the colour scale ends: as far again above the threshold as four times its way from the median."""
    return threshold + 4 * max(threshold - float(np.median(scores)), 0.1 * abs(threshold), 1e-6)


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
        "scorers": ", ".join(bundle.detector.scorers),
        "training_photos": manifest.get("data", {}).get("n_train"),
        "calibration_photos": len(bundle.calibration_photos),
        "threshold_version": bundle.detector.policy.version,
        "model_hash": bundle.model_hash[:16],
        "versions": manifest.get("versions", {}),
    }


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return json.dumps(value)
    if isinstance(value, str) and value[:1] in "=+-@\t\r":
        return "'" + value  # a spreadsheet would run it
    return value


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _write_whole(path: Path, text: str) -> None:
    """Write `path` as a whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8", errors="surrogateescape")
    os.replace(fresh, path)
