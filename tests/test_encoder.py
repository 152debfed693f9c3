"""From photo to patches: tiles, standardisation, and where the embedding starts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly.errors import ConfigError
from anomaly.models.backbones import build_backbone
from anomaly.models.encoder import WHITENING_FLOOR, Encoder, Projection


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (384, 448, 3), dtype=np.uint8)


def test_tiles_give_the_features_of_the_whole(photo: np.ndarray) -> None:
    whole = Encoder(build_backbone("none"), 8, tile_size=1024)
    tiled = Encoder(whole.backbone, 8, tile_size=256)
    expected = whole.raw_features(photo)
    assert expected.shape == (whole.backbone.channels, 24, 28)
    torch.testing.assert_close(tiled.raw_features(photo), expected, rtol=1e-4, atol=1e-4)


def test_features_are_standardised_by_channel(photo: np.ndarray) -> None:
    encoder = Encoder(build_backbone("none"), 8, tile_size=1024)
    raw = [encoder.raw_features(photo), encoder.raw_features(photo[::-1])]
    encoder.standardise_by(raw)
    together = torch.cat([encoder.standardised(values).flatten(1) for values in raw], dim=1)
    torch.testing.assert_close(together.mean(1), torch.zeros(len(together)), atol=1e-3, rtol=0)
    spread = torch.cat([values.flatten(1) for values in raw], dim=1).std(1)
    torch.testing.assert_close(together.std(1), spread / (spread + 1e-3), rtol=1e-2, atol=1e-3)


def test_the_embedding_starts_as_partly_whitened_principal_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(500, 12, generator=generator) * torch.linspace(3, 0.1, 12)
    projection = Projection(12, 4)
    projection.start_from(patches)
    embedded = projection.of_pooled(patches[:, :, None, None])[:, :, 0, 0]
    centred = patches - patches.mean(0)
    variances = torch.linalg.svdvals(centred)[:4] ** 2 / len(patches)
    expected = variances / (variances + WHITENING_FLOOR * centred.square().mean()) ** 0.75
    torch.testing.assert_close(embedded.var(0, correction=0), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet", "unknown backbone 'resnet': use auto, none"),
        ("timm:resnet8", "timm has no model 'resnet8': did you mean"),
        ("absent.safetensors", "the weights file absent.safetensors does not exist"),
    ],
)
def test_backbones_that_do_not_exist_are_named(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build_backbone(name)


def test_a_weights_file_is_data(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "ran"),))

    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    with pytest.raises(ConfigError, match="is not a weights file"):
        build_backbone(str(path))
    assert not (tmp_path / "ran").exists()


def test_packaged_weights_are_the_trained_ones() -> None:
    """An untrained network of this kind does not tell smooth from busy patches this clearly."""
    trained, bare = build_backbone("auto"), build_backbone("auto", weights=False)
    assert trained.pretrained and trained.channels == bare.channels == 472
    keys = trained.state_dict()
    assert any((keys[key] != value).any() for key, value in bare.state_dict().items() if "conv" in key)
