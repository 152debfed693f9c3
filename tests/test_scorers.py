"""The contract of every registered scorer, on hand-made maps: no network weights, no photo."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from anomaly.expected import Expected
from anomaly.scorers import SCORERS, FitContext, Scorer
from anomaly.scorers.eigenimages import EigenimageOptions, Eigenimages
from anomaly.scorers.embedding import EmbeddingDistance, EmbeddingOptions

SMALL = {"reconstruction": {"steps": 60, "batch_size": 4}}


def maps(count: int, channels: int, size: int, seed: int) -> list[torch.Tensor]:
    """Smooth maps on a two-dimensional subspace of the channels."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linspace(-1, 1, channels)[:, None, None], torch.linspace(0, 1, channels)[:, None, None] ** 2
    out = []
    for _ in range(count):
        a, b = torch.rand(2, 1, size, size, generator=generator)
        out.append((a * basis[0] + b * basis[1]).clamp(-2, 2).abs())
    return out


@pytest.fixture(params=SCORERS.names())
def fitted(request: pytest.FixtureRequest):
    scorer_class = SCORERS.get(request.param)
    scorer = scorer_class(scorer_class.Config.model_validate(SMALL.get(request.param, {})))
    channels = 3 if scorer.input == "pixels" else 12
    scorer.fit(maps(8, channels, side(scorer), seed=0), FitContext())
    return scorer, channels


def side(scorer: Scorer) -> int:
    """Of the maps that a scorer is tried on: photos that are reduced need more pixels."""
    return 512 if scorer.input == "pixels" else 32


def test_scores_are_finite_maps_and_an_odd_patch_scores_higher(fitted) -> None:
    scorer, channels = fitted
    plain, unit = maps(1, channels, side(scorer), seed=5)[0], side(scorer) // 32
    odd, rows, columns = plain.clone(), slice(10 * unit, 14 * unit), slice(20 * unit, 24 * unit)
    odd[:, rows, columns] = -plain[:, rows, columns] + 2
    before, after = scorer.score(plain), scorer.score(odd)
    assert before.ndim == 2
    assert torch.isfinite(before).all() and torch.isfinite(after).all()
    scale = after.shape[0] / 32
    row, col = divmod(int(after.argmax()), after.shape[1])
    assert 8 <= row / scale <= 15 and 18 <= col / scale <= 25
    if isinstance(scorer, Eigenimages):  # scores are logarithms, and photos of noise hardly reduced
        assert after.max() > before.max() + np.log(1.8)
    else:
        assert after.max() > 2 * before.max()


def test_state_gives_back_the_same_scorer(fitted) -> None:
    scorer, channels = fitted
    again = type(scorer)(scorer.options)
    again.restore({key: value.clone() for key, value in scorer.state().items()})
    new = maps(1, channels, side(scorer), seed=9)[0]
    assert torch.equal(scorer.score(new), again.score(new))


def test_a_state_that_misses_a_tensor_is_refused(fitted) -> None:
    scorer, _ = fitted
    state = scorer.state()
    del state[next(iter(state))]
    with pytest.raises((KeyError, ValueError, RuntimeError)):
        type(scorer)(scorer.options).restore(state)


def test_a_bank_that_takes_photos_in_never_scores_a_patch_higher() -> None:
    scorer_class = SCORERS.get("embedding")
    scorer = scorer_class(scorer_class.Config(bank_size=1000))
    scorer.fit(maps(6, 12, 20, seed=0), FitContext())
    held_out, new = maps(3, 12, 20, seed=1), maps(2, 12, 20, seed=2)
    before = [scorer.score(values) for values in (*held_out, *new)]
    scorer.extend(held_out)
    after = [scorer.score(values) for values in (*held_out, *new)]
    assert len(scorer.bank.patches) == pytest.approx(1500, abs=2)
    assert all((b <= a).all() for a, b in zip(before, after, strict=True))
    assert any((b < a).any() for a, b in zip(before[3:], after[3:], strict=True))
    again = scorer_class(scorer.options)
    again.restore(scorer.state())
    assert torch.equal(again.score(new[0]), scorer.score(new[0]))


@pytest.mark.parametrize("options", [{"noise": 0.0}, {"masked": 0.5}, {"variational": 0.001}])
@pytest.mark.parametrize("target", ["features", "pixels"])
def test_every_kind_of_autoencoder_learns_and_is_restored(target: str, options: dict[str, float]) -> None:
    scorer_class = SCORERS.get("reconstruction")
    scorer = scorer_class(scorer_class.Config(target=target, steps=40, batch_size=4, **options))
    context, channels, size = FitContext(), 12 if target == "features" else 3, 32
    normal = [values.clamp(0, 1) for values in maps(8, channels, size, seed=0)]
    scorer.fit(normal, context)
    losses = context.losses["reconstruction"]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    again = scorer_class(scorer.options)
    again.restore({key: value.clone() for key, value in scorer.state().items()})
    photo = maps(1, channels, size, seed=2)[0]
    assert torch.equal(scorer.score(photo), again.score(photo))
    assert torch.equal(scorer.score(photo), scorer.score(photo)), "scoring draws nothing"


