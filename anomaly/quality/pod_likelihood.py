"""Binomial likelihood of a probability-of-detection curve with asymptotes, and its maximum.

    P(z) = g + (d - g) F(a + b z),   theta = (a, b, g, d),   z standardised log size

Fisher scoring on many theta at once, so that a profile is a batch and not a loop. The penalty for separated
data is half the log-determinant of the Fisher information of (a, b): Firth, Biometrika 80 (1993), for the
logit; Kosmidis & Firth, Biometrika 108 (2021), for other links. The small-sample adjustment is Skovgaard's:
Bernoulli 2 (1996).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtr, ndtri

Floats = NDArray[np.float64]
Target = tuple[Floats, Floats] | None

EDGE = 1e-9
"""Nearest that a probability asked for comes to 0 or 1."""
_FLOOR = 1e-12
_NARROWEST = 1e-3  # between the asymptotes
_LOW, _HIGH = np.array([-np.inf, -np.inf, 0, 0]), np.array([np.inf, np.inf, 1, 1])
_SLOPES = np.geomspace(0.1, 100, 13)
_SHARES = np.array([0, 0.25, 0.5, 0.75, 0.95, 0.999, 1 - 1e-6])  # of the way from 0 or 1 to the POD asked for
_TRIED = 2
_CLOSED = 1e-3  # in logits


class LinkFunctions(NamedTuple):
    cdf: Callable[[Floats], Floats]
    density: Callable[[Floats], Floats]
    log_density_slope: Callable[[Floats], Floats]
    quantile: Callable[[Floats], Floats]


LINKS = {
    "logit": LinkFunctions(expit, lambda e: expit(e) * expit(-e), lambda e: -np.tanh(e / 2), logit),
    "probit": LinkFunctions(ndtr, lambda e: np.exp(-e * e / 2) / np.sqrt(2 * np.pi), np.negative, ndtri),
}


class _Terms(NamedTuple):
    """Of each theta at each data row, (J, n)."""

    f: Floats
    below: Floats  # F
    above: Floats  # 1 - F
    pod: Floats
    miss: Floats  # 1 - pod
    information: Floats  # of the linear predictor


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Data in rows (n,), as one row for each distinct size and one for the blanks."""

    z: Floats
    share: Floats
    """Share of hits in the row."""
    weight: Floats
    """Defects, or blanks, in the row."""
    defect: Floats
    """1 where the row is of defects, 0 where of blanks."""
    link: LinkFunctions
    blanks: bool = False
    """g is estimated, else 0."""
    ceiling: bool = False
    """d is estimated, else 1."""
    penalised: bool = False
    rising: bool = False
    """Only curves that do not fall count."""

    def pod(self, theta: Floats, z: Floats) -> Floats:
        a, b, g, d = theta.T
        pod: Floats = g + (d - g) * self.link.cdf(a + b * z)
        return pod

    def eta(self, theta: Floats, pod: Floats) -> Floats:
        """Linear predictor (J,) at which the curve theta (4,) has `pod`; not finite where it never has."""
        share = (pod - theta[2]) / (theta[3] - theta[2])
        eta: Floats = np.where((share > 0) & (share < 1), self.link.quantile(np.clip(share, 0, 1)), np.nan)
        return eta

    def value(self, theta: Floats) -> Floats:
        """Log-likelihood (J,) of theta (J, 4), with the penalty."""
        t = self._terms(theta)
        value: Floats = (self.share * np.log(t.pod) + (1 - self.share) * np.log(t.miss)) @ self.weight
        if self.penalised:
            value = value + 0.5 * np.log(self._determinant(t.information)[0])
        return np.where(theta[:, 3] - theta[:, 2] > _NARROWEST, value, -np.inf)

    def score(self, theta: Floats) -> tuple[Floats, Floats]:
        """Gradient (J, 4) of `value`, and the expected information (J, 4, 4) without the penalty."""
        t = self._terms(theta)
        slopes = self._slopes(theta, t)
        residual = self.weight * (self.share / t.pod - (1 - self.share) / t.miss)
        gradient = np.sum(residual[:, :, None] * slopes, axis=1)
        information = np.swapaxes(slopes, 1, 2) @ (slopes * (self.weight / (t.pod * t.miss))[:, :, None])
        if self.penalised:
            half = 0.5 * t.information * self._determinant(t.information)[1]
            tilt, spread = 1 / t.pod - 1 / t.miss, (theta[:, 3] - theta[:, 2])[:, None]
            eta = 2 * self.link.log_density_slope(theta[:, :1] + theta[:, 1:2] * self.z) - spread * t.f * tilt
            by = [eta, eta * self.z, -2 / spread - t.above * tilt, 2 / spread - t.below * tilt]
            gradient = gradient + np.sum(half[:, :, None] * np.stack(by, axis=2), axis=1)
        return gradient, information

    def fitted(self) -> tuple[Floats, float]:
        """The maximum: theta (4,), value. Asymptotes can make several tops: climb from the best of a grid."""
        slope, middle, ceiling = (0.5, 2, 8, 30), np.linspace(-2, 2, 9), (0.99, 0.9, 0.75, 0.5)
        floor = min(float(self.share[-1]), 0.5) if self.blanks else 0.0
        grid = np.stack(np.meshgrid(slope, middle, [floor], ceiling if self.ceiling else [1.0]), axis=-1)
        starts = grid.reshape(-1, 4)[:, [1, 0, 2, 3]]
        starts[:, 0] *= -starts[:, 1]
        best = np.argsort(-self.value(starts))[: 4 if self.asymptotes else 1]
        theta, value = self.maximise(starts[best])
        top = int(np.argmax(value))
        return theta[top], float(value[top])

    def starts_through(self, theta: Floats, z: Floats, pod: Floats) -> list[Floats]:
        """Curves (J, 4) that meet P(z) = pod, or come closer, to climb from: made from theta (4,) by one
        parameter each, and the best of a grid, since steep curves and shallow ones can be tops each."""
        a, b, g, d = (np.full(len(z), x) for x in theta)
        below = self.link.cdf(a + b * z)
        eta = self.eta(theta, pod)
        eta = np.where(np.isfinite(eta), eta, a + b * z)
        far = np.abs(z) > 0.5
        slope = np.where(far, (eta - a) / np.where(far, z, 1), b)
        starts = [[np.where(far, a, eta - b * z), slope, g, d]]
        if self.blanks:
            starts.append([a, b, np.clip((pod - d * below) / np.maximum(1 - below, EDGE), 0, 0.98 * d), d])
        if self.ceiling:
            starts.append([a, b, g, np.clip(g + (pod - g) / np.maximum(below, EDGE), g + 0.02, 1)])
        made = [np.stack(start, axis=1) for start in starts]
        return [*made, *self._grid_through(z, pod)] if self.asymptotes or self.penalised else made

    def _grid_through(self, z: Floats, pod: Floats) -> Floats:
        """The best curves (_TRIED, J, 4) with P(z) = pod of a grid of slopes and asymptotes."""
        floor = _SHARES if self.blanks else np.zeros(1)
        ceiling = _SHARES if self.ceiling else np.zeros(1)
        slope, floor, ceiling = (x.ravel() for x in np.meshgrid(_SLOPES, floor, ceiling, indexing="ij"))
        g = floor[:, None] * pod
        d = 1 - ceiling[:, None] * (1 - pod)
        a = self.link.quantile((pod - g) / (d - g)) - slope[:, None] * z
        grid = np.stack([a, np.broadcast_to(slope[:, None], a.shape), g, d], axis=2)
        value = self.value(grid.reshape(-1, 4)).reshape(a.shape)
        best = np.argsort(-value, axis=0)[:_TRIED]
        chosen: Floats = np.take_along_axis(grid, best[:, :, None], axis=0)
        return chosen

    def maximise(self, theta: Floats, *, flat: bool = False, through: Target = None) -> tuple[Floats, Floats]:
        """Top reached from each start (J, 4) -> theta (J, 4), value (J,).

        `flat` holds b at 0. `through` = (z, pod), both (J,), admits the curves with P(z) = pod alone; where
        the last steps leave a small gap, the value is what the Lagrange multiplier expects at its end.
        """
        free = [0] + [1] * (not flat) + self.asymptotes
        theta = theta * [1, not flat, 1, 1]
        value, gap, price = self.value(theta), self._gap(theta, through), np.zeros(len(theta))
        live = np.arange(len(theta))
        for _ in range(60):
            theta[live], value[live], gap[live], price[live], going = self._ascend(
                theta[live], value[live], gap[live], price[live], free, _of(through, live)
            )
            live = live[going]
            if not len(live):
                break
        return theta, np.where(np.abs(gap) < _CLOSED, value - price / 2 * np.abs(gap), -np.inf)

    def _ascend(
        self, theta: Floats, value: Floats, gap: Floats, price: Floats, free: list[int], through: Target
    ) -> tuple[Floats, Floats, Floats, Floats, NDArray[np.bool_]]:
        """One step of Fisher scoring, halved until value - price * |gap| rises enough; last, who goes on."""
        gradient, information = (x[:, free] for x in self.score(theta))
        normal = self._normal(theta, through)[:, free]
        held = np.zeros(gradient.shape, bool)
        for _ in range(2):  # again without what sits on its border and would leave
            step, multiplier = _newton(gradient, information[:, :, free], normal, gap, held)
            held |= (theta <= self.lowest)[:, free] & (step < 0) | (theta >= _HIGH)[:, free] & (step > 0)
            if not held.any():
                break
        price = np.maximum(price, 2 * np.abs(multiplier))
        merit = value - price * np.abs(gap)
        promise = np.sum(gradient * step, axis=1) + price * np.abs(gap)
        theta, value, gap = theta.copy(), value.copy(), gap.copy()
        rows, length = np.arange(len(theta)), 1.0
        for _ in range(20):
            trial = theta[rows]
            trial[:, free] += length * step[rows]
            trial = np.clip(trial, self.lowest, _HIGH)
            reached, missed = self.value(trial), self._gap(trial, _of(through, rows))
            asked = (merit + 0.25 * length * promise - 1e-13 * (1 + np.abs(merit)))[rows]
            taken = reached - price[rows] * np.abs(missed) >= asked
            theta[rows[taken]], value[rows[taken]], gap[rows[taken]] = (
                trial[taken],
                reached[taken],
                missed[taken],
            )
            rows, length = rows[~taken], length / 2
            if not len(rows):
                break
        gain = np.sum((gradient - multiplier[:, None] * normal) * step, axis=1)
        going = (gain > (1e-12 if through is None else 1e-9)) | (np.abs(gap) > EDGE)
        going[rows] = False
        return theta, value, gap, price, going

    def adjusted_root(self, root: Floats, theta: Floats, top: Floats, z: Floats) -> Floats:
        """Skovgaard's r* (J,) for the root (J,) >= 0 of the likelihood ratio of `top` (4,), as fitted, to
        theta (J, 4), the best of those with the same POD at z (J,); the root where r* is not defined."""
        free = [0, 1, *(k for k in self.asymptotes if _LOW[k] < top[k] < _HIGH[k])]
        at_top, at = self._terms(top[None]), self._terms(theta)
        slopes_top = self._slopes(top[None], at_top)[0][:, free]
        slopes = self._slopes(theta, at)[:, :, free]
        per_top = slopes_top * (self.weight / (at_top.pod * at_top.miss)).T
        per = slopes * (self.weight / (at.pod * at.miss))[:, :, None]
        between = slopes_top.T @ per  # covariance of the two scores
        towards = (self.weight * (_log_odds(at_top) - _log_odds(at))) @ slopes_top
        normal = self._normal(theta, (z, np.empty(0)))[:, free, None]
        ridge = 1e-12 * np.eye(len(free))
        information = np.swapaxes(slopes, 1, 2) @ per + ridge
        distance = np.sum(normal * np.linalg.solve(between + ridge, towards[:, :, None]), axis=(1, 2))
        spread = np.sum(normal * np.linalg.solve(information, normal), axis=(1, 2))
        scale = np.linalg.det(information) * np.linalg.det(per_top.T @ slopes_top) * spread
        u = np.abs(distance) * np.abs(np.linalg.det(between)) / np.sqrt(np.maximum(scale, 1e-300))
        inside = np.all(((theta > _LOW) & (theta < _HIGH))[:, free], axis=1)
        defined = inside & (root > 0.1) & (u > 0)
        safe = np.where(defined, root, 1.0)
        return np.where(defined, root + np.log(np.where(defined, u, 1.0) / safe) / safe, root)

    def graded(self, theta: Floats) -> bool:
        """Whether some defect lies on the slope of the curve theta (4,), and not all on its flat ends."""
        below = self._terms(theta[None]).below[0, self.defect == 1]
        return bool(np.any(np.abs(below - 0.5) < 0.5 - 1e-6))

    def covariance(self, theta: Floats) -> Floats:
        """(4, 4) inverse expected information at theta (4,), zero for what is fixed or on its border."""
        free = [0, 1, *(k for k in self.asymptotes if _LOW[k] < theta[k] < _HIGH[k])]
        covariance = np.zeros((4, 4))
        information = self.score(theta[None])[1][0]
        covariance[np.ix_(free, free)] = np.linalg.pinv(information[np.ix_(free, free)], hermitian=True)
        return covariance

    @property
    def lowest(self) -> Floats:
        return np.array([-np.inf, 0 if self.rising else -np.inf, 0, 0])

    @property
    def asymptotes(self) -> list[int]:
        """Columns of theta with the asymptotes that are estimated."""
        return [2] * self.blanks + [3] * self.ceiling

    def _terms(self, theta: Floats) -> _Terms:
        a, b, g, d = (theta[:, k, None] for k in range(4))
        eta = a + b * self.z
        below = self.link.cdf(eta) * self.defect
        above = self.link.cdf(-eta) * self.defect + (1 - self.defect)
        f = self.link.density(eta) * self.defect
        pod = np.maximum(g + (d - g) * below, _FLOOR)
        miss = np.maximum(1 - d + (d - g) * above, _FLOOR)
        return _Terms(f, below, above, pod, miss, self.weight * ((d - g) * f) ** 2 / (pod * miss))

    def _slopes(self, theta: Floats, t: _Terms) -> Floats:
        """Derivative (J, n, 4) of P at the data rows by theta."""
        by_eta = (theta[:, 3] - theta[:, 2])[:, None] * t.f
        return np.stack([by_eta, by_eta * self.z, t.above, t.below], axis=2)

    def _determinant(self, information: Floats) -> tuple[Floats, Floats]:
        """Determinant (J,) of the information I of (a, b), and x' I^-1 x (J, n) of each row x = (1, z)."""
        s0, s1, s2 = (np.sum(information * self.z**k, axis=1) for k in range(3))
        determinant = np.maximum(s0 * s2 - s1**2, 1e-300)
        quadratic = s2[:, None] - 2 * s1[:, None] * self.z + s0[:, None] * self.z**2
        return determinant, quadratic / determinant[:, None]

    def _gap(self, theta: Floats, through: Target) -> Floats:
        """How far P(z) lies above the value asked for (J,), in logits."""
        if through is None:
            return np.zeros(len(theta))
        pod = np.clip(self.pod(theta, through[0]), _FLOOR, 1 - _FLOOR)
        gap: Floats = logit(pod) - logit(through[1])
        return gap

    def _normal(self, theta: Floats, through: Target) -> Floats:
        """Gradient (J, 4) of the gap."""
        if through is None:
            return np.zeros(theta.shape)
        z, (a, b, g, d) = through[0], theta.T
        eta = a + b * z
        below, above, by_eta = self.link.cdf(eta), self.link.cdf(-eta), (d - g) * self.link.density(eta)
        odds = np.maximum((g + (d - g) * below) * (1 - d + (d - g) * above), _FLOOR)
        normal: Floats = np.stack([by_eta, by_eta * z, above, below], axis=1) / odds[:, None]
        return normal


def _log_odds(t: _Terms) -> Floats:
    log_odds: Floats = np.log(t.pod / t.miss)
    return log_odds


def _of(through: Target, rows: NDArray[np.intp]) -> Target:
    return None if through is None else (through[0][rows], through[1][rows])


def _newton(
    gradient: Floats, information: Floats, normal: Floats, gap: Floats, held: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Step (J, k) that climbs while it closes the gap, and the gap's Lagrange multiplier (J,)."""
    size = np.sqrt(np.einsum("jii->ji", information)) + 1e-6
    scaled = information / (size[:, :, None] * size[:, None, :])
    scaled[held[:, :, None] | held[:, None, :]] = 0
    scaled += np.eye(size.shape[1]) * (held + 1e-10)[:, :, None]
    sides = np.where(held[:, :, None], 0, np.stack([gradient, normal], axis=2) / size[:, :, None])
    climb, across = np.moveaxis(np.linalg.solve(scaled, sides), 2, 0)
    slack = np.sum(sides[:, :, 1] * across, axis=1)
    multiplier = (np.sum(sides[:, :, 1] * climb, axis=1) + gap) / np.maximum(slack, 1e-30)
    return (climb - multiplier[:, None] * across) / size, multiplier
