"""One `RunConfig`: the Python API, YAML files and the command line all end in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from anomaly.errors import ConfigError, nearest

DEFAULT_SCORERS = ("reconstruction", "embedding", "coarse", "texture", "eigenimages")
Share = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """A part of the configuration. Unknown fields are refused, fields never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    layout: str = "auto"
    """How the folder is read: auto, or a name that `anomaly components` lists."""
    calibration_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """Share of the normal photos held out for calibration. More are taken, up to half of them, where
    `calibration.target_fpr` needs more."""
    most_photos: Annotated[int, Field(ge=2)] | None = None
    """Good training photos used, at most, evenly spread over their order; null: all. Of frames of a video or
    a burst, which are hardly different photos, a few are better than all."""
    max_megapixels: Annotated[float, Field(gt=0)] = 100.0
    any_angle: Literal["auto"] | bool = "auto"
    """Whether the product lies at any angle: it is then looked for, see `cut_out`, or turned copies of
    the good photos are learnt from as well; auto finds out from the photos."""
    cut_out: bool = True
    """Whether photos of a product on a plain tray are cut to it, and turned upright where it lies at any
    angle; else whole photos are judged."""


class ImageConfig(Section):
    image_size: Literal["auto"] | Annotated[int, Field(ge=32)] = "auto"
    """Long side of the working photo in pixels; auto chooses it from the training photos."""
    tile_size: Annotated[int, Field(ge=160, le=1024, multiple_of=32)] = 1024
    """Working photos larger than this are passed through the backbone tile by tile."""


