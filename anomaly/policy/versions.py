"""Versions of what decides, in a folder beside the model: `<model>.versions`.

audit.jsonl, audit.jsonl.head   the hash-chained log; each line is one version, the first of them version 1
files/<sha256>                  masks (PNG), scores and evidence (JSON) that lines of the log name
version-<n>.html                the report of a version, to be filed

Version 0 is what the model was born with. The version in force is what the verified log says; nothing is
ever overwritten, and going back is a new version.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import BaseModel, FiniteFloat, NonNegativeInt, ValidationError

from anomaly.errors import AnomalyError, BundleError, ConfigError
from anomaly.metrics import Floats
from anomaly.policy.policy import Policy
from anomaly.policy.regions import RegionRules
from anomaly.quality.audit import AuditLog
from anomaly.render import png_bytes

Json = dict[str, Any]


class _Cut(BaseModel):
    threshold: FiniteFloat
    review_threshold: FiniteFloat | None


class _Old(_Cut):
    version: NonNegativeInt


class _New(_Cut):
    groups: dict[str, _Cut]
    promise: str
    rules: Json | None
    normal_scores: str | None


class _Entry(BaseModel):
    """What each entry of the log has at least."""

    action: Literal["tune", "rollback"]
    model: str
    why: str
    old: _Old
    new: _New
    restores: NonNegativeInt | None = None
    asked: list[str] = []
    data: Json = {}
    evidence: Json = {}


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of the model at `model` whose manifest has the checksum `model_hash`."""

    model: Path
    model_hash: str

    @property
    def folder(self) -> Path:
        """Beside the model itself, also where it is named by a link."""
        model = self.model.resolve()
        return model.with_name(model.name + ".versions")

    @property
    def log(self) -> AuditLog:
        return AuditLog(self.folder / "audit.jsonl")

    def report(self, number: int) -> Path:
        """Where the report of a version lies."""
        return self.folder / f"version-{number:04d}.html"

    def stamp(self) -> tuple[int, int] | None:
        """Changes whenever the log does: its size and time of change; None where there is none."""
        try:
            status = self.log.path.stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    def records(self) -> list[Json]:
        """Every record of the verified log, oldest first; that of version n is at n - 1. BundleError where
        the log does not verify, or an entry is none of a version."""
        records = self.log.entries()
        for record in records:
            try:
                entry = _Entry.model_validate(record["entry"])
            except ValidationError:
                raise self._foreign(record) from None
            before = entry.restores if entry.action == "rollback" else 0
            if before is None or before > record["index"]:
                raise self._foreign(record)
        if not records and any(self.folder.glob("version-*.html")):
            raise BundleError(
                f"{self.log.path} is missing although versions were made: restore it and its head file from "
                f"a backup, or move {self.folder} aside to go back to what the model was born with"
            )
        return records

    def own(self, records: list[Json]) -> list[Json]:
        """Those among `records` that are of this very fit; the last of them is in force."""
        return [record for record in records if record["entry"].get("model") == self.model_hash]

    def current(self, born: Policy) -> Policy:
        """What decides now: the newest version of this very model, `born` where there is none.

        BundleError where the log, or a file that it names, is not as it was written.
        """
        own = self.own(self.records())
        return self._policy(own[-1], born) if own else born

    def version(self, number: int, born: Policy) -> Policy:
        """Version `number` of this model. ConfigError where there is none."""
        if number == 0:
            return born
        records = self.records()
        record = records[number - 1] if 0 < number <= len(records) else None
        if record is None or record["entry"].get("model") != self.model_hash:
            numbers = [0, *(r["index"] + 1 for r in self.own(records))]
            raise ConfigError(f"this model has no version {number}: it has {', '.join(map(str, numbers))}")
        return self._policy(record, born)

    def add(self, policy: Policy, born: Policy, *, why: str, who: str | None = None, facts: Json) -> Json:
        """Make `policy` the version in force; the record of the log. `facts` (data, evidence ...) go along.

        Raises ConfigError without a reason, BundleError where the log does not verify or cannot be written.
        """
        values = self._stored(policy, born)
        return self._append({"action": "tune", **facts, "new": values}, born, why, who)

    def roll_back(self, born: Policy, *, why: str, to: int | None = None, who: str | None = None) -> Json:
        """Put an earlier version in force again, by default the one before; the record of the log."""
        records = self.records()
        now = self.current(born).version
        if to is None:
            to = self._before(now, records)
        policy = self.version(to, born)
        if self._meant(to, records) == self._meant(now, records):
            same = "" if to == now else f", as version {now}"
            raise ConfigError(f"version {to} is in force already{same}: give another one with --to")
        values = self._stored(policy, born)
        entry = {"action": "rollback", "restores": to, "new": values}
        return self._append(entry, born, why, who, follows=len(records))

    def keep(self, data: bytes) -> str:
        """Store `data` under the SHA-256 of its content, which is returned."""
        name = hashlib.sha256(data).hexdigest()
        path = self.folder / "files" / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                fresh = path.with_name(f"{name}.{os.getpid()}.new")
                fresh.write_bytes(data)
                os.replace(fresh, path)
        except OSError as error:
            raise BundleError(
                f"cannot write to {self.folder} ({error.strerror}): check permissions and free space, repeat"
            ) from None
        return name

    def read(self, name: str) -> bytes:
        """What `keep` stored as `name`. BundleError where it is missing or was changed."""
        path = self.folder / "files" / Path(name).name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error.strerror}): restore it from a backup") from None
        if hashlib.sha256(data).hexdigest() != name:
            raise BundleError(f"{path} was changed after it was written: restore it from a backup")
        return data

    def verify(self) -> list[Json]:
        """Every record, after the whole log and every file that it names were checked."""
        records = self.records()
        for record in records:
            for name in _files(record["entry"]):
                self.read(name)
        return records

    def _append(
        self, entry: Json, born: Policy, why: str, who: str | None, follows: int | None = None
    ) -> Json:
        if not why.strip():
            raise ConfigError("a change of what decides is signed with its reason: give --why")

        def complete(records: list[Json]) -> Json:
            if follows is not None and len(records) != follows:
                last = records[-1]
                raise ConfigError(
                    f"version {last['index'] + 1} was made by {last['who']} in the meantime: look at it "
                    "(anomaly audit show), then repeat"
                )
            own = self.own(records)
            old = {"version": own[-1]["index"] + 1, **own[-1]["entry"]["new"]} if own else _born(born)
            return {"model": self.model_hash, "why": why.strip(), "old": old, **entry}

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BundleError(f"cannot write {self.folder} ({error.strerror}): check permissions") from None
        return self.log.append(complete, who)

    def _meant(self, number: int, records: list[Json]) -> int:
        """The version itself, or the one that it restored."""
        while number and records[number - 1]["entry"]["action"] == "rollback":
            number = int(records[number - 1]["entry"]["restores"])
        return number

    def _before(self, number: int, records: list[Json]) -> int:
        """The version that was in force before `number`; rollbacks count as what they restored."""
        if number == 0:
            raise ConfigError("version 0 is what the model was born with: there is nothing to go back to")
        entry = records[number - 1]["entry"]
        if entry["action"] == "rollback":
            return self._before(int(entry["restores"]), records)
        return int(entry["old"]["version"])

    def _stored(self, policy: Policy, born: Policy) -> Json:
        """`values` of a policy, its mask and normal scores kept as files."""
        rules = None
        if policy.rules is not None:
            mask = policy.rules.mask
            rules = {
                "mask": None if mask is None else self.keep(png_bytes(mask.astype(np.uint8) * 255)),
                "photo_size": policy.rules.photo_size,
                "smallest_area_px": policy.rules.smallest_area,
                "smallest_mean": policy.rules.smallest_mean,
            }
        same = np.array_equal(policy.normal_scores, born.normal_scores)
        scores = None if same else self.keep(json.dumps(policy.normal_scores.tolist()).encode())
        return {**policy.values(), "rules": rules, "normal_scores": scores}

    def _policy(self, record: Json, born: Policy) -> Policy:
        """The policy that a record put in force."""
        number = record["index"] + 1
        try:
            values = record["entry"]["new"]
            scores = self._scores(values["normal_scores"], born)
            return Policy.of_values(values, scores, self._rules(values["rules"]), number)
        except BundleError:
            raise
        except (AnomalyError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._foreign(record, f" ({error})") from None

    def _foreign(self, record: Json, reason: str = "") -> BundleError:
        return BundleError(
            f"version {record['index'] + 1} in {self.log.path} cannot be understood{reason}: upgrade "
            "anomaly, or restore the log and its head file from a backup"
        )

    def _scores(self, name: str | None, born: Policy) -> Floats:
        return born.normal_scores if name is None else np.asarray(json.loads(self.read(name)), np.float64)

    def _rules(self, values: Mapping[str, Any] | None) -> RegionRules | None:
        if values is None:
            return None
        mask = None
        if values["mask"] is not None:
            picture = cv2.imdecode(np.frombuffer(self.read(values["mask"]), np.uint8), cv2.IMREAD_GRAYSCALE)
            if picture is None:
                raise ValueError("its mask is no picture")
            mask = np.asarray(picture > 127)
        height_width = values["photo_size"]
        size = None if height_width is None else (int(height_width[0]), int(height_width[1]))
        return RegionRules(mask, size, float(values["smallest_area_px"]), values["smallest_mean"])


def _born(born: Policy) -> Json:
    return {"version": 0, **born.values(), "rules": None, "normal_scores": None}


def _files(entry: Json) -> set[str]:
    """Names of the kept files that an entry refers to."""
    new = entry["new"]
    names = (new["normal_scores"], (new["rules"] or {}).get("mask"), entry.get("evidence", {}).get("file"))
    return {str(name) for name in names if name is not None}
