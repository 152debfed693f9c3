"""Exact binomial bounds and sample sizes for failure rates (Clopper and Pearson 1934)."""

from __future__ import annotations

import math
from bisect import bisect_left
from fractions import Fraction

from anomaly.errors import ConfigError


def exact_share(name: str, value: float) -> Fraction:
    """The decimal that was typed as `value`, without binary rounding. ConfigError outside (0, 1)."""
    try:
        share = Fraction(str(value))
    except ValueError:
        share = Fraction(0)
    if not 0 < share < 1:
        raise ConfigError(f"{name} must lie between 0 and 1, both excluded (1 % is 0.01), got {value}")
    return share


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided exact interval of a rate after `k` of `n`; (0, 1) when n is 0."""
    one_sided = float((1 + exact_share("confidence", confidence)) / 2)
    return lower_bound(k, n, one_sided), upper_bound(k, n, one_sided)


def upper_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """The rate that is exceeded with at most 1 - confidence, after `k` failures among `n`."""
    from scipy import special  # here, for whoever judges photos asks for no bounds

    _check(k, n, confidence)
    return 1.0 if k == n else float(special.betaincinv(k + 1, n - k, confidence))


def lower_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """The rate that is undercut with at most 1 - confidence, after `k` failures among `n`."""
    from scipy import special

    _check(k, n, confidence)
    return 0.0 if k == 0 else float(special.betainccinv(k, n - k + 1, confidence))


def allowed_failures(n: int, rate: float, confidence: float = 0.95) -> int:
    """Largest number of failures among `n` that still shows a rate of at most `rate`; -1 if none does."""
    share, sure = exact_share("rate", rate), exact_share("confidence", confidence)
    return bisect_left(range(n), True, key=lambda k: not _shows(k, n, share, sure)) - 1


def zero_failure_sample_size(rate: float, confidence: float = 0.95) -> int:
    """Smallest n of which none may fail to show a rate of at most `rate`: 299 for 1 % at 95 %."""
    return _sample_size(0, exact_share("rate", rate), exact_share("confidence", confidence))


def sample_sizes(rate: float, confidence: float = 0.95, max_failures: int = 5) -> list[int]:
    """Smallest n at which k failures still show a rate of at most `rate`, for k = 0 ... max_failures."""
    share, sure = exact_share("rate", rate), exact_share("confidence", confidence)
    if max_failures < 0:
        raise ConfigError(f"max_failures must be 0 or more, got {max_failures}")
    return [_sample_size(k, share, sure) for k in range(max_failures + 1)]


def _sample_size(k: int, rate: Fraction, confidence: Fraction) -> int:
    enough = k + 1
    while not _shows(k, enough, rate, confidence):
        enough *= 2
    return bisect_left(range(enough), True, key=lambda n: _shows(k, n, rate, confidence))


def _shows(k: int, n: int, rate: Fraction, confidence: Fraction) -> bool:
    """Whether P(Binomial(n, rate) <= k) <= 1 - confidence. Floats cannot see equality: close calls of up to
    1000 photos are decided in fractions."""
    if k >= n:
        return False
    from scipy import special

    slack = 1 - confidence
    tail = special.betaincc(k + 1, n - k, float(rate))
    if abs(tail / float(slack) - 1) > 1e-9 or n > 1000:
        return bool(tail <= float(slack))
    return sum(math.comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(k + 1)) <= slack


def _check(k: int, n: int, confidence: float) -> None:
    exact_share("confidence", confidence)
    if not 0 <= k <= n:
        raise ConfigError(f"{k} failures among {n} photos cannot be: give 0 <= failures <= photos")
