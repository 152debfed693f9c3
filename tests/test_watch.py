"""A watched folder: each photo judged once, when it is whole, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import draw_photo
from spawner import Spawner
from test_commands import run

from anomaly.bundle import Bundle, read_bundle
from anomaly.inspection import webhook
from anomaly.inspection.arrivals import Arrivals, SeenFile, listing
from anomaly.inspection.identity import watch_of
from anomaly.inspection.journal import JOURNAL, read_journal
from anomaly.inspection.watch import HEARTBEAT, METRICS, Watch
from anomaly.inspection.webhook import Webhook
from anomaly.inspection.writer import Writer


@pytest.fixture(scope="module")
def bundle(model: Path) -> Bundle:
    return read_bundle(model)


def put(folder: Path, name: str, number: int, bad: bool = False) -> Path:
    """A photo of that number: a good one is of those that the model was fitted on, so surely normal."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    photo = [draw_photo(rng) for _ in range(number + 1)][-1]
    cv2.imwrite(str(path), draw_photo(rng, bad=True) if bad else photo)
    return path


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_file_is_whole_when_it_has_not_changed_for_a_while(tmp_path: Path) -> None:
    clock = Clock()
    arrivals = Arrivals(settle=2, patience=30, clock=clock)
    photo = tmp_path / "a.png"
    photo.write_bytes(b"ha")
    assert arrivals.ready(listing(tmp_path)) == []
    clock.now += 1.5
    photo.write_bytes(b"half")
    assert arrivals.ready(listing(tmp_path)) == []
    clock.now += 1.5
    assert arrivals.ready(listing(tmp_path)) == []
    clock.now += 0.5
    files = listing(tmp_path)
    assert arrivals.ready(files) == [str(photo)]
    assert arrivals.unfinished(str(photo), files[str(photo)], unreadable=True)
    clock.now += 5
    assert arrivals.ready(listing(tmp_path)) == []  # not read again before it changes or patience ends
    photo.write_bytes(b"half and the rest")
    assert arrivals.ready(listing(tmp_path)) == []
    clock.now += 2
    files = listing(tmp_path)
    assert arrivals.ready(files) == [str(photo)]
    assert not arrivals.unfinished(str(photo), files[str(photo)], unreadable=False)
    arrivals.judged(str(photo), files[str(photo)])
    clock.now += 100
    assert arrivals.ready(listing(tmp_path)) == [] and arrivals.waiting == 0


def test_what_stays_unreadable_is_an_error_when_patience_ends(tmp_path: Path) -> None:
    clock = Clock()
    arrivals = Arrivals(settle=1, patience=10, clock=clock)
    torn, empty = tmp_path / "torn.png", tmp_path / "empty.png"
    torn.write_bytes(b"?")
    empty.write_bytes(b"")
    arrivals.ready(listing(tmp_path))
    clock.now += 1
    files = listing(tmp_path)
    assert arrivals.ready(files) == [str(torn)]
    assert arrivals.unfinished(str(torn), files[str(torn)], unreadable=True)
    clock.now += 9
    assert sorted(arrivals.ready(files)) == [str(empty), str(torn)]
    assert not arrivals.unfinished(str(torn), files[str(torn)], unreadable=True)


def test_a_name_that_is_used_again_is_a_new_photo_and_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    arrivals = Arrivals(settle=0, patience=0)
    photo = put(tmp_path, "latest.png", 0)
    files = listing(tmp_path)
    assert arrivals.ready(files) == [str(photo)]
    arrivals.judged(str(photo), files[str(photo)])
    assert arrivals.ready(files) == []
    put(tmp_path, "latest.png", 1)
    os.utime(photo, ns=(1, 1))
    assert arrivals.unfinished(str(photo), files[str(photo)], unreadable=False)
    assert arrivals.ready(listing(tmp_path)) == [str(photo)]
    photo.unlink()
    assert arrivals.ready(listing(tmp_path)) == []
    assert not arrivals.seen and not arrivals.waiting


def test_hidden_files_other_files_and_links_to_nowhere_are_no_photos(tmp_path: Path) -> None:
    for name in (".hidden.png", ".part/x.png", "notes.txt", "deep/er/photo.PNG", "photo.png.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone.png").symlink_to("nowhere")
    assert [Path(path).name for path in listing(tmp_path)] == ["photo.PNG"]
    with pytest.raises(OSError):
        listing(tmp_path / "absent")


def watching(bundle: Bundle, folder: Path, out: Path, hook: Webhook | None = None) -> Iterator[Watch]:
    with Writer(out, bundle, resume=True, run=watch_of(bundle, folder)) as writer:
        watch = Watch(
            folder, writer, bundle.detector.score, workers=2, settle=0, patience=0, webhook=hook
        )  # fmt: skip
        yield watch
        watch.close()


