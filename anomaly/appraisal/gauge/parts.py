"""Which photos show which part: folders, or a CSV manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anomaly.data.images import find_images, one_line
from anomaly.data.layouts.manifest import LABELS, read_rows, refuse_missing
from anomaly.errors import DataError
from anomaly.records import Sample

COLUMNS = ("path", "part", "label", "group", "rejections", "looks")
REFERENCE = {
    **{word: label == "anomalous" for word, label in LABELS.items() if word},
    **{"ok": False, "ng": True, "nok": True, "defective": True},
}
"""Word for the reference decision -> whether the part is defective."""
FOLDERS = {word: defective for word, defective in REFERENCE.items() if not word.isdigit()}
"""The same for names of folders, where a number is the number of a part."""


@dataclass(frozen=True)
class PartPhotos:
    """The photos of one part, and what is known of it."""

    name: str
    photos: list[Sample] = field(default_factory=list)
    defective: bool | None = None
    manual: tuple[int, int] | None = None
    """Rejections by people, and their looks."""


def read_parts(source: Path) -> list[PartPhotos]:
    """The parts of a folder or a manifest, in a fixed order. Raises DataError for what is malformed.

    In a folder, each folder of photos is a part; below a folder `good` or `bad` it has that reference.
    A manifest has the columns path and part, and if known label, group (that has a threshold of its own),
    and rejections and looks by people.
    """
    if not source.exists():
        raise DataError(f"{one_line(source)} does not exist: give a folder of parts or a CSV manifest")
    parts = _from_folder(source) if source.is_dir() else _from_manifest(source)
    if not parts:
        raise DataError(f"no photos in {one_line(source)}: give a folder for each part, with its photos")
    return parts


def _from_folder(root: Path) -> list[PartPhotos]:
    parts: dict[str, PartPhotos] = {}
    for photo in find_images(root):
        folders = photo.relative_to(root).parts[:-1]
        defective = FOLDERS.get(folders[0].lower()) if folders else None
        if len(folders) <= (defective is not None):
            raise DataError(
                f"{one_line(photo)} stands in no folder of a part: put the photos of each part into a folder "
                "of their own"
            )
        name = "/".join(folders)
        part = parts.setdefault(name, PartPhotos(name, defective=defective))
        part.photos.append(Sample(photo, "test", None))
    return list(parts.values())


def _from_manifest(file: Path) -> list[PartPhotos]:
    parts: dict[str, PartPhotos] = {}
    rows = read_rows(file, COLUMNS)
    for line, row in rows:
        name = row["part"]
        if not name:
            raise _error(file, line, "the part is empty: name the part that the photo shows")
        here = PartPhotos(name, [], _reference(file, line, row), _manual(file, line, row))
        part = parts.setdefault(name, here)
        if (part.defective, part.manual) != (here.defective, here.manual):
            raise _error(
                file, line, f"part {name!r} has another label, rejections or looks than above: make them one"
            )
        part.photos.append(Sample(Path(row["path"]), "test", None, group=row["group"] or None))
    refuse_missing(file, [photo.path for part in parts.values() for photo in part.photos])
    return list(parts.values())


def _reference(file: Path, line: int, row: Mapping[str, str]) -> bool | None:
    word = row["label"].lower()
    if word and word not in REFERENCE:
        raise _error(file, line, f"unknown label {row['label']!r}: use good or bad, or leave it empty")
    return REFERENCE.get(word)


def _manual(file: Path, line: int, row: Mapping[str, str]) -> tuple[int, int] | None:
    given = row["rejections"], row["looks"]
    if given == ("", ""):
        return None
    try:
        return int(given[0]), int(given[1])
    except ValueError:
        raise _error(file, line, "rejections and looks must both be whole numbers, or both empty") from None


def _error(file: Path, line: int, reason: str) -> DataError:
    return DataError(f"{one_line(file)}, line {line}: {reason}")
