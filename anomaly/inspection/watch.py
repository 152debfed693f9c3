"""Judge the photos of a folder as they arrive, for as long as the line runs."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anomaly.data.images import one_line
from anomaly.errors import BundleError, DataError
from anomaly.inspection.arrivals import Arrivals, SeenFile, Stamp, listing
from anomaly.inspection.drawing import Drawn
from anomaly.inspection.groups import folder_group
from anomaly.inspection.stream import Score, in_order, judge
from anomaly.inspection.webhook import Webhook
from anomaly.inspection.writer import Writer, write_whole
from anomaly.records import Verdict

HEARTBEAT = "heartbeat.json"
METRICS = "metrics.prom"
BATCH = 64
"""Photos that are judged before the folder is looked at again."""

Waiting = Callable[[object, float], None]


def check_folders(folder: Path, out: Path) -> None:
    """Raise DataError unless `folder` can be watched and `out` lies outside it."""
    if not folder.is_dir():
        raise DataError(f"{one_line(folder)} is no folder: give the folder that photos arrive in")
    if out.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"--out {one_line(out)} lies in the watched folder: give one outside it")


class Watch:
    """One folder, watched. `poll` is one look at it; the caller decides how often."""

    def __init__(
        self,
        folder: Path,
        writer: Writer,
        score: Score,
        *,
        workers: int,
        settle: float,
        patience: float,
        webhook: Webhook | None = None,
        by_folder: bool = False,
        waiting_for: Waiting = lambda what, seconds: None,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """`by_folder`: a photo's sub-folder is its group. Raises DataError where the output cannot be
        written."""
        self.folder = folder
        self.writer = writer
        self.webhook = webhook
        self.counts: Counter[str] = Counter(writer.counts)
        self._score, self._workers, self._waiting_for, self._say = score, workers, waiting_for, say
        self._by_folder = by_folder
        self._log_stamp: tuple[int, int] | None = None
        self._last: float | None = None
        self._trouble: str | None = None
        try:
            self._seen = SeenFile(writer.out, writer.done)
        except OSError as error:
            raise DataError(f"cannot write to {writer.out} ({error.strerror}): give another --out") from None
        self.arrivals = Arrivals(settle, patience, self._seen.stamps)

    def poll(self) -> list[Verdict]:
        """Judge what has arrived, by the version in force; the verdicts that were recorded. A folder that
        cannot be read just now is looked at again next time, and the heartbeat says so. Raises BundleError
        where the log of versions no longer verifies."""
        self._follow()
        recorded = []
        try:
            files = listing(self.folder)
            self._trouble = None
        except OSError as error:
            files, self._trouble = {}, f"{one_line(self.folder)} cannot be read ({error.strerror})"
        if self._trouble is None:
            ready = [(path, files[path]) for path in self.arrivals.ready(files)[:BATCH]]
            for path, stamp, drawn in in_order(self._draw, ready, self._workers, self._wait):
                if verdict := self._record(path, stamp, drawn):
                    recorded.append(verdict)
        self.report("watching" if self._trouble is None else "waiting for the folder")
        return recorded

    def _follow(self) -> None:
        """Take up a version that was put in force since the last look."""
        stamp = self.writer.bundle.versions.stamp()
        if stamp == self._log_stamp:
            return
        before = self.writer.policy.version
        try:
            self.writer.bundle = self.writer.bundle.refreshed()
        except BundleError as error:
            self._trouble = str(error)
            self.close()
            raise
        self._log_stamp = stamp
        now = self.writer.policy.version
        if now != before:
            self._say(f"version {now} decides from now on, version {before} until here")

    def report(self, state: str) -> None:
        """Write heartbeat and counters. Raises DataError where the disk is full."""
        now = time.time()
        hook = self.webhook
        beat = {
            "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
            "pid": os.getpid(),
            "state": state,
            "version": self.writer.policy.version,
            "trouble": self._trouble,
            "photos": self.writer.done,
            "waiting": self.arrivals.waiting,
            "webhook": hook and {"sent": hook.sent, "failed": hook.failed, "dropped": hook.dropped},
        }
        try:
            write_whole(self.writer.out / HEARTBEAT, json.dumps(beat, indent=1, ensure_ascii=False))
            write_whole(self.writer.out / METRICS, "".join(self._metrics(now)))
        except OSError as error:
            raise DataError(
                f"cannot write to {self.writer.out} ({error.strerror}): make room there"
            ) from None

    def close(self) -> None:
        """Say that it ended; the webhook gets a little time to send what waits."""
        if self.webhook:
            self.webhook.close()
        self._seen.close()
        self.report("stopped")

    def _draw(self, item: tuple[str, Stamp]) -> tuple[str, Stamp, Drawn]:
        path, stamp = item
        group = folder_group(Path(path), self.folder) if self._by_folder else ""
        judged = judge(self.writer.bundle.detector, Path(path), self._score, group=group or self.writer.group)
        return path, stamp, self.writer.draw(judged)

    def _record(self, path: str, stamp: Stamp, drawn: Drawn) -> Verdict | None:
        """Record a verdict, unless its file is not whole yet."""
        if self.arrivals.unfinished(path, stamp, drawn.verdict.decision == "error"):
            return None
        with self.writer.writing():
            self._seen.append(path, stamp)
        verdict = self.writer.write(drawn)
        self.arrivals.judged(path, stamp)
        self.counts[verdict.decision] += 1
        self._last = time.time()
        if self.webhook:
            self.webhook.send(verdict.to_dict())
        return verdict

    def _wait(self, item: tuple[str, Stamp], seconds: float) -> None:
        self._waiting_for(f"reading or judging {one_line(item[0])}", seconds)

    def _metrics(self, now: float) -> Iterable[str]:
        """Prometheus' text format, for the textfile collector of its node exporter."""
        yield "# TYPE anomaly_photos_total counter\n"
        for decision in ("normal", "review", "anomalous", "error"):
            yield f'anomaly_photos_total{{decision="{decision}"}} {self.counts[decision]}\n'
        gauges: dict[str, Any] = {
            "anomaly_photos_waiting": self.arrivals.waiting,
            "anomaly_threshold_version": self.writer.policy.version,
            "anomaly_heartbeat_timestamp_seconds": f"{now:.3f}",
            "anomaly_folder_readable": int(self._trouble is None),
        }
        if self._last is not None:
            gauges["anomaly_last_verdict_timestamp_seconds"] = f"{self._last:.3f}"
        for name, value in gauges.items():
            yield f"# TYPE {name} gauge\n{name} {value}\n"
        if self.webhook:
            for what in ("sent", "failed", "dropped"):
                name = f"anomaly_webhook_{what}_total"
                yield f"# TYPE {name} counter\n{name} {getattr(self.webhook, what)}\n"
