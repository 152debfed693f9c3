"""anomaly tune, anomaly tune plan, anomaly tune rollback"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from anomaly.cli.filing import track as in_run
from anomaly.cli.shares import share_option
from anomaly.cli.terminal import TerminalProgress, result, say, show
from anomaly.errors import ConfigError

if TYPE_CHECKING:
    from anomaly.bundle import Bundle
    from anomaly.quality.thresholds import Costs
    from anomaly.tuning.tuned import Tuned

DEFAULT = "choose"


class Unnamed(typer.Context):
    """Of a command that is called by the name of its group."""

    @property
    def command_path(self) -> str:
        return self.parent.command_path if self.parent else super().command_path


class Choose(TyperCommand):
    context_class = Unnamed


class Tune(TyperGroup):
    """`anomaly tune ...` means `anomaly tune choose ...` unless a sub-command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=Tune, help="Choose what decides, and sign it.", rich_markup_mode=None)

EPILOG = """Also: `anomaly tune plan` says how many photos a promise needs, `anomaly tune rollback` puts an
earlier version in force again, `anomaly audit verify` checks the log of all versions."""


Confidence = Annotated[float, share_option("Of what is promised.")]
Model = Annotated[Path, typer.Option("--model", help="Folder made by `anomaly fit`.")]
Why = Annotated[str, typer.Option("--why", help="Reason of the change, kept in the log.")]
Who = Annotated[str | None, typer.Option("--who", help="Who signs; else the user of this computer.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Track = Annotated[bool, typer.Option(help="Add the result to the model's MLflow run.")]


@app.command(DEFAULT, cls=Choose, epilog=EPILOG)
def choose(
    model: Model,
    labelled: Annotated[
        Path | None,
        typer.Argument(help="Labelled test photos; without them the calibration photos of the fit count."),
    ] = None,
    max_overkill: Annotated[float | None, share_option("Of normal ones called anomalous.")] = None,
    max_escape: Annotated[float | None, share_option("Of anomalous ones that pass.")] = None,
    zero_escapes: Annotated[
        bool, typer.Option("--zero-escapes", help="None of the anomalous photos at hand passes.")
    ] = False,
    escape_cost: Annotated[float | None, typer.Option(help="Cost of an escape, with the next two.")] = None,
    overkill_cost: Annotated[float | None, typer.Option(help="Cost of an overkill.")] = None,
    defect_rate: Annotated[float | None, share_option("Of parts that are defective.")] = None,
    review_share: Annotated[
        float | None,
        share_option("Of normal ones that people may look at."),
    ] = None,
    confidence: Confidence = 0.95,
    observed: Annotated[
        bool, typer.Option("--observed", help="Limits hold for the photos at hand; nothing is promised.")
    ] = False,
    by_group: Annotated[
        bool, typer.Option("--by-group", help="A threshold for each group that has enough photos.")
    ] = False,
    count_parts: Annotated[
        bool, typer.Option("--count-parts", help="Groups are parts: count them, not their photos.")
    ] = False,
    normal: Annotated[
        list[Path] | None, typer.Option("--normal", help="Further normal photos; repeatable.")
    ] = None,
    rules: Annotated[Path | None, typer.Option("--rules", help="YAML file of region rules.")] = None,
    why: Why = "",
    who: Who = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing.")] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="Page to write; by default beside the version.")
    ] = None,
    json_: Json = False,
    track: Track = True,
) -> None:
    """Choose thresholds by what they must keep, show what the photos support, and sign a new version."""
    from anomaly.bundle import read_bundle
    from anomaly.data.layouts import read_samples
    from anomaly.policy.regions import read_rules
    from anomaly.quality.thresholds import Rule
    from anomaly.tuning.tune import put_in_force, tune
    from anomaly.tuning.tuned import Asked

    if not dry_run and not why.strip():
        raise ConfigError("a change of what decides is signed with its reason: give --why, or --dry-run")
    asked = Asked(
        Rule(
            max_overkill=max_overkill,
            max_escape=max_escape,
            zero_escapes=zero_escapes,
            costs=_costs(escape_cost, overkill_cost, defect_rate),
            review_share=review_share,
            confidence=None if observed else confidence,
        ),
        rules=None if rules is None else read_rules(rules),
        by_group=by_group,
        count_parts=count_parts,
    )
    bundle = read_bundle(model)
    layout = bundle.detector.config.data.layout
    samples = None if labelled is None else read_samples(labelled, layout)
    extra = [sample for path in normal or () for sample in read_samples(path)]
    progress = TerminalProgress()
    with progress.running():
        tuned = tune(bundle, asked, samples, extra, progress=progress)
    if tuned.refusal is None and not dry_run:
        tuned = put_in_force(tuned, why=why, who=who)
    page = _file(tuned, report, why)
    if tuned.cache.trouble:
        say(tuned.cache.trouble)
    if track and tuned.record is not None:
        _track(bundle, tuned, page)
    if json_:
        result(tuned.to_dict())
    else:
        _print(tuned)
    if page is not None:
        say(f"report: {page}")
    if tuned.refusal is not None:
        raise tuned.refusal


@app.command("plan")
def plan(
    max_overkill: Annotated[float | None, share_option("To promise, of normal ones.")] = None,
    max_escape: Annotated[float | None, share_option("To promise, of anomalous ones.")] = None,
    confidence: Confidence = 0.95,
    failures: Annotated[int, typer.Option(min=0, max=1000, help="Most failures that are planned for.")] = 5,
    json_: Json = False,
) -> None:
    """Say how many photos a promise needs, for 0, 1, 2 ... of them that may fail."""
    from anomaly.quality.intervals import sample_sizes
    from anomaly.tuning.points import percent

    asked = {"overkill": max_overkill, "escape": max_escape}
    if max_overkill is None and max_escape is None:
        raise ConfigError("a plan needs a promise: give --max-escape, --max-overkill or both")
    sizes = {
        name: sample_sizes(rate, confidence, failures) for name, rate in asked.items() if rate is not None
    }
    if json_:
        rates = {name: rate for name, rate in asked.items() if rate is not None}
        result({"confidence": confidence, "rates": rates, "photos": sizes})
        return
    for name, counts in sizes.items():
        label, act = ("normal", "be called anomalous") if name == "overkill" else ("anomalous", "pass")
        show(f"{name} at most {percent(asked[name] or 0)} with {percent(confidence)} confidence:")
        for allowed, n in enumerate(counts):
            show(f"  {n} {label} photos of different parts, of which {allowed} may {act}")


@app.command("rollback")
def rollback(
    model: Model,
    to: Annotated[int | None, typer.Option("--to", min=0, help="Version; else the one before.")] = None,
    why: Why = "",
    who: Who = None,
    json_: Json = False,
    track: Track = True,
) -> None:
    """Put an earlier version in force again, as a new version."""
    from anomaly.bundle import read_bundle
    from anomaly.policy.policy import Policy
    from anomaly.report.filed import write_page
    from anomaly.tuning.history import rollback_report

    if not why.strip():
        raise ConfigError("a change of what decides is signed with its reason: give --why")
    bundle = read_bundle(model)
    born = Policy.born(bundle.detector.calibration)
    record = bundle.versions.roll_back(born, why=why, to=to, who=who)
    entry, number = record["entry"], record["index"] + 1
    page = bundle.versions.report(number)
    write_page(page, rollback_report(bundle.path.name, record))
    if track:
        tags = {"version": number, "audit.sha256": record["sha256"]}
        figures = {"threshold": entry["new"]["threshold"], "version": number}
        in_run(bundle, figures, page, tags=tags, name=f"version-{number:04d}")
    if json_:
        result({"version": number, "restores": entry["restores"], "policy": entry["new"], "audit": record})
        return
    old, new = entry["old"]["threshold"], entry["new"]["threshold"]
    show(
        f"version {number} restores version {entry['restores']}: threshold {old:.6g} -> {new:.6g}, "
        f"signed by {record['who']}"
    )
    say(f"report: {page}")


def _costs(escape: float | None, overkill: float | None, rate: float | None) -> Costs | None:
    from anomaly.quality.thresholds import Costs

    if escape is None and overkill is None and rate is None:
        return None
    if escape is None or overkill is None or rate is None:
        raise ConfigError("costs need all of --escape-cost, --overkill-cost and --defect-rate")
    return Costs(escape, overkill, rate)


def _file(tuned: Tuned, report: Path | None, why: str) -> Path | None:
    """Write the report; None for a dry run that asks for none."""
    from anomaly.report.filed import write_page
    from anomaly.tuning.report import tuning_report

    if report is None:
        if tuned.record is None:
            return None
        report = tuned.bundle.versions.report(tuned.record["index"] + 1)
    write_page(report, tuning_report(tuned, why))
    return report


def _print(tuned: Tuned) -> None:
    from anomaly.tuning.report import plain_table

    show(plain_table(tuned))
    for sentence in tuned.limits:
        show(f"- {sentence}")
    if tuned.policy is not None:
        show(tuned.policy.promise)
    if tuned.record is not None:
        show(f"version {tuned.record['index'] + 1} is in force, signed by {tuned.record['who']}")
    elif tuned.policy is not None:
        say("dry run: nothing was changed")


def _track(bundle: Bundle, tuned: Tuned, page: Path | None) -> None:
    record, point = tuned.record, tuned.chosen.point
    if record is None or point is None:
        return
    number = record["index"] + 1
    figures = {
        "tune.escape_rate": point.escape_rate,
        "tune.overkill_rate": point.overkill_rate,
        "tune.cost_per_1000": point.cost_per_1000,
        "tune.review_threshold": point.review_threshold,
    }
    in_run(
        bundle,
        {"threshold": point.threshold, "version": number, **figures},
        page,
        tags={"version": number, "audit.sha256": record["sha256"]},
        name=f"version-{number:04d}",
    )
