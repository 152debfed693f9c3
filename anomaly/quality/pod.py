"""Probability of detection (POD) against defect size, from hits and misses.

    POD(size) = g + (d - g) F(a + b log size),   F logistic or normal

g is the false-call rate, estimated jointly from photos of blanks; d is what POD levels off at, 1 unless
a likelihood-ratio test finds that large defects are missed too.

Bounds: the likelihood-ratio region {theta: 2 (l_max - l(theta)) <= q}, projected on POD(size), with q the
chi-square quantile (1 degree of freedom) of 2 * confidence - 1. Each bound is pointwise and one-sided. a90/95
is the size at which the lower one reaches 0.90; the same number is the upper profile-likelihood bound of a90.
One-sided, that region covers too little (92 % for 95 % with 60 defects); with `adjusted`, the default, q is
raised until the bound of a90 is that by Skovgaard's r*, which brings it to 94 to 96 %. The whole curve shares
that q: r* at each size would part from the ratio where the constrained curve is a step, and break the bound.

Where the data separate, maximum likelihood has no finite answer; half the log-determinant of the Fisher
information of (a, b) is added to l, which is Firth's penalty for the logit link.

MIL-HDBK-1823A (2009); Firth, Biometrika 80 (1993); Heinze & Schemper, Stat. Med. 21 (2002), profile bounds
under the penalty; Kosmidis & Firth, Biometrika 108 (2021), the penalty for other links; Self & Liang,
JASA 82 (1987), the test of a parameter on its border.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2

from anomaly.errors import ConfigError, DataError, nearest
from anomaly.quality import pod_words
from anomaly.quality.pod_likelihood import LINKS, Floats, Likelihood
from anomaly.quality.pod_region import Region

Link = Literal["logit", "probit"]

ASYMPTOTE_LEVEL = 0.05
"""An upper asymptote below 1 is adopted when its test gives less than this."""
_PARAMETERS = ("intercept", "slope", "false_call_rate", "upper_asymptote")


@dataclass(frozen=True, eq=False)
class PodFit:
    """A fitted curve. Sizes are in the unit they came in; one is None where there is none, and `warnings`
    says why. A bound holds with `confidence` on its own side: a lower and an upper one together hold with
    2 * confidence - 1."""

    link: Link
    confidence: float
    defects: int
    found: int
    parameters: dict[str, float]
    """intercept and slope of the linear predictor on natural-log size, false_call_rate, upper_asymptote."""
    covariance: Floats
    """Of `parameters`, in that order; zero for one that is not estimated or lies on its border."""
    slope_p_value: float
    """Likelihood-ratio test that size makes no difference."""
    asymptote_p_value: float | None
    """Likelihood-ratio test that POD rises to 1; None where it was not made."""
    penalised: bool
    a50: float | None
    a90: float | None
    a90_95: float | None
    method: str
    warnings: tuple[str, ...]
    region: Region = field(repr=False)

    def curve(self, sizes: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """POD at the sizes (n,), with its lower and its upper bound."""
        return self.region.curve(_logs(sizes))

    def size_at(self, pod: float) -> tuple[float | None, float | None, float | None]:
        """The size that is found with probability `pod`, with its lower and its upper bound."""
        if not 0 < pod < 1:
            raise ConfigError(f"pod must lie between 0 and 1, got {pod:g}: ask for 0.9, say")
        region = self.region
        return region.size_at(pod), region.bound_at(pod, -1), region.bound_at(pod, 1)


def fit_pod(
    sizes: ArrayLike,
    hits: ArrayLike,
    *,
    link: Link = "logit",
    false_calls: tuple[int, int] | None = None,
    upper_asymptote: bool | None = None,
    adjusted: bool = True,
    confidence: float = 0.95,
    unit: str = "",
    most: float = np.inf,
) -> PodFit:
    """POD against size, from the size (n,) of each defect and whether it was found (n,).

    `false_calls` = (photos of blanks that were called, photos of blanks) adds a lower asymptote.
    `upper_asymptote`: None tests whether POD levels off below 1, True estimates where, False takes 1.
    `adjusted` False leaves the bounds without the small-sample adjustment, as other software has them. `unit`
    is that of the sizes, for sentences. `most` is the largest size that a defect can have: a50, a90 and
    a90/95 beyond it, or below a quarter of the smallest size, are not given, nor are they where chance could
    explain the effect of size.
    """
    if link not in get_args(Link):
        raise ConfigError(f"link {link!r} is not known: {nearest(str(link), get_args(Link))}")
    check_confidence(confidence)
    logs, found = _logs(sizes), _found(hits)
    if len(logs) != len(found):
        raise DataError(f"{len(logs)} sizes came with {len(found)} hits: give one of each for every defect")
    if np.all(logs == logs[0]):
        raise DataError("all defects have one size: POD against size needs defects of several sizes")
    centre, scale = float(np.mean(logs)), float(np.std(logs))
    likelihood = _likelihood((logs - centre) / scale, found, link, false_calls)

    asymptote_p = None
    separated = _separated(logs, found)
    theta, top = likelihood.fitted()
    if not separated and upper_asymptote is not False:
        lifted = replace(likelihood, ceiling=True)
        lifted_theta, lifted_top = lifted.fitted()
        asymptote_p = float(chi2.sf(2 * max(lifted_top - top, 0), 1) / 2)
        if upper_asymptote or asymptote_p < ASYMPTOTE_LEVEL:
            likelihood, theta, top = lifted, lifted_theta, lifted_top
    if separated or not likelihood.graded(theta):
        likelihood = replace(likelihood, penalised=True)
        theta, top = likelihood.fitted()
    level = replace(likelihood, ceiling=False).maximise(np.array([[0, 0, theta[2], 1]]), flat=True)[1]
    slope_ratio = 2 * max(top - float(level[0]), 0)

    reach = float(np.sqrt(chi2.ppf(2 * confidence - 1, 1)))
    rises = bool(theta[1] > 0 and found.any() and not found.all())
    flat = float(np.sqrt(slope_ratio))
    region = Region(replace(likelihood, rising=rises), theta, top, centre, scale, reach, flat, rises)
    if adjusted and not likelihood.penalised:
        region = region.adjusted()
    to_log_size = np.eye(4)
    to_log_size[:2, 1] = -centre / scale, 1 / scale
    smallest, largest = float(np.exp(logs.min())), float(np.exp(logs.max()))
    extrapolated = {"a50": region.size_at(0.5), "a90": region.size_at(0.9), "a90_95": region.bound_at(0.9, 1)}
    given = {
        name: size if size and region.shown and smallest / 4 <= size <= max(most, largest) else None
        for name, size in extrapolated.items()
    }
    fit = PodFit(
        link=link,
        confidence=confidence,
        defects=len(logs),
        found=int(found.sum()),
        parameters=dict(zip(_PARAMETERS, map(float, to_log_size @ theta), strict=True)),
        covariance=to_log_size @ likelihood.covariance(theta) @ to_log_size.T,
        slope_p_value=float(chi2.sf(slope_ratio, 1)),
        asymptote_p_value=asymptote_p,
        penalised=likelihood.penalised,
        **given,
        method="",
        warnings=(),
        region=region,
    )
    said = tuple(pod_words.warnings(fit, extrapolated, smallest, largest, unit))
    return replace(fit, method=pod_words.method(fit, false_calls), warnings=said)


def check_confidence(confidence: float) -> None:
    """Raise ConfigError for a confidence that no bound can have."""
    if not 0.5 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0.5 and 1, got {confidence:g}: 0.95 is usual")


def _numbers(values: ArrayLike, what: str) -> Floats:
    try:
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"{what} must be a list of numbers, one for each defect") from None
    if numbers.ndim != 1 or not len(numbers):
        raise DataError(f"{what} must be a list of numbers, one for each defect, and not be empty")
    return numbers


def _logs(sizes: ArrayLike) -> Floats:
    values = _numbers(sizes, "sizes")
    if not np.all(np.isfinite(values) & (values > 0)):
        raise DataError("POD is fitted on log size: every size must be a number above 0; drop the others")
    return np.log(values)


def _found(hits: ArrayLike) -> Floats:
    values = _numbers(hits, "hits")
    if not np.all(np.isin(values, (0, 1))):
        raise DataError(
            "hits must be 1 (found) or 0 (missed) for each defect: hold scores to a threshold first"
        )
    return values


def _likelihood(z: Floats, found: Floats, link: Link, false_calls: tuple[int, int] | None) -> Likelihood:
    """One row for each distinct size, and one for the blanks."""
    distinct, index = np.unique(z, return_inverse=True)
    weight = np.bincount(index).astype(float)
    share = np.bincount(index, weights=found) / weight
    defect = np.ones(len(distinct))
    if false_calls is not None:
        calls, blanks = false_calls
        if not 0 <= calls <= blanks or blanks < 1:
            raise DataError(
                f"false_calls says {calls} calls on {blanks} blanks: give (calls, blanks), at least one blank"
            )
        if calls == blanks:
            raise DataError(f"all {blanks} blanks were called, so a hit says nothing: raise the threshold")
        distinct, defect = np.append(distinct, 0.0), np.append(defect, 0.0)
        weight, share = np.append(weight, blanks), np.append(share, calls / blanks)
    return Likelihood(distinct, share, weight, defect, LINKS[link], blanks=false_calls is not None)


def _separated(logs: Floats, found: Floats) -> bool:
    """Whether some size splits hits from misses, so that the likelihood has no finite maximum."""
    hit, missed = logs[found == 1], logs[found == 0]
    if not len(hit) or not len(missed):
        return True
    return bool(missed.max() <= hit.min() or hit.max() <= missed.min())
