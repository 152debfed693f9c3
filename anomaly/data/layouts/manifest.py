"""A CSV file that lists photos, with what is known of each."""

from __future__ import annotations

import csv
import io
import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

from anomaly.data.addresses import Address, Location, fetch
from anomaly.data.images import one_line
from anomaly.data.layouts import LAYOUTS
from anomaly.errors import DataError, ImageError
from anomaly.records import Label, Sample, Split

COLUMNS = ("path", "split", "label", "mask", "group", "defect_type")
LABELS: Mapping[str, Label] = {
    **dict.fromkeys(("", "good", "normal", "0"), "normal"),
    **dict.fromkeys(("bad", "anomalous", "defect", "1"), "anomalous"),
}


@LAYOUTS.register("manifest")
class Manifest:
    """A CSV file with a column path and, as known, split, label, mask, group and defect_type.

    Paths are relative to the file's folder and stay inside it. Split is train where it is not given,
    label normal. Other columns are ignored. A defective training photo needs a mask.
    """

    def detects(self, path: Path) -> bool:
        return path.is_file() and path.suffix.lower() == ".csv"

    def read(self, path: Path) -> list[Sample]:
        rows = read_rows(path)
        samples = [_sample(path, line, row) for line, row in rows]
        refuse_missing(path, [photo for s in samples for photo in (s.path, s.mask) if photo is not None])
        return samples


def read_rows(file: Location, columns: Sequence[str] = COLUMNS) -> list[tuple[int, dict[str, str]]]:
    """(line number, cells of `columns`, missing ones empty) of each row. Commas, semicolons or tabs.

    `path` must be among the columns; it and `mask` come joined to the file's folder. Raises DataError with
    the line number for what is malformed, leads out of the folder, or names a photo twice.
    """
    if isinstance(file, Path) and not file.is_file():
        raise DataError(f"{one_line(file)} is not a file: give a CSV manifest")
    try:
        with io.StringIO(_text(file), newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter=max(",;\t", key=first.count), strict=True)
            table = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except UnicodeDecodeError as error:
        raise DataError(f"{one_line(file)} is not UTF-8 text: save it as CSV UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{one_line(file)} is not a CSV file ({error}): save it as CSV UTF-8") from error
    except OSError as error:
        raise DataError(f"{one_line(file)} cannot be read: {error.strerror}") from error
    except ImageError as error:
        raise DataError(f"{one_line(file)}: {error}") from error
    header = [cell.strip().lower() for cell in table[0][1]] if table else []
    if "path" not in header:
        raise DataError(f"{one_line(file)} has no column 'path' in its first line: add it")
    for column in columns:
        if header.count(column) > 1:
            raise DataError(f"{one_line(file)} has two columns {column!r}: remove or rename one")
    seen: dict[str, int] = {}
    rows = []
    for line, cells in table[1:]:
        if len(cells) > len(header):
            raise _error(file, line, f"{len(cells)} cells for {len(header)} columns: quote cells with commas")
        given = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        row = {column: given.get(column, "") for column in columns}
        if not row["path"]:
            raise _error(file, line, "the path is empty: fill it in or remove the row")
        for column in ("path", "mask"):
            if row.get(column):
                row[column] = str(_inside(file, line, row[column]))
        real = row["path"] if isinstance(file, Address) else os.path.realpath(row["path"])
        if real in seen:
            raise _error(file, line, f"the same photo as in line {seen[real]}: remove one of the rows")
        seen[real] = line
        rows.append((line, row))
    return rows


def refuse_missing(file: Path, photos: Sequence[Path]) -> None:
    """Raise DataError with the first three of `photos` that are not there."""
    missing = [photo for photo in photos if not os.path.isfile(photo)]
    if missing:
        first = ", ".join(one_line(photo) for photo in missing[:3])
        raise DataError(
            f"{one_line(file)} names {len(missing)} files that are not there ({first}"
            f"{', ...' if len(missing) > 3 else ''}): paths are relative to the manifest's folder"
        )


def _sample(file: Path, line: int, row: Mapping[str, str]) -> Sample:
    split = row["split"].lower() or "train"
    if split not in get_args(Split):
        raise _error(file, line, f"unknown split {row['split']!r}: use train or test")
    label = LABELS.get(row["label"].lower())
    if label is None:
        raise _error(file, line, f"unknown label {row['label']!r}: use normal or anomalous")
    if split == "train" and label == "anomalous" and not row["mask"]:
        raise _error(
            file,
            line,
            "training uses good photos only, and defective ones where a mask shows the defect: give the "
            "mask, set split to test or remove the row",
        )
    defect_type = row["defect_type"] or None
    if label == "normal" and defect_type is not None:
        if LABELS.get(defect_type.lower()) != "normal":
            raise _error(file, line, f"a normal photo of defect_type {defect_type!r}: set its label")
        defect_type = None
    return Sample(
        path=Path(row["path"]),
        split=cast(Split, split),
        label=label,
        defect_type=defect_type,
        mask=Path(row["mask"]) if row["mask"] else None,
        group=row["group"] or None,
    )


def _text(file: Location) -> str:
    data = fetch(file, lambda size: None) if isinstance(file, Address) else file.read_bytes()
    return data.decode("utf-8-sig")


def _inside(file: Location, line: int, cell: str) -> Location:
    """The place that a cell means, which may not leave the manifest's folder, by links neither."""
    if isinstance(file, Address):
        relative = posixpath.normpath(cell.replace("\\", "/"))
        if relative == ".." or relative.startswith(("/", "../")):
            raise _outside(file, line, cell)
        return file.parent.child(relative)
    path = file.parent / cell.replace("\\", "/")
    try:
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(file.parent))
    except (OSError, ValueError) as error:
        raise _error(file, line, f"{cell!r} cannot be a path ({error}): correct it") from error
    if not inside:
        raise _outside(file, line, cell)
    return path


def _outside(file: Location, line: int, cell: str) -> DataError:
    return _error(file, line, f"{cell!r} leads out of the manifest's folder: move the photo or the manifest")


def _error(file: Location, line: int, reason: str) -> DataError:
    return DataError(f"{one_line(file)}, line {line}: {reason}")
