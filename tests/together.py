"""What the processes of test_distributed run under torchrun: together.py FOLDER."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from anomaly import distributed
from anomaly.models import training
from anomaly.models.autoencoder import FeatureAutoencoder
from anomaly.models.losses import nt_xent
from anomaly.models.training import Checkpoints, Progress, Silent, Together, train
from anomaly.scorers import FitContext
from anomaly.scorers.reconstruction import Reconstruction

STEPS, KILLED_AT = 12, 7


class KilledAt(Silent):
    """The second process is gone after some steps, without a word."""

    def __init__(self, when: int) -> None:
        self.when = when

    def step(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
        if done == self.when and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def trained(folder: Path | None, progress: Progress) -> tuple[list[float], dict[str, Any]]:
    """Losses and weights of a small network with batch normalisation, trained on pairs of 7 rows.

    In float32, so that processes differ by rounding alone.
    """
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 6),
    )

    def loss(generator: torch.Generator) -> torch.Tensor:
        photos = torch.rand(7, 3, 4, 4, generator=generator)
        seen = photos + 0.3 * torch.randn(photos.shape, generator=generator)
        return nt_xent(distributed.rows(network, photos), distributed.rows(network, seen), 0.1)

    with patch.object(training, "has_bfloat16", lambda: False):
        losses = train(
            network, loss, stage="small", steps=STEPS, learning_rate=0.02, seed=1,
            checkpoints=Checkpoints(folder), progress=Together(progress),
        )  # fmt: skip
    return losses, {name: value.tolist() for name, value in network.state_dict().items()}


def rebuilt() -> tuple[list[float], list[int]]:
    """Losses of a small autoencoder on batches of 5, and how many rows its encoder was given each time."""
    generator, given = torch.Generator().manual_seed(2), []
    maps = [3 * torch.randn(6, 20, 18, generator=generator) for _ in range(4)]
    options = {"steps": 6, "batch_size": 5, "bottleneck": 3, "variational": 0.1, "relative": 0.0}
    encode = FeatureAutoencoder.encode

    def counted(network: FeatureAutoencoder, values: torch.Tensor) -> torch.Tensor:
        given.append(len(values))
        return encode(network, values)

    context = FitContext(seed=1)
    with (
        patch.object(training, "has_bfloat16", lambda: False),
        patch.object(FeatureAutoencoder, "encode", counted),
    ):
        Reconstruction(Reconstruction.Config(**options)).fit(maps, context)
    return context.losses["reconstruction"], given


def failing(item: int) -> int:
    if item == 3:
        raise ValueError("item 3")
    return 10 * item


def passed(work: Any) -> str | Any:
    try:
        return work()
    except ValueError as error:
        return str(error)


def shared() -> dict[str, Any]:
    """What every process found."""
    number, told = distributed.rank(), []
    return {
        "size": distributed.size(),
        "each": distributed.each(lambda item: (item, number), range(5), told.append),
        "told": told,
        "failed": passed(lambda: distributed.each(failing, range(5))),
        "from_first": distributed.from_first(lambda: number),
        "refused": passed(lambda: distributed.from_first(lambda: failing(3) if number == 0 else 0)),
        "any": [distributed.any_of(number == 1), distributed.any_of(False)],
        "one_row": distributed.rows(lambda row: 2 * row, torch.ones(1, 2)).tolist(),
    }


def main(folder: Path) -> None:
    """Leave in `folder` what each process found, and the checkpoints of a training that loses a process."""
    training.SAVE_EVERY = 0.0
    with distributed.joined() as first:
        found = {"shared": shared(), "trained": trained(None, Silent()), "rebuilt": rebuilt()}
        (folder / f"{distributed.rank()}.json").write_text(json.dumps(found))
        trained(folder if first else None, KilledAt(KILLED_AT))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except distributed.LostProcess as error:
        sys.exit(f"anomaly: {error}")
