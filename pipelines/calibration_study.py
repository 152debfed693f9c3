"""Do thresholds keep their promise on real photos? 500 random draws of the photos that choose one.

    python -m pipelines.calibration_study [--json] [--splits 500] [--sets magnetic_tile,...] [--models FOLDER]

The sets are looked for in $ANOMALY_DATA, the model of each in FOLDER, under the name of the set; where there
is none, one is fitted there on some normal photos, with the shortest sensible training. All photos that the
model has not seen are scored once, and the scores kept beside it; then every draw costs nothing. The scored
photos are taken for the whole production. A draw takes some of them at random, chooses a threshold that
promises a rate with 95 % confidence, and the rate that comes about is counted

- in the production: the share of all scored photos, which is what the promise speaks of, and
- on the rest: the photos that were not drawn. These are a sample themselves and scatter, so that a rate on
  the rest may exceed the promise more often than in 5 % of the draws; how often at most is known exactly
  (beta-binomial law of an order statistic), and is printed beside it.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import betabinom

from anomaly.bundle import MANIFEST, Bundle, read_bundle
from anomaly.cli.terminal import TerminalProgress, result, say
from anomaly.config import RunConfig
from anomaly.data.images import fingerprint
from anomaly.data.layouts import read_samples
from anomaly.errors import CalibrationError
from anomaly.fitting.run import fit
from anomaly.metrics import Floats, as_groups
from anomaly.models.training import Progress
from anomaly.quality.intervals import allowed_failures, upper_bound
from anomaly.quality.order_statistics import guaranteed_threshold
from anomaly.quality.thresholds import Rule, choose
from anomaly.records import Sample
from anomaly.tuning.scores import ScoreCache

SETS = ("magnetic_tile", "bsdata")
CONFIDENCE = 0.95
FIT_PHOTOS = 80
LARGEST_DRAW = 0.7
"""Share of the photos at hand that a draw may take: of the rest the rate is counted too."""
SETTINGS = (
    "image.image_size=128",
    "contrastive.steps=10",
    "contrastive.views=16",
    "contrastive.patches=128",
    "scorers.reconstruction.steps=60",
    "scorers.reconstruction.batch_size=8",
    "scorers.embedding.bank_size=5000",
    "picture_steps=0",
    "tracking.enabled=false",
)
"""The shortest sensible training: what is studied is the threshold, and it must hold for any model."""


@dataclass(frozen=True)
class Question:
    """One promise that is put to the test."""

    promise: str
    """`overkill` or `escape`."""
    rate: float
    drawn: int
    by_group: bool = False
    """Whether a unit is a group of photos of one part, judged by its highest score."""
    split_groups: bool = False
    """Whether whole groups are drawn although photos are counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """One scored photo."""

    anomalous: bool
    group: str | None
    score: float


QUESTIONS: dict[str, tuple[Question, ...]] = {
    "magnetic_tile": (
        Question("overkill", 0.05, 100),
        Question("overkill", 0.05, 300),
        Question("overkill", 0.02, 150),
        Question("overkill", 0.02, 200),
        Question("overkill", 0.01, 300),
        Question("escape", 0.05, 100),
        Question("escape", 0.05, 200),
        Question("escape", 0.02, 150),
    ),
    "bsdata": (
        Question("overkill", 0.05, 60, by_group=True),
        Question("overkill", 0.10, 60, by_group=True),
        Question("overkill", 0.05, 100),
        Question("overkill", 0.05, 200),
        Question("overkill", 0.05, 100, split_groups=True),
        Question("overkill", 0.05, 200, split_groups=True),
        Question("escape", 0.05, 100),
    ),
}


def group_of(name: str, path: Path) -> str | None:
    """What stands for one part: in bsdata the photos of one place on one day are nearly the same picture."""
    if name != "bsdata":
        return None
    _, when, place, angle, *_ = path.stem.split("_")
    return f"{place}_{angle}_{when[:6]}"


