"""Both models on every labelled test photo, and whether their difference is more than chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomaly.appraisal.judging import called, judged, labelled_test, threshold_in_force
from anomaly.appraisal.pictures import heat_picture, photo_picture
from anomaly.bundle import Bundle
from anomaly.data.images import one_line
from anomaly.errors import DataError
from anomaly.evaluation import refuse_seen
from anomaly.inspection.stream import Judged
from anomaly.models.training import Progress, Silent
from anomaly.quality.intervals import exact_share
from anomaly.quality.paired import (
    AurocDifference,
    McNemar,
    bootstrap_difference,
    delong_test,
    mcnemar_test,
)
from anomaly.records import Sample
from anomaly.report.filed import Pictures

SHOWN = 20
"""Photos of each label, judged differently, that the report shows."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One photo, judged by A and by B."""

    sample: Sample
    scores: tuple[float, float]
    called: tuple[bool, bool]

    @property
    def anomalous(self) -> bool:
        return self.sample.label == "anomalous"

    @property
    def differs(self) -> bool:
        return self.called[0] != self.called[1]


@dataclass(frozen=True)
class Comparison:
    """What the photos say; a test is None where they cannot, and `notes` says why."""

    thresholds: tuple[float, float]
    confidence: float
    pairs: tuple[Pair, ...]
    grouped: bool
    """Photos come in groups, and the bootstrap draws whole groups."""
    delong: AurocDifference | None
    bootstrap: AurocDifference | None
    decisions: McNemar
    escapes: McNemar | None
    """On defective photos alone."""
    overkills: McNemar | None
    """On normal photos alone."""
    left_out: dict[str, str]
    notes: tuple[str, ...]
    differing: tuple[Pictures, ...]
    """Photos that one model calls and the other does not, defective ones first."""

    @property
    def auroc(self) -> AurocDifference | None:
        """The difference to go by: by group where there are groups."""
        return self.bootstrap if self.grouped else self.delong


def compare(
    bundles: tuple[Bundle, Bundle],
    samples: Sequence[Sample],
    *,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Compare model A and model B on the labelled test photos among `samples`.

    Raises DataError where there are none that both can read, or either model was fitted on one of them.
    """
    exact_share("confidence", confidence)
    progress = progress or Silent()
    test = labelled_test(samples)
    for bundle in bundles:
        refuse_seen(bundle, test)
    left_out: dict[str, str] = {}
    pairs: list[Pair] = []
    shown: list[tuple[bool, Pictures]] = []
    room = Counter({True: SHOWN, False: SHOWN})
    looks = zip(*(judged(bundle, test) for bundle in bundles), strict=True)
    for done, (sample, (a, b)) in enumerate(zip(test, looks, strict=True), start=1):
        progress.step("photos", done, len(test))
        if a.verdict.image_score is None or b.verdict.image_score is None:
            left_out[str(sample.path)] = a.verdict.error or b.verdict.error or "it has no score"
            continue
        scores = a.verdict.image_score, b.verdict.image_score
        pair = Pair(sample, scores, (called(a.verdict), called(b.verdict)))
        pairs.append(pair)
        if pair.differs and room[pair.anomalous] > 0:
            room[pair.anomalous] -= 1
            shown.append((pair.anomalous, _pictures(bundles, pair, (a, b))))
    if not pairs:
        first, reason = next(iter(left_out.items()))
        raise DataError(f"none of the {len(test)} photos can be used; {one_line(first)}: {reason}")
    notes = list(_notes(bundles, pairs))
    labels = np.array([pair.anomalous for pair in pairs])
    a_scores, b_scores = (np.array([pair.scores[side] for pair in pairs]) for side in (0, 1))
    groups = [pair.sample.group for pair in pairs]
    grouped = any(group is not None for group in groups)

    def attempt(test: Callable[[], AurocDifference]) -> AurocDifference | None:
        try:
            return test()
        except DataError as error:
            notes.append(f"AUROC is not compared: {error}.")
            return None

    delong = attempt(lambda: delong_test(a_scores, b_scores, labels, confidence))
    bootstrap = delong and attempt(
        lambda: bootstrap_difference(
            a_scores, b_scores, labels, groups if grouped else None, confidence=confidence, seed=seed
        )
    )
    calls = np.array([pair.called for pair in pairs])
    return Comparison(
        thresholds=(threshold_in_force(bundles[0]), threshold_in_force(bundles[1])),
        confidence=confidence,
        pairs=tuple(pairs),
        grouped=grouped,
        delong=delong,
        bootstrap=bootstrap,
        decisions=mcnemar_test(calls[:, 0], calls[:, 1], labels, groups if grouped else None),
        escapes=_mcnemar(calls, labels, groups if grouped else None, labels),
        overkills=_mcnemar(calls, labels, groups if grouped else None, ~labels),
        left_out=left_out,
        notes=tuple(notes),
        differing=tuple(picture for _, picture in sorted(shown, key=lambda item: not item[0])),
    )


def _mcnemar(
    calls: NDArray[np.bool_],
    labels: NDArray[np.bool_],
    groups: Sequence[str | None] | None,
    which: NDArray[np.bool_],
) -> McNemar | None:
    """The test on the photos `which`; None where there are none."""
    if not which.any():
        return None
    theirs = None if groups is None else [group for group, kept in zip(groups, which, strict=True) if kept]
    return mcnemar_test(calls[which, 0], calls[which, 1], labels[which], theirs)


def _notes(bundles: tuple[Bundle, Bundle], pairs: Sequence[Pair]) -> Iterator[str]:
    if bundles[0].model_hash == bundles[1].model_hash:
        yield "A and B are the same model."
    groups = {pair.sample.group for pair in pairs} - {None}
    if 0 < len(groups) < 10:
        yield (
            f"The photos come from {len(groups)} groups. Below some ten groups of each label a bootstrap by "
            "group is too sure of itself: bring photos of more lots or parts."
        )


def _pictures(bundles: tuple[Bundle, Bundle], pair: Pair, looks: tuple[Judged, Judged]) -> Pictures:
    shown = [photo_picture(looks[0])]
    for name, bundle, look, score, call in zip("AB", bundles, looks, pair.scores, pair.called, strict=True):
        word = "called" if call else "passed"
        shown.append(heat_picture(bundle, look, f"{name}: {word}, score {score:.4g}"))
    kind = pair.sample.defect_type or ("defective" if pair.anomalous else "normal")
    right = "A" if pair.called[0] == pair.anomalous else "B"
    return Pictures(str(pair.sample.path), shown, f"{kind}; {right} is right")
