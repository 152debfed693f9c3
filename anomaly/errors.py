"""Every error that a user can cause: one sentence that names the cure, and an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AnomalyError(Exception):
    """A mistake in what the program was given. `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(AnomalyError):
    """An option, a field or a value that does not exist or does not fit."""

    exit_code = 2


class DataError(AnomalyError):
    """Photos, masks or manifests that cannot be used as they are."""

    exit_code = 3


class ImageError(DataError):
    """One photo that cannot be read. It never stops a run; it becomes a verdict of `error`."""


class BundleError(AnomalyError):
    """A model folder that is damaged, incomplete, newer than this program, or not a model."""

    exit_code = 4


class CalibrationError(AnomalyError):
    """The normal photos at hand cannot support the promise that was asked for."""

    exit_code = 5


def nearest(name: str, known: Iterable[str]) -> str:
    """End of an error sentence about an unknown `name`: the closest known one, else all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
