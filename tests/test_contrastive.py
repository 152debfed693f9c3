"""The contrastive encoder: pairs of patches that show the same place, and its kinds of supervision."""

import numpy as np
import pytest
import torch

from anomaly.config import ContrastiveConfig
from anomaly.data.augmentation import ViewMaker
from anomaly.models.backbones import build_backbone
from anomaly.models.contrastive import _two_views, train_backbone, train_projection
from anomaly.models.encoder import Encoder
from anomaly.models.training import Checkpoints, Silent

QUIET = {"checkpoints": Checkpoints(), "progress": Silent()}


@pytest.fixture
def photos() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.clip(120 + rng.normal(0, 4, (192, 192, 3)), 0, 255).astype(np.uint8) for _ in range(3)]


def encoder_of(photos: list[np.ndarray], backbone: str = "none") -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(build_backbone(backbone), 8, 1024)
    encoder.standardise_by([encoder.raw(photo) for photo in photos])
    return encoder.eval()


def test_synthetic_defects_mark_the_patches_that_show_them(photos: list[np.ndarray]) -> None:
    encoder, rng = encoder_of(photos), np.random.default_rng(1)
    settings = ContrastiveConfig(supervised_weight=1.0)
    pairs = [_two_views(photos, ViewMaker(0.0, 0), 160, encoder, settings, rng) for _ in range(30)]
    shown = [pair for pair in pairs if pair.defect.any()]
    assert 3 <= len(shown) < 30
    contrast = []
    for pair in shown:
        assert len(pair.rows) == len(pair.cols) == len(pair.defect) == 100
        patches = pair.views[0].astype(float).reshape(10, 16, 10, 16, 3).transpose(0, 2, 1, 3, 4)
        odd = np.abs(patches - 120).mean((2, 3, 4)).ravel()
        contrast.append(odd[pair.defect.numpy()].mean() / odd[~pair.defect.numpy()].mean())
    assert np.mean(contrast) > 1.5 and np.median(contrast) > 1, "most kinds stand out from the plain ground"


def test_real_defects_are_shown_where_they_are(photos: list[np.ndarray]) -> None:
    encoder, rng = encoder_of(photos), np.random.default_rng(1)
    photo, mask = np.full((192, 192, 3), 120, np.uint8), np.zeros((192, 192), bool)
    mask[32:48, 160:176] = True
    photo[mask] = (255, 0, 0)
    settings = ContrastiveConfig(supervised_weight=1.0)
    pairs = [
        _two_views(photos, ViewMaker(0.0, 0), 96, encoder, settings, rng, [(photo, mask)]) for _ in range(40)
    ]
    real = [pair for pair in pairs if (pair.views[0] == (255, 0, 0)).all(2).any()]
    assert 4 <= len(real) <= 20, "about one crop of four"
    for pair in real:
        red = (pair.views[0] == (255, 0, 0)).all(2).reshape(6, 16, 6, 16).mean((1, 3)).ravel()
        assert pair.defect.tolist() == (red > 0.25).tolist()


def test_without_supervision_no_defect_is_drawn(photos: list[np.ndarray]) -> None:
    encoder, rng = encoder_of(photos), np.random.default_rng(1)
    pairs = [_two_views(photos, ViewMaker(0.0, 0), 160, encoder, ContrastiveConfig(), rng) for _ in range(10)]
    assert not any(pair.defect.any() for pair in pairs)
    assert all((np.abs(pair.views[0].astype(int) - 120) < 40).all() for pair in pairs)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_each_kind_of_supervision_lowers_its_loss(photos: list[np.ndarray], weight: float) -> None:
    encoder = encoder_of(photos)
    settings = ContrastiveConfig(
        supervised_weight=weight, views=6, steps=40, patches=64, learning_rate=3e-3, embedding_size=8
    )
    encoder.projection.start_from(torch.randn(200, encoder.channels))
    losses = train_projection(encoder, photos, settings, seed=0, **QUIET)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


@pytest.mark.parametrize("backbone", ["none", "auto"])
def test_fine_tuning_moves_the_backbone(photos: list[np.ndarray], backbone: str) -> None:
    encoder = encoder_of(photos, backbone)
    before = {key: value.clone() for key, value in encoder.backbone.state_dict().items()}
    settings = ContrastiveConfig(backbone_steps=2, patches=32, supervised_weight=0.5)
    train_backbone(encoder, photos, settings, seed=0, **QUIET)
    after = encoder.backbone.state_dict()
    learnt = dict(encoder.backbone.named_parameters())
    assert any(not torch.equal(before[key], after[key]) for key in learnt)
    assert all(one.requires_grad != encoder.backbone.pretrained for one in learnt.values())


def test_photos_smaller_than_a_crop_and_of_different_sides_train_a_backbone(photos: list[np.ndarray]) -> None:
    mixed = [photos[0][:64], photos[1][:, :96], photos[2]]
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    encoder = encoder_of(photos)
    settings = ContrastiveConfig(supervised_weight=0.5, backbone_steps=2, patches=64)
    losses = train_backbone(encoder, mixed, settings, seed=0, defects=[(photos[0][:64, :64], mask)], **QUIET)
    assert len(losses) == 2 and np.isfinite(losses).all()
