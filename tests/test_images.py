"""Reading photos: every kind decodes to what it shows, or is refused in one sentence, in silence."""

import errno
import hashlib
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from corpus import Case, encode, encode_deep, exif, photo, png_of, write_corpus
from PIL import Image

from anomaly.data.images import duplicates, find_images, fingerprint, read_image, white_level_of
from anomaly.errors import DataError, ImageError

READ_ALL = """
import json, sys
from pathlib import Path
from anomaly.data.images import read_image
from anomaly.errors import ImageError
for path in json.load(sys.stdin):
    try:
        image = read_image(Path(path))
        found = {"shape": image.shape, "dtype": str(image.dtype), "writable": image.flags.writeable}
    except ImageError as error:
        found = {"error": str(error)}
    print(json.dumps(found))
"""

# EXIF orientation: where the pixel stored at row i, col j of H x W is shown
SHOWN_AT = {
    1: lambda i, j, h, w: (i, j),
    2: lambda i, j, h, w: (i, w - 1 - j),
    3: lambda i, j, h, w: (h - 1 - i, w - 1 - j),
    4: lambda i, j, h, w: (h - 1 - i, j),
    5: lambda i, j, h, w: (j, i),
    6: lambda i, j, h, w: (j, h - 1 - i),
    7: lambda i, j, h, w: (w - 1 - j, h - 1 - i),
    8: lambda i, j, h, w: (w - 1 - j, i),
}


def write(folder: Path, data: bytes, name: str = "photo.png") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_corpus_decodes_or_is_refused_in_one_line_without_a_word_on_the_terminal(corpus: list[Case]) -> None:
    assert len(corpus) >= 100
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ_ALL],
        input=json.dumps([str(case.path) for case in corpus]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert len(lines) == len(corpus)
    for case, line in zip(corpus, lines, strict=True):
        found = json.loads(line)
        assert ("error" if "error" in found else "ok") == case.expect, (case.name, found)
        if case.expect == "ok":
            assert found["dtype"] == "uint8" and found["writable"], case.name
            assert len(found["shape"]) == 3 and min(found["shape"][:2]) > 0 and found["shape"][2] == 3
        else:
            assert case.name.replace("\n", r"\n") in found["error"]
            assert found["error"].isprintable() and ": " in found["error"].rpartition(case.path.suffix)[2]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("empty.png", "empty (0 bytes): copy it again from its source"),
        ("text.png", "not a photo in a format that can be read (JPEG, PNG, TIFF, BMP, GIF, WebP, PNM), or "
         "damaged in its first bytes: export it again"),
        ("jpeg_cut_at_half.jpg", "cut short (no end-of-image mark): copy it again from its source"),
        ("tiff_float_nan.tif", "holds pixels that are not numbers (NaN or infinite): export it again"),
        ("tiff_16_bit_planes.tif", "a pixel type that cannot be read: export it with 8 or 16 bits, grey or "
         "RGB"),
        ("png_bad_crc.png", "damaged or cut short (broken PNG file (bad header checksum in b'IDAT')): copy "
         "it again from its source"),
        ("fs_dangling_link.png", "a link to a file that is not there: restore that file"),
        ("fs_deleted.png", "no such file: check the path"),
        ("fs_folder.png", "a folder, not a photo: give the photos inside it"),
        ("fs_pipe.png", "a pipe, socket or device, not a photo: give a regular file"),
        ("fs_link_loop.png", f"cannot be read ({os.strerror(errno.ELOOP)}): check the path, its permissions "
         "and the disk"),
    ],
)  # fmt: skip
def test_refusals_name_the_cure(corpus: list[Case], name: str, sentence: str) -> None:
    path = next(case.path for case in corpus if case.name == name)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(caught.value) == f"{path}: {sentence}"


