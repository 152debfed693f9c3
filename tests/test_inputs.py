"""Photos at addresses and in manifests are judged as those in folders are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from test_commands import run

from anomaly.data.addresses import Address, locate
from anomaly.errors import ConfigError, DataError
from anomaly.inspection.groups import photos_of


@pytest.fixture
def store(product: Path) -> Iterator[Address]:
    """A folder in an object store: photos in two subfolders, one of them torn, and what is no photo."""
    memory = fsspec.filesystem("memory")
    for name, source in (("good/2.png", "good/000"), ("good/10.png", "good/001"), ("spot/1.PNG", "spot/000")):
        memory.pipe(f"/line/{name}", (product / f"test/{source}.png").read_bytes())
    memory.pipe("/line/good/11.png", b"\x89PNG\r\n\x1a\n torn")
    memory.pipe("/line/.thumbs/1.png", b"hidden")
    memory.pipe("/line/readme.txt", b"no photo")
    yield Address("memory://line")
    memory.rm("/line", recursive=True)


def verdicts(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]


def test_an_object_store_is_judged_as_a_folder_of_the_same_photos(
    capfd: pytest.CaptureFixture[str], store: Address, model: Path, tmp_path: Path
) -> None:
    fsspec.filesystem("memory").get("/line", str(tmp_path / "line"), recursive=True)
    results = {}
    for place in (store, str(tmp_path / "line"), f"file://{tmp_path}/line"):
        out = tmp_path / f"out{len(results)}"
        code, _, stderr = run(capfd, "inspect", place, "--model", model, "--out", out)
        assert code == 0, stderr
        text = (out / "verdicts.jsonl").read_text().replace(place, "LINE").replace(f"{tmp_path}/line", "LINE")
        results[place] = [json.loads(line) | {"milliseconds": 0} for line in text.splitlines()]
        assert sorted(path.name for path in out.glob("*/*")) == ["000003_1.png", "000003_1.tiff"]
    stored, local, by_scheme = results.values()
    assert stored == local == by_scheme
    assert [v["path"] for v in stored] == [
        "LINE/good/2.png", "LINE/good/10.png", "LINE/good/11.png", "LINE/spot/1.PNG"
    ]  # fmt: skip
    assert [v["decision"] for v in stored] == ["normal", "normal", "error", "anomalous"]
    assert "LINE/good/11.png: not a photo" in stored[2]["error"] or "damaged" in stored[2]["error"]


def test_a_manifest_names_the_photos_wherever_it_lies(
    capfd: pytest.CaptureFixture[str], store: Address, model: Path, product: Path, tmp_path: Path
) -> None:
    rows = "path,label\nspot/1.PNG,bad\ngood/none.png,\ngood/2.png,good\n"
    fsspec.filesystem("memory").pipe("/line/today.csv", rows.encode())
    out = tmp_path / "out"
    code, _, stderr = run(capfd, "inspect", f"{store}/today.csv", "--model", model, "--out", out)
    assert code == 0, stderr
    found = verdicts(out)
    assert [(v["path"], v["decision"]) for v in found] == [
        (f"{store}/spot/1.PNG", "anomalous"), (f"{store}/good/none.png", "error"),
        (f"{store}/good/2.png", "normal"),
    ]  # fmt: skip
    assert found[1]["error"] == f"{store}/good/none.png: no such file: check the address"
    (tmp_path / "today.csv").write_text("path\nphotos/b.png\nphotos/a.png\n")
    listed = photos_of([tmp_path / "today.csv"])
    assert [photo.path for photo in listed] == [tmp_path / "photos/b.png", tmp_path / "photos/a.png"]
    by_folder = photos_of([store], "pooled", by_folder=True)
    assert [photo.group for photo in by_folder] == ["good"] * 3 + ["spot"]
    assert photos_of([store.child("good/2.png")], "pooled", by_folder=True)[0].group == "pooled"


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("../other/1.png", "leads out of the manifest's folder"),
        ("good/../../x.png", "leads out of the manifest's folder"),
        ("/etc/passwd", "leads out of the manifest's folder"),
        ("good/../good/2.png", "the same photo as in line 2"),
    ],
)
def test_a_stored_manifest_stays_in_its_folder(store: Address, cell: str, sentence: str) -> None:
    fsspec.filesystem("memory").pipe("/line/m.csv", f"path\ngood/2.png\n{cell}\n".encode())
    with pytest.raises(DataError, match=f"memory://line/m.csv, line 3: .*{sentence}"):
        photos_of([store.child("m.csv")])


def test_addresses_that_are_none_are_named_with_the_cure(store: Address) -> None:
    for text, sentence in (
        ("nosuch://bucket/a.png", "an address of a protocol that fsspec knows"),
        ("zip://a.png::memory://x.zip", "copy the photos to a plain address first"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            photos_of([locate(text)])
    fsspec.filesystem("memory").pipe("/line/empty/readme.txt", b"")
    with pytest.raises(DataError, match="no photos in the folder memory://line/empty"):
        photos_of([store.child("empty")])
    with pytest.raises(DataError, match=r"memory://line/no\.csv: no such file"):
        photos_of([store.child("no.csv")])
    with pytest.raises(DataError, match="'memory://line/none' does not exist: check the address"):
        photos_of([store.child("none")])


def test_a_stored_photo_that_is_empty_too_large_or_a_folder_is_an_error(store: Address, model: Path) -> None:
    from anomaly.bundle import read_bundle
    from anomaly.inspection.stream import judge

    memory, detector = fsspec.filesystem("memory"), read_bundle(model).detector
    memory.pipe("/line/0.png", b"")
    memory.pipe("/line/huge.png", bytes(2**20))
    small = detector.config.model_copy(
        update={"data": detector.config.data.model_copy(update={"max_megapixels": -0.01})}
    )
    object.__setattr__(detector, "config", small)
    for name, sentence in (
        ("0.png", "empty (0 bytes)"),
        ("huge.png", "is more than a photo of"),
        ("good", "a folder, not a photo"),
    ):
        verdict = judge(detector, store.child(name)).verdict
        assert verdict.decision == "error" and sentence in (verdict.error or ""), verdict


def test_every_place_is_found_again_from_its_text() -> None:
    for text in ("s3://b/a.png", "a/b.png", "/a//b.png", "c:x.png", "memory:///a.png"):
        place = locate(text)
        assert locate(str(place)) == place and type(locate(str(place))) is type(place)
    assert locate("file:///tmp/a.png") == Path("/tmp/a.png")
    assert Address("s3://b/x/a.tar.PNG").suffix == ".PNG" and Address("s3://b/x/a.png").parent == "s3://b/x"
