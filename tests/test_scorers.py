"""The contract of every registered scorer, on hand-made maps: no network weights, no photo."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from anomaly.expected import Expected
from anomaly.scorers import SCORERS, FitContext
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
    normal = maps(8, channels, 32, seed=0)
    scorer.fit(normal, FitContext())
    return scorer, channels


def test_scores_are_finite_maps_and_an_odd_patch_scores_higher(fitted) -> None:
    scorer, channels = fitted
    plain = maps(1, channels, 32, seed=5)[0]
    odd = plain.clone()
    odd[:, 10:14, 20:24] = -plain[:, 10:14, 20:24] + 2
    before, after = scorer.score(plain), scorer.score(odd)
    assert before.ndim == 2
    assert torch.isfinite(before).all() and torch.isfinite(after).all()
    scale = after.shape[0] / 32
    row, col = divmod(int(after.argmax()), after.shape[1])
    assert 8 <= row / scale <= 15 and 18 <= col / scale <= 25
    assert after.max() > 2 * before.max()


def test_state_gives_back_the_same_scorer(fitted) -> None:
    scorer, channels = fitted
    again = type(scorer)(scorer.options)
    again.restore({key: value.clone() for key, value in scorer.state().items()})
    new = maps(1, channels, 32, seed=9)[0]
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
