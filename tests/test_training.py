"""A run that is stopped and resumed ends in the same weights as one that was not."""

from pathlib import Path

import pytest
import torch
from torch import nn

from anomaly.errors import ConfigError
from anomaly.models.training import Checkpoints, Silent, train

TARGET = torch.linspace(-1, 1, 6)


class StopAt(Silent):
    """Ctrl-C after some steps."""

    def __init__(self, when: int) -> None:
        self.when = when

    def step(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
        if done == self.when:
            raise KeyboardInterrupt


def run(folder: Path | None, progress: Silent, steps: int = 40) -> tuple[nn.Linear, list[float]]:
    torch.manual_seed(0)
    module = nn.Linear(6, 6)

    def loss(generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(8, 6, generator=generator)
        return (module(x) - x * TARGET).square().mean()

    losses = train(
        module, loss, stage="s", steps=steps, learning_rate=0.1, seed=3,
        checkpoints=Checkpoints(folder), progress=progress,
    )  # fmt: skip
    return module, losses


@pytest.mark.parametrize("when", [1, 17, 39])
def test_resumed_is_the_same_as_uninterrupted(tmp_path: Path, when: int) -> None:
    whole, losses = run(None, Silent())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, StopAt(when))
    resumed, resumed_losses = run(tmp_path, Silent())
    assert torch.equal(whole.weight, resumed.weight)
    assert losses == resumed_losses
    assert losses[-1] < losses[0] / 10


def test_a_torn_checkpoint_starts_the_stage_again(tmp_path: Path) -> None:
    whole, _ = run(None, Silent())
    (tmp_path / "s.safetensors").write_bytes(b"torn")
    assert torch.equal(run(tmp_path, Silent())[0].weight, whole.weight)


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    first, _ = run(tmp_path, Silent())
    again, losses = run(tmp_path, StopAt(1))
    assert torch.equal(first.weight, again.weight)
    assert len(losses) == 40


def test_training_that_diverges_says_what_to_lower() -> None:
    module = nn.Linear(2, 1)
    rest = {"steps": 5, "learning_rate": 0.1, "seed": 0, "checkpoints": Checkpoints(), "progress": Silent()}
    with pytest.raises(ConfigError, match=r"training s diverged: .* lower its learning rate"):
        train(module, lambda _: module(torch.full((1, 2), float("inf"))).sum(), stage="s", **rest)
