"""Any convolutional timm model, with the weights that a package, a file or timm's own cache holds."""

from __future__ import annotations

from pathlib import Path

import torch

from anomaly.errors import ConfigError, nearest
from anomaly.models.backbones import BACKBONES
from anomaly.models.stages import StagesBackbone, read_weights

STRIDES = (8, 16, 32)
"""Of the stages that are taken, where there are such."""


def _built(model: str) -> StagesBackbone:
    import timm

    if model not in timm.list_models():
        raise ConfigError(f"timm has no model {model!r}: {nearest(model, timm.list_models())}")
    try:
        network = timm.create_model(model, pretrained=False, features_only=True)
    except (RuntimeError, AttributeError) as error:
        raise ConfigError(f"timm model {model!r} gives no feature maps ({error}): take another") from None
    reductions, channels = network.feature_info.reduction(), network.feature_info.channels()
    if 16 not in reductions:
        raise ConfigError(f"timm model {model!r} has no stage of stride 16: take a convolutional one")
    stages = [reductions.index(stride) for stride in STRIDES if stride in reductions]
    settings = network.default_cfg
    return StagesBackbone(
        network,
        f"timm:{model}",
        [channels[stage] for stage in stages],
        255 * torch.tensor(settings["mean"]),
        255 * torch.tensor(settings["std"]),
        stages,
    )


@BACKBONES.register("timm")
def timm_backbone(model: str, weights: bool) -> StagesBackbone:
    """Any convolutional timm model (timm:resnet18); its weights must be in timm's cache or reachable."""
    backbone = _built(model)
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
def file_backbone(path: str, weights: bool) -> StagesBackbone:
    """A weights file (safetensors, or a plain state dict) of the timm model that its metadata names."""
    tensors, model = read_weights(Path(path))
    backbone = _built(model)
    backbone.fill(tensors, path)
    return backbone
