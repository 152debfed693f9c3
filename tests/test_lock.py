"""No two processes write into one folder, and a process that died keeps none locked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import QUICK
from spawner import Spawner
from test_commands import run

from anomaly.errors import ConfigError
from anomaly.inspection.journal import JOURNAL, whole_lines
from anomaly.lock import LOCK, sole_writer

ROOT = Path(__file__).parent.parent
HOLD = """
import sys
from pathlib import Path
from anomaly.lock import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
CONTEND = """
import os, sys, time
from pathlib import Path
from anomaly.errors import ConfigError
from anomaly.lock import sole_writer
folder, alone, done = Path(sys.argv[1]), Path(sys.argv[2]), 0
while done < 40:
    try:
        with sole_writer(folder):
            os.close(os.open(alone, os.O_CREAT | os.O_EXCL))
            time.sleep(0.0005)
            alone.unlink()
            done += 1
    except ConfigError:
        time.sleep(0.0002)
"""


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.fixture
def hold() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts a process that writes into a folder until its stdin is closed."""
    started = []

    def start(folder: Path) -> subprocess.Popen[str]:
        process = python(HOLD, folder)
        started.append(process)
        assert process.stdout and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.communicate()


def test_a_second_process_is_refused_until_the_first_has_ended(
    hold: Callable[[Path], subprocess.Popen[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = hold(out)
    said = rf"another process \(pid {first.pid}\) is writing into {out}: wait"
    with pytest.raises(ConfigError, match=said), sole_writer(out):
        pass
    first.communicate()
    assert first.returncode == 0 and not out.exists(), "nothing was written into it"
    with sole_writer(out):
        (out / "result").touch()
    assert [path.name for path in out.iterdir()] == ["result"]


def test_a_killed_process_keeps_nothing_locked(
    hold: Callable[[Path], subprocess.Popen[str]], tmp_path: Path
) -> None:
    first = hold(tmp_path)
    first.kill()
    first.wait()
    assert (tmp_path / LOCK).exists()
    with sole_writer(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())
    assert tmp_path.exists() and not (tmp_path / LOCK).exists()


def test_whoever_comes_while_a_lock_is_removed_is_still_alone(tmp_path: Path) -> None:
    processes = [python(CONTEND, tmp_path / "out", tmp_path / "alone") for _ in range(4)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0] * 4
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_that_cannot_be_written_is_left_to_the_writer(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with sole_writer(tmp_path / "file"):
        pass
    assert (tmp_path / "file").is_file()


def test_a_second_inspection_touches_nothing(
    capfd: pytest.CaptureFixture[str], model: Path, product: Path, tmp_path: Path
) -> None:
    """Neither with --resume nor with --overwrite, and no watch either."""
    out, log = tmp_path / "out", tmp_path / "log"
    arguments = (product / "test", "--model", model, "--out", out)
    torch = ("--runtime", "torch")
    spawner = Spawner()
    try:
        pid = spawner.start(log, "inspect", *arguments, *torch)
        spawner.until(lambda: whole_lines(out / JOURNAL) > 0)
        spawner.signal(signal.SIGSTOP)
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for second in (
            ("inspect", *arguments, *torch, "--resume"),
            ("inspect", *arguments, "--overwrite"),
            ("watch", *arguments, "--until-empty"),
        ):
            code, _, stderr = run(capfd, *second)
            assert code == 2 and stderr.startswith("anomaly: another process (pid "), stderr
            assert f"(pid {pid}) is writing into {out}: wait for it, or give another --out" in stderr
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
        spawner.signal(signal.SIGCONT)
        assert spawner.wait() == 0, log.read_text()
    finally:
        spawner.signal(signal.SIGCONT)
        spawner.close()
    assert len((out / JOURNAL).read_text().splitlines()) == 12
    assert json.loads((out / "summary.json").read_text())["photos"] == 12
    assert not (out / LOCK).exists()


def test_a_second_fit_and_a_second_study_are_refused(
    capfd: pytest.CaptureFixture[str],
    hold: Callable[[Path], subprocess.Popen[str]],
    product: Path,
    tmp_path: Path,
) -> None:
    partial, out = tmp_path / "m.partial", tmp_path / "s"
    first, other = hold(partial), hold(out)
    for arguments in ((), ("--resume",), ("--overwrite",)):
        code, _, stderr = run(capfd, "fit", product, "--out", tmp_path / "m", *arguments)
        assert code == 2 and f"another process (pid {first.pid}) is writing into {tmp_path / 'm'}:" in stderr
    code, _, stderr = run(capfd, "study", product, "--out", out)
    assert code == 2 and f"another process (pid {other.pid}) is writing into {out}:" in stderr
    assert [path.name for path in (*partial.iterdir(), *out.iterdir())] == [LOCK, LOCK]


@pytest.mark.parametrize(
    ("setting", "code"),
    [("calibration.target_fpr=0.01", 5), ("backbone=no-such", 2), ("backbone=no-such.safetensors", 2)],
)
def test_a_refused_fit_does_not_stand_in_the_way_of_the_right_one(
    capfd: pytest.CaptureFixture[str], product: Path, tmp_path: Path, setting: str, code: int
) -> None:
    quick = [part for one in QUICK for part in ("--set", one)]
    arguments = ("fit", product, "--out", tmp_path / "models/m", *quick)
    got, _, stderr = run(capfd, *arguments, "--set", setting)
    assert got == code and "Traceback" not in stderr, stderr
    assert not (tmp_path / "models/m.partial").exists()


def test_a_fit_that_was_killed_before_it_learnt_anything_is_none(
    capfd: pytest.CaptureFixture[str], product: Path, tmp_path: Path
) -> None:
    partial = tmp_path / "m.partial"
    partial.mkdir()
    (partial / "fit.json").write_text('{"identity": "of another configuration"}')
    (partial / LOCK).write_text("1")
    quick = [part for one in QUICK for part in ("--set", one)]
    arguments = ("fit", product, "--out", tmp_path / "m", *quick)
    (partial / "contrastive.safetensors").touch()
    code, _, stderr = run(capfd, *arguments)
    assert code == 2 and "an interrupted fit lies in" in stderr
    (partial / "contrastive.safetensors").unlink()
    assert run(capfd, *arguments)[0] == 0
    assert not partial.exists()
