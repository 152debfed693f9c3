"""What a patch shows outside, or inside, the directions in which normal patches vary most.

The residual of a linear autoencoder in closed form: outside the top subspace lies what good parts never do.
Balestriero and LeCun, ICML 2024 (arXiv 2402.11337): the bottom subspace is where perception happens, the top
one is what reconstruction learns; the two options show it on one's own product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from anomaly.config import Section, Share
from anomaly.scorers import SCORERS
from anomaly.scorers.mean_square import MeanSquare

if TYPE_CHECKING:
    from torch import Tensor


class PcaOptions(Section):
    """Options of the PCA scorer."""

    subspace: Literal["bottom", "top"] = "bottom"
    """bottom: the residual outside the top subspace; top: the deviation inside it."""
    variance: Share = 0.9
    """Share of the variance that the top subspace holds."""


@SCORERS.register("pca")
class Pca(MeanSquare[PcaOptions]):
    """Mean squared coordinate of a patch in the top or the bottom principal subspace of normal patches."""

    Config = PcaOptions

    def axes_of(self, variances: Tensor, directions: Tensor) -> Tensor:
        held = variances.flip(0).cumsum(0) / variances.sum().clamp_min(1e-12)
        top = min(int((held < self.options.variance).sum()) + 1, len(variances) - 1)
        return (directions[:, -top:] if self.options.subspace == "top" else directions[:, :-top]).T
