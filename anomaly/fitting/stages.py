"""fit: good photos -> train | calibration -> encoder, scorers, statistics, threshold -> a detector."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from anomaly import distributed
from anomaly.calibration import Calibration
from anomaly.config import RunConfig
from anomaly.data.geometry import Geometry
from anomaly.detector import Detector, Photo, Scores, fuse, score_patches
from anomaly.fitting.oddities import odd_photos
from anomaly.fitting.photos import read_photos
from anomaly.fitting.turning import lies_at_any_angle, turned_copies
from anomaly.fitting.weighing import equal_weights, visibility_weights
from anomaly.maps import Map, MapStatistics, standardise_held_out
from anomaly.models.backbones import Backbone, build_backbone
from anomaly.models.contrastive import Defective, train_backbone, train_projection
from anomaly.models.encoder import Encoder, Raw, Whitening
from anomaly.models.picture import train_picture
from anomaly.models.training import Checkpoints, Progress, Silent
from anomaly.policy.policy import Policy
from anomaly.records import Sample
from anomaly.scorers import FitContext, Input, Scorer, Searching, build_scorers

PATCHES = 20_000
"""Patches of the training photos that principal directions are found from."""


@dataclass
class FitResult:
    """The detector, and how it came about."""

    detector: Detector
    train: list[Sample]
    calibration: list[Sample]
    calibration_scores: list[Scores]
    """In the order of `calibration`, each photo standardised by the others."""
    skipped: dict[str, str]
    """Path of every training photo that was left out -> why."""
    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    calibration_sizes: list[tuple[int, int]] = field(default_factory=list)
    """(H, W) of each calibration photo."""
    defects: list[Sample] = field(default_factory=list)
    """Real defects that the encoder learnt from."""
    uncut: str | None = None
    """Why photos are judged whole although they might be cut, in a sentence."""
    any_angle: bool = False
    """Whether the product lies at any angle and is not looked for: memory banks hold turned copies."""

    odd: list[Sample] = field(default_factory=list)
    """Training photos that stand out of the others, the oddest first."""

    @property
    def cut_out(self) -> Literal["no", "window", "upright"]:
        """What is judged of photos: all, the same window of each, or the product, turned upright."""
        geometry = self.detector.geometry
        return "upright" if geometry.upright else "window" if geometry.window else "no"


@dataclass
class Fit:
    """One run of `fit`, stage by stage. Only training photos are ever opened; defective ones only where the
    configuration has the encoder learn from them, see `anomaly.fitting.photos`."""

    config: RunConfig
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    progress: Progress = field(default_factory=Silent)
    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    backbone: Backbone | None = None
    """Used instead of the one that `config` names, where several fits share it."""

    def run(self, samples: Sequence[Sample]) -> FitResult:
        """Fit a detector on the normal training photos among `samples`.

        Raises DataError where there are too few readable photos, CalibrationError where they cannot
        support the threshold that was asked for.
        """
        config = self.config
        with self._timed("reading"):
            read = read_photos(config, samples, self.progress)
        photos, held_out_photos = read.train_photos, read.held_out_photos
        encoder, features = self._encoder(photos, [defect for _, defect in read.defects])
        plain = list(zip(photos, features, strict=True))
        del features
        with self._timed("angles"):
            any_angle, with_copies = False, plain
            if not read.geometry.upright:
                any_angle, with_copies = self._with_copies(encoder, plain, read.geometry)
            if any_angle:
                self.config = config = config.at_any_angle()
        scorers = self._scorers(encoder, plain, with_copies)
        with self._timed("oddities"):
            odd = self._odd(encoder, plain)
        del plain, with_copies
        with self._timed("picture"):
            picture = None
            if config.picture_steps:
                picture, self.losses["picture"] = train_picture(
                    photos,
                    config.picture_steps,
                    seed=config.seed,
                    checkpoints=self.checkpoints,
                    progress=self.progress,
                )
        with self._timed("calibration"):
            maps, raw = self._held_out_maps(encoder, scorers, held_out_photos)
            by = "position" if config.fusion.standardise_by == "auto" else config.fusion.standardise_by
            statistics = {name: MapStatistics.of(values, by) for name, values in maps.items()}
            standard = {name: standardise_held_out(values, by) for name, values in maps.items()}

        def detector_with(weights: Mapping[str, float], calibration: Calibration) -> Detector:
            policy = Policy.born(calibration)
            parts = (config, read.geometry, read.white_level, encoder, scorers, statistics)
            return Detector(*parts, weights, calibration, picture, policy)

        with self._timed("weighing"):
            weights = equal_weights(scorers)
            if config.fusion.weighting == "visibility":
                _, alike = self._calibrated(standard, weights)
                weights = visibility_weights(detector_with(weights, alike), held_out_photos, self.progress)
        scores, threshold = self._calibrated(standard, weights)
        groups = tuple(sorted({sample.group for sample in read.held_out if sample.group}))
        threshold = replace(threshold, groups=groups)
        with self._timed("extending"):
            for scorer in scorers.values():
                scorer.extend(TrainingMaps(encoder, raw, held_out_photos, scorer.input))
        return FitResult(
            detector_with(weights, threshold),
            read.train,
            read.held_out,
            scores,
            read.skipped,
            self.losses,
            self.seconds,
            [read.sizes[sample] for sample in read.held_out],
            [sample for sample, _ in read.defects],
            read.uncut,
            any_angle,
            [read.train[i] for i in odd],
        )

    def _encoder(self, photos: list[Photo], defects: list[Defective]) -> tuple[Encoder, list[Raw]]:
        """The trained encoder, and what its fixed networks make of the training photos, float16."""
        config = self.config
        backbone = self.backbone or build_backbone(config.backbone, seed=config.seed)
        size = config.contrastive.embedding_size
        encoder = Encoder(backbone, size, config.image.tile_size, _inputs(config))
        contrastive = config.contrastive.model_copy(update={"supervised_weight": config.supervised_weight})
        if config.contrastive.fine_tune or not backbone.pretrained:
            with self._timed("backbone"):
                self.losses["backbone"] = train_backbone(
                    encoder,
                    photos,
                    contrastive,
                    seed=config.seed,
                    checkpoints=self.checkpoints,
                    progress=self.progress,
                    defects=defects,
                )
        with self._timed("features"):
            if encoder.filtered:
                encoder.filters.start_from(photos, config.seed)
                distributed.same(encoder.filters)
            features = distributed.each(
                lambda photo: encoder.raw(photo).half(), photos, self._step("features", photos)
            )
            encoder.standardise_by(features)
        with self._timed("contrastive"):
            start_whitened(encoder, features, config.seed)
            self.losses["contrastive"] = train_projection(
                encoder,
                photos,
                contrastive,
                seed=config.seed,
                checkpoints=self.checkpoints,
                progress=self.progress,
                defects=defects,
            )
        return encoder.eval(), features

    def _with_copies(
        self, encoder: Encoder, plain: list[tuple[Photo, Raw]], geometry: Geometry
    ) -> tuple[bool, list[tuple[Photo, Raw]]]:
        """Whether the product lies at any angle; the photos with their raw features, each followed by its
        turned copies if it does."""
        any_angle = self.config.data.any_angle
        if any_angle == "auto":
            any_angle = geometry.one_framing and lies_at_any_angle(encoder, plain, self.progress)
        if not any_angle:
            return False, plain
        encoder.give(_inputs(self.config.at_any_angle()))
        made = turned_copies([photo for photo, _ in plain])
        seen = distributed.each(lambda copy: encoder.raw(copy[1]).half(), made, self._step("copies", made))
        every = [*enumerate(plain)]
        every += [(index, (copy, raw)) for (index, copy), raw in zip(made, seen, strict=True)]
        return True, [one for _, one in sorted(every, key=lambda indexed: indexed[0])]

    def _odd(self, encoder: Encoder, plain: list[tuple[Photo, Raw]]) -> list[int]:
        """Which of the training photos stand out, where there are embeddings to tell."""
        if "embedding" not in encoder.inputs:
            return []
        photos, features = [photo for photo, _ in plain], [raw for _, raw in plain]
        maps = TrainingMaps(encoder, features, photos, "embedding")
        return odd_photos(maps, self.config.fusion.top_share, self.config.seed)

    def _scorers(
        self,
        encoder: Encoder,
        plain: list[tuple[Photo, Raw]],
        with_copies: list[tuple[Photo, Raw]],
    ) -> dict[str, Scorer[Any]]:
        """Every scorer, fitted on what it reads of the training photos; memory banks see copies as well."""
        context = FitContext(self.config.seed, self.checkpoints, self.progress, self.losses)
        scorers = build_scorers(self.config.branches)
        for name, scorer in scorers.items():
            with self._timed(name):
                learnt = with_copies if isinstance(scorer, Searching) else plain
                photos, features = [photo for photo, _ in learnt], [raw for _, raw in learnt]
                scorer.fit(TrainingMaps(encoder, features, photos, scorer.input), context)
        return scorers

    def _held_out_maps(
        self, encoder: Encoder, scorers: dict[str, Scorer[Any]], photos: list[Photo]
    ) -> tuple[dict[str, list[Map]], list[Raw]]:
        """Patch scores of each branch, and its limit, on each calibration photo; what the fixed
        networks make of the photos, float16."""

        def scored(photo: Photo) -> tuple[dict[str, Map], Raw]:
            raw = encoder.raw(photo)
            return score_patches(scorers, encoder.maps_of(raw, photo)), raw.half()

        found = distributed.each(scored, photos, self._step("calibration", photos))
        maps = {name: [scores[name] for scores, _ in found] for name in found[0][0]}
        return maps, [features for _, features in found]

    def _calibrated(
        self, standard: Mapping[str, list[Map]], weights: Mapping[str, float]
    ) -> tuple[list[Scores], Calibration]:
        """Held-out scores of the photos under `weights`, and the threshold that they give."""
        share = self.config.fusion.top_share
        photos = range(len(next(iter(standard.values()))))
        scores = [fuse({name: maps[i] for name, maps in standard.items()}, weights, share) for i in photos]
        return scores, Calibration.of(np.array([s.image_score for s in scores]), self.config.calibration)

    def _step(self, stage: str, items: Sequence[object]) -> Callable[[int], None]:
        """Tells the progress of `stage` how many of the items are done."""
        return lambda done: self.progress.step(stage, done, len(items))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - start, 3)


def _inputs(config: RunConfig) -> set[Input]:
    """What the branches read."""
    return {scorer.input for scorer in build_scorers(config.branches).values()}


@dataclass(frozen=True)
class TrainingMaps(Sequence[Tensor]):
    """What one scorer reads of the training photos, made when it is asked for: (C, h, w) float32 each."""

    encoder: Encoder
    raws: list[Raw]
    photos: list[Photo]
    input: Input

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.encoder.map_of(self.input, self.raws[index], self.photos[index])


def start_whitened(encoder: Encoder, raws: list[Raw], seed: int) -> None:
    """Whiten what `encoder` gives by the principal directions of patches of the training photos."""

    def pooled(maps: Iterable[Tensor]) -> Tensor:
        """About PATCHES pooled patches (N, C), spread evenly over the photos."""
        generator = torch.Generator().manual_seed(seed)
        share = -(-PATCHES // len(raws))
        drawn = []
        for values in maps:
            flat = Whitening.pool(values[None])[0].flatten(1).T
            drawn.append(flat[torch.randperm(len(flat), generator=generator)[:share]])
        return torch.cat(drawn)

    encoder.projection.start_from(pooled(encoder.features(raw) for raw in raws), encoder.emphasis())
    if "texture" in encoder.inputs:
        answers = pooled(raw.answers.float() for raw in raws if raw.answers is not None)
        encoder.texture.start_from(answers, 1 / (answers.std(0) + 1e-6))
    if "coarse" in encoder.inputs:
        coarse = pooled(encoder.coarse_standard(raw.coarse) for raw in raws if raw.coarse is not None)
        encoder.coarse.start_from(coarse, encoder.backbone.emphasis())
