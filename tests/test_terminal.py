"""What a person sees of work that takes long."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from anomaly.cli import terminal
from anomaly.cli.terminal import TerminalProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets; stderr is no terminal under pytest."""
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_time_left_comes_from_what_was_done_since_the_stage_began(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    progress = TerminalProgress()
    progress.step("backbone", 500, 600)  # resumed from a checkpoint
    clock[0] = 10
    progress.step("backbone", 550, 600, 0.25)
    clock[0] = 20
    progress.step("backbone", 600, 600)
    assert said(capsys) == ["backbone: 550/600 loss 0.2500, 10 s left", "backbone: 600/600, 20 s"]


def test_a_stage_that_begins_once_more_counts_its_own_time(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    progress = TerminalProgress()
    for begin in (0, 1000):
        for done in (0, 1, 2, 3, 4):
            clock[0] = begin + 10 * done
            progress.step("probes", done, 4)
    lines = said(capsys)
    assert lines[:4] == [f"probes: {i}/4, {40 - 10 * i} s left" for i in (1, 2, 3)] + ["probes: 4/4, 40 s"]
    assert lines[-4:] == lines[:4]


def test_the_bar_of_a_stage_that_begins_once_more_is_no_longer_finished() -> None:
    progress = TerminalProgress(quiet=True)
    progress._bars = Progress(console=Console(file=io.StringIO(), force_terminal=True))
    for done in (1, 2, 0, 1):
        progress.step("probes", done, 2)
    (bar,) = progress._bars.tasks
    assert bar.completed == 1 and not bar.finished and bar.finished_time is None


def test_what_holds_up_the_rest_is_said_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TerminalProgress()
    for seconds in range(1, 25):
        progress.waiting_for("reading or judging huge.png", seconds + 0.01)
    assert said(capsys) == [
        f"reading or judging huge.png for {n} s; interrupt if it does not end" for n in (10, 20)
    ]
