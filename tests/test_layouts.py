"""From folders and manifests to samples: nothing guessed, nothing outside, no photo on two sides."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from anomaly.data.layouts import counts, describe, read_samples, refuse_leaks
from anomaly.errors import ConfigError, DataError
from anomaly.records import Sample


def touch(root: Path, *names: str) -> None:
    """Files below `root`, each with its own name as content."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def relative(root: Path, samples: list[Sample]) -> list[str]:
    return [sample.path.relative_to(root).as_posix() for sample in samples]


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    root = tmp_path / "bottle"
    touch(root, "train/good/2.png", "train/good/10.png", "validation/good/0.png", "test/good/0.png")
    touch(root, "test/crack/0.png", "test/crack/1.jpg", "test/crack/2.png", "test/dent/0.png")
    touch(root, "ground_truth/crack/0_mask.png", "ground_truth/crack/1_mask.bmp", "ground_truth/dent/0.tif")
    touch(root, "readme.txt", "test/.DS_Store/x.png", "license.png")
    return root


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder / "photos.csv"
    file.write_bytes(text.encode(encoding))
    return file


def test_mvtec_folder(mvtec: Path) -> None:
    samples = read_samples(mvtec)
    by_name = dict(zip(relative(mvtec, samples), samples, strict=True))
    train = [sample for sample in samples if sample.split == "train"]
    assert relative(mvtec, train) == ["train/good/2.png", "train/good/10.png", "validation/good/0.png"]
    assert all(sample.label == "normal" and sample.defect_type is None for sample in train)
    assert by_name["test/good/0.png"] == Sample(mvtec / "test/good/0.png", "test", "normal")
    assert by_name["test/crack/0.png"].mask == mvtec / "ground_truth/crack/0_mask.png"
    assert by_name["test/crack/1.jpg"].mask == mvtec / "ground_truth/crack/1_mask.bmp"
    assert by_name["test/crack/2.png"].mask is None
    assert by_name["test/dent/0.png"].mask == mvtec / "ground_truth/dent/0.tif"
    assert by_name["test/dent/0.png"].label == "anomalous"
    assert by_name["test/dent/0.png"].defect_type == "dent"
    assert len(samples) == 8


def test_mask_with_the_suffix_wins_over_the_bare_name(mvtec: Path) -> None:
    touch(mvtec, "ground_truth/crack/0.bmp", "ground_truth/crack/_mask.png")
    sample = next(s for s in read_samples(mvtec) if s.path == mvtec / "test/crack/0.png")
    assert sample.mask == mvtec / "ground_truth/crack/0_mask.png"


def test_mvtec_folder_takes_lots_from_its_manifest(mvtec: Path) -> None:
    lines = ["path,group,seed", "train/good/2.png,lot1,7", "test/crack/1.jpg,lot2,8", "train/good/10.png,,9"]
    (mvtec / "manifest.csv").write_text("\n".join(lines))
    groups = {sample.path.relative_to(mvtec).as_posix(): sample.group for sample in read_samples(mvtec)}
    assert {name: group for name, group in groups.items() if group} == {
        "train/good/2.png": "lot1",
        "test/crack/1.jpg": "lot2",
    }
    (mvtec / "manifest.csv").write_text("path,group\ntrain/good/77.png,lot1\n")
    with pytest.raises(DataError, match=r"names 1 files that are not there \(.*77.png\)"):
        read_samples(mvtec)


def test_a_folder_of_test_photos_alone_is_read(mvtec: Path) -> None:
    shutil.rmtree(mvtec / "train")
    shutil.rmtree(mvtec / "validation")
    (mvtec / "manifest.csv").unlink(missing_ok=True)
    assert {one.split for one in read_samples(mvtec)} == {"test"}


