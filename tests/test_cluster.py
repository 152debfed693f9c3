"""What the Ray engine judges is what the local one judges, whatever becomes of its workers."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import draw_photo
from spawner import Spawner
from test_commands import run
from test_docs import commands
from test_faults import files

from anomaly.inspection.gallery import SIZE, Shortlist
from anomaly.inspection.journal import JOURNAL, read_journal
from pipelines.scale import family

PATIENT = {
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_raylet_start_wait_time_s": "600",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_gcs_server_request_timeout_seconds": "300",
    "RAY_gcs_rpc_server_connect_timeout_s": "300",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "20",
}
"""So that a machine that does much else is not taken for a dead node."""
COUNT = 24


class S3:
    """A server that answers as S3 does, and keeps count of what it is asked."""

    def __init__(self) -> None:
        boto3 = pytest.importorskip("boto3", reason="pip install 'anomaly[test-all]'")
        moto = pytest.importorskip("moto.moto_server.werkzeug_app", reason="pip install 'anomaly[test-all]'")
        serving = pytest.importorskip("werkzeug.serving")
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        app = moto.DomainDispatcherApplication(moto.create_backend_app)
        self.fetched: Counter[str] = Counter()

        def counted(environment: dict, start: object) -> object:
            if environment["REQUEST_METHOD"] == "GET":
                self.fetched[environment["PATH_INFO"]] += 1
            return app(environment, start)

        self._server = serving.make_server("127.0.0.1", 0, counted, threaded=True)
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._client = boto3.client(
            "s3", endpoint_url=self.environment["AWS_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id="key", aws_secret_access_key="secret",
        )  # fmt: skip
        self._client.create_bucket(Bucket="line3")

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket="line3", Key=key, Body=data)

    def close(self) -> None:
        self._server.shutdown()
        self._client.close()
        self._server.server_close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 photos, a third of them spotted, one torn, and a manifest of some."""
    folder = tmp_path_factory.mktemp("line3") / "photos"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for i in range(COUNT):
        cv2.imwrite(str(folder / f"{i:02d}.png"), draw_photo(rng, bad=i % 3 == 0))
    (folder / "10.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    (folder / "today.csv").write_text("path,group\n07.png,lot 7\n03.png,\n99.png,lot 7\n")
    return folder


@pytest.fixture(scope="module")
def s3(photos: Path) -> Iterator[S3]:
    """The photos and the manifest in a bucket."""
    server = S3()
    for path in photos.iterdir():
        server.put(f"photos/{path.name}", path.read_bytes())
    yield server
    server.close()


@pytest.fixture(scope="module")
def spawner(s3: S3) -> Iterator[Spawner]:
    pytest.importorskip("ray", reason="pip install 'anomaly[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**PATIENT, **s3.environment}.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        spawner = Spawner()
    yield spawner
    spawner.close()


@pytest.fixture(scope="module")
def many(photos: Path) -> list[object]:
    """The folder several times: each photo is judged as often as it is given."""
    return [photos] * 5


@pytest.fixture(scope="module")
def undisturbed(
    spawner: Spawner, model: Path, many: list[object], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What the local engine makes of `many`."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    code = spawner.run(out.with_name("log"), *inspect(many, model, out, "local"))
    assert code == 0, out.with_name("log").read_text()
    return out


def inspect(places: list[object], model: Path, out: Path, engine: str) -> list[object]:
    common = ("--model", model, "--out", out, "--parquet", "--runtime", "torch", "--resume")
    return ["inspect", *places, *common, "--engine", engine, "--workers", 2]


def workers(pid: int) -> list[int]:
    """The worker processes of the Ray cluster that `pid` started."""
    return [child for child in family(pid) if _title(child).startswith("ray::MapWorker")]


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def recorded(out: Path, count: int) -> bool:
    return (out / JOURNAL).exists() and (out / JOURNAL).read_bytes().count(b"\n") >= count


@pytest.mark.slow
def test_two_workers_judge_folders_manifests_and_s3_as_the_local_engine_does(
    spawner: Spawner, s3: S3, model: Path, photos: Path, tmp_path: Path
) -> None:
    places = [photos, "s3://line3/photos", photos / "today.csv", "s3://line3/photos/today.csv"]
    log = tmp_path / "log"
    assert spawner.run(log, *inspect(places, model, tmp_path / "local", "local")) == 0, log.read_text()
    s3.fetched.clear()
    assert spawner.run(log, *inspect(places, model, tmp_path / "ray", "ray")) == 0, log.read_text()
    assert files(tmp_path / "ray") == files(tmp_path / "local")
    verdicts = list(read_journal(tmp_path / "ray"))
    assert len(verdicts) == 2 * COUNT + 6
    assert verdicts[COUNT].path == "s3://line3/photos/00.png"
    assert Counter(v.decision for v in verdicts)["error"] == 4
    for i in range(COUNT):  # the bucket's folder, and two of them in its manifest as well
        assert s3.fetched[f"/line3/photos/{i:02d}.png"] == 1 + (i in (3, 7))
    text = log.read_text()
    shares = re.search(r"photos by worker: (.*)", text)
    assert shares, text
    by_worker = re.findall(r"\S+:\d+ (\d+)", shares[1])
    assert len(by_worker) == 2 and sum(map(int, by_worker)) == len(verdicts)
    assert "load" not in shares[1], "a worker loaded the model twice"
    assert "Traceback" not in text and "WARNING" not in text and "INFO" not in text, text


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_nothing(
    spawner: Spawner, model: Path, many: list[object], undisturbed: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    driver = spawner.start(log, *inspect(many, model, out, "ray"))
    spawner.until(lambda: recorded(out, 5))
    victims = workers(driver)
    assert len(victims) == 2 and not recorded(out, 5 * COUNT)
    os.kill(victims[0], signal.SIGKILL)
    assert spawner.wait() == 0, log.read_text()
    assert victims[0] not in family(driver)
    assert files(out) == files(undisturbed)


@pytest.mark.slow
def test_stopped_and_killed_it_leaves_nothing_running_and_either_engine_goes_on(
    spawner: Spawner, model: Path, many: list[object], undisturbed: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    for number, code in ((signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)):
        before = len(list(read_journal(out)))
        driver = spawner.start(log, *inspect(many, model, out, "ray"))
        spawner.until(lambda reached=before + 3: recorded(out, reached))
        started = family(driver)
        spawner.signal(number)
        assert spawner.wait() == code, log.read_text()
        assert before < len(list(read_journal(out))) < 5 * COUNT
        for _ in range(1200):
            if not (left := [pid for pid in started if Path(f"/proc/{pid}").exists()]):
                break
            threading.Event().wait(0.1)
        assert not left, [_title(pid) for pid in left]
    assert spawner.run(log, *inspect(many, model, out, "local")) == 0, log.read_text()
    assert "going on after" in log.read_text()
    assert files(out) == files(undisturbed)


@pytest.mark.slow
def test_workers_that_die_over_and_over_end_it_in_one_sentence(
    spawner: Spawner, model: Path, many: list[object], tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    driver = spawner.start(log, *inspect(many, model, out, "ray"))
    spawner.until(lambda: recorded(out, 1))

    def kill() -> bool:
        for pid in workers(driver):
            os.kill(pid, signal.SIGKILL)
        return False

    spawner.until(kill)
    assert spawner.wait() == 3, log.read_text()
    assert "the Ray cluster gave up" in log.read_text() and "--resume" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert len(list(read_journal(out))) >= 1


@pytest.mark.slow
def test_the_commands_of_the_page_on_scale_run_as_written(
    spawner: Spawner, s3: S3, model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(photos, tmp_path / "photos/new")
    shutil.copytree(model, tmp_path / "models/cap")
    written = commands("docs/scale.md")
    assert [words[1] for words in written] == ["inspect", "inspect"]
    for words in written:
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, **PATIENT, **s3.environment, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_named(
    capfd: pytest.CaptureFixture[str], model: Path, photos: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="pip install 'anomaly[ray]'")
    done = subprocess.run(
        [sys.executable, "-m", "anomaly", *map(str, inspect([photos], model, tmp_path / "out", "ray"))],
        capture_output=True, text=True,
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:9", "PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "the Ray cluster does not answer" in done.stderr and "check RAY_ADDRESS" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--engine", "ray"), "Ray is not installed: install it with: pip install 'anomaly[ray]'"),
        (("--engine", "rey"), "unknown engine 'rey': did you mean 'ray'?"),
        (("--workers", 0), "--workers is 0: give 1 or more"),
    ],
)
def test_an_engine_that_is_not_there_is_a_mistake_of_usage(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path, product: Path,
    tmp_path: Path, options: tuple[object, ...], sentence: str,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "out"
    code, _, stderr = run(capfd, "inspect", product / "test", "--model", model, "--out", out, *options)
    assert code == 2 and sentence in stderr and not out.exists()


def test_a_shortlist_never_leaves_out_a_photo_of_the_gallery() -> None:
    """Two workers in any order; ties, of which the earlier photo counts, included."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 60, 400).astype(float)
    gallery = sorted(range(400), key=lambda i: (-scores[i], i))[:SIZE]
    for _ in range(20):
        lists, entered = (Shortlist(), Shortlist()), set()
        for i in rng.permutation(400):
            if lists[rng.integers(2)].enter(scores[i]):
                entered.add(int(i))
        assert entered >= set(gallery) and len(entered) < 400
