"""The decision in force on a photo, as `inspect` takes it. A photo set aside for review has not passed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from anomaly.bundle import Bundle
from anomaly.detector import Photo
from anomaly.errors import DataError
from anomaly.inspection.stream import Judged, decide, judge_all
from anomaly.records import Sample, Verdict


def threshold_in_force(bundle: Bundle) -> float:
    """The score above which a photo does not pass; of a group that has no threshold of its own."""
    return bundle.detector.policy.cut.lowest


def policy_facts(bundle: Bundle) -> dict[str, Any]:
    """What decides, for a report."""
    policy = bundle.detector.policy
    facts: dict[str, Any] = {"threshold in force": policy.cut.threshold}
    if policy.cut.review_threshold is not None:
        facts["set aside for review above"] = policy.cut.review_threshold
    if policy.groups:
        facts["groups with a threshold of their own"] = len(policy.groups)
    if policy.rules is not None:
        facts["region rules"] = "in force"
    return facts


def judged(bundle: Bundle, samples: Sequence[Sample]) -> Iterator[Judged]:
    """Photos as `inspect` judges them, with the threshold of their group, in order."""
    known = bundle.detector.policy.groups
    for group, run in groupby(samples, key=lambda s: s.group if s.group in known else None):
        yield from judge_all(bundle.detector, [sample.path for sample in run], group=group)


def judge_photo(bundle: Bundle, photo: Photo, sample: Sample) -> Judged:
    """The judgement of a photo (H, W, 3) that was made of `sample` and is in no file."""
    scores = bundle.detector.score(photo)
    anomaly_map = bundle.detector.full_map(scores, photo)
    verdict = decide(bundle.detector, str(sample.path), scores, anomaly_map, sample.group)
    return Judged(verdict, photo, anomaly_map)


def called(verdict: Verdict) -> bool:
    """Whether the photo does not pass."""
    return verdict.decision in ("anomalous", "review")


def labelled_test(samples: Sequence[Sample]) -> list[Sample]:
    """The test photos with a label. Raises DataError where there are none."""
    test = [sample for sample in samples if sample.split == "test" and sample.label is not None]
    if not test:
        raise DataError("no labelled test photos: give an MVTec folder with test/, or a manifest with labels")
    return test
