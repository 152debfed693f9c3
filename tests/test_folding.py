"""A backbone judges with its normalisations folded, and with nothing else changed."""

import torch
from torch import nn

from anomaly.models.backbones import build_backbone
from anomaly.models.encoder import Encoder
from anomaly.models.folding import folded


def kinds(network: nn.Module) -> set[str]:
    return {type(module).__name__ for module in network.modules()}


def noise(*shape: int) -> torch.Tensor:
    return 255 * torch.rand(shape, generator=torch.Generator().manual_seed(1))


def trained(backbone: nn.Module) -> nn.Module:
    """The backbone with statistics that are not those it was born with."""
    with torch.no_grad():
        backbone.train()
        backbone(noise(2, 3, 96, 96))
    return backbone.eval()


def test_a_folded_backbone_gives_the_same_features_without_normalisations() -> None:
    for backbone in (build_backbone("auto"), trained(build_backbone("none"))):
        fast = backbone.judging()
        assert fast is not backbone and backbone.judging() is fast
        assert not kinds(fast) & {"BatchNorm2d", "BatchNormAct2d"}
        with torch.inference_mode():
            expected = backbone(noise(1, 3, 96, 128))
            torch.testing.assert_close(
                fast(noise(1, 3, 96, 128)), expected, rtol=0, atol=1e-4 * float(expected.abs().max())
            )


def test_the_folded_copy_follows_the_weights_and_is_not_among_them() -> None:
    encoder = Encoder(trained(build_backbone("none")), 8, tile_size=1024).eval()
    names = set(encoder.state_dict())
    photo = noise(96, 96, 3).to(torch.uint8).numpy()
    before = encoder.raw(photo).features
    assert set(encoder.state_dict()) == names
    encoder.load_state_dict({key: value * 1.5 for key, value in encoder.state_dict().items()})
    assert not torch.allclose(encoder.raw(photo).features, before, rtol=0.01)
    encoder.train()
    assert encoder.backbone.judging() is encoder.backbone


class Crossed(nn.Module):
    """Its normalisation stands after the first convolution and follows the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.norm.running_mean = torch.full((4,), 40.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(self.second(self.first(images).abs()))
        return normed


def test_a_network_that_folding_would_change_is_left_alone() -> None:
    network = Crossed().eval()
    assert folded(network) is network
