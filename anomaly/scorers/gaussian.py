"""Mahalanobis distance of a patch's features to one Gaussian over all normal patches.

Rippel et al., Modeling the Distribution of Normal Data in Pre-Trained Deep Features, ICPR 2020. Whitening
makes the directions in which good parts hardly vary count as much as those in which they vary a lot: there
a faint defect shows (Balestriero and LeCun, ICML 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from anomaly.config import Section
from anomaly.scorers import SCORERS, FitContext, Input, Scorer, State, moments


class GaussianOptions(Section):
    """Options of the Gaussian scorer."""

    shrinkage: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Added to every variance, as a share of the mean variance, so that noise directions cannot explode."""


@SCORERS.register("gaussian")
class Gaussian(Scorer[GaussianOptions]):
    """Squared Mahalanobis distance over the features, divided by their number."""

    Config = GaussianOptions
    mean: Tensor
    whitening: Tensor

    @property
    def input(self) -> Input:
        return "features"

    def fit(self, maps: Sequence[Tensor], context: FitContext) -> None:
        mean, covariance = moments(maps)
        variances, directions = torch.linalg.eigh(covariance)
        floor = self.options.shrinkage * variances.mean() + 1e-12
        self.mean = mean.float()
        self.whitening = (directions / (variances.clamp_min(0) + floor).sqrt()).T.float()

    def score(self, values: Tensor) -> Tensor:
        white = self.whitening @ (values.flatten(1) - self.mean[:, None])
        return white.square().mean(0).reshape(values.shape[1:])

    def state(self) -> State:
        return {"mean": self.mean, "whitening": self.whitening.contiguous()}

    def restore(self, state: State) -> None:
        mean, whitening = state["mean"], state["whitening"]
        if whitening.ndim != 2 or mean.shape != whitening.shape[1:]:
            raise ValueError("mean and whitening do not fit each other")
        self.mean, self.whitening = mean, whitening
