"""The layers of EfficientNet-Lite0, without its head (Tan and Le, ICML 2019; the Lite variant of 2020).

They are named as timm names them, so that weights fit both. Importing timm takes longer than anything else
that judging a first photo needs.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STEM = 32
EXPANSION = 6
STAGES = (
    (1, 3, 1, 16), (2, 3, 2, 24), (2, 5, 2, 40), (3, 3, 2, 80), (3, 5, 1, 112), (4, 5, 2, 192),
    (1, 3, 1, 320),
)  # fmt: skip
"""Blocks, side of their kernels, stride of the first one, channels. The first stage expands nothing."""
KEPT = (2, 4, 6)
"""The last stages of stride 8, 16 and 32, whose outputs are features."""
CHANNELS = [STAGES[stage][3] for stage in KEPT]


class SameConv(nn.Conv2d):
    """A convolution of stride 2 with TensorFlow's "same" padding, which depends on whether a side is even."""

    def forward(self, values: Tensor) -> Tensor:
        kernel = self.kernel_size[0]
        rows, cols = (kernel - 2 + side % 2 for side in values.shape[2:])
        return super().forward(F.pad(values, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2)))


class Norm(nn.BatchNorm2d):
    """Batch normalisation and, unless it is bare, the activation behind it."""

    def __init__(self, channels: int, bare: bool = False) -> None:
        super().__init__(channels, eps=1e-3)
        self.act: nn.Module = nn.Identity() if bare else nn.ReLU6(inplace=True)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.act(super().forward(values))
        return out


def _convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride == 1:
        return nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, groups=groups, bias=False)
    return SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False)


class Separable(nn.Module):
    """A convolution of each channel apart, and one across channels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = _convolution(inputs, inputs, kernel, stride, groups=inputs)
        self.bn1 = Norm(inputs)
        self.conv_pw = _convolution(inputs, outputs)
        self.bn2 = Norm(outputs, bare=True)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv_pw(self.bn1(self.conv_dw(values))))
        return out


class Inverted(nn.Module):
    """Expanded, convolved channel by channel, narrowed again, and added to what came in where it fits."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = EXPANSION * inputs
        self.conv_pw = _convolution(inputs, wide)
        self.bn1 = Norm(wide)
        self.conv_dw = _convolution(wide, wide, kernel, stride, groups=wide)
        self.bn2 = Norm(wide)
        self.conv_pwl = _convolution(wide, outputs)
        self.bn3 = Norm(outputs, bare=True)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv_dw(self.bn1(self.conv_pw(values))))
        out = self.bn3(self.conv_pwl(out))
        return out + values if self.skips else out


class Lite0(nn.Module):
    """(B, 3, H, W) -> the outputs of the stages in KEPT, (B, C, H / 8, W / 8) and so on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = _convolution(3, STEM, 3, 2)
        self.bn1 = Norm(STEM)
        stages: list[nn.Module] = []
        inputs = STEM
        for count, kernel, stride, outputs in STAGES:
            block = Inverted if stages else Separable
            blocks: list[nn.Module] = [block(inputs, outputs, kernel, stride)]
            blocks += [block(outputs, outputs, kernel, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.blocks = nn.Sequential(*stages)

    def forward(self, values: Tensor) -> list[Tensor]:
        values = self.bn1(self.conv_stem(values))
        outputs = []
        for stage in self.blocks:
            values = stage(values)
            outputs.append(values)
        return [outputs[stage] for stage in KEPT]
