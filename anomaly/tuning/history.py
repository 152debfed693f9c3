"""The log of versions as a page that an auditor can file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from anomaly.report.charts import Line, line_chart
from anomaly.report.filed import Block, Cell, FiledReport, Section, Table

METHOD = (
    "Each change is a line of the log with its time, who signed it, why, the hashes of model and photos, the "
    "old and the new values, and its evidence. A line holds the SHA-256 hash of the line before and of "
    "itself, a head file the number of lines and the last hash. For this report every line was read again, "
    "every hash computed anew, and each file of evidence held against the hash that the log names.",
)
LIMITS = (
    "Whoever may write to all of these files can write the whole log anew. Compare the last hash with that "
    "on a signed report: `anomaly audit verify --signed HASH` finds it in the log, or not.",
    "Who signed is the name that was given, or the account on the computer; it is no proof of identity.",
    "Times are those of the computer that tuned.",
)


def history_report(
    name: str, model_hash: str, born: float, records: Sequence[Mapping[str, Any]]
) -> FiledReport:
    """The report of a verified log; `born` is the threshold that the model `name` was fitted with."""
    own = [record for record in records if record["entry"]["model"] == model_hash]
    last = records[-1]["sha256"] if records else "none"
    decides = own[-1]["entry"]["new"] if own else None
    version = own[-1]["index"] + 1 if own else 0
    threshold = decides["threshold"] if decides else born
    changed = _changes(len(records))
    cards = [
        {"value": str(version), "label": "version in force"},
        {"value": f"{threshold:.4g}", "label": "its threshold"},
        {"value": str(len(records)), "label": "versions after the fit"},
    ]
    result = [Section("every version", [_versions(records, model_hash)])]
    if own:
        result += [
            Section("the threshold over the versions", [_chart(own, born)]),
            Section("what each version rests on", [_evidence(records)]),
        ]
    other = len(records) - len(own)
    return FiledReport(
        title="Audit of the thresholds",
        subject=f"Model {name}",
        answer=f"The log is intact: {changed}. Version {version} is in force, threshold {threshold:.6g}.",
        asked=["Which thresholds ever decided, who put them in force and why, and was the record altered?"],
        data=[{"model": name, "model_hash": model_hash, "lines": len(records), "last_hash": last}],
        method=METHOD,
        result=result,
        limits=LIMITS,
        warnings=[f"{other} versions belong to another fit in this folder and decide nothing."]
        if other
        else (),
        cards=cards,
    )


def rollback_report(name: str, record: Mapping[str, Any]) -> FiledReport:
    """The report of a version that put an earlier one of the model `name` in force again."""
    entry, number = record["entry"], record["index"] + 1
    old, new = entry["old"], entry["new"]
    rows: list[list[Cell]] = [
        [f"version {old['version']}, before", old["threshold"], ", ".join(_beside(old)), old["promise"]],
        [f"version {number}, in force", new["threshold"], ", ".join(_beside(new)), new["promise"]],
    ]
    return FiledReport(
        title="Threshold report",
        subject=f"Model {name}, version {number}",
        answer=f"Version {number} restores version {entry['restores']}: threshold {new['threshold']:.6g}. "
        f"{new['promise']}",
        asked=[
            f"Version {entry['restores']} is to decide again.",
            {
                "model": name,
                "model_hash": entry["model"],
                "reason": entry["why"],
                "version": number,
                "signed_by": record["who"],
                "time": record["time"],
                "hash_of_the_log_line": record["sha256"],
            },
        ],
        data=["No photo was looked at: what the restored version rests on stands in its own report."],
        method=["What the restored version decided by is in force again, word for word, as a new version."],
        result=[Section("what decides", [Table(["", "threshold#", "beside it", "promise"], rows)])],
        limits=LIMITS,
    )


def _changes(count: int) -> str:
    if not count:
        return "nothing was changed since the fit"
    return f"{count} change{'s' if count > 1 else ''} since the fit"


def _versions(records: Sequence[Mapping[str, Any]], model_hash: str) -> Table:
    rows: list[list[Cell]] = []
    for record in records:
        entry = record["entry"]
        act = f"restored version {entry['restores']}" if entry["action"] == "rollback" else "tuned"
        if entry["model"] != model_hash:
            act += ", another fit"
        new = entry["new"]
        rows.append(
            [
                f"{record['index'] + 1}: {entry['why']} ({', '.join([act, *_beside(new)])})",
                f"{record['time'][:16].replace('T', ' ')}, {record['who']}",
                entry["old"]["threshold"],
                new["threshold"],
                _whole(record["sha256"]),
            ]
        )
    return Table(["version and why", "when (UTC), who", "from#", "to#", "hash"], rows)


def _whole(sha256: str) -> Markup:
    """A hash in small type, which may be broken into lines but is copied as one word."""
    parts = (sha256[i : i + 8] for i in range(0, len(sha256), 8))
    return Markup("<small>{}</small>").format(Markup("<wbr>").join(parts))


def _beside(values: Mapping[str, Any]) -> list[str]:
    """What else a version decides by."""
    said = []
    if values["review_threshold"] is not None:
        said.append(f"review from {values['review_threshold']:.4g}")
    if values["groups"]:
        said.append(f"a threshold for each of {len(values['groups'])} groups")
    if values["rules"]:
        said.append("region rules")
    return said


def _chart(own: Sequence[Mapping[str, Any]], born: float) -> Block:
    """Steps from version to version."""
    heights = [born, *(record["entry"]["new"]["threshold"] for record in own)]
    numbers = [0, *(record["index"] + 1 for record in own)]
    x = [at for number in numbers for at in (number, number + 1)]
    y = [height for height in heights for _ in range(2)]
    for i, number in enumerate(numbers[1:], start=1):  # versions of another fit lie between
        x[2 * i - 1] = number
    return line_chart([Line("threshold", x, y)], x_label="version", y_label="threshold")


def _evidence(records: Sequence[Mapping[str, Any]]) -> Table:
    rows: list[list[Cell]] = []
    for record in records:
        entry = record["entry"]
        data = entry.get("data", {})
        asked = "; ".join(entry.get("asked", [])) or "as it was"
        counts = [f"{data[label]} {label}" for label in ("normal", "anomalous") if label in data]
        photos, shown = ", ".join(counts) or "-", str(data.get("fingerprint", "-"))[:8]
        rows.append([f"{record['index'] + 1}: {asked}", photos, shown, entry["new"]["promise"]])
    return Table(["version and what was asked", "photos", "their hash", "promise"], rows)
