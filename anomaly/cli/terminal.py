"""Progress and hints on stderr, results on stdout, and interruption at a moment when nothing is half done."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE = 10.0
"""Seconds without progress after which it is said what is waited for."""
EVERY = 5.0
"""Seconds between two lines of progress where stderr is no terminal."""


def say(text: str) -> None:
    """A sentence for the person at the terminal."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def show(text: str) -> None:
    """A line of the result, for people, on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def result(fields: dict[str, Any]) -> None:
    """One JSON object on a line of stdout."""
    sys.stdout.write(json.dumps(fields, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


class TerminalProgress:
    """Bars with loss and time left on a terminal, a line now and then elsewhere.

    Ctrl-C and SIGTERM are taken at the next step, where a checkpoint can be written; a second Ctrl-C at once.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        """A `quiet` one shows nothing, and takes signals alone."""
        self._bars = None if quiet else _bars()
        self._quiet = quiet
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}
        """When each stage began, and with how much of it done."""
        self._done: dict[str, int] = {}
        self._said = time.monotonic()
        self._stop = False

    @contextmanager
    def running(self) -> Iterator[TerminalProgress]:
        """Show progress and take signals while the block runs."""
        before = {
            number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)
        }
        if self._bars:
            self._bars.start()
        try:
            yield self
        finally:
            if self._bars:
                self._bars.stop()
            for number, handler in before.items():
                signal.signal(number, handler)

    def step(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
        """Show how far `stage` is. Raises KeyboardInterrupt where that was asked for.

        A stage that falls back has begun once more, for the next model.
        """
        if stage not in self._done or done < self._done[stage]:
            self._began[stage] = time.monotonic(), done
            if stage in self._tasks and self._bars:
                self._bars.reset(self._tasks[stage])
        self._done[stage] = done
        began, before = self._began[stage]
        text = "" if loss is None else f"loss {loss:.4f}"
        if self._bars:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, loss=text)
            self._bars.update(self._tasks[stage], completed=done, loss=text)
        elif not self._quiet and (done == total or time.monotonic() - self._said > EVERY):
            self._said = time.monotonic()
            left = (self._said - began) / max(done - before, 1) * (total - done)
            took = f"{left:.0f} s left" if done < total else f"{self._said - began:.0f} s"
            say(f"{stage}: {done}/{total} {text}".rstrip() + f", {took}")
        if self._stop:
            raise KeyboardInterrupt

    def waiting_for(self, what: object, seconds: float) -> None:
        """Say what holds up the rest, every PATIENCE seconds. Raises KeyboardInterrupt as `step` does."""
        if int(seconds) % PATIENCE == 0:
            say(f"{what} for {seconds:.0f} s; interrupt if it does not end")
        if self._stop:
            raise KeyboardInterrupt

    def pause(self, seconds: float) -> None:
        """Sleep. Raises KeyboardInterrupt as soon as that was asked for."""
        end = time.monotonic() + seconds
        while not self._stop and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        if self._stop:
            raise KeyboardInterrupt

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True


def _bars() -> Progress | None:
    """Bars on stderr; None where it is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    return Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )
