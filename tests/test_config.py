"""Configuration: one object, errors that name the field and the nearest known one."""

from pathlib import Path

import pytest

from anomaly.config import DEFAULT_SCORERS, RunConfig
from anomaly.errors import ConfigError
from anomaly.study.cells import Dials

CONFIGS = Path(__file__).parent.parent / "configs"


def test_default_yaml_spells_every_default() -> None:
    import yaml

    written = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    assert written == RunConfig.parse({}).model_dump(mode="json")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_file_is_valid(path: Path) -> None:
    assert RunConfig.load(path)


def test_overrides_win_over_the_file() -> None:
    config = RunConfig.load(CONFIGS / "demo.yaml", ["contrastive.steps=7", "backbone=none"])
    assert config.contrastive.steps == 7
    assert config.backbone == "none"
    assert config.scorers["reconstruction"].steps == 250
    assert "embedding" in config.scorers


@pytest.mark.parametrize(
    ("overrides", "weight"),
    [
        ([], 0.0),
        (["backbone=none"], 0.5),
        (["backbone=none", "contrastive.supervised_weight=0"], 0.0),
        (["contrastive.supervised_weight=0.3"], 0.3),
    ],
)
def test_an_encoder_that_learns_from_nothing_is_supervised_by_default(
    overrides: list[str], weight: float
) -> None:
    config = RunConfig.load(None, overrides)
    assert config.supervised_weight == weight
    assert Dials.of(config).supervised_weight == weight, "a study begins with what a fit would do"


def test_null_switches_a_scorer_off_and_survives_a_round_trip() -> None:
    config = RunConfig.load(None, ["scorers.embedding=null"])
    assert list(config.scorers) == ["reconstruction", "coarse", "texture", "eigenimages"]
    assert list(RunConfig.parse(config.model_dump(mode="json")).scorers) == [
        "reconstruction",
        "coarse",
        "texture",
        "eigenimages",
    ]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "contrastive.embeding_size=3",
            "there is no field 'contrastive.embeding_size': did you mean 'embedding_size'",
        ),
        ("image_size=3", "there is no field 'image_size': did you mean 'image.image_size'"),
        ("image.target_fpr=0.1", "'image.target_fpr': did you mean 'calibration.target_fpr'"),
        ("noise=0.1", "there is no field 'noise': known: scorers.reconstruction.noise"),
        (
            "contrastive.augmentation_strength=2",
            "contrastive.augmentation_strength = 2: input should be less than",
        ),
        ("scorers.embeding.bank_size=3", "unknown scorer 'embeding': did you mean 'embedding'"),
        ("scorers.embedding.bank=3", "there is no field 'scorers.embedding.bank': did you mean 'bank_size'"),
        (
            "image.image_size=16",
            "image.image_size = 16: input should be 'auto' or greater than or equal to 32",
        ),
        ("image.tile_size=128", "image.tile_size = 128: input should be greater than or equal to 160"),
        ("data.max_megapixels=.inf", "data.max_megapixels = inf: input should be a finite number"),
        ("nonsense", "--set takes section.key=value, got 'nonsense'"),
        ("calibration.target_fpr=[", "'[' is not a YAML value"),
    ],
)
def test_mistakes_are_named_with_the_cure(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match="(?i)" + __import__("re").escape(sentence)):
        RunConfig.load(None, [override])


def test_unreadable_file_and_no_scorer(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        RunConfig.load(tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="must hold fields"):
        RunConfig.load(tmp_path / "list.yaml")
    with pytest.raises(ConfigError, match="every scorer is switched off"):
        RunConfig.load(None, [f"scorers.{name}=null" for name in DEFAULT_SCORERS])
    others = [f"scorers.{name}=null" for name in DEFAULT_SCORERS if name != "coarse"]
    with pytest.raises(ConfigError, match="the coarse branch does not go with backbone 'none'"):
        RunConfig.load(None, ["backbone=none", *others])
    assert list(RunConfig.load(None, others).branches) == ["coarse"]
    others = [f"scorers.{name}=null" for name in DEFAULT_SCORERS if name != "eigenimages"]
    with pytest.raises(ConfigError, match="the eigenimages branch does not go with backbone 'auto'"):
        RunConfig.load(None, others)


def test_a_backbone_has_the_branches_that_serve_it() -> None:
    assert list(RunConfig.load(None, ["backbone=none"]).branches) == [
        "reconstruction",
        "embedding",
        "texture",
        "eigenimages",
    ]
    assert list(RunConfig.load().branches) == ["reconstruction", "embedding", "coarse", "texture"]


def test_a_product_at_any_angle_has_no_coarse_branch_unless_it_is_the_only_one() -> None:
    config = RunConfig.load().at_any_angle()
    assert list(config.branches) == ["reconstruction", "embedding", "texture"]
    assert RunConfig.parse(config.model_dump(mode="json")) == config, "a model's configuration says so"
    alone = RunConfig.load(None, [f"scorers.{name}=null" for name in DEFAULT_SCORERS if name != "coarse"])
    assert alone.at_any_angle().scorers == alone.scorers
    assert config.fusion.standardise_by == "radius"