def test_each_photo_is_judged_once_also_after_a_restart(bundle: Bundle, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    put(folder, "a.png", 0)
    put(folder, "lot/b.png", 1, bad=True)
    (folder / "torn.png").write_bytes(b"\x89PNG")
    for watch in watching(bundle, folder, out):
        assert {Path(v.path).name: v.decision for v in watch.poll()} == {
            "a.png": "normal", "b.png": "anomalous", "torn.png": "error"
        }  # fmt: skip
        assert watch.poll() == []
    assert json.loads((out / HEARTBEAT).read_text())["state"] == "stopped"
    put(folder, "c.png", 2)
    for watch in watching(bundle, folder, out):
        assert [Path(v.path).name for v in watch.poll()] == ["c.png"]
        beat = json.loads((out / HEARTBEAT).read_text())
        assert beat["state"] == "watching" and beat["photos"] == 4 and beat["waiting"] == 0
        lines = (out / METRICS).read_text().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        assert values['anomaly_photos_total{decision="normal"}'] == "2"
        assert values['anomaly_photos_total{decision="error"}'] == "1"
        assert values["anomaly_folder_readable"] == "1"
        assert all(
            re.fullmatch(r'# TYPE \w+ (counter|gauge)|\w+(\{\w+="\w+"\})? [\d.]+', line) for line in lines
        )
    assert len(list(read_journal(out))) == 4


def test_a_line_of_the_seen_file_without_its_verdict_is_cut_off(tmp_path: Path) -> None:
    seen = SeenFile(tmp_path, 0)
    for name in ("a", "b", "c"):
        seen.append(name, (1, 2))
    seen.close()
    again = SeenFile(tmp_path, 2)
    assert again.stamps == {"a": (1, 2), "b": (1, 2)}
    again.append("d", (3, 4))
    again.close()
    last = SeenFile(tmp_path, 3)
    last.close()
    assert last.stamps == {"a": (1, 2), "b": (1, 2), "d": (3, 4)}


def test_a_folder_that_goes_away_is_waited_for(bundle: Bundle, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    put(folder, "a.png", 0)
    for watch in watching(bundle, folder, out):
        assert len(watch.poll()) == 1
        folder.rename(tmp_path / "elsewhere")
        assert watch.poll() == []
        beat = json.loads((out / HEARTBEAT).read_text())
        assert beat["state"] == "waiting for the folder" and "cannot be read" in beat["trouble"]
        assert "anomaly_folder_readable 0" in (out / METRICS).read_text()
        (tmp_path / "elsewhere").rename(folder)
        put(folder, "b.png", 1)
        assert [Path(v.path).name for v in watch.poll()] == ["b.png"]


def test_killed_and_terminated_it_judges_every_photo_exactly_once(model: Path, tmp_path: Path) -> None:
    folder, out, log = tmp_path / "in", tmp_path / "out", tmp_path / "log"
    for i in range(12):
        put(folder, f"{i}.png", i, bad=i % 4 == 0)
    arguments = ("watch", folder, "--model", model, "--out", out, "--settle", "0.01", "--every", "0.01")
    spawner = Spawner()

    def recorded() -> int:
        return (out / JOURNAL).read_bytes().count(b"\n") if (out / JOURNAL).exists() else 0

    try:
        for wanted in (2, 5):
            spawner.start(log, *arguments)
            spawner.until(lambda wanted=wanted: recorded() >= wanted)
            spawner.signal(signal.SIGKILL)
            assert spawner.wait() == -9, log.read_text()
        spawner.start(log, *arguments)
        spawner.until(lambda: recorded() >= 9)
        spawner.signal(signal.SIGTERM)
        assert spawner.wait() == 0, log.read_text()
        assert "stopped; " in log.read_text()
        assert json.loads((out / HEARTBEAT).read_text())["state"] == "stopped"
        assert spawner.run(log, *arguments, "--until-empty") == 0, log.read_text()
    finally:
        spawner.close()
    names = sorted(Path(verdict.path).name for verdict in read_journal(out))
    assert names == sorted(f"{i}.png" for i in range(12))
    assert (out / "report.html").exists()


@pytest.fixture
def server() -> Iterator[Callable[[int], tuple[str, list[dict[str, object]]]]]:
    """Starts a local HTTP server that fails so many times first; its address and what it was sent."""
    servers = []

    def start(failures: int) -> tuple[str, list[dict[str, object]]]:
        received: list[dict[str, object]] = []
        left = [failures]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                left[0] -= 1
                self.send_response(500 if left[0] >= 0 else 204)
                self.end_headers()
                if left[0] < 0:
                    received.append(json.loads(body))

            def log_message(self, *arguments: object) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/verdicts", received

    yield start
    for one in servers:
        one.shutdown()
        one.server_close()


def test_the_webhook_tries_again_and_counts(
    server: Callable[[int], tuple[str, list[dict[str, object]]]], bundle: Bundle, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(webhook, "WAIT", (0.0, 0.0))
    address, received = server(2)
    hook = Webhook(address)
    put(tmp_path / "in", "a.png", 0, bad=True)
    for watch in watching(bundle, tmp_path / "in", tmp_path / "out", hook):
        (verdict,) = watch.poll()
        end = time.monotonic() + 60
        while not hook.sent and time.monotonic() < end:  # a busy machine may take longer than closing waits
            time.sleep(0.01)
    assert received == [json.loads(json.dumps(verdict.to_dict()))]
    assert (hook.sent, hook.failed, hook.dropped) == (1, 0, 0)
    assert "anomaly_webhook_sent_total 1" in (tmp_path / "out" / METRICS).read_text()
    address, received = server(3)
    hook = Webhook(address)
    hook.send({"path": "b.png"})
    hook.close()
    assert received == [] and (hook.sent, hook.failed) == (0, 1)


def test_a_webhook_that_hangs_never_blocks_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(Webhook, "_post", lambda hook, fields: never.wait())
    hook = Webhook("http://127.0.0.1:9/")
    for number in range(3 * webhook.WAITING):
        hook.send({"number": number})
    assert hook.dropped >= 2 * webhook.WAITING - 2
    hook.close(0.01)
    assert hook.dropped >= 3 * webhook.WAITING - 2
    never.set()


def test_a_webhook_that_nobody_answers_is_told_once_and_counted(
    capfd: pytest.CaptureFixture[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "WAIT", (0.0, 0.0))
    monkeypatch.setattr(webhook.Webhook.close, "__defaults__", (60.0,))
    folder, out = tmp_path / "in", tmp_path / "out"
    for i in range(3):
        put(folder, f"{i}.png", i)
    arguments = ("--out", out, "--settle", "0", "--until-empty", "--webhook", "http://127.0.0.1:9/secret")
    code, _, stderr = run(capfd, "watch", folder, "--model", model, *arguments)
    assert code == 0, stderr
    assert stderr.count("the webhook at 127.0.0.1 fails (") == 1 and "refused" in stderr
    assert "secret" not in stderr
    assert "0 could not be read; webhook: 0 sent, 3 failed, 0 dropped\n" in stderr
    beat = json.loads((out / HEARTBEAT).read_text())
    assert beat["webhook"] == {"sent": 0, "failed": 3, "dropped": 0}


def test_a_folder_of_something_else_is_refused_in_its_own_words(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    """`watch` has neither --overwrite nor --resume."""
    folder, inspected, watched = tmp_path / "in", tmp_path / "inspected", tmp_path / "watched"
    put(folder, "a.png", 0)
    put(tmp_path / "other", "a.png", 0)
    common = ("--model", own_model, "--out")
    quick = ("--settle", "0", "--until-empty")
    assert run(capfd, "inspect", folder, *common, inspected)[0] == 0
    assert run(capfd, "watch", folder, *common, watched, *quick)[0] == 0
    said = []
    for source, out in ((folder, inspected), (tmp_path / "other", watched)):
        code, _, stderr = run(capfd, "watch", source, *common, out, *quick)
        assert code == 3 and "give another --out" in stderr
        said.append(stderr)
    assert "holds an inspection" in said[0] and "(changed: watched): watch the same folder" in said[1]
    assert "--overwrite" not in "".join(said) and "--resume" not in "".join(said)
    code, _, stderr = run(capfd, "inspect", folder, *common, watched, "--resume")
    assert code == 3 and "holds verdicts of a watched folder: give another --out" in stderr


def test_mistakes_are_one_sentence(capfd: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for arguments, code, sentence in (
        ((folder, "--out", folder / "out"), 3, "lies in the watched folder"),
        ((tmp_path / "absent", "--out", tmp_path / "a"), 3, "is no folder"),
        ((folder, "--out", tmp_path / "b", "--webhook", "file:///etc/passwd"), 2, "is no address"),
    ):
        got, _, stderr = run(capfd, "watch", *arguments, "--model", model)
        assert got == code and sentence in stderr and "Traceback" not in stderr
    (tmp_path / "file").touch()
    got, _, stderr = run(capfd, "watch", folder, "--out", tmp_path / "file/out", "--model", model)
    assert (
        got == 3 and "cannot write to" in stderr and "start it again" in stderr and "--resume" not in stderr
    )
    assert not (folder / "out").exists()
