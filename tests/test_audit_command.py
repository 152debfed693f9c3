"""anomaly audit: what was done to the log is found, and writers at once lose nothing."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from planted import overlapping, planted
from test_commands import run

from anomaly.bundle import read_bundle
from anomaly.errors import BundleError
from anomaly.policy.policy import Policy
from anomaly.policy.versions import Versions


def test_audit_finds_what_was_done_to_the_log(
    capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    verify = ("audit", "verify", "--model", own_model)
    assert run(capfd, *verify)[1].startswith("intact: 0 versions")
    data = planted(own_model, tmp_path / "d", overlapping(70, 9))
    for why in ("one", "two", "three"):
        tuned = run(capfd, "tune", "--model", own_model, data, "--max-overkill", "5%", "--why", why, "--json")
    signed = json.loads(tuned[1])["audit"]["sha256"]
    code, stdout, _ = run(capfd, *verify, "--signed", signed, "--json")
    assert code == 0 and json.loads(stdout) == {
        "intact": True, "versions": 3, "sha256": signed, "signed_found": True, "signed_version": 3,
        "in_force": 3, "of_another_fit": 0,
    }  # fmt: skip
    assert run(capfd, *verify, "--signed", "ab" * 32)[0] == 4
    code, stdout, _ = run(capfd, *verify, "--signed", signed[:8].upper())
    assert code == 0 and f"that of version 3: {signed}" in stdout and "version 3 is in force" in stdout
    code, _, stderr = run(capfd, *verify, "--signed", signed[:7])
    assert code == 2 and "8 characters or more" in stderr
    log = read_bundle(own_model).versions.log.path
    first, second, third = lines = log.read_text().splitlines(keepends=True)
    for name, text in {
        "line 2 was edited": first + second.replace("two", "2wo") + third,
        "line 2 does not follow": first + third,
        "line 1 does not follow": second + first + third,
        "line 3 is cut off or missing": first + second,
    }.items():
        log.write_text(text)
        code, _, stderr = run(capfd, *verify)
        assert code == 4 and name in stderr and "from a backup" in stderr
        assert run(capfd, "tune", "rollback", "--model", own_model, "--why", "x")[0] == 4
        assert log.read_text() == text
    log.write_text("".join(lines))
    assert run(capfd, *verify)[0] == 0
    page = tmp_path / "filed/audit.html"
    show = ("audit", "show", "--model", own_model)
    code, stdout, stderr = run(capfd, *show, "--report", page)
    assert code == 0 and stdout.count("\n") == 5 and f"report: {page}" in stderr
    assert stdout.startswith("version 0  20") and "At most 5 % of normal photos" in stdout.splitlines()[0]
    text = page.read_text()
    hashes = [json.loads(line)["sha256"] for line in lines]
    assert all(one in text.replace("<wbr>", "") for one in hashes), "whole hashes can be looked up"
    assert "3 changes since the fit" in text and "2: two (tuned)" in text and signed in text
    assert "70 normal, 9 anomalous" in text and "Signatures" in text
    evidence = log.parent / "files" / json.loads(first)["entry"]["evidence"]["file"]
    evidence.write_bytes(evidence.read_bytes().replace(b"normal", b"no mal", 1))
    code, _, stderr = run(capfd, *verify)
    assert code == 4 and "was changed after it was written" in stderr
    assert run(capfd, *show, "--report", page)[0] == 4, "no page says intact of a log that is not"


def test_audit_says_when_a_signed_version_is_of_another_fit(
    capfd: pytest.CaptureFixture[str], own_model: Path
) -> None:
    bundle = read_bundle(own_model)
    born = Policy.born(bundle.detector.calibration)
    Versions(own_model, "0" * 64).add(born, born, why="of the fit before", facts={})
    for command in ("verify", "show"):
        code, stdout, stderr = run(capfd, "audit", command, "--model", own_model)
        assert code == 0 and "version 0, the threshold of the fit, is in force" in stdout
        assert "1 of 1 versions belong to another fit" in stderr and "tune again" in stderr
    assert "of another fit, decides nothing" in stdout


@pytest.mark.parametrize(
    "broken",
    [
        {"new": None},
        {"action": "tuned"},
        {"action": "rollback", "restores": 7},
        {"action": "rollback"},
        {"old": {}},
        {"evidence": "none"},
    ],
)
def test_a_log_of_something_else_is_refused_in_a_sentence(
    broken: dict[str, object], capfd: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    bundle = read_bundle(own_model)
    born = Policy.born(bundle.detector.calibration)
    bundle.versions.add(born, born, why="a version", facts={})
    log = bundle.versions.log
    log.append({**log.entries()[0]["entry"], **broken})
    for command in (("audit", "verify"), ("audit", "show", "--report", tmp_path / "a.html")):
        code, _, stderr = run(capfd, *command, "--model", own_model)
        assert code == 4 and stderr.count("\n") == 1 and "version 2 in" in stderr
    with pytest.raises(BundleError, match="cannot be understood"):
        read_bundle(own_model)


def sign_several(versions: Versions, policy: Policy, start: Any) -> None:
    """In a process of its own."""
    start.wait()
    for number in range(10):
        versions.add(policy, policy, why=f"reason {number}", facts={})


def test_processes_that_sign_at_once_lose_nothing(own_model: Path) -> None:
    bundle = read_bundle(own_model)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    arguments = (bundle.versions, Policy.born(bundle.detector.calibration), start)
    workers = [context.Process(target=sign_several, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    records = bundle.versions.verify()
    assert [record["entry"]["old"]["version"] for record in records] == list(range(40))
    assert read_bundle(own_model).detector.policy.version == 40
