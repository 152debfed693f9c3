"""anomaly components"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anomaly.cli.terminal import result


def command(json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """List backbones, scorers, layouts and probes that this installation has."""
    from anomaly.data.layouts import LAYOUTS
    from anomaly.models.backbones import BACKBONES
    from anomaly.probes import PROBES
    from anomaly.registry import Registry
    from anomaly.scorers import SCORERS

    rooms: dict[str, Registry[Any]] = {
        "backbone": BACKBONES,
        "scorer": SCORERS,
        "layout": LAYOUTS,
        "probe": PROBES,
    }
    if json_:
        result({kind: registry.summaries() for kind, registry in rooms.items()})
        return
    for kind, registry in rooms.items():
        for name, summary in registry.summaries().items():
            typer.echo(f"{kind:<9} {name:<20} {summary}")
