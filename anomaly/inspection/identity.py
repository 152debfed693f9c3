"""Which inspection a folder of results belongs to, so that only that one goes on in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from anomaly.bundle import Bundle
from anomaly.inspection.groups import Found

WORK = ".inspection"
"""Folder of what only an unfinished inspection needs."""
RUN = "run.json"


def run_of(bundle: Bundle, photos: Sequence[Found], runtime: str) -> dict[str, Any]:
    """What makes two runs one inspection: the photos and their groups, in order, the model, what decides and
    what scores."""
    paths, groups = hashlib.sha256(), hashlib.sha256()
    for photo in photos:
        paths.update(os.fsencode(photo.path) + b"\0")
        groups.update(os.fsencode(photo.group or "") + b"\0")
    return {
        "photos": len(photos),
        "paths": paths.hexdigest(),
        "model": bundle.model_hash,
        "threshold_version": bundle.detector.policy.version,
        "groups": groups.hexdigest(),
        "runtime": runtime,
    }


def watch_of(
    bundle: Bundle, folder: Path, group: str | None = None, by_folder: bool = False
) -> dict[str, Any]:
    """What makes two runs of `watch` one: the folder, the model and the groups; new versions are taken up."""
    return {
        "watched": os.path.realpath(folder),
        "model": bundle.model_hash,
        "group": group,
        "group_by_folder": by_folder,
    }


def begun_run(out: Path) -> dict[str, Any] | None:
    """What the unfinished inspection in `out` said of itself; None where there is none."""
    try:
        run = json.loads((out / WORK / RUN).read_bytes())
    except (OSError, ValueError):
        return {} if (out / WORK).is_dir() else None
    return run if isinstance(run, dict) else {}


def earlier_run(out: Path) -> dict[str, Any] | None:
    """What the inspection in `out`, finished or not, said of itself; None where that is not known."""
    if (run := begun_run(out)) is not None:
        return run
    with suppress(OSError, ValueError, KeyError, TypeError):
        run = json.loads((out / "summary.json").read_bytes())["run"]
    return run if isinstance(run, dict) else None


def begun_runtime(out: Path) -> str | None:
    """What scored the photos of the inspection in `out`, finished or not; None where that is not known."""
    runtime = (earlier_run(out) or {}).get("runtime")
    return runtime if isinstance(runtime, str) else None


def finished_run(out: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of the inspection `run` if `out` holds it whole, else None."""
    try:
        summary = json.loads((out / "summary.json").read_bytes())
        whole = not summary["interrupted"] and summary["run"] == run and not (out / WORK).exists()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(summary) if whole else None
