"""HTML pages that stand alone: one file, no script, nothing fetched, fit to be printed and filed.

Every page extends `page.html`, which inlines `style.css`, forbids outside resources by a content policy and
offers its macros (cards, table, facts) to the template that extends it. File names are hostile input:
everything is escaped unless it is a Markup made by this package.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent
DASH, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"


def render_page(template: str, **context: Any) -> str:
    """The page that `template`, a file of this folder, makes of `context`; always encodable as UTF-8."""
    page = _environment().get_template(template).render(context)
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def data_uri(picture: bytes) -> str:
    """A PNG or JPEG file's bytes as the `src` of an image inside the page."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def number(value: float | None) -> str:
    """Four significant digits, thousands apart; None is a dash."""
    if value is None:
        return DASH
    if isinstance(value, Integral) or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", THIN_SPACE)
    return f"{value:#.4g}".rstrip(".")


def visible(name: str) -> str:
    """A file name with line breaks, direction overrides and undecodable bytes spelt out as escapes."""
    return "".join(
        c if c.isprintable() or c == THIN_SPACE else c.encode("unicode_escape").decode("ascii") for c in name
    )


def cell(value: str | float | bool | None) -> str:
    """A value as it stands in a table: numbers short, None a dash; a Markup stays as it is."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, bool | str):
        return visible(value) if isinstance(value, str) else "yes" if value else "no"
    return number(value)


def facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values as a page shows them."""
    named = ((name.replace("_", " "), value) for name, value in values.items())
    return [(visible(name[:1].upper() + name[1:]), visible(_fact(value))) for name, value in named]


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return f" {TIMES} ".join(_fact(part) for part in value)
    return DASH if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, visible=visible, data_uri=data_uri, cell=cell, facts=facts)
    environment.globals.update(
        css=Markup((FOLDER / "style.css").read_text("utf-8")), program=f"anomaly {version('anomaly')}"
    )
    return environment