def test_photo_that_does_not_fit_into_memory_is_an_error_of_that_photo(tmp_path: Path) -> None:
    write(tmp_path, encode(np.zeros((5000, 5000), np.uint8), "PNG"))
    code = (
        "import resource; from pathlib import Path; from anomaly.data.images import read_image\n"
        "free = 2**20 * 64 + int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (free, free))\n"
        "try: read_image(Path('photo.png'))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout == "ImageError photo.png: too large for the memory: export a smaller photo\n"


def test_damage_at_random_places_never_escapes_as_another_exception(
    corpus: list[Case], tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    seeds = [case.path for case in corpus if case.expect == "ok" and case.path.stat().st_size > 50]
    decoded = 0
    for _ in range(300):
        data = bytearray(seeds[random.integers(len(seeds))].read_bytes())
        for place in random.integers(0, len(data), 4):
            data[place] = random.integers(256)
        try:
            image = read_image(write(tmp_path, bytes(data)), max_megapixels=1)
        except ImageError:
            continue
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
        decoded += 1
    assert decoded > 10


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_colour_of_8_bits_is_read_exactly(tmp_path: Path, kind: str) -> None:
    assert np.array_equal(read_image(write(tmp_path, encode(photo(), kind))), photo())


def test_jpeg_is_close_to_what_was_photographed(tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(photo()).resize((200, 100)))
    for mode in ("RGB", "CMYK"):
        data = encode(Image.fromarray(smooth).convert(mode), "JPEG", quality=95, subsampling=0)
        image = read_image(write(tmp_path, data))
        assert image.shape == (100, 200, 3)
        assert np.abs(image.astype(int) - smooth).mean() < 3


def test_grey_palette_and_bilevel_become_rgb(tmp_path: Path) -> None:
    grey = photo()[:, :, 0]
    image = read_image(write(tmp_path, encode(grey, "PNG")))
    assert np.array_equal(image, np.stack([grey, grey, grey], axis=2))
    palette = Image.new("P", (2, 1))
    palette.putpalette([1, 2, 3, 250, 0, 100])
    palette.putpixel((1, 0), 1)
    assert read_image(write(tmp_path, encode(palette, "PNG"))).tolist() == [[[1, 2, 3], [250, 0, 100]]]
    bilevel = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert read_image(write(tmp_path, encode(bilevel, "PNG"))).tolist() == [[[0] * 3, [255] * 3]]


def test_transparency_is_blended_with_black(tmp_path: Path) -> None:
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 128], [200, 100, 50, 0]]], np.uint8)
    expected = np.array([[[200, 100, 50], [100, 50, 25], [0, 0, 0]]])
    for data in (encode(rgba, "PNG"), encode_deep(rgba.astype(np.uint16) * 257, ".png")):
        assert np.abs(read_image(write(tmp_path, data)).astype(int) - expected).max() <= 1
    grey_alpha = np.array([[[200, 255], [200, 128], [200, 0]]], np.uint8)
    image = read_image(write(tmp_path, encode(Image.fromarray(grey_alpha, "LA"), "PNG")))
    assert np.abs(image[0].astype(int) - [[200] * 3, [100] * 3, [0] * 3]).max() <= 1
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    data = encode(palette, "PNG", transparency=bytes([0, 255]))
    assert read_image(write(tmp_path, data)).tolist() == [[[0, 0, 0], [40, 50, 60]]]


