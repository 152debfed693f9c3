"""Any convolutional timm model, with the weights that a package, a file or timm's own cache holds."""

from __future__ import annotations

import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly.errors import ConfigError, nearest
from anomaly.models.backbones import BACKBONES, Backbone

Weights = dict[str, Tensor]


class TimmBackbone(Backbone):
    """Stages of stride 8, 16 and 32 of a timm model, brought to stride 16 and concatenated."""

    def __init__(self, model: str, name: str, mean: Tensor | None = None, std: Tensor | None = None) -> None:
        super().__init__()
        import timm

        if model not in timm.list_models():
            raise ConfigError(f"timm has no model {model!r}: {nearest(model, timm.list_models())}")
        try:
            self.model = timm.create_model(model, pretrained=False, features_only=True)
        except (RuntimeError, AttributeError) as error:
            raise ConfigError(f"timm model {model!r} gives no feature maps ({error}): take another") from None
        reductions = self.model.feature_info.reduction()
        self.stages = [reductions.index(stride) for stride in (8, 16, 32) if stride in reductions]
        if 16 not in reductions:
            raise ConfigError(f"timm model {model!r} has no stage of stride 16: take a convolutional one")
        self.name = name
        self.stride = 16
        self.channels = sum(self.model.feature_info.channels()[stage] for stage in self.stages)
        self.pretrained = True
        settings = self.model.default_cfg
        mean = 255 * torch.tensor(settings["mean"]) if mean is None else mean
        std = 255 * torch.tensor(settings["std"]) if std is None else std
        self.register_buffer("mean", mean.view(1, 3, 1, 1))
        self.register_buffer("std", std.view(1, 3, 1, 1))

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
        """Load `weights` of the whole timm model; a missing or misshapen tensor is a ConfigError."""
        wanted = self.model.state_dict()
        short = [key for key in wanted if key not in weights and not key.endswith("num_batches_tracked")]
        wrong = [key for key in wanted if key in weights and weights[key].shape != wanted[key].shape]
        if short or wrong:
            raise ConfigError(
                f"{source} does not fit {self.name}: {len(short)} tensors are missing and {len(wrong)} have "
                f"another shape, the first is {(short + wrong)[0]!r}: give weights of that model"
            )
        self.model.load_state_dict({key: weights[key] for key in wanted if key in weights}, strict=False)


@BACKBONES.register("timm")
def timm_backbone(model: str, weights: bool) -> Backbone:
    """Any convolutional timm model (timm:resnet18); its weights must be in timm's cache or reachable."""
    backbone = TimmBackbone(model, f"timm:{model}")
    if weights:
        import timm

        try:
            full = timm.create_model(model, pretrained=True, features_only=True)
        except Exception as error:  # hub, network and cache errors have no common type
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"the weights of timm:{model} are neither cached nor reachable ({reason}): "
                "use backbone: auto, or give a weights file"
            ) from None
        backbone.fill(full.state_dict(), "the cached file")
    return backbone


@BACKBONES.register("file")
def file_backbone(path: str, weights: bool) -> Backbone:
    """A weights file (safetensors, or a plain state dict) of the timm model that its metadata names."""
    tensors, model = read_weights(Path(path))
    backbone = TimmBackbone(model, f"timm:{model}")
    backbone.fill(tensors, path)
    return backbone


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
