"""Does the product lie at any angle? Found from good photos alone; and turned copies of them, if it does.

A part at any angle is seen by few training photos as the next one will lie. Where turned copies of some
photos bring others nearer to the memory bank, the product lies so, and copies are learnt from; where it
always lies alike they bring nothing nearer, and a turned part stays an anomaly.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from anomaly import distributed
from anomaly.detector import Photo
from anomaly.maps import top_mean
from anomaly.models.encoder import Encoder, Raw, as_tensor
from anomaly.models.training import Progress, Silent
from anomaly.neighbours import Floats, MemoryBank
from anomaly.scorers.eigenimages import contrast, grid_of
from anomaly.spread import evenly

ANSWERING, ASKING = 16, 12
"""Training photos that are turned, and others that are held against the copies, at most."""
LONGEST = 2.0
"""How many times longer than wide photos may be: nothing that fills a longer one is turned in it."""
SHARE = 0.01
"""Share of a photo's patches, the farthest from the bank, whose mean distance is compared."""
GAIN, ASKEW_GAIN = 0.02, 0.1
"""What copies must bring others nearer, as a share of what as many further photos bring: those turned far,
which the lamp lights from another side than their photo, and those turned by a few degrees."""
ASKEW = 8
"""A few degrees."""
LEAST_GAIN = 1e-3
"""And what they must bring at least, where further photos bring next to nothing."""
MOST = 600
"""Photos and copies together, at most: where photos are many, they show what copies would."""
ROUNDS = 8
"""Copies of one photo, at most."""
ALIKE = 0.05
"""By how much photos correlate more with the mean of others than with the mean of these turned askew, where
they lie alike: brackets, cells and ball screws .13 to .7, bottles and turned brackets .02 at most."""


def lies_at_any_angle(
    encoder: Encoder, known: Sequence[tuple[Photo, Raw]], progress: Progress | None = None
) -> bool:
    """Whether turned copies of working photos, `known` with their raw features (C, h, w), are good photos.

    Some photos ask for their nearest patches among those of others, the mean distance of their farthest
    patches is what counts, and copies of the others must shorten it by a share of what as many further photos
    do. They are turned by angles between quarters, where a part that merely lies askew, or upside down, does
    not lie; and by a few degrees, where a part at any angle looks as good, in the same light. Fewer than four
    photos do not tell, and long ones show what always lies along them. Features that learnt from nothing find
    turned parts as good as others where they should not: there, what `lies_alike` is not asked.
    """
    if np.median([max(photo.shape[:2]) / min(photo.shape[:2]) for photo, _ in known]) > LONGEST:
        return False
    places = evenly(range(len(known)), 2 * ANSWERING + ASKING)
    if len(places) < 4:
        return False
    third = max(1, len(places) * ANSWERING // (2 * ANSWERING + ASKING))
    order = np.random.default_rng(0).permutation(places)
    answering, further, asking = order[:third], order[third : 2 * third], order[2 * third :]
    far = [
        turned(known[i][0], 45 + 90 * turn + 28 * (_spread(turn) - 0.5)) for turn, i in enumerate(answering)
    ]
    askew = [turned(known[i][0], ASKEW * (-1) ** turn) for turn, i in enumerate(answering)]
    plain, others = ([known[i][0] for i in part] for part in (answering, asking))
    if not encoder.backbone.pretrained and distributed.from_first(lambda: lies_alike(plain, askew, others)):
        return False
    shown = progress or Silent()
    seen = distributed.each(
        lambda copy: _patches(encoder, encoder.raw(copy, ["embedding"])),
        [*far, *askew],
        lambda done: shown.step("angles", done, 2 * third),
    )

    def borne_out() -> bool:
        """One process decides for all."""
        some, more, asked = (
            [_patches(encoder, known[i][1]) for i in part] for part in (answering, further, asking)
        )
        bank = MemoryBank.build(np.concatenate(some))
        plain = [bank.distance(queries) for queries in asked]
        wanted = _gain(plain, asked, more)
        return _gain(plain, asked, seen[:third]) > max(GAIN * wanted, LEAST_GAIN) and (
            _gain(plain, asked, seen[third:]) > max(ASKEW_GAIN * wanted, LEAST_GAIN)
        )

    return distributed.from_first(borne_out)


def lies_alike(photos: Sequence[Photo], askew: Sequence[Photo], asking: Sequence[Photo]) -> bool:
    """Whether the photos `asking` look like the mean of `photos` more than like the mean of these turned
    `askew`: median difference of their correlations, in local contrast."""
    size = grid_of([(photo.shape[0], photo.shape[1]) for photo in photos])

    def little(some: Sequence[Photo]) -> Floats:
        """(N, C * h * w)"""
        seen = [contrast(as_tensor(photo) / 255, size).flatten() for photo in some]
        return np.asarray([row.numpy() for row in seen], np.float32)

    plain, turned_few = little(photos).mean(0), little(askew).mean(0)
    nearer = [_correlation(one, plain) - _correlation(one, turned_few) for one in little(asking)]
    return float(np.median(nearer)) > ALIKE


def turned_copies(photos: Sequence[Photo]) -> list[tuple[int, Photo]]:
    """Copies of working `photos` at all angles, each behind the index of its photo: ROUNDS of each, or as
    many as MOST leaves room for, those of the last round of evenly spread photos."""
    room = min(ROUNDS * len(photos), max(0, MOST - len(photos)))
    made: list[tuple[int, Photo]] = []
    for turn in range(-(-room // len(photos))):
        count = min(len(photos), room - len(made))
        for index in np.linspace(0, len(photos), count, endpoint=False).astype(int).tolist():
            made.append((index, turned(photos[index], 360 * (turn + _spread(index)) / ROUNDS)))
    return made


def turned(photo: Photo, angle: float) -> Photo:
    """A working photo (H, W, 3) turned by `angle` degrees about its middle, of the same size; what came from
    outside is mirrored at the edge."""
    height, width = photo.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
    return np.asarray(cv2.warpAffine(photo, turn, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)


def _patches(encoder: Encoder, raw: Raw) -> Floats:
    """The embeddings (h * w, D)."""
    values: Floats = encoder.embed(encoder.features(raw)).flatten(1).T.numpy()
    return values


def _correlation(first: Floats, second: Floats) -> float:
    """Pearson's; 0 where either is even."""
    first, second = first - first.mean(), second - second.mean()
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second) + 1e-12))


def _gain(plain: Sequence[Floats], asked: Sequence[Floats], answers: Sequence[Floats]) -> float:
    """The share by which `answers` shorten the `plain` distances of the farthest patches that are `asked`."""
    bank = MemoryBank.build(np.concatenate(answers))
    nearer = [np.minimum(one, bank.distance(queries)) for one, queries in zip(plain, asked, strict=True)]
    before, after = (sum(top_mean(one, SHARE) for one in distances) for distances in (plain, nearer))
    return 1 - after / (before + 1e-12)


def _spread(index: int) -> float:
    """Numbers in [0, 1) that lie evenly, however many are taken: multiples of the golden ratio."""
    return float((index + 1) * (5**0.5 - 1) / 2 % 1)
