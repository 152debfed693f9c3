"""Charts as inline SVG. Geometry is in per cent and text in px, so they read the same from 320 to 900 px.

Colours and margins come from the page's `style.css` (classes `chart`, `plot`, `s0` .. `s3`). Names and labels
are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
BAR_WIDTHS = (0.92, 0.5, 0.25, 0.12)
"""Share of a bin that each series' bars take: later series stand narrower, in front of earlier ones."""
LINE_TONES = ("s1", "s2", "s3", "s0")


@dataclass(frozen=True, slots=True)
class Line:
    """One curve, and where there are both bounds, the band around it. All of one length, x ascending."""

    name: str
    x: ArrayLike
    y: ArrayLike
    lower: ArrayLike | None = None
    upper: ArrayLike | None = None


@dataclass(frozen=True, slots=True)
class Points:
    """Single values drawn as dots, in the colour of the line of that name, else in the next one free."""

    name: str
    x: ArrayLike
    y: ArrayLike


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    label: str
    unit: str = ""
    log: bool = False
    """Equal ratios are equally far apart; `low` is above 0."""

    def at(self, value: float) -> float:
        """Position in per cent of the axis."""
        if self.log:
            return round(100 * math.log(value / self.low) / math.log(self.high / self.low), 3)
        return round(100 * (value - self.low) / (self.high - self.low), 3)

    def ticks(self, about: int) -> list[tuple[float, str]]:
        values = (log_ticks if self.log else round_ticks)(self.low, self.high, about)
        return [(self.at(t), f"{t:.10g}{self.unit}") for t in values]


