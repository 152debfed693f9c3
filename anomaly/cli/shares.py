"""Options that are shares, written as people write them: 5% or 0.05."""

from __future__ import annotations

import typer

from anomaly.errors import ConfigError


def share(text: str | float) -> float:
    """ "1%" or "0.01" as a number in (0, 1)."""
    number, sign, rest = str(text).replace(" ", "").partition("%")
    try:
        value = float(f"{number}e-2" if sign else number)
    except ValueError:
        value = -1.0
    if rest or not 0 < value < 1:
        raise ConfigError(f"a share is such as 1% or 0.01, above 0 and below 100%, got {text!r}")
    return value


def share_option(of: str) -> typer.models.OptionInfo:
    """An option that takes a share; `of` says of what."""
    option: typer.models.OptionInfo = typer.Option(parser=share, metavar="SHARE", help=of)
    return option
