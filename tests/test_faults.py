"""Whatever ends an inspection, no verdict is lost, doubled or torn, and it can go on."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import draw_photo
from spawner import Spawner
from test_commands import run

from anomaly.bundle import read_bundle
from anomaly.inspection.drawing import draw
from anomaly.inspection.gallery import Gallery
from anomaly.inspection.journal import JOURNAL, Journal, read_journal, whole_lines
from anomaly.inspection.stream import in_order, judge, judge_all
from anomaly.lock import LOCK
from anomaly.records import Region, Verdict

MEASURED = re.compile(r'\d{4}-\d\d-\d\d \d\d:\d\d UTC|"milliseconds(_median)?": [\d.]+')
"""What verdicts, a summary and a report say of time."""


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    spawner.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 photos, a third of them spotted, one torn."""
    folder = tmp_path_factory.mktemp("line") / "photos"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(24):
        cv2.imwrite(str(folder / f"{i:02d}.png"), draw_photo(rng, bad=i % 3 == 0))
    (folder / "10.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    model: Path, photos: Path, spawner: Spawner, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The results of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    code = spawner.run(out.with_name("log"), *inspect(photos, model, out))
    assert code == 0, out.with_name("log").read_text()
    return out


def inspect(photos: Path, model: Path, out: Path) -> list[object]:
    return ["inspect", photos, "--model", model, "--out", out, "--parquet", "--runtime", "torch", "--resume"]


def files(out: Path) -> dict[str, bytes]:
    """Every file but the measured times, and the lock that a killed process leaves."""
    found = {}
    for path in out.rglob("*"):
        if path.is_file() and path.name != LOCK:
            data = path.read_bytes()
            if path.name in ("report.html", "summary.json", "verdicts.jsonl"):
                data = MEASURED.sub("", data.decode()).encode()
            elif path.name == "verdicts.csv":
                rows = list(csv.DictReader(io.StringIO(data.decode())))
                assert all(float(row.pop("milliseconds")) >= 0 for row in rows)
                data = json.dumps(rows).encode()
            elif path.suffix == ".parquet":
                data = json.dumps(pq.read_table(path).drop_columns("milliseconds").to_pylist()).encode()
            found[path.relative_to(out).as_posix()] = data
    return found


def killed(spawner: Spawner, arguments: list[object], out: Path, rng: np.random.Generator) -> int:
    """Kill a run behind a random number of further verdicts, and a random while later; verdicts it left."""
    log = out.with_name("log")
    before = whole_lines(out / JOURNAL)
    spawner.start(log, *arguments)
    more = before + int(rng.integers(0, 2500))
    size = out / JOURNAL
    spawner.until(lambda: (out / ".inspection").exists() and size.exists() and size.stat().st_size >= more)
    threading.Event().wait(float(rng.uniform(0, 0.05)))
    spawner.signal(signal.SIGKILL)
    assert spawner.wait() in (0, -9), log.read_text()
    return len(list(read_journal(out)))


def check_kills(
    spawner: Spawner, model: Path, photos: Path, undisturbed: Path, tmp_path: Path, kills: int
) -> None:
    rng = np.random.default_rng(kills)
    out, reached, moments = tmp_path / "out", 0, set()
    for _ in range(kills):
        done = killed(spawner, inspect(photos, model, out), out, rng)
        assert done >= reached, "verdicts were lost"
        moments.add(done)
        reached = done
        if (out / "summary.json").exists() and not (out / ".inspection").exists():
            assert files(out) == files(undisturbed)
            subprocess.run(["rm", "-r", str(out)], check=True)
            reached = 0
    assert len(moments) > 1
    assert spawner.run(tmp_path / "log", *inspect(photos, model, out)) == 0, (tmp_path / "log").read_text()
    assert files(out) == files(undisturbed)


def test_killed_at_random_moments_it_goes_on_to_the_same_files(
    spawner: Spawner, model: Path, photos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    check_kills(spawner, model, photos, undisturbed, tmp_path, 2)


@pytest.mark.slow
def test_killed_fifty_times(
    spawner: Spawner, model: Path, photos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    check_kills(spawner, model, photos, undisturbed, tmp_path, 50)


def test_every_torn_end_of_the_journal_is_cut_off(model: Path, undisturbed: Path, tmp_path: Path) -> None:
    """At each of its bytes: what is whole is kept, and the table is made anew from it."""
    data = (undisturbed / JOURNAL).read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    table = (undisturbed / "verdicts.csv").read_text().splitlines()
    for cut in range(0, len(data) + 1, 97):
        (tmp_path / JOURNAL).write_bytes(data[:cut])
        journal = Journal(tmp_path, resume=True)
        journal.close()
        kept = sum(end <= cut for end in ends)
        assert journal.count == kept
        assert (tmp_path / JOURNAL).read_bytes() == data[: ends[kept - 1] if kept else 0]
        assert (tmp_path / "verdicts.csv").read_text().splitlines() == table[: kept + 1]


def test_terminated_it_says_how_to_go_on_and_does(
    spawner: Spawner, model: Path, photos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    spawner.start(log, *inspect(photos, model, out))
    spawner.until(lambda: whole_lines(out / JOURNAL) > 0)
    spawner.signal(signal.SIGTERM)
    assert spawner.wait() == 130, log.read_text()
    assert "go on with --resume" in log.read_text()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["interrupted"] and 0 < summary["photos"] < 24
    assert spawner.run(log, *inspect(photos, model, out)) == 0
    assert "going on after" in log.read_text()
    assert files(out) == files(undisturbed)
    assert spawner.run(log, *inspect(photos, model, out)) == 0  # nothing is left to do
    assert files(out) == files(undisturbed)


def test_resume_is_refused_for_other_photos_and_asked_for_where_it_is_needed(
    capfd: pytest.CaptureFixture[str], spawner: Spawner, model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    killed(spawner, inspect(photos, model, out), out, np.random.default_rng(0))
    (out / "summary.json").unlink(missing_ok=True)
    (out / ".inspection").mkdir(exist_ok=True)
    common = ("--model", model, "--out", out, "--runtime", "torch")
    code, _, stderr = run(capfd, "inspect", photos, *common)
    assert code == 3 and "an unfinished inspection lies in" in stderr
    code, _, stderr = run(capfd, "inspect", photos / "01.png", *common, "--resume")
    assert code == 3 and "changed: " in stderr and "paths" in stderr
    assert run(capfd, "inspect", photos / "01.png", *common, "--overwrite")[0] == 0
    assert len((out / JOURNAL).read_text().splitlines()) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for half of the results."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_it_whole_and_room_lets_it_go_on(
    capfd: pytest.CaptureFixture[str], model: Path, photos: Path, undisturbed: Path, small_disk: Path
) -> None:
    out = small_disk / "out"
    code, _, stderr = run(capfd, *inspect(photos, model, out))
    assert code == 3 and "No space left on device" in stderr and "--resume" in stderr
    assert "Traceback" not in stderr
    assert whole_lines(out / JOURNAL) == (out / JOURNAL).stat().st_size
    done = len(list(read_journal(out)))
    assert 0 < done < 24
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    code, _, stderr = run(capfd, *inspect(photos, model, out))
    assert code == 0 and f"going on after {done} of 24" in stderr
    assert files(out) == files(undisturbed)


def test_a_disk_that_cannot_be_written_is_named(
    capfd: pytest.CaptureFixture[str], model: Path, photos: Path, small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, _, stderr = run(capfd, *inspect(photos, model, small_disk / "out"))
    assert code == 3 and "Read-only file system" in stderr and "give another --out" in stderr


def test_a_photo_that_is_deleted_meanwhile_is_an_error_and_the_rest_is_judged(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    paths = []
    for name in ("01.png", "02.png", "04.png", "05.png", "07.png", "08.png", "11.png"):
        paths.append(tmp_path / name)
        paths[-1].write_bytes((photos / name).read_bytes())
    judged = judge_all(read_bundle(model).detector, paths, workers=1)
    first = next(judged)
    paths[5].unlink()
    decisions = [first.verdict.decision, *(j.verdict.decision for j in judged)]
    assert decisions.index("error") == 5 and decisions.count("error") == 1


def test_a_photo_that_memory_does_not_suffice_for_is_an_error_and_the_rest_is_judged(
    spawner: Spawner, model: Path, photos: Path, tmp_path: Path
) -> None:
    mixed = tmp_path / "photos"
    mixed.mkdir()
    cv2.imwrite(str(mixed / "0.png"), np.zeros((9900, 9900, 3), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    (mixed / "1.png").write_bytes((photos / "01.png").read_bytes())
    out, log = tmp_path / "out", tmp_path / "log"
    code = spawner.run(log, *inspect(mixed, model, out), memory=900 * 2**20)
    assert code == 0, log.read_text()
    verdicts = list(read_journal(out))
    assert [verdict.decision for verdict in verdicts] == ["error", "normal"]
    assert "memory" in (verdicts[0].error or "")


def test_memory_that_runs_out_in_scoring_is_an_error_of_that_photo(model: Path, photos: Path) -> None:
    detector = read_bundle(model).detector

    def score(photo: np.ndarray) -> None:
        np.zeros((2**20, 2**20, 2**10), np.float32)

    assert "needs more memory" in (judge(detector, photos / "01.png", score).verdict.error or "")

    def fails(photo: np.ndarray) -> None:
        raise RuntimeError("a mistake in the program")

    with pytest.raises(RuntimeError, match="a mistake"):
        judge(detector, photos / "01.png", fails)


def test_memory_that_runs_out_in_drawing_is_an_error_of_that_photo(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = read_bundle(model).detector
    judged = judge(detector, photos / "00.png")
    assert judged.verdict.decision == "anomalous"
    assert draw(detector, judged, lambda score: True).heatmap is not None
    huge = lambda *_: np.zeros((2**20, 2**20, 2**10), np.float32)  # noqa: E731
    monkeypatch.setattr("anomaly.inspection.drawing.overlay", huge)
    drawn = draw(detector, judged, lambda score: True)
    assert drawn.verdict.decision == "error" and "needs more memory" in (drawn.verdict.error or "")
    assert drawn.heatmap is None and drawn.gallery is None


def test_results_keep_their_order_and_a_failure_comes_in_its_turn() -> None:
    later = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            later.wait(10)
        if item == 1:
            later.set()
        if item == 4:
            raise ValueError("item 4")
        return item

    results = []
    with pytest.raises(ValueError, match="item 4"):
        for result in in_order(work, range(100), 3):
            results.append(result)
    assert results == [0, 1, 2, 3]


def test_few_items_are_taken_up_ahead() -> None:
    taken: list[int] = []
    results = in_order(lambda item: item, (taken.append(i) or i for i in range(1000)), 2)
    for expected in range(5):
        assert next(results) == expected
        assert len(taken) <= expected + 6
    results.close()
    assert len(taken) < 20


def test_a_read_that_hangs_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly.inspection.stream.GRACE", 0.01)
    never = threading.Event()
    told: list[int] = []

    def waiting_for(item: int, seconds: float) -> None:
        told.append(item)
        raise KeyboardInterrupt

    def work(item: int) -> int:
        if item == 2:
            never.wait()
        return item

    results = []
    with pytest.raises(KeyboardInterrupt):
        for result in in_order(work, range(5), 2, waiting_for):
            results.append(result)
    assert results == [0, 1] and told == [2]
    never.set()


def test_the_gallery_keeps_the_worst_and_survives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=200).tolist()
    gallery = Gallery(tmp_path)
    for index, score in enumerate(scores):
        verdict = Verdict(f"{index}.png", "anomalous", score)
        if gallery.wants(score):
            pictures = {"original": b"o%d" % index, "heatmap": b"h", "outline": b"l", "small": b"s"}
            gallery.store(index, pictures)
        gallery.add(index, verdict)
    worst = sorted(range(200), key=lambda i: -scores[i])[:40]
    assert {item.path for item in gallery.items(bytes.upper)} == {f"{i}.png" for i in worst}
    assert {item.original for item in gallery.items(bytes.upper)} == {b"o%d" % i for i in worst}
    assert {item.expected for item in gallery.items(bytes.upper)} == {b"S"}
    assert len(list(tmp_path.iterdir())) == 4 * 40
    again = Gallery(tmp_path)
    for index, score in enumerate(scores):
        again.add(index, Verdict(f"{index}.png", "anomalous", score))
    assert {item.original for item in again.items(bytes.upper)} == {b"o%d" % i for i in worst}


def test_a_verdict_passes_through_json_and_parquet(undisturbed: Path) -> None:
    verdict = Verdict("a\udcff.png", "anomalous", 1.5, 1.0, 0.05, (Region((1, 2, 3, 4), 5, 6.5),), 12.0)
    again = Verdict.from_dict(json.loads(json.dumps(verdict.to_dict())))
    assert again == verdict
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(undisturbed / "verdicts.parquet").to_pylist()
    lines = [json.loads(line) for line in (undisturbed / JOURNAL).read_text().splitlines()]
    assert [row["path"] for row in rows] == [line["path"] for line in lines]
    for row, line in zip(rows, lines, strict=True):
        assert {key: row[key] for key in ("decision", "image_score", "error")} == {
            key: line[key] for key in ("decision", "image_score", "error")
        }
        assert [part["box"] for part in row["regions"]] == [part["box"] for part in line["regions"]]


def test_a_name_that_is_no_text_is_judged_and_recorded(
    capfd: pytest.CaptureFixture[str], model: Path, photos: Path, tmp_path: Path
) -> None:
    name = os.fsencode(tmp_path) + b"/bad\xff.png"
    with open(name, "wb") as file:
        file.write((photos / "00.png").read_bytes())
    code, _, stderr = run(capfd, *inspect(Path(os.fsdecode(name)), model, tmp_path / "out"))
    assert code == 0, stderr
    (line,) = (tmp_path / "out" / JOURNAL).read_text().splitlines()
    assert os.fsencode(json.loads(line)["path"]) == name
