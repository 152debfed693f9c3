"""What a fit of probability of detection says of itself: how it was made, and what the data do not show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from anomaly.quality.pod_region import MOST_STRETCH

if TYPE_CHECKING:
    from anomaly.quality.pod import PodFit

FEWEST_DEFECTS = 60
"""MIL-HDBK-1823A asks for at least so many defects in a hit/miss study."""
Told = Callable[[float], str]
"""A size with its unit."""


def method(fit: PodFit, false_calls: tuple[int, int] | None) -> str:
    """How the curve and its bounds were made; `false_calls` are (calls, blanks)."""
    estimate = "Firth's penalised likelihood" if fit.penalised else "maximum likelihood"
    floor = "no false calls assumed"
    if false_calls is not None:
        floor = f"false-call rate estimated jointly from {false_calls[0]} calls on {false_calls[1]} blanks"
    ceiling = "estimated" if fit.region.likelihood.ceiling else "1"
    if fit.asymptote_p_value is not None:
        ceiling += f" (likelihood-ratio test against 1: p = {fit.asymptote_p_value:.3g})"
    region = fit.region
    bounds = f"2 (l_max - l) <= {region.reach**2:.3f} (chi-square, 1 degree of freedom"
    if region.stretch >= MOST_STRETCH:
        bounds += f", its root widened by {region.stretch:.2f}, since no adjustment for small samples holds"
    elif region.stretch:
        bounds += f", its root widened by {region.stretch:.2f} for small samples: Skovgaard's r* at a90"
    bounds += ")"
    return (
        f"{fit.link} of POD on log size by {estimate}; {floor}; upper asymptote {ceiling}. Bounds: the "
        f"likelihood-ratio region {bounds} projected on POD(size), pointwise and one-sided at "
        f"{fit.confidence:.1%}; a90/95 is the size at which the lower bound reaches 0.90."
    )


def warnings(
    fit: PodFit, sizes: Mapping[str, float | None], small: float, large: float, unit: str
) -> Iterator[str]:
    """What defects from `small` to `large` do not show, and what to bring; `sizes` are a50, a90 and a90_95
    of the curve, whether they are given or not."""
    n = fit.defects

    def told(size: float) -> str:
        return f"{size:.3g} {unit}".rstrip()

    if n < FEWEST_DEFECTS:
        yield (
            f"{n} defects are few: MIL-HDBK-1823A asks for {FEWEST_DEFECTS} in a hit/miss study, and below "
            f"that the bounds are approximate; bring {FEWEST_DEFECTS - n} more."
        )
    if fit.found == n:
        yield (
            f"All {n} defects were found, so the data do not show where detection ends, and a50 and a90 "
            f"cannot be placed. Over these sizes POD is {(1 - fit.confidence) ** (1 / n):.3f} or more on "
            f"average; add defects smaller than {told(small)} until some are missed."
        )
    elif not fit.found:
        yield (
            f"All {n} defects were missed, so the data do not show where detection begins, and a50 and a90 "
            f"cannot be placed. Add defects larger than {told(large)} until some are found."
        )
    elif not fit.region.rises:
        yield (
            "Larger defects are not found more often than small ones, so no size can be given: check that "
            "sizes and hits belong together, and that size is what matters."
        )
    else:
        yield from _warnings_on_sizes(fit, sizes, small, large, told)


def _warnings_on_sizes(
    fit: PodFit, sizes: Mapping[str, float | None], small: float, large: float, told: Told
) -> Iterator[str]:
    region, top = fit.region, fit.parameters["upper_asymptote"]
    p_value = f"likelihood-ratio test p = {fit.asymptote_p_value or 0:.2g}"
    if fit.penalised:
        to = "one share of hits at any size" if region.likelihood.ceiling else "hits"
        yield (
            f"The best fit is a step from misses to {to}, where maximum likelihood has no finite slope: "
            "Firth's penalised likelihood was used; add defects of about the size of the step."
        )
    if not region.bounded:
        without = "there is no a90/95" if region.shown else "no size is given"
        yield (
            f"Chance could explain the effect of size (p = {fit.slope_p_value:.2g}), so {without}: "
            "add defects, above all where misses turn to hits."
        )
    if top <= 0.9:
        yield (
            f"POD levels off at {top:.3f} ({p_value}) and never reaches 0.90, so there is no a90 at any "
            "size: look at the large defects that were missed."
        )
    elif top < 1:
        yield f"POD levels off at {top:.3f} ({p_value}): look at the large defects that were missed."
    if region.bounded and fit.a90 is not None and sizes["a90_95"] is None:
        yield (
            "The lower bound of POD reaches 0.90 at no size, so there is no a90/95: add defects larger than "
            f"{told(fit.a90)}."
        )
    if fit.parameters["false_call_rate"] >= 0.5:
        yield "Blanks are called as often as not, so hits say little about defects: raise the threshold."
    elif region.likelihood.pod(region.theta, (np.log(small) - region.centre) / region.scale) > 0.5:
        yield (
            f"The smallest defect ({told(small)}) is already found more often than not, so the lower end of "
            "the curve is extrapolated: add smaller defects."
        )
    for key, size in sizes.items() if region.shown else ():
        name = key.replace("_", "/")
        if size is None or small <= size <= large:
            continue
        if getattr(fit, key) is None:
            yield (
                f"{name} would lie far below the smallest defect ({told(small)}), so it is not given: add "
                "smaller defects."
                if size < small
                else f"{name} would be larger than a photo holds, so it is not given: add defects larger "
                f"than {told(large)}."
            )
        elif size > large:
            yield (
                f"{name} = {told(size)} lies beyond the largest defect ({told(large)}) and is extrapolated: "
                "add larger defects."
            )
