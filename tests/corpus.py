"""Broken, odd and hostile image files: what cameras, networks and people leave in a photo folder.

`write_corpus(folder)` writes one file (or link, folder, pipe) for each case and tells what to expect of it.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

Expectation = Literal["ok", "error"]
HEIGHT, WIDTH = 48, 64
ORIENTATION = 0x0112


@dataclass(frozen=True)
class Case:
    """A file of the corpus: `ok` has to decode, `error` has to be refused in one sentence."""

    name: str
    path: Path
    expect: Expectation


def photo(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(height, width, 3) uint8: gradients and noise, with no symmetry that would hide a flip."""
    rows, cols = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width))
    channels = (rows * 200 // height + noise, cols * 200 // width + noise, (rows + cols) % 200 + noise)
    return np.stack(channels, axis=2).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    """Pillow's encoding, `kind` being JPEG, PNG, TIFF ..."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def encode_deep(image: np.ndarray, suffix: str) -> bytes:
    """OpenCV's encoding of RGB or grey at full depth."""
    bgr = image if image.ndim == 2 else image[:, :, [2, 1, 0, 3][: image.shape[2]]]
    done, data = cv2.imencode(suffix, bgr)
    assert done
    return data.tobytes()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(data: bytes, chunk: bytes) -> bytes:
    """`data`, a PNG, with a chunk more after its header."""
    return data[:33] + chunk + data[33:]


def png_of(width: int, height: int, pixels: bytes, colour_type: int = 0) -> bytes:
    """A PNG of 8 bits whose header says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", pixels)
        + png_chunk(b"IEND", b"")
    )


def jpeg_with(data: bytes, marker: int, segment: bytes) -> bytes:
    """`data`, a JPEG, with a segment more at its start."""
    return data[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def jpeg_without(data: bytes, marker: int) -> bytes:
    start = data.index(bytes((0xFF, marker)))
    return data[:start] + data[start + 2 + struct.unpack(">H", data[start + 2 : start + 4])[0] :]


def tiff_of(width: int, height: int, *, next_directory: int = 0, **tags: int) -> bytes:
    """A grey TIFF of one strip of 4,096 zeros whose header says what it likes: tags as `t258=16`."""
    values = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: 4096}
    values |= {int(tag[1:]): value for tag, value in tags.items()}
    values[273] = 8 + 2 + 12 * len(values) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, values[tag]) for tag in sorted(values))
    directory = struct.pack("<H", len(values)) + entries + struct.pack("<I", next_directory)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4096)


def _jpegs() -> dict[str, tuple[Expectation, bytes]]:
    plain, image = encode(photo(), "JPEG"), Image.fromarray(photo())
    progressive = encode(photo(), "JPEG", progressive=True)
    rough = encode(np.random.default_rng(2).integers(0, 256, (200, 300, 3)).astype(np.uint8), "JPEG")
    size_at = plain.index(b"\xff\xc0") + 5
    cmyk = encode(image.convert("CMYK"), "JPEG")
    cases: dict[str, tuple[Expectation, bytes]] = {
        "jpeg.jpg": ("ok", plain),
        "jpeg_grey.jpg": ("ok", encode(image.convert("L"), "JPEG")),
        "jpeg_progressive.jpg": ("ok", progressive),
        "jpeg_cmyk_adobe_inverted.jpg": ("ok", cmyk),
        "jpeg_cmyk.jpg": ("ok", jpeg_without(cmyk, 0xEE)),
        "jpeg_trailing_garbage.jpg": ("ok", plain + b"camera maker's notes" * 50),
        "jpeg_named.png": ("ok", plain),
        "jpeg_mpo_of_two.jpg": ("ok", encode(image, "MPO", save_all=True, append_images=[image])),
        "jpeg_exif_garbage.jpg": ("ok", jpeg_with(plain, 0xE1, b"Exif\0\0" + bytes(range(200)))),
        "jpeg_exif_cut.jpg": ("ok", jpeg_with(plain, 0xE1, exif(6).tobytes()[:16])),
        "jpeg_exif_orientation_huge.jpg": ("ok", encode(image, "JPEG", exif=exif(65535))),
        "jpeg_exif_orientation_0.jpg": ("ok", encode(image, "JPEG", exif=exif(0))),
        "jpeg_icc_garbage.jpg": ("ok", encode(image, "JPEG", icc_profile=b"\xff\xfe" * 300)),
        "jpeg_start_mark_only.jpg": ("error", plain[:2]),
        "jpeg_cut_in_header.jpg": ("error", plain[:100]),
        "jpeg_cut_at_half.jpg": ("error", plain[: len(plain) // 2]),
        "jpeg_cut_at_nine_tenths.jpg": ("error", plain[: len(plain) * 9 // 10]),
        "jpeg_cut_before_end_mark.jpg": ("error", plain[:-2]),
        "jpeg_cut_and_padded_with_zeros.jpg": ("error", rough[: len(rough) // 2].ljust(len(rough), b"\0")),
        "jpeg_progressive_cut.jpg": ("error", progressive[: len(progressive) // 2]),
        "jpeg_header_65500x65500.jpg": (
            "error",
            plain[:size_at] + struct.pack(">HH", 65500, 65500) + plain[size_at + 4 :],
        ),
    }
    for orientation in range(1, 9):
        turned = encode(image, "JPEG", exif=exif(orientation))
        cases[f"jpeg_exif_orientation_{orientation}.jpg"] = ("ok", turned)
    return cases


def _pngs() -> dict[str, tuple[Expectation, bytes]]:
    image = Image.fromarray(photo())
    plain = encode(image, "PNG")
    deep = photo().astype(np.uint16) * 257
    deep_rgb = encode_deep(deep, ".png")
    palette = image.quantize(16)
    pixels_at = plain.index(b"IDAT") + 4
    flipped = bytearray(plain)
    flipped[pixels_at + 200] ^= 0xFF
    scrambled = bytearray(zlib.compress(bytes(HEIGHT * (WIDTH + 1))))
    scrambled[len(scrambled) // 2] ^= 0xFF
    rgba = np.dstack([photo(), np.tile(np.arange(WIDTH, dtype=np.uint8) * 4, (HEIGHT, 1))])
    return {
        "png.png": ("ok", plain),
        "png_named.jpg": ("ok", plain),
        "png_grey.png": ("ok", encode(image.convert("L"), "PNG")),
        "png_bilevel.png": ("ok", encode(image.convert("1"), "PNG")),
        "png_grey_alpha.png": ("ok", encode(image.convert("LA"), "PNG")),
        "png_palette.png": ("ok", encode(palette, "PNG")),
        "png_palette_transparent.png": ("ok", encode(palette, "PNG", transparency=bytes(range(0, 160, 10)))),
        "png_rgba.png": ("ok", encode(rgba, "PNG")),
        "png_16_bit_grey.png": ("ok", encode_deep(deep[:, :, 0], ".png")),
        "png_16_bit_rgb.png": ("ok", deep_rgb),
        "png_16_bit_rgba.png": ("ok", encode_deep(rgba.astype(np.uint16) * 257, ".png")),
        "png_12_bits_in_16.png": ("ok", encode_deep(deep >> 4, ".png")),
        "png_animated.png": ("ok", encode(image, "PNG", save_all=True, append_images=[image.rotate(90)])),
        "png_one_pixel.png": ("ok", encode(photo(1, 1), "PNG")),
        "png_1x4000.png": ("ok", encode(photo(4000, 1), "PNG")),
        "png_4000x1.png": ("ok", encode(photo(1, 4000), "PNG")),
        "png_trailing_garbage.png": ("ok", plain + b"\0" * 1000),
        "png_exif_orientation.png": ("ok", encode(image, "PNG", exif=exif(6))),
        "png_icc_garbage.png": ("ok", png_with(plain, png_chunk(b"iCCP", b"profile\0\0not zlib"))),
        "png_unknown_chunk.png": ("ok", png_with(plain, png_chunk(b"abCd", b"?" * 100))),
        "png_cut_in_header.png": ("error", plain[:20]),
        "png_cut_at_half.png": ("error", plain[: len(plain) // 2]),
        "png_cut_before_end.png": ("error", plain[:-12]),
        "png_16_bit_cut.png": ("error", deep_rgb[: len(deep_rgb) // 2]),
        "png_bad_crc.png": ("error", bytes(flipped)),
        "png_bad_zlib_good_crc.png": ("error", png_of(WIDTH, HEIGHT, bytes(scrambled))),
        "png_header_20000x20000.png": ("error", png_of(20_000, 20_000, zlib.compress(bytes(20_001)))),
        "png_header_2147483647.png": ("error", png_of(2**31 - 1, 2**31 - 1, zlib.compress(b"\0"))),
        "png_no_pixels.png": ("error", png_of(0, 0, zlib.compress(b""))),
        "png_unknown_colour_type.png": ("error", png_of(4, 4, zlib.compress(bytes(20)), colour_type=7)),
        "png_text_bomb.png": (
            "error",
            png_with(plain, png_chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(8_000_000)))),
        ),
    }


def _tiffs() -> dict[str, tuple[Expectation, bytes]]:
    image = Image.fromarray(photo())
    grey = photo()[:, :, 0]
    floats = grey.astype(np.float32) / 255
    colour_floats = encode_deep(photo().astype(np.float32) / 255, ".tiff")
    lzw = encode(image, "TIFF", compression="tiff_lzw")
    with_nan, with_infinity = floats.copy(), floats.copy()
    with_nan[3, 5] = np.nan
    with_infinity[3, 5] = np.inf
    return {
        "tiff.tif": ("ok", encode(image, "TIFF")),
        "tiff_lzw.tif": ("ok", lzw),
        "tiff_bilevel_fax.tif": ("ok", encode(image.convert("1"), "TIFF", compression="group4")),
        "tiff_cmyk.tif": ("ok", encode(image.convert("CMYK"), "TIFF")),
        "tiff_pages.tif": ("ok", encode(image, "TIFF", save_all=True, append_images=[image, image])),
        "tiff_orientation.tif": ("ok", encode(image, "TIFF", tiffinfo={ORIENTATION: 6})),
        "tiff_16_bit_grey.tif": ("ok", encode(grey.astype(np.uint16) * 257, "TIFF")),
        "tiff_16_bit_rgb.tif": ("ok", encode_deep(photo().astype(np.uint16) * 257, ".tiff")),
        "tiff_12_bits_in_16.tif": ("ok", encode(grey.astype(np.uint16) * 16, "TIFF")),
        "tiff_int32.tif": ("ok", encode(grey.astype(np.int32) * 2**23, "TIFF")),
        "tiff_float.tif": ("ok", encode(floats, "TIFF")),
        "tiff_float_rgb.tif": ("ok", colour_floats),
        "tiff_float64.tif": ("ok", encode_deep(floats.astype(np.float64), ".tiff")),
        "tiff_directory_loop.tif": ("ok", tiff_of(64, 64, next_directory=8)),
        "tiff_float_nan.tif": ("error", encode(with_nan, "TIFF")),
        "tiff_float_infinite.tif": ("error", encode(with_infinity, "TIFF")),
        "tiff_cut.tif": ("error", lzw[: len(lzw) // 2]),
        "tiff_pixels_cut.tif": ("error", tiff_of(64, 64)[:2000]),
        "tiff_lzw_garbage.tif": ("error", tiff_of(64, 64, t259=5)[:2000] + b"\xa5" * 2000),
        "tiff_278_channels.tif": ("error", tiff_of(64, 64, t277=278)),
        "tiff_float_rgb_pixels_cut.tif": ("error", tiff_of(18, 18, t258=32, t277=3, t262=2, t339=3)[:2000]),
        "tiff_16_bit_planes.tif": ("error", tiff_of(16, 16, t258=16, t277=3, t262=2, t284=2)),
        "tiff_16_bit_grey_alpha.tif": ("error", tiff_of(16, 16, t258=16, t277=2, t338=2)),
        "tiff_float_rgb_cut.tif": ("error", colour_floats[: len(colour_floats) // 2]),
        "tiff_header_only.tif": ("error", b"II*\0\x08\0\0\0"),
        "tiff_header_60000x60000.tif": ("error", tiff_of(60_000, 60_000)),
        "tiff_header_60000x60000_odd_type.tif": ("error", tiff_of(60_000, 60_000, t258=64)),
    }


def _others() -> dict[str, tuple[Expectation, bytes]]:
    image = Image.fromarray(photo())
    frames = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    gif, bmp, webp = encode(image, "GIF"), encode(image, "BMP"), encode(image, "WEBP")
    ppm = encode(image, "PPM")
    return {
        "gif.gif": ("ok", gif),
        "gif_animated.gif": ("ok", encode(image, "GIF", **frames)),
        "gif_transparent.gif": ("ok", encode(image.quantize(8), "GIF", transparency=3)),
        "gif_cut.gif": ("error", gif[: len(gif) // 2]),
        "gif_header_65535x65535.gif": ("error", gif[:6] + b"\xff" * 4 + gif[10:]),
        "bmp.bmp": ("ok", bmp),
        "bmp_palette.bmp": ("ok", encode(image.quantize(16), "BMP")),
        "bmp_cut.bmp": ("error", bmp[: len(bmp) // 2]),
        "bmp_header_100000x100000.bmp": ("error", bmp[:18] + struct.pack("<ii", 10**5, 10**5) + bmp[26:]),
        "webp.webp": ("ok", webp),
        "webp_lossless_alpha.webp": ("ok", encode(image.convert("RGBA"), "WEBP", lossless=True)),
        "webp_animated.webp": ("ok", encode(image, "WEBP", **frames)),
        "webp_cut.webp": ("error", webp[: len(webp) // 2]),
        "pnm_pgm.pgm": ("ok", encode(image.convert("L"), "PPM")),
        "pnm_ppm.ppm": ("ok", ppm),
        "pnm_pbm.pbm": ("ok", encode(image.convert("1"), "PPM")),
        "pnm_ascii.ppm": ("ok", b"P3 2 1 255 255 0 0 0 0 255"),
        "pnm_16_bit.ppm": ("ok", b"P6 2 1 65535 " + struct.pack(">6H", 65535, 0, 0, 0, 0, 65535)),
        "pnm_12_bit.pgm": ("ok", b"P5 2 1 4095 " + struct.pack(">2H", 4095, 2048)),
        "pnm_cut.ppm": ("error", ppm[: len(ppm) // 2]),
        "pnm_no_pixels.pgm": ("error", b"P5 0 0 255 "),
        "pnm_header_99999x99999.pgm": ("error", b"P5 99999 99999 255 " + bytes(100)),
        "pnm_ascii_of_words.ppm": ("error", b"P3 2 1 255 one two three four five six"),
        "empty.png": ("error", b""),
        "text.png": ("error", b"the camera was off today\n"),
        "html.jpg": ("error", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
        "script.png": ("error", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage\n"),
        "archive.png": ("error", b"PK\x03\x04" + bytes(60)),
        "zeros.png": ("error", bytes(5000)),
        "noise.jpg": ("error", np.random.default_rng(1).bytes(5000)),
        "teil_größe_部品_🔩.png": ("ok", encode(image, "PNG")),
        "long_" + "n" * 241 + ".png": ("ok", encode(image, "PNG")),
        "new\nline.png": ("ok", encode(image, "PNG")),
        "new\nline_broken.png": ("error", b"?"),
        "-leading-dash.png": ("ok", encode(image, "PNG")),
        "two words 'quoted'.png": ("ok", encode(image, "PNG")),
        "UPPER.PNG": ("ok", encode(image, "PNG")),
    }


def write_corpus(folder: Path) -> list[Case]:
    """Write the corpus to `folder`, which is made, and tell what to expect of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for name, (expect, data) in (_jpegs() | _pngs() | _tiffs() | _others()).items():
        (folder / name).write_bytes(data)
        cases.append(Case(name, folder / name, expect))

    def broken(name: str) -> Path:
        cases.append(Case(name, folder / name, "error"))
        return folder / name

    broken("fs_dangling_link.png").symlink_to("nowhere.png")
    broken("fs_link_loop.png").symlink_to("fs_link_loop.png")
    broken("fs_folder.png").mkdir()
    broken("fs_deleted.png")
    broken("fs_" + "n" * 300 + ".png")
    os.mkfifo(broken("fs_pipe.png"))
    broken("fs_device.png").symlink_to("/dev/zero")
    if os.geteuid() != 0:  # root reads all
        unreadable = broken("fs_unreadable.png")
        unreadable.write_bytes(encode(photo(), "PNG"))
        unreadable.chmod(0)
    (folder / "fs_link.png").symlink_to("png.png")
    cases.append(Case("fs_link.png", folder / "fs_link.png", "ok"))
    return cases
