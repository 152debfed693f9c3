"""The audit log: every kind of tampering, crashes at every byte, writers that race, disks that are full."""

import json
import os
import signal
import subprocess
import sys

import pytest

from anomaly.errors import BundleError, DataError
from anomaly.quality.audit import AuditLog

SCRIPT = "import sys; from pathlib import Path; from anomaly.quality.audit import AuditLog; "


@pytest.fixture
def log(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    for i in range(5):
        log.append({"threshold": 0.1 + i, "why": f"Änderung {i}"}, who="quality")
    return log


def lines(log):
    return log.path.read_bytes().splitlines(keepends=True)


def run(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT + code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def test_what_was_written_is_read(log):
    record = log.append({"old": 0.1 + 0.2, "new": None, "tags": ("a", "b")})
    entries = log.entries()
    log.verify()
    assert entries[-1] == record
    assert [entry["index"] for entry in entries] == list(range(6))
    assert [entry["previous"] for entry in entries[1:]] == [entry["sha256"] for entry in entries[:-1]]
    assert entries[-1]["entry"] == {"old": 0.1 + 0.2, "new": None, "tags": ["a", "b"]}
    assert entries[0]["who"] == "quality" and entries[-1]["who"]
    assert entries[0]["time"].endswith("+00:00")


def test_a_log_that_was_never_written_is_empty(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    assert log.entries() == []
    assert not log.path.exists()


def test_any_changed_byte_is_found(log):
    whole = log.path.read_bytes()
    for position in range(0, len(whole), 7):
        changed = bytes([whole[position] ^ 1])
        log.path.write_bytes(whole[:position] + changed + whole[position + 1 :])
        number = whole[:position].count(b"\n") + 1
        with pytest.raises(BundleError, match=f"line {number} "):
            log.verify()


def test_a_line_that_was_only_written_differently_is_found(log):
    first, *rest = lines(log)
    log.path.write_bytes(b"".join([first.replace(b":", b": ", 1), *rest]))
    with pytest.raises(BundleError, match="line 1 was edited"):
        log.verify()


@pytest.mark.parametrize("k", range(5))
def test_removed_doubled_and_moved_lines_are_named(log, k):
    original = lines(log)
    without = original[:k] + original[k + 1 :]
    doubled = original[: k + 1] + original[k:]
    tampered = [(without, k + 1), (doubled, k + 2)]
    if k < 4:
        moved = [*original]
        moved[k : k + 2] = moved[k + 1], moved[k]
        tampered.append((moved, k + 1))
    for content, number in tampered:
        log.path.write_bytes(b"".join(content))
        with pytest.raises(BundleError, match=f"line {number} "):
            log.verify()
        with pytest.raises(BundleError, match="from a backup"):
            log.append({"hidden": True})
        assert log.path.read_bytes() == b"".join(content), "a broken log must not be written to"


@pytest.mark.parametrize("k", range(5))
def test_a_forged_line_with_a_hash_of_its_own_is_found(log, k, tmp_path):
    """The forger rewrites one entry and its hash, as the program itself would write it."""
    original = lines(log)
    forger = AuditLog(tmp_path / "forged.jsonl")
    forger.path.write_bytes(b"".join(original[:k]))
    last = json.loads(original[k - 1])["sha256"] if k else "0" * 64
    forger.head.write_text(json.dumps({"count": k, "sha256": last}))
    forger.append({"threshold": 99})
    log.path.write_bytes(b"".join([*lines(forger), *original[k + 1 :]]))
    with pytest.raises(BundleError, match=f"line {min(k + 2, 5)} "):
        log.verify()


def test_removed_ends_are_found(log):
    original = lines(log)
    for kept in range(5):
        log.path.write_bytes(b"".join(original[:kept]))
        with pytest.raises(BundleError, match=f"line {kept + 1} is cut off or missing: there were 5 lines"):
            log.verify()
    log.path.unlink()
    with pytest.raises(BundleError, match="does not exist"):
        log.verify()


def test_lines_added_past_the_program_are_found(log):
    original, head = log.path.read_bytes(), log.head.read_bytes()
    log.append({})
    log.append({})
    log.head.write_bytes(head)
    with pytest.raises(BundleError, match="line 7 is unknown to the head file"):
        log.verify()
    log.path.write_bytes(original + b"\n")
    with pytest.raises(BundleError, match="line 6 was edited"):
        log.verify()


def test_a_missing_or_damaged_head_is_named(log):
    for damage in (
        b"",
        b"{}",
        b"[]",
        b'{"count": "5", "sha256": ""}',
        b'{"count": -1, "sha256": ""}',
        b"\xff",
    ):
        log.head.write_bytes(damage)
        with pytest.raises(BundleError, match="head is damaged"):
            log.verify()
    log.head.unlink()
    with pytest.raises(BundleError, match="head is missing"):
        log.verify()


def test_a_crash_at_any_byte_of_a_line_is_named_and_the_cure_works(log):
    """The head file is written after the line: a crash in between leaves the old one."""
    before, head = log.path.read_bytes(), log.head.read_bytes()
    log.append({"threshold": 7})
    after = log.path.read_bytes()
    for cut in range(len(before) + 1, len(after), 3):
        log.path.write_bytes(after[:cut])
        log.head.write_bytes(head)
        with pytest.raises(BundleError, match=r"line 6 is incomplete.*delete this one unfinished line"):
            log.append({})
    log.path.write_bytes(before)
    assert len(log.entries()) == 5
    log.path.write_bytes(after)
    assert len(log.entries()) == 6, "written whole, only the head is late"
    log.append({"threshold": 8})
    assert len(log.entries()) == 7


def test_crashes_in_a_row_between_line_and_head_lose_nothing(tmp_path):
    """Each process ends at the first renaming of a head file after its line is on disk."""
    log = AuditLog(tmp_path / "audit.jsonl")
    code = (
        "import os; path, real = Path(sys.argv[1]), os.replace\n"
        "size = path.stat().st_size if path.exists() else 0\n"
        "os.replace = lambda *a: os._exit(9) if path.stat().st_size > size else real(*a)\n"
        "AuditLog(path).append({})"
    )
    for k in range(3):
        writer = run(code, log.path)
        writer.communicate()
        assert writer.returncode == 9
        assert len(log.entries()) == k + 1
    log.append({})
    assert len(log.entries()) == 4


def test_a_confirmed_line_that_was_cut_is_no_crash(log):
    whole = log.path.read_bytes()
    for cut in (1, 30, len(whole) - 1):
        log.path.write_bytes(whole[:cut])
        number = whole[:cut].count(b"\n") + 1
        with pytest.raises(BundleError, match=f"line {number} is cut off or missing: there were 5 lines"):
            log.verify()


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    path = tmp_path / "audit.jsonl"
    code = "[AuditLog(Path(sys.argv[1])).append({'n': i}, sys.argv[2]) for i in range(15)]"
    writers = [run(code, path, f"writer {k}") for k in range(4)]
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0] * 4
    entries = AuditLog(path).entries()
    assert len(entries) == 60
    for k in range(4):
        assert [e["entry"]["n"] for e in entries if e["who"] == f"writer {k}"] == list(range(15))


def test_a_killed_writer_loses_nothing_that_it_confirmed(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    code = (
        "log = AuditLog(Path(sys.argv[1]))\n"
        "while True: print(log.append({'a': 'b' * 5000})['index'], flush=True)"
    )
    for _ in range(3):
        writer = run(code, log.path)
        for _ in range(4):
            confirmed = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0].split()
        confirmed = int(rest[-1]) if rest else confirmed
        try:
            entries = log.entries()
        except BundleError as error:
            assert "incomplete" in str(error)
            log.path.write_bytes(b"".join(line for line in lines(log) if line.endswith(b"\n")))
            entries = log.entries()
        assert len(entries) > confirmed


def test_a_full_disk_leaves_the_log_as_it_was(log):
    before = log.path.read_bytes()
    code = (
        "import resource; size = int(sys.argv[2]); resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
        "try: AuditLog(Path(sys.argv[1])).append({})\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    output = run(code, log.path, len(before) + 20).communicate()[0]
    assert output.startswith("BundleError") and "free space" in output
    assert log.path.read_bytes() == before
    log.append({})
    log.verify()


def test_what_is_not_json_is_refused_before_anything_is_written(log):
    before = log.path.read_bytes()
    for entry in ({"x": float("nan")}, {"x": object()}, {"x": b"bytes"}, {1: 1, "a": 2}):
        with pytest.raises(DataError, match="JSON values only"):
            log.append(entry)
    assert log.path.read_bytes() == before


def test_names_that_are_not_text_survive(log):
    name = os.fsdecode(b"fotos/\xff.png")
    assert log.append({"path": name})["entry"]["path"] == name
    assert log.entries()[-1]["entry"]["path"] == name


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(BundleError, match="does not exist: check the folder"):
        AuditLog(tmp_path / "none" / "audit.jsonl").append({})
    with pytest.raises(BundleError, match="cannot be used"):
        AuditLog(tmp_path).append({})
