"""From features to patch scores. A scorer is one file here: its options beside a registered class.

A scorer sees maps of numbers, never photos or paths, so each can be fitted and tested on a few hand-made
vectors. What it reads is one of the inputs of `PatchMaps`; higher scores are more anomalous.

torch is imported where something is computed with it, so that what only asks for options, or searches a
memory bank for an exported model, does without.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from anomaly.config import Section
from anomaly.maps import Map
from anomaly.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from anomaly.models.training import Checkpoints, Progress

Input = Literal["features", "embedding", "coarse", "texture", "pixels"]
PatchMaps = Mapping[Input, "Tensor"]
"""What the encoder makes of one photo for those who read it, each (C, h, w) float32.

`features` are the backbone's, standardised by channel, `embedding` is the contrastive encoder's, `texture`
the whitened answers of the principal filters, all on one grid of patches; `coarse` are the whitened features
of the photo at half its size, on a grid half as fine; `pixels` (3, H, W) in [0, 1] is the working photo
itself, for scorers that reconstruct it.
"""
State = dict[str, "Tensor"]
Options = TypeVar("Options", bound=Section)


def _keep_nothing() -> Checkpoints:
    from anomaly.models.training import Checkpoints

    return Checkpoints()


def _show_nothing() -> Progress:
    from anomaly.models.training import Silent

    return Silent()


@dataclass(frozen=True)
class FitContext:
    """What a scorer may need beside its training maps."""

    seed: int = 0
    checkpoints: Checkpoints = field(default_factory=_keep_nothing)
    progress: Progress = field(default_factory=_show_nothing)
    losses: dict[str, list[float]] = field(default_factory=dict)
    """Where a scorer leaves the loss of every step, by name of the network."""


class Scorer(ABC, Generic[Options]):
    """One branch of the detector: fitted on normal photos, then a score for every patch of a new one."""

    Config: ClassVar[type[Section]]
    from_nothing: ClassVar[bool] = True
    """Whether it serves a backbone that learns from nothing."""
    beside_pretrained: ClassVar[bool] = True
    """Whether it serves a pretrained backbone."""
    at_any_angle: ClassVar[bool] = True
    """Whether it serves products that lie at any angle."""

    def __init__(self, options: Options) -> None:
        self.options = options

    @property
    @abstractmethod
    def input(self) -> Input:
        """Which of the `PatchMaps` is read."""

    @abstractmethod
    def fit(self, maps: Sequence[Tensor], context: FitContext) -> None:
        """Learn from `maps`, one (C, h, w) for each normal photo, sizes may differ."""

    def extend(self, maps: Sequence[Tensor]) -> None:
        """Take in further normal photos, `maps` as in `fit`, that the threshold was calibrated with.

        Only what makes no patch score higher is allowed: then the calibrated threshold still keeps its
        promise. Most scorers learn nothing here.
        """
        return None

    @abstractmethod
    def score(self, values: Tensor) -> Tensor:
        """(C, h, w) -> (h, w) float32 patch scores."""

    @property
    def kin(self) -> str | None:
        """The branch that asks the same of the photo at another size, if any: both weigh by what the one that
        sees more of drawn defects sees."""
        return None

    @property
    def limited(self) -> bool:
        """Whether there is a `limit`."""
        return False

    def limit(self, values: Tensor) -> Tensor:
        """(C, h, w) -> (h, w) float32 that limits what `score` counts for, see `anomaly.maps.limited`."""
        raise NotImplementedError

    @abstractmethod
    def state(self) -> State:
        """Everything learnt, as named tensors."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Undo `state`. Raises KeyError, ValueError or RuntimeError where tensors are missing or misfit."""


class Searching(Scorer[Options]):
    """A scorer that looks values up in a memory bank: exports end before it, for a graph does that slowly."""

    @abstractmethod
    def search(self, values: Map) -> Map:
        """(C, h, w) -> (h, w) patch scores, without torch."""

    def search_limit(self, values: Map) -> Map:
        """`limit` without torch."""
        raise NotImplementedError

    @abstractmethod
    def restore_arrays(self, state: dict[str, Any]) -> None:
        """`restore` from numpy's arrays."""

    def score(self, values: Tensor) -> Tensor:
        import torch

        return torch.from_numpy(self.search(values.numpy()))

    def limit(self, values: Tensor) -> Tensor:
        import torch

        return torch.from_numpy(self.search_limit(values.numpy()))

    def restore(self, state: State) -> None:
        self.restore_arrays({name: values.numpy() for name, values in state.items()})


SCORERS: Registry[type[Scorer[Any]]] = Registry("scorer", package=__name__)


def build_scorers(options: dict[str, Any]) -> dict[str, Scorer[Any]]:
    """One unfitted scorer for each entry of a validated `RunConfig.scorers`."""
    return {name: SCORERS.get(name)(section) for name, section in options.items()}


def crops(maps: Sequence[Tensor], size: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`count` random crops (C, size, size) of `maps`; where a map is smaller its edge is repeated."""

    import torch

    def draw(end: int) -> int:
        return int(torch.randint(max(end, 1), (), generator=generator))

    for _ in range(count):
        values = maps[draw(len(maps))]
        h, w = values.shape[1:]
        row, col = draw(h - size + 1), draw(w - size + 1)
        crop = values[:, row : row + size, col : col + size].float()
        short = (size - crop.shape[2], size - crop.shape[1])
        if any(short):
            crop = torch.nn.functional.pad(crop, (0, short[0], 0, short[1]), mode="replicate")
        yield crop
