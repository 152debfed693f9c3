"""anomaly audit verify, anomaly audit show"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomaly.cli.terminal import result, say, show
from anomaly.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from anomaly.policy.versions import Versions

SHORTEST = 8
"""Characters of a hash that name a version."""

app = typer.Typer(
    help="The log of everything that ever decided.", rich_markup_mode=None, no_args_is_help=True
)

Model = Annotated[Path, typer.Option("--model", help="Folder made by `anomaly fit`.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("verify")
def verify(
    model: Model,
    signed: Annotated[
        str | None,
        typer.Option("--signed", metavar="SHA256", help="Hash on a signed report, or its beginning."),
    ] = None,
    json_: Json = False,
) -> None:
    """Check that no version was edited, removed, inserted or moved, and that its evidence is unchanged."""
    versions = _versions(model)
    records = versions.verify()
    found = None if signed is None else _find(signed.strip().lower(), records)
    last = records[-1]["sha256"] if records else None
    own = versions.own(records)
    if json_:
        facts = {"intact": True, "versions": len(records), "sha256": last, "signed_found": found is not None}
        signs = None if found is None else found["index"] + 1
        result(
            {**facts, "signed_version": signs, **_in_force(own), "of_another_fit": len(records) - len(own)}
        )
        return
    show(f"intact: {len(records)} versions after that of the fit" + (f", last hash {last}" if last else ""))
    if found is not None:
        other = "" if found in own else ", of another fit"
        show(f"the signed hash is that of version {found['index'] + 1}{other}: {found['sha256']}")
    _state(records, own)


@app.command("show")
def show_log(
    model: Model,
    report: Annotated[Path | None, typer.Option("--report", help="Page to write, to be filed.")] = None,
    json_: Json = False,
) -> None:
    """List every version: when, by whom, why, from which threshold to which; and what the fit promised."""
    from anomaly.bundle import read_bundle

    versions = _versions(model)
    records = versions.records() if report is None else versions.verify()
    if report is not None:
        _file(report, model, versions.model_hash, records)
    own = versions.own(records)
    bundle = read_bundle(model, late=True)
    calibration, created = bundle.detector.calibration, bundle.manifest.get("created", "unknown")
    if json_:
        born = {
            "time": created, "threshold": calibration.threshold, "promise": calibration.guarantee
        }  # fmt: skip
        state = {**_in_force(own), "of_another_fit": len(records) - len(own)}
        result({"fit": born, "versions": records, **state})
        return
    show(f"version 0  {created}  the fit: threshold {calibration.threshold:.6g}  {calibration.guarantee}")
    for record in records:
        show(_line(record) + ("" if record in own else "  of another fit, decides nothing"))
    _state(records, own)


def _file(page: Path, model: Path, model_hash: str, records: list[dict[str, Any]]) -> None:
    from anomaly.bundle import read_manifest
    from anomaly.report.filed import write_page
    from anomaly.tuning.history import history_report

    born = float(read_manifest(model)["threshold"])
    write_page(page, history_report(model.resolve().name, model_hash, born, records))
    say(f"report: {page}")


def _find(signed: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    """The record whose hash is, or alone begins with, `signed`."""
    if len(signed) < SHORTEST:
        raise ConfigError(f"{signed!r} is too short for a hash: give its first {SHORTEST} characters or more")
    found = [record for record in records if record["sha256"].startswith(signed)]
    if not found:
        raise BundleError(
            f"no version has the hash {signed}: the log was written anew, or the report is of another model"
        )
    if len(found) > 1:
        raise ConfigError(f"{len(found)} versions have a hash that begins with {signed}: give more of it")
    return found[0]


def _in_force(own: list[dict[str, Any]]) -> dict[str, int]:
    return {"in_force": own[-1]["index"] + 1 if own else 0}


def _state(records: list[dict[str, Any]], own: list[dict[str, Any]]) -> None:
    """Say which version decides, and which do not."""
    number, other = _in_force(own)["in_force"], len(records) - len(own)
    if not records:
        show("no change since the fit: version 0 is in force")
    elif number:
        show(f"version {number} is in force")
    else:
        show("version 0, the threshold of the fit, is in force")
    if other:
        say(
            f"{other} of {len(records)} versions belong to another fit in this folder and decide nothing: "
            "tune again to put a signed threshold in force"
            if not own
            else f"{other} of {len(records)} versions belong to another fit in this folder and decide nothing"
        )


def _versions(model: Path) -> Versions:
    from anomaly.bundle import read_manifest
    from anomaly.policy.versions import Versions

    return Versions(model, read_manifest(model)["checksum"])


def _line(record: dict[str, Any]) -> str:
    entry = record["entry"]
    act = f"restores version {entry['restores']}" if entry["action"] == "rollback" else "tuned"
    old, new = entry["old"]["threshold"], entry["new"]["threshold"]
    return (
        f"version {record['index'] + 1}  {record['time']}  {record['who']}  {act}: threshold {old:.6g} -> "
        f"{new:.6g}  {entry['why']!r}"
    )
