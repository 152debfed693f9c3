"""Which photos are judged, and to which product, camera or lot each belongs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from anomaly.data.addresses import Address, Location, locate
from anomaly.data.layouts.manifest import read_rows
from anomaly.errors import DataError
from anomaly.inspection.inputs import expand
from anomaly.policy.policy import Policy

NAMED = 5
"""Groups that a sentence lists."""


class Found(NamedTuple):
    """A photo to judge."""

    path: Location
    group: str | None


def photos_of(inputs: Sequence[Location], group: str | None = None, by_folder: bool = False) -> list[Found]:
    """The photos meant by `inputs`, in that order: files, folders searched recursively, and CSV manifests
    with the columns path and, if known, group. `by_folder`: the sub-folder that a photo lies in names its
    group. Photos without a group are of `group`.

    Raises DataError where there is nothing to judge, or a manifest is malformed.
    """
    photos: list[Found] = []
    named: list[tuple[Location, str]]
    for source in inputs:
        if source.suffix.lower() == ".csv" and (isinstance(source, Address) or source.is_file()):
            rows = read_rows(source, ("path", "group"))
            if not rows:
                raise DataError(f"{source} names no photos: give a manifest with a row for each")
            named = [(locate(row["path"]), row["group"]) for _, row in rows]
        else:
            named = [(path, folder_group(path, source) if by_folder else "") for path in expand(source)]
        photos += [Found(path, own or group) for path, own in named]
    if not photos:
        raise DataError("nothing to inspect: give photos, folders of photos or a CSV manifest")
    return photos


def folder_group(photo: Location, root: Location) -> str:
    """The sub-folder of `root` that `photo` lies in; empty directly in `root`, and for `root` itself."""
    if isinstance(photo, Path):
        parts = photo.relative_to(root).parts
    else:
        parts = (
            tuple(photo.removeprefix(f"{root}".removesuffix("/") + "/").split("/")) if photo != root else ()
        )
    return parts[0] if len(parts) > 1 else ""


def without_threshold(policy: Policy, groups: Iterable[str | None]) -> str | None:
    """A sentence on those of `groups` that have no threshold of their own; None where all have one."""
    missing = sorted({group for group in groups if group is not None} - policy.groups.keys())
    if not missing:
        return None
    names = ", ".join(repr(name) for name in missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
    known = ", ".join(policy.groups) or "none"
    return (
        f"no threshold for {'group' if len(missing) == 1 else f'{len(missing)} groups:'} {names} (known: "
        f"{known}): the pooled one decides"
    )