def round_ticks(low: float, high: float, about: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside [low, high], `about` so many; `low` < `high`."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((1, 2, 5, 10), key=lambda m: abs(m * power - rough)) * power
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def log_ticks(low: float, high: float, about: int) -> list[float]:
    """1, 2 and 5 times powers of ten inside [low, high], powers of ten alone where these are too many, and
    evenly spaced round values where they are too few; 0 < `low` < `high`."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for leads in ((1, 2, 5), (1,)):
        ticks = [lead * 10.0**power for power in powers for lead in leads]
        ticks = [float(f"{t:.12g}") for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
        if len(ticks) < 3:
            return round_ticks(low, high, about)
        if len(ticks) <= 2 * about:
            return ticks
    return ticks[:: -(-len(ticks) // about)]


def histogram(
    series: Mapping[str, ArrayLike],
    marks: Mapping[str, float],
    *,
    x_label: str,
    y_label: str,
    upper: float | None = None,
    bins: int = 40,
) -> Markup:
    """Share of each series' own values by bin (a, b], with a labelled line at each of `marks`.

    The first mark is an edge between bins, so no bar stands on both sides of it. Values above `upper` are
    counted in the last bar, and a sentence says so.
    """
    given = {name: np.asarray(values, np.float64) for name, values in series.items()}
    shown = {name: np.minimum(values, np.inf if upper is None else upper) for name, values in given.items()}
    edges = _edges(
        np.concatenate([*shown.values(), [*marks.values()]]), next(iter(marks.values()), None), bins
    )
    shares = {name: _shares(values, edges) for name, values in shown.items()}
    x = _Axis(float(edges[0]), float(edges[-1]), x_label)
    y = _Axis(0.0, max([1.0, *(float(share.max()) for share in shares.values())]) * 1.05, y_label, " %")
    bars = []
    for i, (name, share) in enumerate(shares.items()):
        wide = (x.at(edges[1]) - x.at(edges[0])) * BAR_WIDTHS[i]
        for low, high, part in zip(edges[:-1], edges[1:], share, strict=True):
            if part:
                bars.append(
                    f'<rect class="s{i}" x="{(x.at(low) + x.at(high) - wide) / 2:.3f}%" width="{wide:.3f}%" '
                    f'y="{100 - y.at(part):.3f}%" height="{y.at(part):.3f}%">'
                    f"<title>{escape(name)}: {part:.3g} % between {low:.4g} and {high:.4g}</title></rect>"
                )
    keys = [(f"s{i}", f"{name} (n = {values.size})") for i, (name, values) in enumerate(given.items())]
    beyond = 0 if upper is None else sum(int((values > upper).sum()) for values in given.values())
    note = f"Of these, {beyond} above {upper:.4g} are counted in the last bar." if beyond else ""
    return _chart(x, y, keys, marks, "".join(bars), note)


def _edges(values: Floats, anchor: float | None, bins: int) -> Floats:
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    flat = high - low <= 1e-9 * max(abs(low), abs(high))
    width = (max(abs(high), 1.0) if flat else high - low) / bins
    anchor = low if anchor is None else anchor
    first, last = math.floor((low - anchor) / width), math.ceil((high - anchor) / width)
    return np.asarray(anchor + width * np.arange(first, max(last, first + 1) + 1), np.float64)


def _shares(values: Floats, edges: Floats) -> Floats:
    at = np.clip(np.searchsorted(edges, values, "left") - 1, 0, len(edges) - 2)
    counts = np.bincount(at, minlength=len(edges) - 1)
    return np.asarray(100 * counts / max(values.size, 1), np.float64)


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    marks: Mapping[str, float] | None = None,
    points: Sequence[Points] = (),
    log_x: bool = False,
) -> Markup:
    """Curves and sets of points of up to four names, told apart by colour and dash, with a labelled upright
    line at each of `marks`. With `log_x` every x is above 0 and equal ratios are equally far apart."""
    marks = marks or {}
    xs = [np.asarray(v, np.float64) for v in (*(line.x for line in lines), *(dots.x for dots in points))]
    ys = [
        np.asarray(v, np.float64) for line in lines for v in (line.y, line.lower, line.upper) if v is not None
    ]
    ys += [np.asarray(dots.y, np.float64) for dots in points]
    x = _Axis(*_range([*xs, np.array([*marks.values()], np.float64)], log=log_x), x_label, log=log_x)
    y = _Axis(*(y_range or _range(ys)), y_label)
    drawn, keys = [], []
    for line, tone in zip(lines, LINE_TONES, strict=False):
        keys.append((tone, line.name))
        if line.lower is not None and line.upper is not None:
            there, back = _points(x, y, line.x, line.upper), _points(x, y, line.x, line.lower)[::-1]
            drawn.append(f'<path class="band {tone}" d="M{" ".join(there + back)}Z"/>')
        drawn.append(f'<path class="line {tone}" d="M{" ".join(_points(x, y, line.x, line.y))}"/>')
    paths = (
        '<svg width="100%" height="100%" viewBox="0 0 100 100" preserveAspectRatio="none" overflow="visible">'
        f"{''.join(drawn)}</svg>"
    )
    named = {line.name: tone for line, tone in zip(lines, LINE_TONES, strict=False)}
    free = iter(LINE_TONES[len(lines) :])
    for dots in points:
        if dots.name not in named:
            named[dots.name] = next(free)
            keys.append((named[dots.name], dots.name))
        pairs = zip(np.asarray(dots.x, np.float64), np.asarray(dots.y, np.float64), strict=True)
        paths += "".join(
            f'<circle class="{named[dots.name]}" cx="{x.at(a)}%" cy="{100 - y.at(b):g}%" r="3.5">'
            f"<title>{escape(dots.name)}: {a:.4g}, {b:.4g}</title></circle>"
            for a, b in pairs
        )
    return _chart(x, y, keys, marks, paths)


def _range(arrays: Sequence[Floats], *, log: bool = False) -> tuple[float, float]:
    """Least and largest value, and some room around them where they are the same."""
    values = np.concatenate(arrays)
    low, high = float(values.min()), float(values.max())
    if low < high:
        return low, high
    return (low / 1.5, high * 1.5) if log else (low - 0.5, high + 0.5)


def _points(x: _Axis, y: _Axis, xs: ArrayLike, ys: ArrayLike) -> list[str]:
    pairs = zip(np.asarray(xs, np.float64), np.asarray(ys, np.float64), strict=True)
    return [f"{x.at(a):g},{100 - y.at(b):g}" for a, b in pairs]


def heat_table(
    rows: Sequence[str],
    columns: Sequence[str],
    values: ArrayLike,
    *,
    low: float,
    high: float,
    corner: str = "",
    digits: int = 3,
    legend: str = "",
    under: Sequence[Sequence[str]] | None = None,
) -> Markup:
    """(R, C) numbers as a table, each cell shaded from `low` (plain) to `high` (strong); NaN is a dash.

    `corner` names rows and columns; `legend` names the value, and adds a key to the shades. `under` are
    small words below each number, such as its interval.
    """
    head = "".join(f'<th scope="col" class="num">{escape(column)}</th>' for column in columns)
    body = []
    below = under or [[""] * len(columns)] * len(rows)
    for name, cells, words in zip(rows, np.asarray(values, np.float64), below, strict=True):
        shaded = "".join(
            _heat_cell(float(cell), low, high, digits, word) for cell, word in zip(cells, words, strict=True)
        )
        body.append(f'<tr><th scope="row">{escape(name)}</th>{shaded}</tr>')
    key = ""
    if legend:
        key = (
            f'<figcaption class="ramp"><span>{escape(legend)}</span> {low:.{digits}f} or less <i></i> '
            f"{high:.{digits}f} or more</figcaption>"
        )
    return Markup(
        f'<figure class="grid"><div class="scroll"><table class="heat"><thead><tr><th scope="col">'
        f"{escape(corner)}</th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>{key}</figure>"
    )


def _heat_cell(value: float, low: float, high: float, digits: int, under: str) -> str:
    if math.isnan(value):
        return '<td class="num">\N{EN DASH}</td>'
    strength = min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.0
    small = f"<small>{escape(under)}</small>" if under else ""
    return f'<td class="num" style="--heat:{strength:.2f}">{value:.{digits}f}{small}</td>'


def _chart(
    x: _Axis,
    y: _Axis,
    keys: Sequence[tuple[str, str]],
    marks: Mapping[str, float],
    body: str,
    note: str = "",
) -> Markup:
    """Axes, grid, key (class, name) and marks around `body`.

    A nested <svg> is an anchor at a per cent place, inside which offsets are px.
    """
    parts = [
        f'<svg y="{100 - at}%" width="100%" height="1" overflow="visible"><line class="grid" x2="100%"/>'
        f'<text x="-8" dy=".32em" text-anchor="end">{text}</text></svg>'
        for at, text in y.ticks(4)
    ]
    parts += [
        f'<svg x="{at}%" y="100%" width="1" height="1" overflow="visible"><line y2="5"/>'
        f'<text y="19" text-anchor="middle">{text}</text></svg>'
        for at, text in x.ticks(6)
    ]
    parts += [body, '<line x2="100%" y1="100%" y2="100%"/>']
    parts += [f'<text x="50%" y="100%" dy="39" text-anchor="middle">{escape(x.label)}</text>']
    lines, labels = [], []
    for i, (name, value) in enumerate(marks.items()):
        side, push = ("end", -5) if x.at(value) > 50 else ("start", 5)
        top = -5 - 17 * i
        anchor = f'<svg class="mark m{i}" x="{x.at(value)}%" width="1" height="100%" overflow="visible">'
        lines.append(f'{anchor}<line y1="{top - 11}" y2="100%"/></svg>')
        labels.append(f'{anchor}<text x="{push}" y="{top}" text-anchor="{side}">{escape(name)}</text></svg>')
    parts += lines + labels
    key = "".join(f'<span><i class="{tone}"></i>{escape(name)}</span>' for tone, name in keys)
    return Markup(
        f'<figure class="chart"><div class="key">{key}</div><div>{escape(y.label)}</div>'
        f'<svg class="plot" style="margin-top:{12 + 17 * len(marks)}px" role="img" '
        f'aria-label="{escape(y.label)} over {escape(x.label)}">{"".join(parts)}</svg>'
        f"{f'<figcaption>{escape(note)}</figcaption>' if note else ''}</figure>"
    )
