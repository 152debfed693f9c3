"""anomaly audit verify, anomaly audit show"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anomaly.cli.terminal import result, say, show
from anomaly.errors import BundleError

app = typer.Typer(
    help="The log of everything that ever decided.", rich_markup_mode=None, no_args_is_help=True
)

Model = Annotated[Path, typer.Option("--model", help="Folder made by `anomaly fit`.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("verify")
def verify(
    model: Model,
    signed: Annotated[
        str | None, typer.Option("--signed", metavar="SHA256", help="Hash on a signed report, to be found.")
    ] = None,
    json_: Json = False,
) -> None:
    """Check that no version was edited, removed, inserted or moved, and that its evidence is unchanged."""
    records = _versions(model).verify()
    if signed is not None and not any(record["sha256"] == signed.strip().lower() for record in records):
        raise BundleError(
            f"no version has the hash {signed}: the log was written anew, or the report is of another model"
        )
    last = records[-1]["sha256"] if records else None
    if json_:
        result({"intact": True, "versions": len(records), "sha256": last, "signed_found": signed is not None})
        return
    show(f"intact: {len(records)} versions after that of the fit" + (f", last hash {last}" if last else ""))


@app.command("show")
def show_log(
    model: Model,
    report: Annotated[Path | None, typer.Option("--report", help="Page to write, to be filed.")] = None,
    json_: Json = False,
) -> None:
    """List every version: when, by whom, why, from which threshold to which."""
    versions = _versions(model)
    records = versions.records() if report is None else versions.verify()
    if report is not None:
        _file(report, model, versions.model_hash, records)
    if json_:
        result({"versions": records})
        return
    if not records:
        show("no change since the fit: version 0 is in force")
    for record in records:
        show(_line(record))


def _file(page: Path, model: Path, model_hash: str, records: list[dict[str, Any]]) -> None:
    from anomaly.bundle import read_manifest
    from anomaly.report.filed import write_page
    from anomaly.tuning.history import history_report

    born = float(read_manifest(model)["threshold"])
    write_page(page, history_report(model.resolve().name, model_hash, born, records))
    say(f"report: {page}")


def _versions(model: Path) -> Any:
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
