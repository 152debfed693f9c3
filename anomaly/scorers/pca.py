"""What a patch shows outside, or inside, the directions in which normal patches vary most.

The residual of a linear autoencoder in closed form: outside the top subspace lies what good parts never do.
Balestriero and LeCun, ICML 2024 (arXiv 2402.11337): the bottom subspace is where perception happens, the top
one is what reconstruction learns; the two options show it on one's own product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from anomaly.config import Section, Share
from anomaly.scorers import SCORERS, FitContext, Input, Scorer, State, moments


class PcaOptions(Section):
    """Options of the PCA scorer."""

    subspace: Literal["bottom", "top"] = "bottom"
    """bottom: the residual outside the top subspace; top: the deviation inside it."""
    variance: Share = 0.9
    """Share of the variance that the top subspace holds."""


@SCORERS.register("pca")
class Pca(Scorer[PcaOptions]):
    """Mean squared coordinate of a patch in the top or the bottom principal subspace of normal patches."""

    Config = PcaOptions
    mean: Tensor
    directions: Tensor

    @property
    def input(self) -> Input:
        return "features"

    def fit(self, maps: Sequence[Tensor], context: FitContext) -> None:
        mean, covariance = moments(maps)
        variances, directions = torch.linalg.eigh(covariance)
        held = torch.cumsum(variances.flip(0), 0) / variances.sum().clamp_min(1e-12)
        top = min(int((held < self.options.variance).sum()) + 1, len(mean) - 1)
        chosen = directions[:, -top:] if self.options.subspace == "top" else directions[:, :-top]
        self.mean, self.directions = mean.float(), chosen.T.float()

    def score(self, values: Tensor) -> Tensor:
        coordinates = self.directions @ (values.flatten(1) - self.mean[:, None])
        return coordinates.square().mean(0).reshape(values.shape[1:])

    def state(self) -> State:
        return {"mean": self.mean, "directions": self.directions.contiguous()}

    def restore(self, state: State) -> None:
        mean, directions = state["mean"], state["directions"]
        if directions.ndim != 2 or mean.shape != directions.shape[1:]:
            raise ValueError("mean and directions do not fit each other")
        self.mean, self.directions = mean, directions
