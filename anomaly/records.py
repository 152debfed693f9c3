"""What passes from room to room. Positions are (row, col), sizes (H, W), higher scores more anomalous."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

Split = Literal["train", "test"]
Label = Literal["normal", "anomalous"]
Decision = Literal["normal", "review", "anomalous", "error"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One photo of a data set, and what is known of it."""

    path: Path
    split: Split = "train"
    label: Label | None = "normal"
    defect_type: str | None = None
    mask: Path | None = None
    group: str | None = None
    """Lot, part or camera: photos of one group never stand on both sides of a split."""


@dataclass(frozen=True, slots=True)
class Region:
    """One connected area of the anomaly map above the threshold, in pixels of the original photo."""

    box: tuple[int, int, int, int]
    """(top row, left col, bottom row, right col), the last two exclusive."""
    area: int
    peak: float
    """The anomaly map's largest value inside the region."""
    mean: float | None = None
    """Its mean there."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the model says of one photo. An unreadable photo is `error`, never `normal`."""

    path: str
    decision: Decision
    image_score: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    """Share of known normal photos, this one counted among them, that score at least as high."""
    regions: tuple[Region, ...] = field(default=())
    milliseconds: float | None = None
    """From reading the photo to the verdict."""
    error: str | None = None
    heatmap: str | None = None
    """File of the overlay, relative to the output folder; for what is not normal."""
    anomaly_map: str | None = None
    """File of the raw map, float32 TIFF of the photo's own size, likewise."""
    version: int | None = None
    """Version of the policy that decided; 0 is what the model was born with."""
    group: str | None = None
    """Product, camera or lot whose thresholds were asked for."""
    review_threshold: float | None = None
    """Lower end of the band that people look at, where there is one."""
    size: tuple[int, int] | None = None
    """(H, W) of the photo."""
    remark: str | None = None
    """Why it scores far above its map, where it does, see `anomaly.detector.placed`."""

    def to_dict(self) -> dict[str, Any]:
        """What is recorded of it. All but `milliseconds` is the same whenever the photo is judged again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Undo `to_dict`, also after a passage through JSON. Raises TypeError or KeyError for others."""
        found = tuple(Region(**{**part, "box": tuple(part["box"])}) for part in fields["regions"])
        size = fields.get("size")
        return cls(**{**fields, "regions": found, "size": None if size is None else tuple(size)})
