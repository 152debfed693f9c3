"""A thing becomes available by being one file of a package."""

import subprocess
import sys
from pathlib import Path

import pytest

from anomaly.data.layouts import LAYOUTS
from anomaly.errors import ConfigError
from anomaly.registry import Registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of two modules, each of which registers one tool and leaves a mark when imported."""
    name = f"tools_{tmp_path.name.replace('-', '_')}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from anomaly.registry import Registry\nTOOLS = Registry('tool', __name__)\nimported = []\n"
    )
    for tool in ("hammer", "saw"):
        (folder / f"{tool}.py").write_text(
            f"from {name} import TOOLS, imported\nimported.append('{tool}')\n"
            f"@TOOLS.register('{tool}')\ndef {tool}():\n    '''A {tool}.\n\n    More on it.'''\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_modules_are_found_at_the_first_question_and_imported_once(package: str) -> None:
    module = __import__(package)
    assert module.imported == []
    assert module.TOOLS.names() == ["hammer", "saw"]
    assert module.TOOLS.get("saw").__name__ == "saw"
    assert module.TOOLS.summaries() == {"hammer": "A hammer.", "saw": "A saw."}
    assert sorted(module.imported) == ["hammer", "saw"]


def test_get_alone_finds_modules(package: str) -> None:
    assert __import__(package).TOOLS.get("hammer").__name__ == "hammer"


def test_unknown_name_is_refused_with_the_nearest(package: str) -> None:
    tools = __import__(package).TOOLS
    with pytest.raises(ConfigError, match=r"unknown tool 'hamer': did you mean 'hammer'\?"):
        tools.get("hamer")
    with pytest.raises(ConfigError, match="unknown tool 'lathe': known: hammer, saw"):
        tools.get("lathe")


def test_name_is_taken_once() -> None:
    registry: Registry[type] = Registry("thing", package="anomaly.data.layouts")
    registry.register("one")(int)
    with pytest.raises(ConfigError, match="two things are named 'one'"):
        registry.register("one")(str)
    assert registry.get("one") is int


def test_layouts_say_what_they_are() -> None:
    summaries = LAYOUTS.summaries()
    assert list(summaries) == ["flat", "manifest", "mvtec"]
    assert all(summary.endswith(".") for summary in summaries.values())


def test_registry_and_layouts_load_no_network_library() -> None:
    code = "import sys; from anomaly.data.layouts import LAYOUTS; LAYOUTS.names(); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "anomaly.data.layouts.flat" in run.stdout.split()
    assert not {"torch", "albumentations", "mlflow"} & set(run.stdout.split())