def model_of(name: str, samples: Sequence[Sample], models: Path, progress: Progress) -> Bundle:
    """The model `models`/<name>; where there is none, one is fitted there on some normal photos."""
    folder, photos = models / name, models / f"{name}.photos"
    if not (folder / MANIFEST).exists():
        normal = [sample for sample in samples if sample.label == "normal"]
        unit = as_groups([sample.group for sample in normal], len(normal))
        shuffled = np.random.default_rng(0).permutation(unit.max() + 1)
        so_far = np.cumsum(np.bincount(unit)[shuffled])
        chosen = set(shuffled[: int(np.searchsorted(so_far, FIT_PHOTOS)) + 1].tolist())
        photos.mkdir(parents=True, exist_ok=True)
        with open(photos / "photos.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("path", "group"))
            for i, (sample, u) in enumerate(zip(normal, unit, strict=True)):
                if u in chosen:
                    shutil.copy(sample.path, photos / f"{i}{sample.path.suffix}")
                    table.writerow((f"{i}{sample.path.suffix}", sample.group))
        config = RunConfig.load(None, [*SETTINGS])
        fit(photos / "photos.csv", folder, config, overwrite=True, progress=progress)
    return read_bundle(folder)


def scored(bundle: Bundle, samples: Sequence[Sample], progress: Progress) -> list[Row]:
    """Label, group and score of every photo that the model was not fitted on, each content once; from the
    cache of scores beside the model where they are there."""
    cache, seen = ScoreCache(bundle), set(bundle.manifest["data"]["sha256"])
    rows = []
    for done, sample in enumerate(samples, start=1):
        if fingerprint(sample.path) not in seen:
            sha256, known = cache.known(sample)
            seen.add(sha256)
            rows.append(Row(sample.label == "anomalous", sample.group, known.image_score))
        progress.step(f"scoring {bundle.path.name}", done, len(samples))
    return rows


def ask(question: Question, rows: Sequence[Row], splits: int, seed: int = 0) -> dict[str, Any]:
    """How often the promise of `question` was broken in `splits` draws. Raises CalibrationError where the
    rows are too few for the promise or for the draws."""
    kept = [row for row in rows if row.anomalous == (question.promise == "escape")]
    scores = np.array([row.score for row in kept])
    unit = as_groups([row.group for row in kept], scores.size)
    if question.by_group:
        highest = np.full(unit.max() + 1, -np.inf)
        np.maximum.at(highest, unit, scores)
        scores, unit = highest, np.arange(highest.size)
    if question.drawn > LARGEST_DRAW * scores.size:
        raise CalibrationError(
            f"{question.promise} at most {question.rate:g}: {scores.size} are too few to draw "
            f"{question.drawn}"
        )
    threshold_of = _overkill if question.promise == "overkill" else _escape
    rng = np.random.default_rng(seed)
    production, rest, sizes = [], [], []
    for _ in range(splits):
        drawn = _draw(rng, unit, question)
        threshold = threshold_of(scores[drawn], question.rate)
        wrong = scores > threshold if question.promise == "overkill" else scores <= threshold
        production.append(wrong.mean())
        rest.append(wrong[~drawn].mean())
        sizes.append(int(drawn.sum()))
    units = "groups" if question.by_group else "photos, whole groups" if question.split_groups else "photos"
    exact = len(set(sizes)) == 1
    return {
        "promise": question.promise,
        "rate": question.rate,
        "units": units,
        "drawn": sizes[0] if exact else round(float(np.mean(sizes))),
        "of": int(scores.size),
        "mean_rate": float(np.mean(production)),
        "broken": float(np.mean(np.array(production) > question.rate)),
        "broken_on_the_rest": float(np.mean(np.array(rest) > question.rate)),
        "law_on_the_rest": _law(sizes[0], scores.size - sizes[0], question.rate) if exact else None,
        "may_be_broken": upper_bound(round((1 - CONFIDENCE) * splits), splits, 0.95),
        "splits": splits,
    }


def _draw(rng: np.random.Generator, unit: np.ndarray[Any, Any], question: Question) -> np.ndarray[Any, Any]:
    """(N,) bool: exactly `drawn` photos, or groups until there are so many."""
    if not question.split_groups:
        drawn = np.zeros(unit.size, dtype=bool)
        drawn[rng.permutation(unit.size)[: question.drawn]] = True
        return drawn
    shuffled = rng.permutation(unit.max() + 1)
    so_far = np.cumsum(np.bincount(unit)[shuffled])
    return np.isin(unit, shuffled[: int(np.searchsorted(so_far, question.drawn)) + 1])


def _overkill(scores: Floats, rate: float) -> float:
    return guaranteed_threshold(scores, rate, CONFIDENCE)


def _escape(scores: Floats, rate: float) -> float:
    rule = Rule(max_escape=rate, confidence=CONFIDENCE)
    return choose(scores, np.ones(scores.size), rule).threshold


def _law(n: int, m: int, rate: float) -> float:
    """How often more than `rate` of `m` further units lie beyond the order statistic of `n`, at most."""
    rank = allowed_failures(n, rate, CONFIDENCE) + 1
    return float(betabinom.sf(np.floor(rate * m + 1e-9), m, rank, n + 1 - rank))


def study(
    sets: Sequence[str], root: Path, models: Path, splits: int, tell: Callable[[dict[str, Any]], None]
) -> None:
    """Ask every question of every set that is there."""
    for name in sets:
        if not (root / name / "train" / "good").is_dir():
            say(f"{name}: not in {root}, left out (set ANOMALY_DATA)")
            continue
        samples = [replace(s, group=group_of(name, s.path)) for s in read_samples(root / name)]
        progress = TerminalProgress()
        with progress.running():
            rows = scored(model_of(name, samples, models, progress), samples, progress)
        for question in QUESTIONS[name]:
            try:
                tell({"set": name, **ask(question, rows, splits)})
            except CalibrationError as error:
                say(f"{name}, left out: {error}")


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    law = "" if row["law_on_the_rest"] is None else f" (law: {100 * row['law_on_the_rest']:.1f} %)"
    return (
        f"| {row['set']} | {row['promise']} at most {100 * row['rate']:g} % | {row['drawn']} of {row['of']} "
        f"{row['units']} | {100 * row['mean_rate']:.2f} % | {100 * row['broken']:.1f} % "
        f"(at most {100 * row['may_be_broken']:.1f} %) | {100 * row['broken_on_the_rest']:.1f} %{law} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--splits", type=int, default=500)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--models", type=Path, default=Path("runs/calibration_study"))
    options = parser.parse_args()
    if not options.json:
        print(
            "| set | promise | chosen by | mean rate | promise broken in | broken on the rest in |\n"
            + "|---" * 6
            + "|"
        )
    root = Path(os.environ.get("ANOMALY_DATA", "data"))
    tell = result if options.json else lambda row: print(line(row), flush=True)
    unknown = set(options.sets.split(",")) - set(QUESTIONS)
    if unknown:
        sys.exit(f"unknown set {sorted(unknown)[0]!r}: use {', '.join(QUESTIONS)}")
    study(options.sets.split(","), root, options.models, options.splits, tell)


if __name__ == "__main__":
    main()
