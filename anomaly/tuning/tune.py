"""tune: a wish and photos in, operating points and a new version of the policy out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from anomaly.bundle import Bundle
from anomaly.errors import AnomalyError, CalibrationError, ConfigError, DataError, ImageError
from anomaly.evaluation import refuse_seen
from anomaly.models.training import Progress, Silent
from anomaly.policy.policy import Cut, Policy
from anomaly.quality.thresholds import Rule
from anomaly.records import Sample
from anomaly.tuning import limits, points
from anomaly.tuning.scores import Photos, ScoreCache, calibration_photos, labelled_photos
from anomaly.tuning.tuned import Asked, Tuned

SUSPECTS = 5
"""Photos of each label whose labels are worth a second look."""


def tune(
    bundle: Bundle,
    asked: Asked,
    labelled: Sequence[Sample] | None = None,
    normal: Sequence[Sample] = (),
    *,
    progress: Progress | None = None,
) -> Tuned:
    """The policy that does what is asked, and what it rests on. Nothing is written but the cache of scores.

    `labelled` are test photos with labels; without them the calibration photos of the fit count. `normal`
    photos count in addition. Raises AnomalyError for photos that cannot be used; a wish that they cannot
    support is told in `refusal`, with the table of what they can.
    """
    progress = progress or Silent()
    cache = ScoreCache(bundle)
    born = Policy.born(bundle.detector.calibration)
    if asked.rules is not None and bundle.detector.geometry.upright:
        raise ConfigError(
            "this model turns every photo upright and cuts it to the product, so areas that are drawn on "
            "photos mean nothing to it: leave the region rules away, or fit with data.cut_out=false"
        )
    draft = replace(born, rules=asked.rules)
    photos = _photos(cache, draft, labelled, normal, progress)
    rows = photos.rows
    if asked.count_parts and all(row.group is None for row in rows):
        raise DataError("--count-parts needs the part of each photo: give a manifest with the column group")
    units = _units(photos, asked)
    if asked.count_parts and not units.n_normal and photos.mixed_groups:
        count, named = len(photos.mixed_groups), len(photos.groups)
        raise DataError(
            f"{'all' if count == named else f'{count} of'} {named} groups hold normal and anomalous photos: "
            "groups must be parts, not lots; leave --count-parts out, or give the part of each photo as "
            "its group"
        )
    rule = asked.rule
    _require_defects(units, rule)
    try:
        chosen = _choose("as asked", units, rule)
        refusal = None
    except CalibrationError as error:
        chosen, refusal = points.Row("as asked", reason=str(error)), error
    groups = _by_group(photos, rule) if asked.by_group else {}
    policy = None
    if chosen.cut is not None:
        cuts = {name: row.cut for name, row in groups.items() if row.cut is not None}
        scores = np.sort([row.score for row in rows if not row.anomalous])
        known = born.normal_scores if asked.rules is None or not scores.size else scores
        promised = limits.promise(units, rule, photos, parts=asked.count_parts)
        policy = Policy(chosen.cut, promised, known, cuts, asked.rules)
    others = [*_in_force(bundle, photos, asked), *points.table(units, rule)]
    return Tuned(
        bundle=bundle,
        asked=asked,
        photos=photos,
        units=units,
        chosen=chosen,
        rows=others,
        groups=groups,
        limits=limits.limits(units, photos, rule, chosen, others, groups, parts=asked.count_parts),
        policy=policy,
        refusal=refusal,
        cache=cache,
        suspects=_suspects(photos),
    )


def put_in_force(tuned: Tuned, *, why: str, who: str | None = None) -> Tuned:
    """Make what was chosen a new version; with the record of the log. Raises its `refusal` if it has one."""
    if tuned.policy is None:
        raise tuned.refusal or CalibrationError("no threshold was chosen: ask for something else")
    versions = tuned.bundle.versions
    facts = tuned.to_dict()
    evidence = {
        **facts,
        "rows": [
            [row.path, row.sha256, "anomalous" if row.anomalous else "normal", row.group, row.score]
            for row in tuned.photos.rows
        ],
    }
    if not why.strip():
        raise ConfigError("a change of what decides is signed with its reason: give --why")
    kept = versions.keep(json.dumps(evidence, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"))
    point = tuned.chosen.point
    assert point is not None
    record = versions.add(
        tuned.policy,
        Policy.born(tuned.bundle.detector.calibration),
        why=why,
        who=who,
        facts={
            "asked": facts["asked"],
            "data": {k: v for k, v in facts["data"].items() if k not in ("unreadable", "newly_scored")},
            "evidence": {"file": kept, "point": asdict(point), "limits": tuned.limits},
        },
    )
    return replace(tuned, record=record)


def labelled_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The labelled test photos among `samples`."""
    test = [sample for sample in samples if sample.split == "test" and sample.label is not None]
    if not test:
        raise DataError("no labelled test photos: give an MVTec folder with test/, or a manifest with labels")
    return test


