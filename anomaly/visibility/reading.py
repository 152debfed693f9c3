"""What measured visibility means, in words, and which dial to try."""

from __future__ import annotations

from anomaly.config import RunConfig
from anomaly.visibility.index import Interval
from anomaly.visibility.measure import FUSED, Graded, Measured

BLIND = 0.25
"""Visibility below which a scorer hardly sees a probe, even where its strongest magnitude passes."""

FEWEST = 6
"""Photos below which no interval is given: they say little of other photos."""

FROZEN = " Expect little of it while the backbone is pretrained and frozen."


def answer(measured: Measured) -> str:
    """The result in one sentence."""
    blind = [_named(graded) for graded in measured.graded if graded.seen[FUSED].passes_at is None]
    index, found = f"suppression index {measured.index():.2f}", interval(measured)
    if found is None:
        index += f", without an interval, which takes {FEWEST} photos"
    else:
        index += f" ({found[0]:.2f} to {found[1]:.2f} with 95 % confidence)"
    these = f"In these {photos(measured)} photos the model"
    if not blind:
        return f"{these} sees every probe at the strongest magnitude tried (AUROC .9 or more); {index}."
    return f"{these} does not see {listed(blind)} at any magnitude tried (AUROC below .9); {index}."


def photos(measured: Measured) -> int:
    """How many photos were probed."""
    return len(measured.untouched[FUSED])


def interval(measured: Measured, scorer: str = FUSED) -> Interval | None:
    """That of the suppression index; None of too few photos."""
    return measured.interval(scorer) if photos(measured) >= FEWEST else None


def remedies(measured: Measured, config: RunConfig, image_size: int) -> list[str]:
    """For each probe that the fused score does not see, or hardly: what to try, worst first."""
    hidden = [
        g for g in measured.graded if g.seen[FUSED].passes_at is None or g.seen[FUSED].visibility < BLIND
    ]
    hidden.sort(key=lambda graded: graded.seen[FUSED].visibility)
    return [f"{_named(graded)}: {_remedy(graded, config, image_size)}" for graded in hidden]


def magnitude(graded: Graded, scorer: str) -> str:
    """Where a scorer passes an AUROC of .9, with the unit."""
    at, unit = graded.seen[scorer].passes_at, graded.probe.unit
    if at is None:
        return f"not up to {graded.magnitudes[-1]:g} {unit}"
    return f"{'up to ' if at <= graded.magnitudes[0] else ''}{at:.3g} {unit}"


def listed(names: list[str]) -> str:
    """a, b and c"""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _named(graded: Graded) -> str:
    return graded.probe.name.replace("_", " ")


def _remedy(graded: Graded, config: RunConfig, image_size: int) -> str:
    probe, contrastive = graded.probe, config.contrastive
    fused = graded.seen[FUSED]
    state = f"{magnitude(graded, FUSED)} (visibility {fused.visibility:.2f}). "
    best = max((s for s in graded.seen if s != FUSED), key=lambda s: graded.seen[s].visibility)
    passes = graded.seen[best].passes_at is not None
    if passes and graded.seen[best].visibility > fused.visibility + BLIND:
        return (
            f"{state}The {best} branch sees it ({magnitude(graded, best)}), but its weight in the mix is "
            f"small: try fusion.weighting: equal."
        )
    if probe.resembles and contrastive.augmentation_strength > 0:
        frozen = FROZEN if config.backbone != "none" and not contrastive.fine_tune else ""
        return (
            f"{state}The views that the encoder learns from differ by {listed(list(probe.resembles))}, and "
            f"what views differ in is ignored: try a lower contrastive.augmentation_strength (now "
            f"{contrastive.augmentation_strength:g}), unless such changes are normal for the product.{frozen}"
        )
    if probe.kind == "defect":
        return (
            f"{state}Try a larger image.image_size (now {image_size} px), so that it covers more patches, "
            f"then a larger contrastive.embedding_size (now {contrastive.embedding_size})."
        )
    return f"{state}Try a larger contrastive.embedding_size (now {contrastive.embedding_size})."
