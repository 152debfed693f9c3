"""What a report needs to know of the verdicts, in bounded memory: millions of them leave a few megabytes."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Self

import numpy as np
from numpy.typing import NDArray

from anomaly.records import Decision, Verdict

MOST_ROWS = 500
"""Photos that a table lists; the rest is counted."""
RANK = {"anomalous": 0, "review": 1, "error": 2, "normal": 3}


class Tally:
    """Counts, also by group and by version, all scores (8 bytes a photo), and the first MOST_ROWS photos of
    each table."""

    def __init__(self) -> None:
        self.counts: Counter[Decision] = Counter()
        self.groups: defaultdict[str, Counter[Decision]] = defaultdict(Counter)
        self.versions: Counter[int] = Counter()
        """Photos that each version of the policy decided."""
        self._scores = array("d")
        self._ranked: list[Verdict] = []
        self._unread: list[Verdict] = []

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> Self:
        tally = cls()
        for verdict in verdicts:
            tally.add(verdict)
        return tally

    def add(self, verdict: Verdict) -> None:
        self.counts[verdict.decision] += 1
        if verdict.group is not None:
            self.groups[verdict.group][verdict.decision] += 1
        if verdict.version is not None:
            self.versions[verdict.version] += 1
        if verdict.image_score is not None:
            self._scores.append(verdict.image_score)
        _keep(self._ranked, verdict)
        if verdict.decision == "error":
            _keep(self._unread, verdict)

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def scores(self) -> NDArray[np.float64]:
        return np.array(self._scores, np.float64)

    @property
    def ranked(self) -> list[Verdict]:
        """Worst first."""
        return sorted(self._ranked, key=worst_first)[:MOST_ROWS]

    @property
    def unread(self) -> list[Verdict]:
        return sorted(self._unread, key=worst_first)[:MOST_ROWS]


def worst_first(verdict: Verdict) -> tuple[int, float, str]:
    score = verdict.image_score
    return RANK[verdict.decision], 0.0 if score is None else -score, verdict.path


def _keep(table: list[Verdict], verdict: Verdict) -> None:
    """Add to a table; cut it down to its first rows whenever it is twice as long."""
    table.append(verdict)
    if len(table) >= 2 * MOST_ROWS:
        table.sort(key=worst_first)
        del table[MOST_ROWS:]
