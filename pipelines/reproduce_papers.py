"""The papers' toy results beside ours: `python -m pipelines.reproduce_papers [--json] [--only r1,r3]`.

Takes about a quarter of an hour on one core. `docs/papers.md` says what each experiment shows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from anomaly.errors import AnomalyError, ConfigError, nearest
from pipelines.papers import collapse, photo_subspaces, reconstruction, suppression, visibility
from pipelines.papers.table import Row, Skipped, markdown

Experiment = Callable[[Path | None], Iterable[Row]]
"""A folder of photos, or None, to rows, each as soon as it is known. Raises Skipped."""

EXPERIMENTS: dict[str, tuple[str, Experiment]] = {
    "r1": ("feature suppression: bits against digits", lambda _: suppression.randbit()),
    "chen": ("bits by temperature", lambda _: suppression.temperature_table()),
    "r2": ("class collapse", lambda _: collapse.class_collapse()),
    "r3": ("reconstruction against perception", lambda _: reconstruction.perception()),
    "r3-photos": ("reconstruction against perception, real photos", photo_subspaces.perception_on_photos),
    "r4": ("residual against the number of nuisance factors", lambda _: reconstruction.nuisance_rank()),
    "r5": ("augmentation decides which defect is visible", lambda _: visibility.visibility()),
    "r5-photos": (
        "augmentation decides which defect is visible, real photos",
        visibility.visibility_on_photos,
    ),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.reproduce_papers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of tables")
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(EXPERIMENTS)}")
    parser.add_argument(
        "--data", metavar="DIR", type=Path, help="labelled photos for r3-photos and r5-photos"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        for name in _chosen(options.only):
            title, experiment = EXPERIMENTS[name]
            print(f"{name}: {title} ...", file=sys.stderr, flush=True)
            _show(name, title, experiment(options.data), options.json)
    except AnomalyError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; what was printed is whole", file=sys.stderr)
        return 130
    return 0


def _chosen(only: str | None) -> list[str]:
    names = list(EXPERIMENTS) if only is None else [name.strip() for name in only.split(",")]
    for name in names:
        if name not in EXPERIMENTS:
            raise ConfigError(f"there is no experiment {name!r}: {nearest(name, EXPERIMENTS)}")
    return names


def _show(name: str, title: str, found: Iterable[Row], as_json: bool) -> None:
    """Print the rows of one experiment, JSON at once, a table even where it was stopped half-way."""
    rows, skipped = [], ""
    try:
        for row in found:
            rows.append(row)
            if as_json:
                print(json.dumps(row.to_dict()), flush=True)
    except Skipped as reason:
        skipped = str(reason)
        if as_json:
            print(json.dumps({"experiment": name, "skipped": skipped}), flush=True)
    finally:
        if not as_json and (rows or skipped):
            body = f"skipped: {skipped}" if skipped else markdown(rows)
            print(f"\n## {name}: {title}\n\n{body}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
