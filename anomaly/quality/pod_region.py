"""The likelihood-ratio region around a fitted curve, and its projections: bounds of POD and of sizes.

`anomaly.quality.pod` says which region, and why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit

from anomaly.quality.pod_likelihood import EDGE, Floats, Likelihood

Integers = NDArray[np.intp]

_FARTHEST = 30.0
"""A bound on a size is sought up to so many standard deviations of log size away."""
_CALIBRATED_AT = 0.9
MOST_STRETCH = 1.0
"""What the adjustment for small samples may add to the reach; it is .1 to .4 where it can be trusted."""


@dataclass(frozen=True, eq=False)
class Region:
    """The likelihood around its top, and what is projected from it."""

    likelihood: Likelihood
    theta: Floats  # (4,)
    top: float
    centre: float
    scale: float
    reach: float  # square root of how far 2 * likelihood falls inside the region
    flat: float  # the same of the best flat curve
    rises: bool  # there are hits and misses, and more hits as size grows
    stretch: float = 0.0
    """Already added to the reach, for small samples."""

    @property
    def shown(self) -> bool:
        """Chance does not explain the effect of size, small samples apart."""
        return self.rises and self.flat > self.reach - self.stretch

    @property
    def bounded(self) -> bool:
        """No curve in the region is flat."""
        return self.rises and self.flat > self.reach

    def adjusted(self) -> Region:
        """The region whose upper bound of a90 is that by Skovgaard's r*. One reach for all sizes keeps the
        bounds from falling where curves rise; far from the top, r* may be anything."""
        stretch = self._stretch()
        return replace(self, reach=self.reach + stretch, stretch=stretch)

    def _stretch(self) -> float:
        near = self._bound(_CALIBRATED_AT, 1)
        if near is None:
            return 0.0
        most = min(MOST_STRETCH, 0.98 * (self.flat - self.reach))
        far = replace(self, reach=self.reach + most)._bound(_CALIBRATED_AT, 1)

        def adjusted(z: float) -> float:
            at = np.array([z])
            root, theta = self.root(at, np.array([_CALIBRATED_AT]))
            return float(self.likelihood.adjusted_root(root, theta, self.theta, at)[0]) - self.reach

        if adjusted(near) >= 0:
            return 0.0
        if far is None or adjusted(far) <= 0:
            return min(MOST_STRETCH, self.flat - self.reach + 1e-9)  # to where no size has a bound
        root, _ = self.root(np.array([brentq(adjusted, near, far, xtol=1e-10)]), np.array([_CALIBRATED_AT]))
        return float(np.clip(root[0] - self.reach, 0, most))

    def root(self, z: Floats, pod: Floats) -> tuple[Floats, Floats]:
        """Of the likelihood ratio to the best curve with POD(z) = pod: root (J,), that curve (J, 4)."""
        likelihood = self.likelihood
        starts = likelihood.starts_through(self.theta, z, pod)
        target = np.tile(z, len(starts)), np.tile(pod, len(starts))
        theta, value = likelihood.maximise(np.concatenate(starts), through=target)
        best = np.argmax(value.reshape(len(starts), -1), axis=0) * len(z) + np.arange(len(z))
        root: Floats = np.sqrt(2 * np.maximum(self.top - value[best], 0))
        return np.minimum(root, 10), theta[best]

    def curve(self, log_sizes: Floats) -> tuple[Floats, Floats, Floats]:
        z = (log_sizes - self.centre) / self.scale
        fitted = self.likelihood.pod(self.theta, z)
        end = float(logit(1 - EDGE))
        inside = np.clip(logit(fitted), -end, end)

        def excess(rows: Integers, at: Floats) -> Floats:
            return self.root(z[rows], expit(at))[0] - self.reach

        far = np.full(len(z), end)
        lower, upper = (
            expit(_crossing(excess, -self.reach, inside, side * far, 1.0)) for side in (-1.0, 1.0)
        )
        lower, upper = np.minimum(lower, fitted), np.maximum(upper, fitted)
        if self.rises:  # so does every curve of the region, of which the search may have met but one part
            order = np.argsort(z)
            upper[order] = np.maximum.accumulate(upper[order])
            lower[order] = np.minimum.accumulate(lower[order[::-1]])[::-1]
        return fitted, lower, upper

    def size_at(self, pod: float) -> float | None:
        """Size at which the fitted curve reaches `pod`."""
        z = self._z_at(pod)
        return None if z is None else self._size(z)

    def bound_at(self, pod: float, side: int) -> float | None:
        """The least (side -1) or largest (side 1) size at which a curve of the region reaches `pod`."""
        z = self._bound(pod, side)
        return None if z is None else self._size(z)

    def _size(self, z: float) -> float:
        return float(np.exp(self.centre + self.scale * z))

    def _z_at(self, pod: float) -> float | None:
        eta = float(self.likelihood.eta(self.theta, np.array(pod)))
        return float((eta - self.theta[0]) / self.theta[1]) if self.rises and np.isfinite(eta) else None

    def _bound(self, pod: float, side: int) -> float | None:
        """Standardised log size up to which `pod` is within reach; None where there is no end."""
        start = self._z_at(pod)
        if start is None or not self.bounded:
            return None

        def excess(_: Integers, at: Floats) -> Floats:
            return self.root(at, np.array([pod]))[0] - self.reach

        z = np.array([start])
        far = z + side * _FARTHEST
        found = _crossing(excess, -self.reach, z, far, self._wald(start))
        return None if abs(found - far)[0] < 1e-3 else float(found[0])

    def _wald(self, z: float) -> float:
        """About how far the bound lies from the size z: by the curvature at the top, asymptotes held."""
        covariance, by = self.likelihood.covariance(self.theta)[:2, :2], np.array([1.0, z])
        return float(np.clip(self.reach * np.sqrt(by @ covariance @ by) / self.theta[1], 0.01, 3))


def _crossing(
    excess: Callable[[Integers, Floats], Floats], depth: float, inside: Floats, outside: Floats, first: float
) -> Floats:
    """Where excess(rows, at) passes from below 0 to above (J,), else `outside`; at `inside` it is `depth`.
    Secant steps from a first one of the given length, halving between the nearest inside and outside where a
    step strays."""
    now = inside + np.clip(outside - inside, -first, first)
    inside, outside, last, live = inside.copy(), outside.copy(), inside.copy(), np.arange(len(inside))
    before = np.full(len(inside), depth)
    for _ in range(60):
        at, height = now[live], excess(live, now[live])
        end = height > 0
        outside[live[end]], inside[live[~end]] = at[end], at[~end]
        with np.errstate(divide="ignore", invalid="ignore"):
            step = at - height * (at - last[live]) / (height - before[live])
        inward = (step - inside[live]) * (step - outside[live]) < 0
        now[live] = np.where(inward, step, (inside[live] + outside[live]) / 2)
        last[live], before[live] = at, height
        live = live[np.abs(now[live] - at) > 1e-7]
        if not len(live):
            break
    return now
