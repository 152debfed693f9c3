"""What scorers share that measure how far a patch lies from the mean of normal patches along given axes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anomaly.scorers import FitContext, Input, Options, Scorer, State

if TYPE_CHECKING:
    from torch import Tensor


class MeanSquare(Scorer[Options]):
    """Mean square of a patch's coordinates on `axes`, with the mean of the normal patches for origin."""

    mean: Tensor
    """(C,) float32."""
    axes: Tensor
    """(K, C) float32, of any length each."""

    @abstractmethod
    def axes_of(self, variances: Tensor, directions: Tensor) -> Tensor:
        """The axes (K, C), from variances (C,), ascending, and principal directions (C, C) in columns."""

    @property
    def input(self) -> Input:
        return "features"

    def fit(self, maps: Sequence[Tensor], context: FitContext) -> None:
        import torch

        mean, covariance = _moments(maps)
        variances, directions = torch.linalg.eigh(covariance)
        self.mean, self.axes = mean.float(), self.axes_of(variances, directions).float()

    def score(self, values: Tensor) -> Tensor:
        coordinates = self.axes @ (values.flatten(1) - self.mean[:, None])
        return coordinates.square().mean(0).reshape(values.shape[1:])

    def state(self) -> State:
        return {"mean": self.mean, "axes": self.axes.contiguous()}

    def restore(self, state: State) -> None:
        mean, axes = state["mean"], state["axes"]
        if axes.ndim != 2 or mean.shape != axes.shape[1:]:
            raise ValueError("mean and axes do not fit each other")
        self.mean, self.axes = mean, axes


def _moments(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (C,) and covariance (C, C) of all patches of `maps`, in float64."""
    import torch

    count, first, second = 0, torch.zeros(()), torch.zeros(())
    for values in maps:
        flat = values.flatten(1).double()
        count += flat.shape[1]
        first = first + flat.sum(1)
        second = second + flat @ flat.T
    mean = first / count
    return mean, second / count - torch.outer(mean, mean)
