"""What backbones of several stages have in common: their features, and weights from a file."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly.errors import ConfigError
from anomaly.models.backbones import Backbone

Weights = dict[str, Tensor]


class StagesBackbone(Backbone):
    """Stages of stride 8, 16 and 32 of a network, brought to stride 16 and concatenated."""

    def __init__(
        self,
        model: nn.Module,
        name: str,
        channels: Sequence[int],
        mean: Tensor,
        std: Tensor,
        stages: Sequence[int] = (0, 1, 2),
    ) -> None:
        """`stages` are those to take of the maps that `model` gives, with so many `channels` each; `mean` and
        `std` (3,) are of its input, in [0, 255]."""
        super().__init__()
        self.model = model
        self.stages = list(stages)
        self.name = name
        self.stride = 16
        self.of_stages = list(channels)
        self.channels = sum(channels)
        self.pretrained = True
        self.register_buffer("mean", mean.view(1, 3, 1, 1))
        self.register_buffer("std", std.view(1, 3, 1, 1))

    def emphasis(self) -> Tensor:
        return balanced(self.of_stages)

    def forward(self, images: Tensor) -> Tensor:
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)  # type: ignore[operator]
        h, w = images.shape[2] // 16, images.shape[3] // 16
        stages = self.model(x)
        maps = []
        for stage in (stages[i] for i in self.stages):
            if stage.shape[2] > h:
                stage = F.avg_pool2d(stage, stage.shape[2] // h)
            elif stage.shape[2] < h:
                stage = F.interpolate(stage, (h, w), mode="bilinear", align_corners=False)
            maps.append(stage)
        return torch.cat(maps, dim=1)

    def fill(self, weights: Weights, source: str) -> None:
        """Load `weights` of the whole network; a missing or misshapen tensor is a ConfigError."""
        wanted = self.model.state_dict()
        short = [key for key in wanted if key not in weights and not key.endswith("num_batches_tracked")]
        wrong = [key for key in wanted if key in weights and weights[key].shape != wanted[key].shape]
        if short or wrong:
            raise ConfigError(
                f"{source} does not fit {self.name}: {len(short)} tensors are missing and {len(wrong)} have "
                f"another shape, the first is {(short + wrong)[0]!r}: give weights of that model"
            )
        self.model.load_state_dict({key: weights[key] for key in wanted if key in weights}, strict=False)


def balanced(channels: Sequence[int]) -> Tensor:
    """Weights of the channels of stages, so many each, that make every stage count the same."""
    return torch.cat([torch.full((count,), count**-0.5) for count in channels])


def read_weights(path: Path) -> tuple[Weights, str]:
    """(tensors, timm model name) of a weights file; never runs code from it. Raises ConfigError."""
    model = "tf_efficientnet_lite0"
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                model = (file.metadata() or {}).get("architecture", model)
                return {key: file.get_tensor(key) for key in file.keys()}, model  # noqa: SIM118
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"the weights file {path} does not exist") from None
    except (OSError, RuntimeError, ValueError, UnpicklingError, zipfile.BadZipFile, EOFError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{path} is not a weights file ({reason}): give safetensors") from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise ConfigError(f"{path} is not a safetensors file ({error})") from None
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ConfigError(f"{path} holds no plain state dict: give safetensors")
    return loaded, model
