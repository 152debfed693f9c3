"""From photo to patches: tiles, standardisation, and where the embedding starts."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anomaly.errors import ConfigError
from anomaly.models.backbones import build_backbone
from anomaly.models.encoder import WHITENING_FLOOR, Encoder, Projection, as_tensor
from anomaly.models.filters import FILTERS, SECOND_FILTERS, PrincipalFilters


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (384, 448, 3), dtype=np.uint8)


def test_tiles_give_the_features_of_the_whole(photo: np.ndarray) -> None:
    whole = Encoder(build_backbone("none"), 8, tile_size=1024)
    tiled = Encoder(whole.backbone, 8, tile_size=256)
    tiled.filters = whole.filters
    expected, found = whole.raw(photo), tiled.raw(photo)
    assert expected.features.shape == (whole.backbone.channels, 24, 28)
    assert expected.answers is not None and expected.answers.shape == (PrincipalFilters.channels, 24, 28)
    assert expected.coarse is not None and expected.coarse.shape == (whole.backbone.channels, 12, 14)
    for name in ("features", "answers", "coarse"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4)


def test_features_are_standardised_by_channel(photo: np.ndarray) -> None:
    encoder = Encoder(build_backbone("none"), 8, tile_size=1024)
    raws = [encoder.raw(photo), encoder.raw(photo[::-1])]
    encoder.standardise_by(raws)
    backbone = encoder.backbone.channels
    for standard, before in (
        ([encoder.features(raw)[:backbone] for raw in raws], [raw.features for raw in raws]),
        ([encoder.features(raw)[backbone:] for raw in raws], [raw.answers for raw in raws]),
        ([encoder.coarse_standard(raw.coarse) for raw in raws], [raw.coarse for raw in raws]),
    ):
        together = torch.cat([values.flatten(1) for values in standard], dim=1)
        torch.testing.assert_close(together.mean(1), torch.zeros(len(together)), atol=1e-3, rtol=0)
        spread = torch.cat([values.flatten(1) for values in before], dim=1).std(1)
        torch.testing.assert_close(together.std(1), spread / (spread + 1e-3), rtol=1e-2, atol=1e-3)


def test_behind_the_features_lie_the_answers_of_the_filters(photo: np.ndarray) -> None:
    encoder = Encoder(build_backbone("none"), 8, tile_size=1024)
    encoder.filters.start_from([photo, photo[::-1]], seed=0)
    raw = encoder.raw(photo)
    answers = encoder.filters(as_tensor(photo))[0]
    torch.testing.assert_close(raw.answers, answers)
    torch.testing.assert_close(encoder.features(raw)[encoder.backbone.channels :], answers)
    assert encoder.maps(photo)["texture"].shape == answers.shape


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (32, 64)], ids=str)
def test_coarse_features_are_those_of_the_photo_at_half_its_size(size: tuple[int, int]) -> None:
    encoder = Encoder(build_backbone("auto"), 8, 1024, ["coarse"])
    rng = np.random.default_rng(0)
    half = [-(-side // 64) * 32 for side in size]
    small = cv2.resize(rng.integers(0, 256, (*half, 3), dtype=np.uint8), half[::-1])
    photo = np.repeat(np.repeat(small, 2, axis=0), 2, axis=1)[: size[0], : size[1]]
    found = encoder.raw(photo)
    assert found.coarse is not None and found.coarse.shape[1:] == (half[0] // 16, half[1] // 16)
    if [2 * side for side in half] == [*size]:
        torch.testing.assert_close(found.coarse, encoder.raw(small).features)


def test_what_nobody_reads_is_not_computed(photo: np.ndarray) -> None:
    """The filters cost more than the backbone, and so may lie unlearnt."""
    encoder = Encoder(build_backbone("auto", weights=False), 8, 1024, ["embedding"])
    raw = encoder.raw(photo)
    assert raw.answers is None and raw.coarse is None and list(encoder.maps(photo)) == ["embedding"]
    empty = Encoder(build_backbone("none"), 8, 1024, ["features"]).raw(photo)
    assert empty.answers is not None and empty.coarse is None


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


def test_a_channel_that_is_emphasised_comes_first_in_the_embedding() -> None:
    patches = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.linspace(2, 1, 6)
    projection = Projection(6, 1)
    for emphasis, first in ((None, 0), (torch.tensor([1.0, 1, 1, 1, 1, 5]), 5)):
        projection.start_from(patches, emphasis)
        assert projection.linear.weight[0, :, 0, 0].abs().argmax() == first


def test_stages_count_alike_whatever_their_number_of_channels() -> None:
    emphasis = Encoder(build_backbone("auto", weights=False), 8, tile_size=1024).emphasis()
    parts = emphasis.square().split((40, 112, 320))
    assert [float(part.sum()) for part in parts] == pytest.approx([1, 1, 1])


def test_answers_of_the_filters_are_features_only_beside_an_empty_backbone(photo: np.ndarray) -> None:
    for name, beside in (("none", PrincipalFilters.channels), ("auto", 0)):
        encoder = Encoder(build_backbone(name, weights=False), 8, tile_size=1024)
        assert encoder.channels == encoder.backbone.channels + beside == len(encoder.emphasis())
        assert len(encoder.features(encoder.raw(photo))) == encoder.channels


def test_the_filters_are_silent_while_the_backbone_is_trained() -> None:
    encoder = Encoder(build_backbone("none"), 8, tile_size=1024)
    images = 255 * torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    before = encoder.learning(images)
    for weight in encoder.filters.parameters():
        weight.fill_(torch.nan)
    torch.testing.assert_close(encoder.learning(images), before)
    assert before.shape == (2, 8, 4, 4) and before.isfinite().all()


def woven(period: int, seed: int, mark: bool = False) -> np.ndarray:
    """A fine pattern of lines with noise, (128, 128, 3); `mark`: one patch of it runs the other way."""
    rng = np.random.default_rng(seed)
    rows = 128 + 60 * np.sin(2 * np.pi * np.arange(128) / period + rng.uniform(0, 6))[:, None]
    photo = np.repeat(np.repeat(rows, 128, axis=1)[:, :, None], 3, axis=2)
    if mark:
        photo[48:64, 48:64] = photo[48:64, 48:64].transpose(1, 0, 2)
    return np.clip(photo + rng.normal(0, 4, photo.shape), 0, 255).astype(np.uint8)


def test_principal_filters_answer_to_what_good_photos_vary_in() -> None:
    filters = PrincipalFilters()
    filters.start_from([woven(6, seed) for seed in range(8)], seed=0)
    assert not any(weight.requires_grad for weight in filters.parameters())

    def answers(photo: np.ndarray) -> torch.Tensor:
        return filters(torch.from_numpy(photo).permute(2, 0, 1)[None].float())[0]

    normal = torch.stack([answers(woven(6, seed)) for seed in range(20, 40)])
    marked = torch.stack([answers(woven(6, seed, mark=True)) for seed in range(40, 60)])
    assert normal.shape == (20, PrincipalFilters.channels, 8, 8)
    shift = (marked.mean(0) - normal.mean(0)).abs() / normal.std(0)
    for of_pixels_and_of_answers in shift.split([3 * FILTERS, SECOND_FILTERS]):
        turned, other = of_pixels_and_of_answers[:, 3, 3], of_pixels_and_of_answers[:, 6, 6]
        assert turned.max() > 5 > other.max()


def test_second_filters_are_whitened_over_good_photos() -> None:
    filters = PrincipalFilters()
    photos = [woven(6, seed) for seed in range(8)]
    filters.start_from(photos, seed=0)
    images = torch.stack([torch.from_numpy(photo).permute(2, 0, 1).float() for photo in photos])
    answers = filters.second[1](
        F.pad(filters.second[0](filters._answers(images)), (2, 2, 2, 2), mode="reflect")
    )
    leading = answers.transpose(0, 1).flatten(1)[:16]
    assert leading.mean(1).abs().max() < 0.1
    assert leading.var(1).sub(1).abs().max() < 0.2


def test_principal_filters_do_not_depend_on_chance_and_need_no_large_photo() -> None:
    photos = [woven(6, seed)[:32, :64] for seed in range(3)]
    weights = []
    for _ in range(2):
        filters = PrincipalFilters()
        filters.start_from(photos, seed=3)
        weights.append(torch.cat([weight.flatten() for weight in filters.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert weights[0].isfinite().all()


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


def test_rows_of_patches_are_embedded_as_maps_of_them_are() -> None:
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(50, 12, generator=generator)
    projection = Projection(12, 4)
    for parameter in projection.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    as_maps = projection.of_pooled(patches[:, :, None, None])[:, :, 0, 0]
    torch.testing.assert_close(projection.of_patches(patches), as_maps, rtol=1e-4, atol=1e-4)