class ContrastiveConfig(Section):
    """The contrastive encoder, and the two dials that decide which features it keeps."""

    embedding_size: Annotated[int, Field(ge=2, le=2048)] = 256
    augmentation_strength: Annotated[float, Field(ge=0, le=1)] = 0.3
    temperature: Annotated[float, Field(gt=0)] = 0.1
    supervised_weight: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = "auto"
    """0 is unsupervised NT-Xent; 1 tells defects from normal patches (supervised contrastive), drawn ones and
    those of defective training photos with masks; in between both losses are mixed. auto is 0.5 where the
    backbone learns from nothing, else 0: see `RunConfig.supervised_weight`."""
    fine_tune: bool = False
    """Train a pretrained backbone as well; one without pretrained weights is always trained."""
    steps: Annotated[int, Field(ge=1)] = 150
    views: Annotated[int, Field(ge=2)] = 128
    """Pairs of augmented views that are drawn from the training photos."""
    patches: Annotated[int, Field(ge=16)] = 512
    """Patch pairs a step in the NT-Xent loss."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    backbone_steps: Annotated[int, Field(ge=1)] = 600
    """Steps that train the backbone as well, where it learns from nothing or is fine-tuned."""
    backbone_learning_rate: Annotated[float, Field(gt=0)] = 2e-3


class FusionConfig(Section):
    standardise_by: Literal["auto", "position", "radius", "whole"] = "auto"
    """What tells patches of good photos apart when maps are standardised: their position on the photo, their
    distance from its middle, or nothing; auto: position, or radius where the product lies at any angle."""
    weighting: Literal["visibility", "equal"] = "visibility"
    """How branches are weighted: by what they see of small defects drawn on held-out photos, or alike."""
    top_share: Share = 0.01
    """The image score is the mean of this share of the anomaly map, its largest values."""


class CalibrationConfig(Section):
    target_fpr: Share = 0.05
    guarantee: Literal["marginal", "training_conditional"] = "marginal"
    confidence: Share = 0.95


class TrackingConfig(Section):
    enabled: bool = True
    uri: str | None = None
    """MLflow tracking address; without it MLFLOW_TRACKING_URI, and without that a local SQLite file."""
    experiment: str = "anomaly"
    timeout: Annotated[float, Field(gt=0)] = 10.0
    """Seconds after which a server that does not answer is left alone."""


class RunConfig(Section):
    """Everything that decides what `fit` does. `configs/default.yaml` spells every field."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataConfig = DataConfig()
    image: ImageConfig = ImageConfig()
    backbone: str = "auto"
    """auto, none, efficientnet_lite0, timm:<name>, or the path of a safetensors file of timm weights."""
    dials: Literal["fixed", "auto"] = "fixed"
    """auto: `fit` first runs a short study that chooses augmentation_strength and embedding_size."""
    contrastive: ContrastiveConfig = ContrastiveConfig()
    scorers: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    """The branches of the detector: name -> options. What is left out of a file stays on; null is off."""
    picture_steps: Annotated[int, Field(ge=0)] = 400
    """Steps of the pixel autoencoder that draws what the model expected to see; 0 draws nothing."""
    fusion: FusionConfig = FusionConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def supervised_weight(self) -> float:
        """The weight that `contrastive.supervised_weight` means, in [0, 1]."""
        weight = self.contrastive.supervised_weight
        if weight == "auto":
            return 0.5 if self.backbone == "none" else 0.0
        return weight

    @property
    def branches(self) -> dict[str, Any]:
        """`scorers`, as this backbone has them: those that serve it, and for one that learns from nothing
        `own_photo: auto` means no."""
        from anomaly.scorers import SCORERS

        if self.backbone != "none":
            return {
                name: options for name, options in self.scorers.items() if SCORERS.get(name).beside_pretrained
            }
        return {
            name: options.model_copy(update={"own_photo": False})
            if getattr(options, "own_photo", None) == "auto"
            else options
            for name, options in self.scorers.items()
            if SCORERS.get(name).from_nothing
        }

    def of_whole_photos(self) -> RunConfig:
        """This configuration, but nothing is cut out of photos."""
        return self.model_copy(update={"data": self.data.model_copy(update={"cut_out": False})})

    def at_any_angle(self) -> RunConfig:
        """This configuration for a product that lies at any angle: with the branches that serve it, or all
        where there are none, and maps standardised by radius where that is left open."""
        from anomaly.scorers import SCORERS

        scorers = {name: options for name, options in self.scorers.items() if SCORERS.get(name).at_any_angle}
        by = "radius" if self.fusion.standardise_by == "auto" else self.fusion.standardise_by
        fusion = self.fusion.model_copy(update={"standardise_by": by})
        return self.model_copy(update={"scorers": scorers or self.scorers, "fusion": fusion})

    @model_validator(mode="after")
    def _some_branch(self) -> RunConfig:
        if not self.branches:
            raise ConfigError(
                f"the {' and '.join(self.scorers)} branch does not go with backbone {self.backbone!r}: "
                "leave another branch on as well"
            )
        return self

    @field_validator("scorers")
    @classmethod
    def _known_scorers(cls, options: dict[str, Any]) -> dict[str, Section]:
        from anomaly.scorers import SCORERS

        merged = {name: {} for name in DEFAULT_SCORERS} | options
        chosen = {name: fields for name, fields in merged.items() if fields is not None}
        if not chosen:
            raise ConfigError("every scorer is switched off: leave at least one of them on")
        return {
            name: parse_section(SCORERS.get(name).Config, fields, f"scorers.{name}.")
            for name, fields in chosen.items()
        }

    @field_serializer("scorers")
    def _plain_scorers(self, scorers: dict[str, Section]) -> dict[str, Any]:
        off = {name: None for name in DEFAULT_SCORERS if name not in scorers}
        return {name: section.model_dump(mode="json") for name, section in scorers.items()} | off

    @classmethod
    def load(cls, path: Path | None = None, overrides: tuple[str, ...] | list[str] = ()) -> RunConfig:
        """Configuration from a YAML file and `section.key=value` overrides, which win over it."""
        fields: dict[str, Any] = {}
        if path is not None:
            fields = read_yaml(path)
        for override in overrides:
            _set(fields, override)
        return cls.parse(fields)

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> RunConfig:
        """Validated configuration. Raises ConfigError with one sentence for the first problem."""
        return parse_section(cls, fields)

    @classmethod
    def of_model(cls, fields: dict[str, Any]) -> RunConfig:
        """The configuration that a model holds: a default branch which it does not name came after it, and is
        off."""
        return cls.parse({**fields, "scorers": dict.fromkeys(DEFAULT_SCORERS) | fields["scorers"]})

    def flat(self) -> dict[str, Any]:
        """`{"section.key": value}` for every field."""
        return _flatten(self.model_dump(mode="json"))


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields of a YAML file; none of an empty one."""
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path} ({error.strerror}): check --config"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} must hold fields such as `name: value`, see configs/default.yaml")
    return fields


def _set(fields: dict[str, Any], override: str) -> None:
    """Put `section.key=value` into nested `fields`; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes section.key=value, got {override!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {key}: {text!r} is not a YAML value: quote it") from None
    *sections, last = key.split(".")
    for section in sections:
        inner = fields.get(section)
        fields[section] = inner if isinstance(inner, dict) else {}
        fields = fields[section]
    fields[last] = value


S = TypeVar("S", bound=Section)


def parse_section(section: type[S], fields: Any, prefix: str = "") -> S:
    """`fields` as a validated `section`. Raises ConfigError with one sentence for the first problem."""
    try:
        return section.model_validate(fields)
    except ValidationError as error:
        problems = error.errors()
    first = problems[0]
    path, inner = _field(section, first["loc"])
    where = prefix + ".".join(str(part) for part in path)
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        where = f"{where}.{name}" if where and not where.endswith(".") else where + name
        every = RunConfig().flat() if section is RunConfig else {}
        elsewhere = [one for one in every if one.endswith(f".{name}")]
        known = elsewhere if len(elsewhere) == 1 else inner.model_fields
        raise ConfigError(f"there is no field {where!r}: {nearest(name, known)}")
    same = [one["msg"].lower() for one in problems if _field(section, one["loc"])[0] == path]
    said = " or ".join([same[0], *(text.removeprefix("input should be ") for text in same[1:])])
    raise ConfigError(f"{where or 'configuration'} = {first.get('input')!r}: {said}")


def _field(section: Any, where: Sequence[str | int]) -> tuple[tuple[str | int, ...], Any]:
    """The part of pydantic's path that names fields, without the alternatives of their types, and the type
    of the last."""
    path: list[str | int] = []
    inner: Any = section
    for part in where:
        if isinstance(part, int):
            inner = next(iter(get_args(inner)), None)
        elif part in getattr(inner, "model_fields", ()):
            inner = inner.model_fields[part].annotation
        else:
            break
        path.append(part)
    return tuple(path), inner


def _flatten(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            out |= _flatten(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value
    return out
