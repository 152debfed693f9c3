"""Pictures of an anomaly map: one colour scale for a whole run, anchored at the threshold.

Below the threshold a quiet slate ramp; above it vermilion to yellow, up to a ceiling. The scale rises in
luminance throughout, so it survives a grey print, and runs from blue to yellow, the axis that colour-blind
eyes keep. A value has the same colour in every picture that shares `threshold` and `ceiling`.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly.errors import ConfigError, DataError
from anomaly.records import Region

Image = NDArray[np.uint8]
AnomalyMap = NDArray[np.floating]

QUIET = ((13, 17, 25), (38, 48, 66), (66, 82, 108))
HOT = ((214, 66, 28), (239, 118, 26), (250, 172, 36), (255, 234, 92))
STEPS = 256
"""Colours on either side of the threshold."""
QUIET_ALPHA, HOT_ALPHA = (0.0, 0.08), (0.45, 0.7)
"""Weight of the colour in an overlay, from (bottom to threshold), (threshold to ceiling)."""
OUTLINE_COLOUR = (255, 221, 0)


def _ramp(anchors: tuple[tuple[int, int, int], ...]) -> NDArray[np.float64]:
    at = np.linspace(0, len(anchors) - 1, STEPS)
    return np.stack(
        [np.interp(at, range(len(anchors)), channel) for channel in zip(*anchors, strict=True)], 1
    )


PALETTE: Image = np.rint(np.concatenate([_ramp(QUIET), _ramp(HOT)])).astype(np.uint8)
"""(2 * STEPS, 3) RGB: the quiet half, then the hot half."""
ALPHA = np.concatenate([np.linspace(*QUIET_ALPHA, STEPS), np.linspace(*HOT_ALPHA, STEPS)]).astype(np.float32)
KEPT, PAINT = 1 - ALPHA, PALETTE * ALPHA[:, None]
"""What an overlay keeps of the photo, and what it adds to it."""


def _bottom(threshold: float, ceiling: float) -> float:
    """The value of the darkest colour: 0, or as far below a threshold <= 0 as the ceiling is above it."""
    if not threshold < ceiling:
        raise ConfigError(
            f"the colour scale's ceiling {ceiling:g} must lie above its threshold {threshold:g}: "
            "choose one ceiling for the run, such as twice the threshold"
        )
    return 0.0 if threshold > 0 else 2 * threshold - ceiling


def _steps(anomaly_map: AnomalyMap, threshold: float, ceiling: float) -> NDArray[np.intp]:
    """(H, W) rows of PALETTE. A value equal to the threshold is quiet; not a number is the bottom."""
    bottom = _bottom(threshold, ceiling)
    # Compared in float64, as image scores are: a float32 map must not round a value across the threshold.
    values = anomaly_map.astype(np.float64)
    quiet = (values - bottom) * ((STEPS - 1) / (threshold - bottom))
    hot = (values - threshold) * ((STEPS - 1) / (ceiling - threshold)) + STEPS
    steps = np.where(values > threshold, hot, quiet)
    np.fmax(steps, 0, out=steps)
    np.fmin(steps, 2 * STEPS - 1, out=steps)
    return np.rint(steps, out=steps).astype(np.intp)


def _check_same_size(image: Image, anomaly_map: AnomalyMap) -> None:
    if image.shape[:2] != anomaly_map.shape:
        raise DataError(
            f"the photo is {image.shape[:2]} and its anomaly map {anomaly_map.shape}: "
            "resize the map to the photo before drawing it"
        )


def colourise(anomaly_map: AnomalyMap, threshold: float, ceiling: float) -> Image:
    """(H, W) scores -> (H, W, 3) uint8 RGB. Values at or above `ceiling` share the hottest colour."""
    return PALETTE[_steps(anomaly_map, threshold, ceiling)]


def overlay(image: Image, anomaly_map: AnomalyMap, threshold: float, ceiling: float) -> Image:
    """Heatmap over the photo, (H, W, 3) uint8 RGB: below the threshold the photo keeps 92 % or more."""
    _check_same_size(image, anomaly_map)
    steps = _steps(anomaly_map, threshold, ceiling)
    kept = KEPT.take(steps)
    drawn = np.empty(image.shape, np.float32)
    for channel in range(image.shape[2]):  # rows of three are slow to look up, and to spread over
        np.multiply(image[..., channel], kept, out=drawn[..., channel])
        drawn[..., channel] += PAINT[:, channel].take(steps)
    return np.asarray(np.rint(drawn, out=drawn), np.uint8)


def outline(image: Image, anomaly_map: AnomalyMap, threshold: float) -> Image:
    """The photo with a yellow line in a black one around each region, beside the defect and not upon it."""
    _check_same_size(image, anomaly_map)
    line = max(1, round(max(image.shape[:2]) / 250))
    reach = 4 * line + 1
    mask = (anomaly_map.astype(np.float64) > threshold).astype(np.uint8)
    around = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))
    contours, _ = cv2.findContours(around, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = np.ascontiguousarray(image).copy()
    cv2.drawContours(drawn, contours, -1, (0, 0, 0), 3 * line, cv2.LINE_AA)
    cv2.drawContours(drawn, contours, -1, OUTLINE_COLOUR, line, cv2.LINE_AA)
    return drawn


def regions(anomaly_map: AnomalyMap, threshold: float, min_area: int = 0) -> tuple[Region, ...]:
    """Connected areas (8 neighbours) above the threshold, highest peak first, of `min_area` px or more."""
    mask = anomaly_map > np.float64(threshold)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    inside, values = labels[mask], anomaly_map[mask]
    peaks = np.full(count, -np.inf, anomaly_map.dtype)
    np.maximum.at(peaks, inside, values)
    sums = np.bincount(inside, values, count)
    found = [
        Region((top, left, top + height, left + width), area, float(peak), float(total) / area)
        for (left, top, width, height, area), peak, total in zip(
            stats[1:].tolist(), peaks[1:], sums[1:], strict=True
        )
        if area >= min_area
    ]
    return tuple(sorted(found, key=lambda region: (-region.peak, -region.area, region.box)))


def thumbnail(image: Image, max_side: int) -> Image:
    """The image with its longer side at most `max_side` px; never enlarged."""
    height, width = image.shape[:2]
    shrink = max_side / max(height, width)
    if shrink >= 1:
        return image
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def png_bytes(image: Image) -> bytes:
    """(H, W) grey or (H, W, 3) RGB uint8 -> a PNG file's bytes."""
    return _encode(image, ".png", [])


