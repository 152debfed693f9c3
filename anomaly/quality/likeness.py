"""Whether new photos are like the normal photos that a threshold rests on: its promise is about such alone.

Where known and new scores are draws of one kind, of N known ones a - 1 lie above a cut at the a-th largest,
and the number of n new ones above it is beta-binomial (n, a, N + 1 - a): the share of all draws that the
cut leaves above is Beta(a, N + 1 - a) distributed (Vovk, Conditional validity of inductive conformal
predictors, ACML 2012).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SURE = 1e-3
"""The p-value below which photos are called unlike the known ones."""
FEWEST = 10
"""Known scores, and new ones, from which on they are compared."""
HIGH, LOW = 2 / 3, 1 / 10
"""Shares of passed photos above the middle of the known ones that are worth a word. Low shares have to be
lower still: a memory bank that took the calibration photos in lets new photos score a little lower."""


def exceedance_p_value(known: npt.ArrayLike, cut: float, n: int, above: int) -> float:
    """The chance that `above` or more of `n` new scores exceed `cut`, were they of the kind of the `known`
    ones (N,); `cut` is one of these, or any value that does not depend on the new ones (then an upper bound).
    """
    scores = np.asarray(known, np.float64)
    rank = 1 + int((scores > cut).sum())
    return 1.0 if rank > scores.size else _at_least(above, n, rank, scores.size + 1 - rank)


@dataclass(frozen=True, slots=True)
class Likeness:
    """Photos that passed, beside those known to be normal that would have passed."""

    photos: int
    above: int
    """How many of the photos score above the middle of the known ones: about half, if they are alike."""
    p_value: float
    """The chance of a share as far from one half, in either direction, were they alike."""

    @property
    def sentence(self) -> str | None:
        """What is to be said of photos that are not alike; None of others, and where it cannot be told."""
        share = self.above / self.photos
        if self.p_value >= SURE or LOW < share < HIGH:
            return None
        said = (
            f"{self.above} of the {self.photos} photos that passed score above the middle of the calibration "
            f"photos, where half are to be expected (p = {self.p_value:.1g}): they are not like those that "
            "the threshold rests on, and its promise is not about them. "
        )
        if share >= HIGH:
            return said + (
                "Has the light, the position or the product changed? Look at them, and fit on good photos of "
                "today; where photos come in lots, give the lots as groups."
            )
        return said + (
            "They show less than those did: blur, darkness or a camera that sees something else would hide "
            "defects as well. Look at them before you rely on what passed."
        )


def likeness(known: npt.ArrayLike, scores: npt.ArrayLike, cut: float) -> Likeness | None:
    """How the photos with `scores` up to `cut` compare with the `known` normal ones below it, in float64.

    Minus infinity, the score where rules leave nothing to look at, is a score like any other.
    Anomalous photos among those that passed, if they are few, hardly move it. None where fewer than FEWEST
    known or new ones passed.
    """
    known, scores = np.asarray(known, np.float64), np.asarray(scores, np.float64)
    normal, passed = np.sort(known[known < cut]), scores[scores <= cut]
    if min(normal.size, passed.size) < FEWEST:
        return None
    above = int((passed > normal[normal.size // 2]).sum())
    below = int((passed < normal[(normal.size - 1) // 2]).sum())
    high = exceedance_p_value(normal, float(normal[normal.size // 2]), passed.size, above)
    low = exceedance_p_value(-normal, -float(normal[(normal.size - 1) // 2]), passed.size, below)
    return Likeness(int(passed.size), above, min(1.0, 2 * min(high, low)))


def _at_least(count: int, n: int, a: int, b: int) -> float:
    """The chance of `count` or more under the beta-binomial distribution (n, a, b)."""
    from scipy import special  # scipy.stats has it too, and takes as long to import as judging many photos

    of = np.arange(count, n + 1, dtype=np.float64)
    ways = special.gammaln(n + 1) - special.gammaln(of + 1) - special.gammaln(n - of + 1)
    chances = np.exp(ways + special.betaln(of + a, n - of + b) - special.betaln(a, b))
    return min(1.0, float(chances.sum()))
