"""What the engineer asks of the thresholds, and what came out, as facts for the log and the report."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from anomaly.bundle import Bundle
from anomaly.errors import CalibrationError, ConfigError
from anomaly.policy.policy import Policy
from anomaly.policy.regions import RegionRules
from anomaly.quality.thresholds import Rule
from anomaly.tuning import points
from anomaly.tuning.scores import Photos, ScoreCache


@dataclass(frozen=True)
class Asked:
    """What the engineer asks of the thresholds."""

    rule: Rule
    rules: RegionRules | None = None
    by_group: bool = False
    """A threshold for each group that has enough photos, the pooled one for the others."""
    count_parts: bool = False
    """Count parts, which are the groups, and not photos."""

    def __post_init__(self) -> None:
        if self.by_group and self.count_parts:
            raise ConfigError(
                "--by-group takes a group for a product, camera or lot, --count-parts for one part: give one "
                "of them"
            )

    def words(self) -> list[str]:
        """What is asked, as sentences."""
        said = [points.describe(self.rule)]
        if self.by_group:
            said.append("a threshold for each group with enough photos, the pooled one for the others")
        if self.count_parts:
            said.append("parts counted, not photos: a part is what its highest photo is")
        if self.rules is not None:
            said.append("region rules: " + ", ".join(rule_words(self.rules)))
        return said


@dataclass(frozen=True)
class Tuned:
    """What came out. Where no threshold does what was asked, `policy` is None and `refusal` says why."""

    bundle: Bundle
    asked: Asked
    photos: Photos
    units: points.Units
    chosen: points.Row
    rows: list[points.Row]
    groups: dict[str, points.Row]
    limits: list[str]
    policy: Policy | None
    refusal: CalibrationError | None
    cache: ScoreCache
    record: dict[str, Any] | None = None
    """The line of the log that puts `policy` in force."""
    suspects: dict[str, list[str]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the photos' hashes."""
        return hashlib.sha256("".join(sorted(row.sha256 for row in self.photos.rows)).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Everything as one JSON object."""
        policy, record = self.policy, self.record
        return {
            "model": self.bundle.path.name,
            "model_hash": self.bundle.model_hash,
            "asked": self.asked.words(),
            "data": self.data(),
            "chosen": self.chosen.to_dict(),
            "points": [row.to_dict() for row in self.rows],
            "groups": {name: row.to_dict() for name, row in self.groups.items()},
            "promise": None if policy is None else policy.promise,
            "policy": None if policy is None else policy.values(),
            "limits": self.limits,
            "suspects": self.suspects,
            "refused": None if self.refusal is None else str(self.refusal),
            "version": None if record is None else record["index"] + 1,
            "audit": None
            if record is None
            else {name: record[name] for name in ("time", "who", "sha256", "previous")},
        }

    def data(self) -> dict[str, Any]:
        """What the photos are."""
        rows = self.photos.rows
        return {
            "source": self.photos.source,
            "photos": len(rows),
            "normal": sum(not row.anomalous for row in rows),
            "anomalous": sum(row.anomalous for row in rows),
            "groups": len({row.group for row in rows} - {None}),
            "counted": "parts" if self.asked.count_parts else "photos",
            "normal_counted": self.units.n_normal,
            "anomalous_counted": self.units.n_anomalous,
            "duplicates": self.photos.duplicates,
            "unreadable": self.photos.unreadable,
            "fingerprint": self.fingerprint,
            "newly_scored": self.cache.scored,
        }


def rule_words(rules: RegionRules) -> list[str]:
    """Region rules in words."""
    said = []
    if rules.mask is not None:
        said.append(f"{points.percent(round(float(rules.mask.mean()), 4))} of the photo is looked at")
    if rules.smallest_area:
        said.append(f"regions of {rules.smallest_area:g} px or more count")
    if rules.smallest_mean is not None:
        said.append(f"regions with a mean score of {rules.smallest_mean:g} or more count")
    return said or ["none"]
