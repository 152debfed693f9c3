"""Which photos lie at a place: a file, a folder, or an address of an object store."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from anomaly.data.addresses import Address, Location, list_store
from anomaly.data.images import IMAGE_SUFFIXES, find_images, natural, one_line
from anomaly.errors import DataError


def expand(place: Location) -> list[Location]:
    """The photos at a place: a file as it is, a folder searched recursively.

    Raises DataError for what does not exist, for a folder without photos and one that cannot be read,
    ConfigError for an address that is none. A file that cannot be read is judged `error` later.
    """
    return [*_stored(place)] if isinstance(place, Address) else [*local_photos(place)]


def local_photos(path: Path) -> list[Path]:
    """A folder's photos; a file as it is. Raises DataError for a folder without any, and for what does not
    exist."""
    if not os.path.lexists(path):
        raise DataError(f"{one_line(path)} does not exist: check the path")
    if not path.is_dir():
        return [path]
    found = find_images(path)
    if not found:
        raise _empty(path)
    return found


def _stored(address: Address) -> list[Address]:
    names = list_store(address)
    if names is None:
        return [address]
    paths = [PurePosixPath(name) for name in names]
    kept = [
        (natural(path), name)
        for path, name in zip(paths, names, strict=True)
        if path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.parts)
    ]
    if not kept:
        raise _empty(address)
    return [address.child(name) for _, name in sorted(kept)]


def _empty(place: Location) -> DataError:
    return DataError(f"no photos in the folder {one_line(place)}: give a folder that holds some")
