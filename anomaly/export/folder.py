"""An exported detector on disk: its graphs, and a small JSON with all that stands outside them.

detector.onnx              or detector.xml and detector.bin: from photo to score and map, in float32 alone
branches.onnx              or branches.xml and branches.bin: from photo to branches, what `inspect` runs
detector.json              how to prepare a photo, the threshold, how it was verified, checksums
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly.bundle import Bundle
from anomaly.errors import BundleError
from anomaly.export.runtimes import FULL, PRECISIONS, runtime_name

FORMAT = 3
FACTS = "detector.json"
EXPORTS = "exports"
"""Folder of a model that its exports lie in."""
WHOLE, BRANCHES = "detector", "branches"
SUFFIXES = {"onnx": (".onnx",), "openvino": (".xml", ".bin")}
"""Files of a graph in each format, the one to load first."""


@dataclass(frozen=True)
class Export:
    """An exported folder whose files are those that were written."""

    path: Path
    facts: dict[str, Any]

    @property
    def runtime(self) -> str:
        """One of VARIANTS."""
        return runtime_name(self.facts["graph"], self.facts["precision"])

    @property
    def graph(self) -> Path:
        """From photo to score and map; not there in a lower precision."""
        return self.path / (WHOLE + SUFFIXES[self.facts["graph"]][0])

    @property
    def branches(self) -> Path:
        """From photo to the branches."""
        return self.path / (BRANCHES + SUFFIXES[self.facts["graph"]][0])

    @property
    def trusted(self) -> bool:
        """Whether it judges as the model does as far as is known: in float32 it was verified to, in a lower
        precision its loss must have been measured."""
        return self.facts["precision"] == FULL or self.facts["loss"] is not None

    @property
    def milliseconds(self) -> dict[str, float]:
        """Time of one photo when it was verified, in the runtime and in torch."""
        times: dict[str, float] = self.facts["verification"]["milliseconds"]
        return times


def default_folder(model: Path, graph: str, precision: str = FULL) -> Path:
    """Where `inspect` looks for the export of a model: inside its folder."""
    return model / EXPORTS / (graph if precision == FULL else f"{graph}-{precision}")


def graph_files(graph: str, precision: str) -> list[str]:
    """The files of an export beside its facts."""
    stems = (WHOLE, BRANCHES) if precision == FULL else (BRANCHES,)
    return [stem + suffix for stem in stems for suffix in SUFFIXES[graph]]


def scoring_hash(bundle: Bundle) -> str:
    """SHA-256 of all that scores depend on: an export stays good when only the threshold moves."""
    manifest = bundle.manifest
    kept = {name: digest for name, digest in manifest["files"].items() if _scores(name)}
    parts = [
        kept, manifest["backbone"], manifest["geometry"], manifest["white_level"], manifest["weights"],
        manifest["config"]["fusion"]["top_share"], manifest["config"]["scorers"],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_export(folder: Path) -> Export:
    """The export in `folder`. Raises BundleError for anything that is not as it was written."""
    try:
        facts = json.loads((folder / FACTS).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BundleError(f"{folder / FACTS} cannot be read ({reason}): export the model again") from None
    try:
        if facts["format"] > FORMAT:
            raise BundleError(f"{folder} was exported by a newer program: upgrade anomaly")
        if facts["format"] < FORMAT:
            raise BundleError(f"{folder} was exported by an older program: export the model again")
        if facts["precision"] not in PRECISIONS[facts["graph"]]:
            raise ValueError
        for name in graph_files(facts["graph"], facts["precision"]):
            if file_hash(folder / name) != facts["files"][name]:
                raise BundleError(f"{folder / name} was changed after it was written: export the model again")
        export = Export(folder, facts)
        times = [float(export.milliseconds[name]) for name in ("torch", export.runtime)]
        if min(times) < 0 or not isinstance(facts["scoring_hash"], str) or "loss" not in facts:
            raise ValueError
    except (KeyError, TypeError, ValueError, OSError):
        raise BundleError(f"{folder} does not hold a whole export: export the model again") from None
    return export


def find_export(bundle: Bundle, graph: str, precision: str = FULL) -> Export | None:
    """The export of that format and precision in the model's own folder, or None where there is none.

    Raises BundleError for one that is damaged or was made of another model.
    """
    folder = default_folder(bundle.path, graph, precision)
    if not (folder / FACTS).exists():
        return None
    export = read_export(folder)
    if export.facts["scoring_hash"] != scoring_hash(bundle):
        raise BundleError(f"{folder} was exported from another model: export this one again")
    return export


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _scores(name: str) -> bool:
    return name.endswith(".safetensors") and name != "picture.safetensors"
