"""Imports point down only, as read from the code itself."""

import ast
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "anomaly"
FLOORS = (
    ("errors", "records", "spread"),
    ("registry", "late", "lock", "neighbours", "expected", "repetition", "maps", "distributed"),
    ("metrics", "quality", "render", "ray_cluster"),
    ("config", "data", "probes"),
    ("models", "scorers", "calibration", "diagnostics"),
    ("policy", "networks"),
    ("detector",),
    ("bundle", "report", "tracking"),
    ("export",),
    ("inspection", "evaluation", "visibility"),
    ("fitting", "tuning", "study", "appraisal"),
    ("cli", "__main__"),
)
KNOWN_UP = {("config", "scorers")}
"""`config` asks the scorers for their options when it validates, inside a function."""


def imports() -> set[tuple[str, str]]:
    found = set()
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found |= {(room, name) for name in names}
    return found


def test_no_room_imports_one_above_it() -> None:
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    for room, name in imports():
        parts = name.split(".")
        if parts[0] == "anomaly" and len(parts) > 1 and room != "__init__":
            assert room in floor and parts[1] in floor, f"give {room} and {parts[1]} a floor"
            if floor[parts[1]] > floor[room] and (room, parts[1]) not in KNOWN_UP:
                wrong.append((room, name))
        assert parts[0] != "pipelines", f"{room} imports {name}"
    assert not wrong


def test_only_tracking_imports_mlflow() -> None:
    assert {room for room, name in imports() if name.split(".")[0] == "mlflow"} == {"tracking"}


def test_help_answers_without_the_heavy_libraries() -> None:
    heavy = "{'torch', 'cv2', 'mlflow', 'numpy', 'pydantic'}"
    code = f"import sys, anomaly.cli; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert out.stdout.strip() == "[]"
