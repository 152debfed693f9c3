"""An append-only log of changes, one JSON line each, chained by SHA-256.

Each line holds the hash of the line before, and a head file beside the log records how many lines there are
and the last hash; so an edited, removed, inserted or reordered line, and a removed end, are found. What no
file can show: whoever may write both files and recomputes every hash from a line on leaves a valid chain, and
so does whoever deletes both. Against that, keep the last hash elsewhere, for instance in the signed report.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from anomaly.errors import BundleError, DataError

GENESIS = "0" * 64
"""What stands for the hash before the first line."""
FIELDS = {"index", "time", "who", "entry", "previous", "sha256"}
Entry = dict[str, Any] | Callable[[list[dict[str, Any]]], dict[str, Any]]
RESTORE = "restore the log and its head file from a backup, or move both aside, keep them and start anew"


@dataclass(frozen=True, slots=True)
class AuditLog:
    """The log at `path` and its head at `path` + ".head". Writers and readers lock it against each other."""

    path: Path

    @property
    def head(self) -> Path:
        return self.path.with_name(self.path.name + ".head")

    def append(self, entry: Entry, who: str | None = None) -> dict[str, Any]:
        """Write `entry` (JSON values) to disk, and return its whole record: index, time (UTC), who, entry,
        previous, sha256. BundleError, and nothing written, if the log as it stands does not verify.

        An entry that depends on those before it is given as a function of all records, called while the log
        is locked; what it raises is passed on, and nothing is written.
        """
        with self._locked("a+b", fcntl.LOCK_EX) as log:
            records = self._verified(log)
            entry = entry(records) if callable(entry) else entry
            try:
                _canonical(entry)
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"an audit entry holds JSON values only ({error}): convert it first"
                ) from error
            record: dict[str, Any] = {
                "index": len(records),
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "who": who or _user(),
                "entry": entry,
                "previous": records[-1]["sha256"] if records else GENESIS,
            }
            record["sha256"] = _digest(record)
            line = _canonical(record)
            self._write_head(len(records), record["previous"])
            end = log.seek(0, os.SEEK_END)
            try:
                _write(log, line + b"\n")
                self._write_head(len(records) + 1, record["sha256"])
            except OSError:
                log.truncate(end)
                raise
        written: dict[str, Any] = json.loads(line)
        return written

    def entries(self) -> list[dict[str, Any]]:
        """All records, oldest first, verified; none if nothing was ever logged."""
        if not self.path.exists() and not self.head.exists():
            return []
        with self._locked("rb", fcntl.LOCK_SH) as log:
            return self._verified(log)

    def verify(self) -> None:
        """BundleError that names the first line which is not as it was written."""
        self.entries()

    @contextmanager
    def _locked(self, mode: Literal["a+b", "rb"], kind: int) -> Iterator[io.FileIO]:
        try:
            with open(self.path, mode, buffering=0) as log:
                fcntl.flock(log, kind)
                yield log
        except FileNotFoundError as error:
            raise BundleError(f"{self.path} does not exist: check the folder; {RESTORE}") from error
        except OSError as error:
            raise BundleError(
                f"{self.path} cannot be used ({error.strerror}): check permissions and free space, repeat"
            ) from error

    def _verified(self, log: io.FileIO) -> list[dict[str, Any]]:
        log.seek(0)
        *lines, rest = log.read().split(b"\n")
        count, last = self._read_head(empty=not lines and not rest)
        records: list[dict[str, Any]] = []
        previous = GENESIS
        for number, line in enumerate(lines, 1):
            record = _parsed(line)
            if record is None:
                raise self._broken(number, "was edited")
            if record["previous"] != previous:
                raise self._broken(
                    number, "does not follow: a line was edited, removed, inserted or moved there"
                )
            records.append(record)
            previous = record["sha256"]
        if rest and len(records) >= count:
            raise BundleError(
                f"{self.path}, line {len(lines) + 1} is incomplete, as a crash while writing leaves it, and "
                "was never confirmed: delete this one unfinished line and nothing else"
            )
        if len(records) < count:
            raise self._broken(len(records) + 1, f"is cut off or missing: there were {count} lines")
        if count and records[count - 1]["sha256"] != last:
            raise self._broken(count, "is not the one that the head file records")
        if len(records) > count + 1:
            raise self._broken(count + 2, "is unknown to the head file")
        return records

    def _broken(self, number: int, what: str) -> BundleError:
        return BundleError(f"{self.path}, line {number} {what}: {RESTORE}")

    def _read_head(self, empty: bool) -> tuple[int, str]:
        """(number of lines, last hash). A crash may leave it one line behind the log, never further."""
        try:
            head = json.loads(self.head.read_bytes())
            count, last = head["count"], head["sha256"]
        except FileNotFoundError as error:
            if empty:
                return 0, GENESIS
            raise BundleError(
                f"{self.head} is missing, so removed lines would not show: {RESTORE}"
            ) from error
        except (ValueError, TypeError, KeyError) as error:
            raise BundleError(f"{self.head} is damaged: {RESTORE}") from error
        if not isinstance(count, int) or count < 0:
            raise BundleError(f"{self.head} is damaged: {RESTORE}")
        return count, last

    def _write_head(self, count: int, last: str) -> None:
        """Replaced as a whole, so that it is never half written."""
        new = self.head.with_name(self.head.name + ".new")
        with open(new, "wb", buffering=0) as file:
            _write(file, _canonical({"count": count, "sha256": last}) + b"\n")
        os.replace(new, self.head)
        folder = os.open(self.head.parent, os.O_RDONLY)
        with suppress(OSError):  # some network file systems cannot
            os.fsync(folder)
        os.close(folder)


def _write(file: io.FileIO, data: bytes) -> None:
    """All of `data` on the disk, or OSError."""
    if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file.fileno())


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record, or None if `line` is not, byte for byte, what `append` writes."""
    try:
        record = json.loads(line)
        intact = (
            record.keys() == FIELDS and _canonical(record) == line and _digest(record) == record["sha256"]
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return record if intact else None


def _digest(record: dict[str, Any]) -> str:
    """SHA-256 over the canonical JSON of the record without its own hash."""
    return hashlib.sha256(_canonical({k: v for k, v in record.items() if k != "sha256"})).hexdigest()


def _canonical(value: dict[str, Any]) -> bytes:
    """Keys sorted, no spaces, ASCII: one value, one line of bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without an account for its user
        return f"uid {os.getuid()}"