def two_surfaces(count: int, seed: int) -> list[torch.Tensor]:
    """Maps whose left half hardly varies and whose right half varies a lot; channel 0 tells them apart."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(count):
        values = torch.randn(6, 12, 64, generator=generator)
        values[1:, :, :32] *= 0.1
        values[0, :, :32], values[0, :, 32:] = -5.0, 5.0
        out.append(values)
    return out


def test_a_relative_distance_is_held_against_those_usual_in_such_surroundings() -> None:
    new, ratios = two_surfaces(1, seed=1)[0], []
    for relative in (0.0, 1.0):
        scorer = EmbeddingDistance(EmbeddingOptions(relative=relative))
        scorer.fit(two_surfaces(8, seed=0), FitContext())
        scores = scorer.score(new)
        ratios.append((scores[:, 48:].mean() / scores[:, :16].mean()).item())
    assert ratios[0] > 5
    assert 0.5 < ratios[1] < 2


def test_a_defect_does_not_excuse_itself_by_its_look() -> None:
    scorer = EmbeddingDistance(EmbeddingOptions(relative=1.0))
    scorer.fit(two_surfaces(8, seed=0), FitContext())
    new = two_surfaces(1, seed=1)[0]
    odd = new.clone()
    odd[0, 6, 8], odd[1:, 6, 8] = 5.0, 4.0
    assert scorer.score(odd)[6, 8] > 5 * scorer.score(new)[6, 8]


def test_pixels_can_be_the_target() -> None:
    scorer_class = SCORERS.get("reconstruction")
    scorer = scorer_class(scorer_class.Config(target="pixels", steps=3, batch_size=2))
    scorer.fit(maps(4, 3, 64, seed=1), FitContext())
    again = scorer_class(scorer.options)
    again.restore(scorer.state())
    photo = maps(1, 3, 96, seed=2)[0]
    assert scorer.score(photo).shape == (12, 12)
    assert torch.equal(scorer.score(photo), again.score(photo))


def test_what_is_expected_does_not_depend_on_the_number_of_threads() -> None:
    rng = np.random.default_rng(3)
    photos = [rng.normal(size=(600, 256)).astype(np.float32) for _ in range(8)]
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            found.append(Expected.of_distances(photos, seed=0))
    assert found[0].weights.tobytes() == found[1].weights.tobytes()
    assert (found[0].offset, found[0].low, found[0].high) == (found[1].offset, found[1].low, found[1].high)


def cushions(count: int, seed: int, channels: int = 1) -> list[torch.Tensor]:
    """Photos of one bright cushion each, (3, 192, 256), as wide and as high as chance has it."""
    generator = torch.Generator().manual_seed(seed)
    rows, cols = torch.linspace(-1, 1, 192)[:, None], torch.linspace(-1, 1, 256)
    out = []
    for _ in range(count):
        a, b, *tint = (0.5 + torch.rand(2 + channels, generator=generator)).tolist()
        light = 0.1 + 0.5 * torch.exp(-(a * rows.square() + b * cols.square()))
        noise = 0.01 * torch.randn(1, 192, 256, generator=generator)
        out.append((torch.tensor(tint)[:, None, None].expand(-1, 192, 256) * light + noise).clamp(0, 1))
    return [photo.expand(3, -1, -1) for photo in out]


@pytest.mark.parametrize("channels", [1, 3])
def test_eigenimages_see_what_no_mixture_of_good_photos_explains(channels: int) -> None:
    scorer = Eigenimages(EigenimageOptions())
    scorer.fit(cushions(60, 0, channels), FitContext())
    assert len(scorer.mean) == channels
    photo = cushions(1, 1, channels)[0]
    shade = photo.clone()
    shade[:, 48:80, 96:144] *= 0.8
    before, after = scorer.score(photo), scorer.score(shade)
    assert before.shape == (12, 16)
    row, col = divmod(int(after.argmax()), 16)
    assert 3 <= row <= 4 and 6 <= col <= 8
    assert after.max() > before.max() + np.log(3)


def test_eigenimages_hardly_see_the_strength_and_the_slope_of_the_light() -> None:
    scorer = Eigenimages(EigenimageOptions())
    scorer.fit(cushions(60, 0), FitContext())
    photo = cushions(1, 1)[0]
    shade = photo.clone()
    shade[:, 48:80, 96:144] *= 0.8
    slope = torch.linspace(0.9, 1.1, 256)
    scale = float(scorer.score(shade).max() - scorer.score(photo).max())
    for lit in (1.2 * photo, slope * photo):
        assert float(scorer.score(lit).max() - scorer.score(photo).max()) < 0.5 * scale


def test_eigenimages_of_photos_of_another_shape_have_their_grid() -> None:
    scorer = Eigenimages(EigenimageOptions(components=5))
    scorer.fit(cushions(8, 0), FitContext())
    assert scorer.components.shape == (5, 24 * 32)
    assert scorer.score(torch.rand(3, 64, 320)).shape == (4, 20)
    state = scorer.state()
    with pytest.raises(ValueError, match="do not fit"):
        scorer.restore(state | {"gains": state["gains"][:3]})


def test_eigenimages_of_one_photo_and_of_blank_ones_are_numbers() -> None:
    for photos in (cushions(1, 0), [torch.zeros(3, 64, 64)] * 4):
        scorer = Eigenimages(EigenimageOptions())
        scorer.fit(photos, FitContext())
        assert torch.isfinite(scorer.score(photos[0])).all()
        assert torch.isfinite(scorer.score(torch.rand(3, 64, 64))).all()
