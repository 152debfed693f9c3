"""Mahalanobis distance of a patch's features to one Gaussian over all normal patches.

Rippel et al., Modeling the Distribution of Normal Data in Pre-Trained Deep Features, ICPR 2020. Whitening
makes the directions in which good parts hardly vary count as much as those in which they vary a lot: there
a faint defect shows (Balestriero and LeCun, ICML 2024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from anomaly.config import Section
from anomaly.scorers import SCORERS
from anomaly.scorers.mean_square import MeanSquare

if TYPE_CHECKING:
    from torch import Tensor


class GaussianOptions(Section):
    """Options of the Gaussian scorer."""

    shrinkage: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Added to every variance, as a share of the mean variance, so that noise directions cannot explode."""


@SCORERS.register("gaussian")
class Gaussian(MeanSquare[GaussianOptions]):
    """Squared Mahalanobis distance over the features, divided by their number."""

    Config = GaussianOptions

    def axes_of(self, variances: Tensor, directions: Tensor) -> Tensor:
        floor = self.options.shrinkage * variances.mean() + 1e-12
        return (directions / (variances.clamp_min(0) + floor).sqrt()).T