def _photos(
    cache: ScoreCache,
    policy: Policy,
    labelled: Sequence[Sample] | None,
    normal: Sequence[Sample],
    progress: Progress,
) -> Photos:
    """All photos that count, scored under `policy`."""
    extra = [replace(sample, split="test") for sample in normal if sample.label == "normal"]
    if normal and not extra:
        raise DataError("--normal names no normal photos: give good ones that the model was not fitted on")
    given = [*(labelled_samples(labelled) if labelled is not None else ()), *extra]
    refuse_seen(cache.bundle, given)
    if labelled is not None:
        return labelled_photos(cache, given, policy, progress)
    fit = calibration_photos(cache, policy)
    if not given:
        return fit
    more = labelled_photos(cache, given, policy, progress)
    source = f"{fit.source} and further normal photos"
    return Photos((*fit.rows, *more.rows), more.unreadable, more.duplicates, source)


def _units(photos: Photos, asked: Asked) -> points.Units:
    rows = photos.rows
    return points.Units.of(
        [row.score for row in rows],
        [row.anomalous for row in rows],
        [row.group for row in rows],
        parts=asked.count_parts,
    )


def _require_defects(units: points.Units, rule: Rule) -> None:
    if units.n_anomalous:
        return
    if rule.max_escape is not None or rule.zero_escapes or rule.costs is not None:
        raise CalibrationError(
            "escapes and costs need photos labelled anomalous, got none: give LABELLED photos of defects, or "
            "ask for --max-overkill alone"
        )
    if rule.max_overkill is None:
        raise ConfigError("normal photos alone need a wish to follow: give --max-overkill")


def _choose(wish: str, units: points.Units, rule: Rule) -> points.Row:
    return points.chosen(wish, units, rule) if units.n_anomalous else points.from_normal(wish, units, rule)


def _by_group(photos: Photos, rule: Rule) -> dict[str, points.Row]:
    """A row for each group; one without a threshold of its own says why the pooled one decides."""
    rows: dict[str, points.Row] = {}
    names = sorted({row.group for row in photos.rows if row.group is not None})
    if not names:
        raise DataError("--by-group needs the group of each photo: give a manifest with the column group")
    for name in names:
        own = [row for row in photos.rows if row.group == name]
        units = points.Units.of(
            [row.score for row in own], [row.anomalous for row in own], [None] * len(own), parts=False
        )
        try:
            _require_defects(units, rule)
            rows[name] = _choose(f"group {name}", units, rule)
        except AnomalyError as error:
            rows[name] = points.Row(f"group {name}", reason=f"the pooled threshold decides: {error}")
    return rows


def _in_force(bundle: Bundle, photos: Photos, asked: Asked) -> list[points.Row]:
    """The policy in force on these photos, under its own rules."""
    policy, share = bundle.detector.policy, bundle.detector.config.fusion.top_share
    name = f"version {policy.version}, in force"
    scores = []
    for row in photos.rows:
        if row.known is not None:
            try:
                scores.append(row.known.score(policy, share))
            except ImageError as error:
                return [points.Row(name, reason=str(error))]
        elif policy.rules is None:
            scores.append(row.score)
        else:
            return [points.Row(name, reason="its region rules need maps of the calibration photos")]
    rows = photos.rows
    cuts: list[Cut] = [policy.cut_of(row.group) for row in rows]
    if asked.count_parts:
        cuts = []
    units = points.Units.of(
        scores, [row.anomalous for row in rows], [row.group for row in rows], parts=asked.count_parts
    )
    cuts = cuts or [policy.cut] * units.scores.size
    ours = {row.sha256 for row in rows}
    optimistic = bool(ours & _chosen_by(bundle))
    return [points.in_force(name, cuts, policy.cut, units, asked.rule, optimistic=optimistic)]


def _chosen_by(bundle: Bundle) -> set[str]:
    """SHA-256 of the photos that chose the policy in force."""
    number, records = bundle.detector.policy.version, bundle.versions.records()
    while number:
        entry = records[number - 1]["entry"]
        if entry["action"] == "tune":
            if "evidence" not in entry:  # made by a program, not by `anomaly tune`
                return set()
            evidence = json.loads(bundle.versions.read(entry["evidence"]["file"]))
            return {row[1] for row in evidence["rows"]}
        number = int(entry["restores"])
    return {photo["sha256"] for photo in bundle.calibration_photos}


def _suspects(photos: Photos) -> dict[str, list[str]]:
    """The normal photos that score highest and the anomalous ones that score lowest."""
    good = sorted((row for row in photos.rows if not row.anomalous), key=lambda row: -row.score)
    bad = sorted((row for row in photos.rows if row.anomalous), key=lambda row: row.score)
    if not bad:
        return {}
    return {
        "normal_with_highest_scores": [row.path for row in good[:SUSPECTS]],
        "anomalous_with_lowest_scores": [row.path for row in bad[:SUSPECTS]],
    }
