"""Which files of a folder are photos that have arrived whole and were not judged yet.

Polling, for network folders send no events; a file is taken for whole when it has not changed for a while.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anomaly.data.images import IMAGE_SUFFIXES
from anomaly.inspection.journal import append_whole

SEEN = "seen.jsonl"

Stamp = tuple[int, int]
"""(bytes, time of the last change in nanoseconds): what tells a new photo from a judged one of that name."""


def listing(folder: Path) -> dict[str, Stamp]:
    """Photos below `folder` by path, hidden files and folders left out. Raises OSError where the folder
    itself cannot be listed; what vanishes meanwhile is left out."""
    found: dict[str, Stamp] = {}
    folders = [os.fspath(folder)]
    while folders:
        here = folders.pop()
        try:
            entries = list(os.scandir(here))
        except OSError:
            if here == os.fspath(folder):
                raise
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file():
                    found[entry.path] = stamp_of(entry.path)
            except OSError:
                continue
    return found


def stamp_of(path: str) -> Stamp:
    """Raises OSError where there is no such file."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


@dataclass
class _Waiting:
    stamp: Stamp
    since: float
    tried: bool = False


@dataclass
class Arrivals:
    """Follows the files of a folder from poll to poll."""

    settle: float
    """Seconds that a file must not have changed for before it is read."""
    patience: float
    """Seconds that a file which cannot be read must not have changed for before that is its verdict."""
    seen: dict[str, Stamp] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _waiting: dict[str, _Waiting] = field(default_factory=dict)

    def ready(self, files: Mapping[str, Stamp]) -> list[str]:
        """The files to read now, oldest first."""
        now = self.clock()
        self.seen = {path: stamp for path, stamp in self.seen.items() if path in files}
        self._waiting = {path: waiting for path, waiting in self._waiting.items() if path in files}
        found = []
        for path, stamp in files.items():
            if self.seen.get(path) == stamp:
                self._waiting.pop(path, None)
                continue
            waiting = self._waiting.get(path)
            if waiting is None or waiting.stamp != stamp:
                waiting = self._waiting[path] = _Waiting(stamp, now)
            if now - waiting.since >= (self.patience if waiting.tried or not stamp[0] else self.settle):
                found.append(path)
        return sorted(found, key=lambda path: (files[path][1], path))

    def unfinished(self, path: str, stamp: Stamp, unreadable: bool) -> bool:
        """Whether `path`, read when it had `stamp`, is to be read again later: it has changed meanwhile, or
        cannot be read and may still be being written."""
        try:
            changed = stamp_of(path) != stamp
        except OSError:
            return False  # taken away: it will not come again under this name
        waiting = self._waiting.get(path)
        if waiting is None or changed:
            return changed
        waiting.tried = True
        return unreadable and self.clock() - waiting.since < self.patience

    def judged(self, path: str, stamp: Stamp) -> None:
        self.seen[path] = stamp
        self._waiting.pop(path, None)

    @property
    def waiting(self) -> int:
        """Files that are not judged yet."""
        return len(self._waiting)


class SeenFile:
    """Which file each line of the journal belongs to: line for line, and always one ahead of it.

    A program that was killed between the two left one line too many here; it is cut off, and the photo is
    judged again, into the line that was never written.
    """

    def __init__(self, out: Path, recorded: int) -> None:
        """Keeps the first `recorded` lines. Raises OSError."""
        self.stamps: dict[str, Stamp] = {}
        self._file = open(out / SEEN, "a+b", buffering=0)  # noqa: SIM115
        self._file.seek(0)
        end = 0
        for _ in range(recorded):
            line = self._file.readline()
            try:
                path, size, changed = json.loads(line)
            except ValueError:
                break
            self.stamps[path] = (size, changed)
            end += len(line)
        self._file.truncate(end)

    def append(self, path: str, stamp: Stamp) -> None:
        append_whole(self._file, (json.dumps([path, *stamp]) + "\n").encode())

    def close(self) -> None:
        self._file.close()