def test_layout_named_but_not_there(mvtec: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no folder train/good or test/good"):
        read_samples(tmp_path, "mvtec")
    with pytest.raises(DataError, match="not a file: give a CSV manifest"):
        read_samples(mvtec, "manifest")
    with pytest.raises(ConfigError, match="did you mean 'mvtec'"):
        read_samples(mvtec, "mvtech")


def test_flat_folder_is_all_good_photos(tmp_path: Path) -> None:
    touch(tmp_path, "b10.png", "b9.png", "lot1/a.jpg", "notes.txt")
    samples = read_samples(tmp_path)
    assert relative(tmp_path, samples) == ["b9.png", "b10.png", "lot1/a.jpg"]
    assert all((s.split, s.label, s.group) == ("train", "normal", None) for s in samples)


@pytest.mark.parametrize("name", ["Bad/1.png", "bottle/test/crack/1.png", "x/ground_truth/1.png"])
def test_flat_folder_never_takes_defects_for_good_photos(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "good/0.png", name)
    with pytest.raises(DataError, match="training uses good photos only: give"):
        read_samples(tmp_path)


def test_folder_without_photos_and_no_folder(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match=r"no photos in .*: give a folder of good photos, an MVTec folder"):
        read_samples(tmp_path)
    for wrong in (tmp_path / "nowhere", tmp_path / "n\0ul", tmp_path / ("long" * 100)):
        with pytest.raises(DataError, match="does not exist"):
            read_samples(wrong)
    with pytest.raises(DataError, match="not a folder"):
        read_samples(tmp_path / "notes.txt")


def test_manifest(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "sub/b c.png", "d.png", "e.png", "masks/e.png", "größe.png")
    rows = [
        "Path,label,split,mask,group,defect_type,operator",
        "a.png,good,train,,lot 1,,Ann",
        '"sub/b c.png",0,TRAIN,,,good,"Bob, jr"',
        "",
        "d.png,,,,,,",
        r"sub\..\e.png,1,test,masks/e.png,lot 2,crack,",
        f"{tmp_path / 'größe.png'},normal,test",
    ]
    for encoding in ("utf-8", "utf-8-sig"):
        for delimiter in (",", ";", "\t"):
            text = "\r\n".join(rows).replace("Bob, jr", "Bob").replace(",", delimiter)
            samples = read_samples(write(tmp_path, text, encoding))
            assert samples[0] == Sample(tmp_path / "a.png", group="lot 1")
            assert samples[1] == Sample(tmp_path / "sub/b c.png")
            assert samples[2] == Sample(tmp_path / "d.png")
            defect = samples[3]
            assert defect.path.resolve() == (tmp_path / "e.png").resolve()
            assert (defect.split, defect.label, defect.defect_type) == ("test", "anomalous", "crack")
            assert (defect.mask, defect.group) == (tmp_path / "masks/e.png", "lot 2")
            assert samples[4] == Sample(tmp_path / "größe.png", "test")
            assert len(samples) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'path' in its first line: add it"),
        ("file,label\na.png,good", "has no column 'path'"),
        ("path,path\na.png,a.png", "has two columns 'path': remove or rename one"),
        ("path,label,Label\na.png,good,bad", "has two columns 'label'"),
        ("path\n", "no photos in"),
        ("path\n\n\n", "no photos in"),
        ("path,split\na.png,train\nb.png,valid", "line 3: unknown split 'valid': use train or test"),
        ("path,label\na.png,fine", "line 2: unknown label 'fine': use normal or anomalous"),
        ("path,label\na.png,bad", "line 2: training uses good photos only, and defective ones where a mask"),
        ("path,split,defect_type\na.png,test,crack", "line 2: a normal photo of defect_type 'crack'"),
        ("path,group\n,lot1", "line 2: the path is empty"),
        ("path\na.png\nb.png\na.png", "line 4: the same photo as in line 2"),
        ("path\na.png\n./sub/../a.png", "line 3: the same photo as in line 2"),
        ("path,group\na.png,x,y", "line 2: 3 cells for 2 columns"),
        ("path\n../secret.png", "line 2: '../secret.png' leads out of the manifest's folder"),
        ("path\n..\\secret.png", r"leads out of the manifest's folder"),
        ("path\n/etc/passwd", "line 2: '/etc/passwd' leads out"),
        ("path\ndoor/secret.png", "line 2: 'door/secret.png' leads out"),
        ("path\nwindow.png", "line 2: 'window.png' leads out"),
        ("path,mask,split\na.png,../secret.png,test", "line 2: '../secret.png' leads out"),
        ("path\nc.png\nd.png\ne.png\nf.png", r"names 4 files that are not there \(.*c.png.*e.png, \.\.\.\)"),
        ("path,mask\na.png,mask.png", "names 1 files that are not there"),
        ("path\nsub", "names 1 files that are not there"),
        ('path\n"a.png', "is not a CSV file"),
        ("path\n" + "x" * 200_000, "is not a CSV file"),
        ("path\n" + "x" * 5_000, "names 1 files that are not there"),
        ("path\na\0.png", "cannot be a path"),
    ],
)  # fmt: skip
def test_manifest_errors_name_the_line_and_the_cure(tmp_path: Path, text: str, message: str) -> None:
    folder = tmp_path / "data"
    touch(tmp_path, "secret.png", "data/a.png", "data/b.png", "data/sub/x.png")
    (folder / "door").symlink_to(tmp_path)
    (folder / "window.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=message) as caught:
        read_samples(write(folder, text))
    assert str(caught.value).isprintable()


def test_manifest_that_is_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not UTF-8 text: save it as CSV UTF-8"):
        read_samples(write(tmp_path, "path\nteil_größe.png", "latin-1"))


def test_no_manifest_ends_in_another_exception(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    seed = b'path,split,label,mask,group,defect_type\na.png,train,good,,x,\n"b.png",test,bad,a.png,y,crack\n'
    random, read = np.random.default_rng(0), 0
    for _ in range(300):
        data = bytearray(seed)
        for place in random.integers(0, len(data), random.integers(1, 5)):
            data[place] = random.choice(np.frombuffer(b'\0\n\r",;\t./\\ \xc3\xff1a', np.uint8))
        (tmp_path / "photos.csv").write_bytes(data)
        try:
            read += len(read_samples(tmp_path / "photos.csv")) > 0
        except DataError as error:
            assert str(error).isprintable()
    assert read > 10


def test_leaks_are_refused_by_content(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png", "3.png", "4.png")
    (tmp_path / "copy.png").write_text("2.png")
    train = [Sample(tmp_path / name) for name in ("1.png", "2.png", "copy.png")]
    test = [Sample(tmp_path / name, "test") for name in ("3.png", "4.png", "missing.png")]
    refuse_leaks(train + test)
    (tmp_path / "4.png").write_text("2.png")
    with pytest.raises(DataError, match=r"/2.png and .*/4.png are the same photo: remove one"):
        refuse_leaks(train + test)
    (tmp_path / "3.png").write_text("1.png")
    with pytest.raises(DataError, match=r"/1.png and .*/3.png are the same photo \(and 1 more such pairs\)"):
        refuse_leaks(train + test)


def test_description_counts_what_was_found(mvtec: Path) -> None:
    samples = read_samples(mvtec)
    assert describe(samples) == "training: 3 good; test: 1 normal, 4 anomalous (crack 3, dent 1; masks: 3)"
    lots = [Sample(Path("a"), group="1"), Sample(Path("b"), group="2"), Sample(Path("c"), group="1")]
    assert describe(lots) == "training: 3 good (groups: 2); test: 0 normal, 0 anomalous"
    assert counts([*samples, Sample(Path("x"), "test", "anomalous")])["defect_types"] == {
        "crack": 3,
        "dent": 1,
        "unnamed": 1,
    }
