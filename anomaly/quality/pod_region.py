"""The likelihood-ratio region around a fitted curve, and its projections: bounds of POD and of sizes.

`anomaly.quality.pod` says which region, and why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from anomaly.quality.pod_likelihood import EDGE, Floats, Likelihood

Integers = NDArray[np.intp]

_FARTHEST = 30.0
"""A bound on a size is sought up to so many standard deviations of log size away."""


@dataclass(frozen=True, eq=False)
class Region:
    """The likelihood around its top, and what is projected from it."""

    likelihood: Likelihood
    theta: Floats  # (4,)
    top: float
    centre: float
    scale: float
    reach: float  # square root of how far 2 * likelihood falls inside the region
    rises: bool  # there are hits and misses, and more hits as size grows
    bounded: bool  # no curve in the region is flat
    adjusted: bool  # the root of the likelihood ratio is Skovgaard's r*

    def excess(self, z: Floats, pod: Floats) -> Floats:
        """How far outside the region (J,) the curves with POD(z) = pod begin; below 0 where inside."""
        likelihood = self.likelihood
        starts = likelihood.starts_through(self.theta, z, pod)
        target = np.tile(z, len(starts)), np.tile(pod, len(starts))
        theta, value = likelihood.maximise(np.concatenate(starts), through=target)
        best = np.argmax(value.reshape(len(starts), -1), axis=0) * len(z) + np.arange(len(z))
        root: Floats = np.sqrt(2 * np.maximum(self.top - value[best], 0))
        if self.adjusted:
            root = likelihood.adjusted_root(root, theta[best], self.theta, z)
        return np.asarray(np.minimum(root, 10) - self.reach)

    def curve(self, log_sizes: Floats) -> tuple[Floats, Floats, Floats]:
        z = (log_sizes - self.centre) / self.scale
        fitted = self.likelihood.pod(self.theta, z)
        end = float(logit(1 - EDGE))
        inside = np.clip(logit(fitted), -end, end)

        def excess(rows: Integers, at: Floats) -> Floats:
            return self.excess(z[rows], expit(at))

        far = np.full(len(z), end)
        lower, upper = (
            expit(_crossing(excess, -self.reach, inside, side * far, 1.0)) for side in (-1.0, 1.0)
        )
        return fitted, np.minimum(lower, fitted), np.maximum(upper, fitted)

    def size_at(self, pod: float) -> float | None:
        """Size at which the fitted curve reaches `pod`."""
        eta = float(self.likelihood.eta(self.theta, np.array(pod)))
        if not (self.rises and np.isfinite(eta)):
            return None
        return float(np.exp(self.centre + self.scale * (eta - self.theta[0]) / self.theta[1]))

    def bound_at(self, pod: float, side: int) -> float | None:
        """The least (side -1) or largest (side 1) size at which a curve of the region reaches `pod`."""
        size = self.size_at(pod)
        if size is None or not self.bounded:
            return None

        def excess(_: Integers, at: Floats) -> Floats:
            return self.excess(at, np.array([pod]))

        z = np.array([(np.log(size) - self.centre) / self.scale])
        far = z + side * _FARTHEST
        found = _crossing(excess, -self.reach, z, far, self._wald(float(z[0])))
        return None if abs(found - far)[0] < 1e-3 else float(np.exp(self.centre + self.scale * found[0]))

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
        live = live[np.abs(now[live] - at) > 1e-8]
        if not len(live):
            break
    return now