@pytest.mark.parametrize("orientation", SHOWN_AT)
def test_photos_stand_upright_whatever_the_decoder(tmp_path: Path, orientation: int) -> None:
    stored = photo(5, 7)
    expected = np.zeros((7, 5, 3) if orientation > 4 else (5, 7, 3), np.uint8)
    for i in range(5):
        for j in range(7):
            expected[SHOWN_AT[orientation](i, j, 5, 7)] = stored[i, j]
    tag = exif(orientation).tobytes()[6:]
    chunk = struct.pack(">I", len(tag)) + b"eXIf" + tag + struct.pack(">I", zlib.crc32(b"eXIf" + tag))
    deep = encode_deep(stored.astype(np.uint16) * 257, ".png")
    files = {
        "8-bit PNG": encode(stored, "PNG", exif=exif(orientation)),
        "16-bit PNG": deep[:33] + chunk + deep[33:],
        "8-bit TIFF": encode(stored, "TIFF", tiffinfo={0x0112: orientation}),
    }
    for name, data in files.items():
        assert np.array_equal(read_image(write(tmp_path, data)), expected), name
    grey = encode(stored[:, :, 0].astype(np.uint16) * 257, "TIFF", tiffinfo={0x0112: orientation})
    assert np.array_equal(read_image(write(tmp_path, grey))[:, :, 0], expected[:, :, 0])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_first_of_several_frames_is_the_photo(tmp_path: Path, kind: str) -> None:
    first, second = (Image.new("RGB", (20, 10), colour) for colour in ((200, 30, 30), (0, 200, 255)))
    data = encode(first, kind, save_all=True, append_images=[second])
    image = read_image(write(tmp_path, data))
    assert image.shape == (10, 20, 3)
    assert np.abs(image.astype(int) - (200, 30, 30)).max() <= 8


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("colours", [1, 3])
def test_16_bits_are_scaled_by_the_white_level(tmp_path: Path, suffix: str, colours: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (6, 9, colours)).astype(np.uint16)
    path = write(tmp_path, encode_deep(values.squeeze(), suffix))
    for white_level, white in ((None, 65535), (4095, 4095), (30000.5, 30000.5)):
        expected = np.rint(np.clip(values / white, 0, 1) * 255)
        error = read_image(path, white_level=white_level).astype(int) - expected
        assert np.abs(error).max() <= 1 and (error != 0).mean() < 0.02


def test_floats_and_long_integers_are_scaled(tmp_path: Path) -> None:
    values = np.linspace(-0.2, 1.3, 60).reshape(6, 10)
    expected = np.rint(np.clip(values, 0, 1) * 255)
    for data in (
        encode(values.astype(np.float32), "TIFF"),
        encode_deep(values, ".tiff"),
        encode_deep(np.stack([values] * 3, axis=2).astype(np.float32), ".tiff"),
        encode((values.clip(0, 1) * (2**31 - 1)).astype(np.int32), "TIFF"),
    ):
        assert np.abs(read_image(write(tmp_path, data))[:, :, 1] - expected).max() <= 1
    path = write(tmp_path, encode((values * 1000).astype(np.float32), "TIFF"))
    assert np.abs(read_image(path, white_level=1000)[:, :, 0] - expected).max() <= 1


