"""Each photo gets the threshold of its product, camera or lot; a watched folder follows new versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_commands import run
from test_watch import put

from anomaly.bundle import Bundle, read_bundle
from anomaly.errors import BundleError, DataError
from anomaly.inspection.groups import photos_of
from anomaly.inspection.identity import watch_of
from anomaly.inspection.watch import HEARTBEAT, METRICS, Watch
from anomaly.inspection.writer import Writer
from anomaly.policy.policy import Cut, Policy


def in_force(model: Path, pooled: float, **groups: float) -> None:
    """Make a version with these thresholds."""
    bundle = read_bundle(model)
    cuts = {name: Cut(threshold) for name, threshold in groups.items()}
    policy = replace(bundle.detector.policy, cut=Cut(pooled), groups=cuts)
    born = Policy.born(bundle.detector.calibration)
    bundle.versions.add(policy, born, why="two cameras", who="Ada", facts={})


def test_inputs_name_their_groups(tmp_path: Path) -> None:
    for name in ("left/a.png", "left/deep/b.png", "c.png"):
        put(tmp_path, name, 0)
    (tmp_path / "list.csv").write_text("path;group;split\nc.png;right;train\nleft/a.png;;\ngone.png;right;\n")
    found = photos_of([tmp_path / "list.csv", tmp_path, tmp_path / "c.png"], "other", by_folder=True)
    named = [(photo.path.name, photo.group) for photo in found]
    assert named[:3] == [("c.png", "right"), ("a.png", "other"), ("gone.png", "right")]
    assert sorted(named[3:6]) == [("a.png", "left"), ("b.png", "left"), ("c.png", "other")]
    assert named[6] == ("c.png", "other")
    assert {photo.group for photo in photos_of([tmp_path])} == {None}
    (tmp_path / "none.csv").write_text("path,group\n")
    with pytest.raises(DataError, match="names no photos"):
        photos_of([tmp_path / "none.csv"])


def test_each_photo_is_judged_by_the_threshold_of_its_group(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    in_force(own_model, 1e6, strict=-1e6, lax=1e5)
    for name in ("strict/a.png", "lax/b.png", "new/c.png", "d.png"):
        put(tmp_path / "in", name, 0)
    (tmp_path / "in/list.csv").write_text(
        "path,group\nstrict/a.png,strict\nlax/b.png,lax\nnew/c.png,new\nd.png,\n"
    )
    model = ("--model", own_model)
    wanted = {
        "a.png": ("anomalous", -1e6, "strict"),
        "b.png": ("normal", 1e5, "lax"),
        "c.png": ("normal", 1e6, "new"),
        "d.png": ("normal", 1e6, None),
    }
    for name, source in (("listed", "in/list.csv"), ("folders", "in")):
        by_folder = ("--group-by-folder",) if name == "folders" else ()
        out = tmp_path / name
        code, stdout, stderr = run(
            capfd, "inspect", tmp_path / source, *model, "--out", out, "--json", *by_folder
        )
        assert code == 0, stderr
        verdicts = {Path(v["path"]).name: v for v in map(json.loads, stdout.splitlines())}
        assert {n: (v["decision"], v["threshold"], v["group"]) for n, v in verdicts.items()} == wanted
        assert "no threshold for group 'new' (known: lax, strict): the pooled one decides" in stderr
        summary = json.loads((out / "summary.json").read_text())
        assert summary["groups"]["strict"]["anomalous"] == 1 and not summary["groups"]["new"]["own"]
        assert summary["threshold"] == 1e6 and summary["versions"] == {"1": 4}
        page = (out / "report.html").read_text()
        assert "<td>strict</td>" in page and "(pooled)" in page
        assert verdicts["a.png"]["regions"] and (out / verdicts["a.png"]["heatmap"]).exists()

    (tmp_path / "in/list.csv").write_text("path,group\nstrict/a.png,lax\n")
    run_file = tmp_path / "listed/.inspection"
    run_file.mkdir()
    (run_file / "run.json").write_text(json.dumps(summary["run"]))
    code, _, stderr = run(
        capfd, "inspect", tmp_path / "in/list.csv", *model, "--out", tmp_path / "listed", "--resume"
    )
    assert code == 3 and "changed: groups" in stderr


def watching(bundle: Bundle, folder: Path, writer: Writer, said: list[str]) -> Watch:
    score, follow = bundle.detector.score, said.append
    return Watch(folder, writer, score, workers=1, settle=0, patience=0, by_folder=True, say=follow)


def test_watch_takes_up_a_new_version_and_the_group_of_the_folder(own_model: Path, tmp_path: Path) -> None:
    folder, out, said = tmp_path / "in", tmp_path / "out", list[str]()
    bundle = read_bundle(own_model)
    in_force(own_model, 1e6)  # after the model was read, before the first look
    put(folder, "left/a.png", 0)
    with Writer(out, bundle, resume=True, run=watch_of(bundle, folder, by_folder=True)) as writer:
        watch = watching(bundle, folder, writer, said)
        (first,) = watch.poll()
        assert (first.version, first.threshold, first.group) == (1, 1e6, "left")
        in_force(own_model, 1e6, left=-1e6)
        put(folder, "left/b.png", 1)
        put(folder, "right/c.png", 2)
        second = {Path(verdict.path).name: verdict for verdict in watch.poll()}
        assert [(v.version, v.decision) for v in second.values()] == [(2, "anomalous"), (2, "normal")]
        assert [sentence[:26] for sentence in said] == [f"version {n} decides from now" for n in (1, 2)]
        assert json.loads((out / HEARTBEAT).read_text())["version"] == 2
        assert "anomaly_threshold_version 2" in (out / METRICS).read_text()
        watch.close()
        summary = writer.finish(interrupted=True)
    assert summary["versions"] == {"1": 1, "2": 2} and summary["groups"]["left"]["anomalous"] == 1
    page = (out / "report.html").read_text()
    assert "1 (1 photos), 2 (2 photos)" in page


def test_watch_goes_on_after_a_restart_and_stops_at_a_log_that_was_edited(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    arguments = ("watch", folder, "--model", own_model, "--out", out, "--settle", "0", "--until-empty")
    put(folder, "a.png", 0)
    assert run(capfd, *arguments)[0] == 0
    in_force(own_model, 1e6)
    put(folder, "b.png", 1)
    code, _, stderr = run(capfd, *arguments)
    assert code == 0, stderr
    versions = [json.loads(line)["version"] for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert versions == [0, 1]
    bundle = read_bundle(own_model)
    with Writer(out, bundle, resume=True, run=watch_of(bundle, folder)) as writer:
        watch = watching(bundle, folder, writer, [])
        assert watch.poll() == []
        log = bundle.versions.log.path
        log.write_bytes(log.read_bytes().replace(b"two cameras", b"one cameras "))
        put(folder, "c.png", 2)
        with pytest.raises(BundleError, match="line 1 was edited"):
            watch.poll()
    beat = json.loads((out / HEARTBEAT).read_text())
    assert beat["state"] == "stopped" and "was edited" in beat["trouble"] and beat["photos"] == 2
