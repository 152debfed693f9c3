"""Which mirrored and turned copies of good photos are good photos as well, found from good photos alone.

A part that may lie either way round, or at any angle, is seen by few training photos as the next one will
lie. Where copies of some photos bring others nearer to the memory bank, the product varies in that way, and
copies are learnt from; where it does not, they bring nothing nearer, and a turned part stays an anomaly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor

from anomaly import distributed
from anomaly.detector import Photo
from anomaly.maps import top_mean
from anomaly.models.encoder import Encoder
from anomaly.models.training import Progress, Silent
from anomaly.neighbours import Floats, MemoryBank

ANSWERING, ASKING = 16, 12
"""Training photos that are copied, and others that are held against the copies, at most."""
SHARE = 0.01
"""Share of a photo's patches, the farthest from the bank, whose mean distance is compared."""
GAIN = 0.05
"""What copies must bring others nearer, as a share of what as many further photos bring."""
LEAST_GAIN = 1e-3
"""And what they must bring at least, where further photos bring next to nothing."""
MOST = 600
"""Photos and copies together, at most: where photos are many, they show what copies would."""
ROUNDS = 8
"""Copies of one photo by one symmetry, at most."""

Copy = Callable[[Photo, float], Photo]


@dataclass(frozen=True)
class Symmetry:
    """One way to make a copy of a working photo (H, W, 3), of the same size.

    `make` is given a number in [0, 1), which chooses among `ways` different copies.
    """

    name: str
    make: Copy
    ways: int = 1
    square: bool = False
    """Whether it takes square photos."""
    any_angle: bool = False
    """Whether no position on the photo is one of the product any more."""


def _turned(photo: Photo, angle: float) -> Photo:
    """Turned by `angle` degrees about the middle; what came from outside is mirrored at the edge."""
    height, width = photo.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
    return np.asarray(cv2.warpAffine(photo, turn, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)


SYMMETRIES = (
    Symmetry("mirrored left to right", lambda photo, _: photo[:, ::-1]),
    Symmetry("mirrored top to bottom", lambda photo, _: photo[::-1]),
    Symmetry("turned upside down", lambda photo, _: photo[::-1, ::-1]),
    Symmetry(
        "turned by a quarter",
        lambda photo, where: np.rot90(photo, 1 + 2 * int(2 * where)),
        ways=2,
        square=True,
    ),
    Symmetry(
        "turned by any angle",
        lambda photo, where: _turned(photo, 360 * where),
        ways=ROUNDS,
        any_angle=True,
    ),
)


def symmetries(
    encoder: Encoder,
    known: Sequence[tuple[Photo, Tensor]],
    progress: Progress | None = None,
) -> list[Symmetry]:
    """The symmetries of the product on working photos, `known` with their raw features (C, h, w).

    Some photos ask for their nearest patches among those of others, the mean distance of their farthest
    patches is what counts, and copies of the others must shorten it by GAIN of what as many further photos
    do. None of fewer than four photos.
    """
    places = np.linspace(0, len(known) - 1, min(len(known), 2 * ANSWERING + ASKING)).round().astype(int)
    if len(places) < 4:
        return []
    third = max(1, len(places) * ANSWERING // (2 * ANSWERING + ASKING))
    order = np.random.default_rng(0).permutation(places)
    answering, further, asking = order[:third], order[third : 2 * third], order[2 * third :]
    square = all(photo.shape[0] == photo.shape[1] for photo, _ in known)
    possible = [symmetry for symmetry in SYMMETRIES if square or not symmetry.square]
    made = [
        symmetry.make(known[index][0], _between_quarters(turn))
        for symmetry in possible
        for turn, index in enumerate(answering)
    ]
    shown = progress or Silent()
    seen = distributed.each(
        lambda copy: _patches(encoder, encoder.raw_features(copy)),
        made,
        lambda done: shown.step("symmetry", done, len(made)),
    )

    def borne_out() -> list[int]:
        """Which of the possible ones; one process decides for all."""
        some, more, asked = (
            [_patches(encoder, known[i][1]) for i in part] for part in (answering, further, asking)
        )
        bank = MemoryBank.build(np.concatenate(some))
        plain = [bank.distance(queries) for queries in asked]
        needed = max(GAIN * _gain(plain, asked, more), LEAST_GAIN)
        parts = [seen[k * third : (k + 1) * third] for k in range(len(possible))]
        return [k for k, part in enumerate(parts) if _gain(plain, asked, part) > needed]

    return [possible[k] for k in distributed.from_first(borne_out)]


def _patches(encoder: Encoder, raw: Tensor) -> Floats:
    """(C, h, w) raw features -> embeddings (h * w, D)."""
    values: Floats = encoder.embed(encoder.parts(raw)[0]).flatten(1).T.numpy()
    return values


def _gain(plain: Sequence[Floats], asked: Sequence[Floats], answers: Sequence[Floats]) -> float:
    """The share by which `answers` shorten the `plain` distances of the farthest patches that are `asked`."""
    bank = MemoryBank.build(np.concatenate(answers))
    nearer = [np.minimum(one, bank.distance(queries)) for one, queries in zip(plain, asked, strict=True)]
    before, after = (sum(top_mean(one, SHARE) for one in distances) for distances in (plain, nearer))
    return 1 - after / (before + 1e-12)


def copies(found: Sequence[Symmetry], photos: Sequence[Photo]) -> list[tuple[int, Photo]]:
    """Copies of working `photos` by the symmetries `found`, each behind the index of its photo. As many as
    MOST leaves room for: every photo once by each, then in the further ways that there are; of the last
    round, evenly spread photos."""
    plan = [(symmetry, way) for way in range(ROUNDS) for symmetry in found if way < symmetry.ways]
    room = min(len(plan) * len(photos), max(0, MOST - len(photos)))
    made: list[tuple[int, Photo]] = []
    for symmetry, way in plan[: -(-room // len(photos))]:
        count = min(len(photos), room - len(made))
        for index in np.linspace(0, len(photos), count, endpoint=False).astype(int).tolist():
            where = (way + _spread(index)) / symmetry.ways
            made.append((index, np.ascontiguousarray(symmetry.make(photos[index], where))))
    return made


def _between_quarters(index: int) -> float:
    """Numbers in [0, 1) within a twenty-fifth of 1/8, 3/8, 5/8 and 7/8 in turn: angles at which a part that
    merely lies a little askew, or upside down, does not lie."""
    return (index % 4) / 4 + 1 / 8 + 0.08 * (_spread(index) - 0.5)


def _spread(index: int) -> float:
    """Numbers in [0, 1) that lie evenly, however many are taken: multiples of the golden ratio."""
    return float((index + 1) * (5**0.5 - 1) / 2 % 1)