def test_numbers_beyond_all_range_are_clipped(tmp_path: Path) -> None:
    values = np.array([[-3e38, 0.5, 3e38]], np.float32)
    assert read_image(write(tmp_path, encode(values, "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_white_of_pnm_is_what_its_header_says(tmp_path: Path) -> None:
    for data in (b"P5 2 1 4095 " + struct.pack(">2H", 4095, 2048), b"P2 2 1 4095 4095 2048\n"):
        assert read_image(write(tmp_path, data))[0, :, 0].tolist() == [255, 128]
    data = b"P6 1 1 1000 " + struct.pack(">3H", 1000, 500, 0)
    assert read_image(write(tmp_path, data)).tolist() == [[[255, 128, 0]]]
    assert read_image(write(tmp_path, data), white_level=2000).tolist() == [[[128, 64, 0]]]


@pytest.mark.parametrize(
    ("largest", "white"),
    [(700, 1023), (1023, 1023), (1024, 4095), (4000, 4095), (9000, 16383), (20000, 65535)],
)
def test_white_level_covers_the_training_photos(tmp_path: Path, largest: int, white: int) -> None:
    deep = np.zeros((4, 5), np.uint16)
    dark = write(tmp_path, encode_deep(deep, ".png"), "dark.png")
    deep[2, 3] = largest
    bright = write(tmp_path, encode_deep(deep, ".png"), "bright.png")
    broken = write(tmp_path, b"?", "broken.png")
    assert white_level_of([dark, broken, bright]) == white


def test_white_level_of_floats_and_of_8_bits(tmp_path: Path) -> None:
    for largest, white in ((0.4, 1), (1.0, 1), (1.2, 2), (255.0, 255), (3000.0, 4095)):
        values = np.full((3, 3), largest, np.float32)
        assert white_level_of([write(tmp_path, encode(values, "TIFF"), "float.tif")]) == white
    assert white_level_of([write(tmp_path, encode(photo(), "PNG"))]) is None
    assert white_level_of([write(tmp_path, b"?")]) is None
    assert white_level_of([]) is None


def test_white_level_looks_at_a_sample_spread_over_all_photos(tmp_path: Path) -> None:
    paths = []
    for i in range(10):
        values = np.full((2, 2), 4000 if i == 5 else 100, np.uint16)
        paths.append(write(tmp_path, encode_deep(values, ".png"), f"{i}.png"))
    assert white_level_of(paths, sample=2) == 4095
    assert white_level_of(paths, sample=1) == 1023


def test_megapixels_are_limited_before_decoding_and_the_limit_can_be_raised(tmp_path: Path) -> None:
    path = write(tmp_path, encode(photo(), "PNG"))
    with pytest.raises(ImageError, match=r"64 x 48 pixels are more than 0.003 megapixels: raise max_mega"):
        read_image(path, max_megapixels=0.003)
    assert read_image(path, max_megapixels=0.004).shape == (48, 64, 3)
    huge = write(tmp_path, png_of(13_500, 13_500, b"not zlib"))
    with pytest.raises(ImageError, match="more than 100 megapixels"):
        read_image(huge)
    with pytest.raises(ImageError, match="damaged"):
        read_image(huge, max_megapixels=200)


def test_file_that_is_too_long_for_a_photo_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(10**13)
    with pytest.raises(ImageError, match=r"10000000 MB is more than a photo of 100 megapixels takes"):
        read_image(path)


def test_images_are_found_in_natural_order_without_hidden_files(tmp_path: Path) -> None:
    names = ["lot2/p10.png", "lot2/p2.PNG", "lot10/a.jpeg", "z.tif", "a.bmp", "folder.png/inside.png"]
    for name in [*names, ".hidden.png", ".cache/x.png", "lot2/._p2.png", "notes.txt", "model.onnx"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == [
        "a.bmp", "folder.png/inside.png", "lot2/p2.PNG", "lot2/p10.png", "lot10/a.jpeg", "z.tif"
    ]  # fmt: skip


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    for folder in (outside, inside):
        folder.mkdir()
        write(folder, b"", "photo.png")
    (inside / "file_out.png").symlink_to(outside / "photo.png")
    (inside / "folder_out").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "file_in.png").symlink_to("photo.png")
    (inside / "dangling.png").symlink_to("nowhere.png")
    assert [path.name for path in find_images(inside)] == ["dangling.png", "file_in.png", "photo.png"]
    (tmp_path / "door").symlink_to(inside)
    assert len(find_images(tmp_path / "door")) == 3


def test_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere cannot be read"):
        find_images(tmp_path / "nowhere")


def test_fingerprint_is_the_sha256_of_the_content(tmp_path: Path) -> None:
    assert fingerprint(write(tmp_path, b"abc")) == hashlib.sha256(b"abc").hexdigest()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="a pipe"):
        fingerprint(tmp_path / "pipe.png")


def test_duplicates_have_the_same_content(tmp_path: Path) -> None:
    contents = [b"one", b"two", b"one", b"three", b"two", b"four", b"one"]
    paths = [write(tmp_path, content, str(i)) for i, content in enumerate(contents)]
    paths.append(tmp_path / "missing.png")
    assert duplicates(paths) == [[0, 2, 6], [1, 4]]
    assert duplicates([]) == []
