"""What the commands that file a report share: the command as typed, the MLflow run, the last line."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from anomaly.cli.terminal import say

if TYPE_CHECKING:
    from anomaly.bundle import Bundle


def typed_command() -> str:
    """The command line, as a shell would take it again."""
    return shlex.join(["anomaly", *sys.argv[1:]])


def track(
    bundle: Bundle,
    metrics: Mapping[str, float | None],
    page: Path | None = None,
    *,
    tags: Mapping[str, object] | None = None,
    name: str | None = None,
    file: str | None = None,
) -> None:
    """Add metrics, tags, and a report's page, to the model's MLflow run: under its name and time, so that
    each is kept, or as `file`, where the latest stands for all."""
    from anomaly.tracking import Run

    place = bundle.manifest["mlflow"]
    if not place["run_id"]:
        return
    config = bundle.detector.config.tracking.model_copy(update={"uri": place["uri"]})
    run = Run(config, place["run_id"])
    run.tags(tags or {})
    run.metrics({re.sub(r"[^\w./ -]", "_", key): value for key, value in metrics.items()})
    if page is not None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        stamped = f"reports/{name or page.parent.resolve().name}-{stamp}.html"
        run.text(page.read_text(encoding="utf-8"), file or stamped)
    if run.trouble:
        say(f"not tracked: {run.trouble}")