def jpeg_bytes(image: Image, quality: int = 85) -> bytes:
    """(H, W) grey or (H, W, 3) RGB uint8 -> a JPEG file's bytes; `quality` in 0 .. 100."""
    return _encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def _encode(image: Image, suffix: str, options: list[int]) -> bytes:
    swapped = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return bytes(cv2.imencode(suffix, swapped, options)[1])


def legend(threshold: float, ceiling: float) -> str:
    """The colour scale as an SVG element that takes the text colour of the page around it."""
    bottom = _bottom(threshold, ceiling)
    left, middle, right, top, bars = 14, 120, 330, 20, 30
    parts = []
    for low, high, half in ((left, middle, 0), (middle, right, STEPS)):
        step = (high - low) / bars
        colours = PALETTE[half + np.linspace(0, STEPS - 1, bars).astype(int)]
        parts += [
            f'<rect x="{low + step * i:.1f}" y="{top}" width="{step + 0.4:.1f}" height="14" '
            f'fill="rgb({r},{g},{b})"/>'
            for i, (r, g, b) in enumerate(colours)
        ]
    parts.append(f'<path d="M{middle} 15V39" stroke="currentColor" stroke-width="2"/>')
    for x, y, anchor, text in (
        (left, 48, "start", f"{bottom:.3g}"),
        (middle, 12, "middle", f"threshold {threshold:.3g}"),
        (right, 48, "end", f"{ceiling:.3g} or more"),
    ):
        parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="currentColor">{text}</text>')
    return (
        '<svg viewBox="0 0 344 54" width="344" role="img" shape-rendering="crispEdges" '
        f'aria-label="Colour scale: slate up to the threshold {threshold:.3g}, then red to yellow" '
        f'style="max-width:100%;font:12px system-ui,sans-serif">{"".join(parts)}</svg>'
    )
