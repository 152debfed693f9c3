"""Any photo that a camera writes, decoded to (H, W, 3) uint8 RGB, or refused in one sentence."""

from __future__ import annotations

import ctypes
import hashlib
import io
import logging
import os
import re
import stat
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError, _imaging

from anomaly.data.addresses import Address, Location, fetch
from anomaly.errors import DataError, ImageError

# fmt: off
IMAGE_SUFFIXES = frozenset([
    ".apng", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
])
# fmt: on
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
INTEGER_WHITES = (2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1, 2**20 - 1, 2**24 - 1, 2**31 - 1, 2**32 - 1)
FLOAT_WHITES = (1, 2, 4, 16, 64, 255, *INTEGER_WHITES)
UNKNOWN_PIXELS = "a pixel type that cannot be read: export it with 8 or 16 bits, grey or RGB"
_TURNS = {2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1), 8: (1, 1, 0)}
"""EXIF orientation -> (swap rows and cols, flip rows, flip cols)."""

# Damage is told by an ImageError, odd metadata by nobody. What decoders say on stderr is turned off once, for
# neither `catch_warnings` nor a redirected stderr is safe among threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
with suppress(OSError, AttributeError):  # libtiff, where Pillow links it dynamically
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def read_image(
    path: Location, *, white_level: float | None = None, max_megapixels: float = 100
) -> NDArray[np.uint8]:
    """The photo as (H, W, 3) uint8 RGB, upright as its EXIF orientation says; first frame of several.

    Pixels that are transparent are blended with black. Colour profiles are not applied. Photos of more
    than 8 bits are divided by `white_level` (None: the range of their number type; floats: 1.0) and
    clipped. Raises ImageError, one line with the path and the cure, for all that is not a whole photo.
    """
    with _naming(path):
        data = _read_bytes(path, max_megapixels)
        image = _open(data, max_megapixels)
        if image is None or _is_deep(image):
            pixels, white = _decode_deep(data, image)
            with np.errstate(over="ignore"):  # infinity is clipped too
                pixels = np.clip(pixels * np.float32(255 / (white_level or white)), 0, 255)
            pixels = np.rint(pixels).astype(np.uint8)
        else:
            _load(image, data)
            pixels = np.array(_to_rgb(image))
        if image is not None:
            pixels = _upright(pixels, image)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        return np.ascontiguousarray(pixels)


def white_level_of(paths: Sequence[Path], sample: int = 32, *, max_megapixels: float = 100) -> float | None:
    """The white of deep photos: the smallest usual one that none of up to `sample` of them exceeds.

    Cameras of 10 to 14 bits store their values in 16: divided by 65535 these would be nearly black.
    None where all that can be read are of 8 bits.
    """
    largest, whites = 0.0, None
    for path in paths[:: max(1, len(paths) // sample)][:sample]:
        try:
            with _naming(path):
                data = _read_bytes(path, max_megapixels)
                image = _open(data, max_megapixels)
                if image is not None and not _is_deep(image):
                    continue
                pixels, _ = _decode_deep(data, image)
        except ImageError:
            continue
        largest = max(largest, float(pixels.max()))
        if whites is None or pixels.dtype.kind == "f":
            whites = FLOAT_WHITES if pixels.dtype.kind == "f" else INTEGER_WHITES
    if whites is None:
        return None
    return float(next((white for white in whites if white >= largest), largest))


def find_images(root: Path) -> list[Path]:
    """All files below `root` with a suffix in IMAGE_SUFFIXES, in natural order (part2 before part10).

    Hidden files and folders and links that lead out of `root` are left out; dangling links are not, so
    that they are reported. Raises DataError where a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"folder {one_line(error.filename)} cannot be read: {error.strerror}") from error

    real_root = Path(os.path.realpath(root))
    found = []
    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            if path.is_symlink() and os.path.exists(path) and not path.resolve().is_relative_to(real_root):
                continue
            found.append(path)
    return sorted(found, key=lambda path: natural(path.relative_to(root)))


def with_long_side(photo: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 -> the same with a long side of `side` px; the photo itself where it has that."""
    scale = side / max(photo.shape[:2])
    size = (max(1, round(scale * photo.shape[1])), max(1, round(scale * photo.shape[0])))
    if size == photo.shape[1::-1]:
        return photo
    return np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)


def fingerprint(path: Path) -> str:
    """SHA-256 of the file's content, in hex. Raises ImageError for what is not a readable file."""
    with _naming(path):
        _check_file(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def contents(path: Path) -> str:
    """What tells the file from another one under its name: `fingerprint`, or that it cannot be read."""
    try:
        return fingerprint(path)
    except ImageError:
        return "unreadable"


def duplicates(paths: Sequence[Path]) -> list[list[int]]:
    """Indices of `paths` that have the same content, one list (two or more, rising) for each content.

    Only files whose sizes collide are read. Files that cannot be read have no duplicates.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, path in enumerate(paths):
        try:
            by_size[path.stat().st_size].append(index)
        except (OSError, ValueError):
            continue
    by_content: dict[str, list[int]] = defaultdict(list)
    for indices in by_size.values():
        for index in indices if len(indices) > 1 else ():
            try:
                by_content[fingerprint(paths[index])].append(index)
            except ImageError:
                continue
    return sorted(indices for indices in by_content.values() if len(indices) > 1)


def one_line(text: object) -> str:
    """`text` with line breaks and other unprintable characters escaped: fit for an error sentence."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def natural(path: PurePath) -> tuple[list[str | int], str]:
    """What paths are sorted by so that part2 comes before part10."""
    parts = re.split(r"([0-9]+)", path.as_posix())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.as_posix()


@contextmanager
def _naming(path: Location) -> Iterator[None]:
    """Turn whatever reading or decoding raises into an ImageError that names the photo and the cure."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{one_line(path)}: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{one_line(path)}: not a photo in a format that can be read (JPEG, PNG, TIFF, BMP, GIF, WebP, "
            "PNM), or damaged in its first bytes: export it again"
        ) from error
    except MemoryError as error:
        raise ImageError(f"{one_line(path)}: too large for the memory: export a smaller photo") from error
    except Exception as error:  # a decoder may raise anything on hostile bytes
        if isinstance(error, OSError) and error.strerror:
            reason = f"cannot be read ({error.strerror}): check the path, its permissions and the disk"
        else:
            detail = one_line(error).rstrip(".") or type(error).__name__
            reason = f"damaged or cut short ({detail}): copy it again from its source"
        raise ImageError(f"{one_line(path)}: {reason}") from error


def _check_file(path: Path) -> os.stat_result:
    """The file's status, from which nothing can block. Raises ImageError unless it is a regular file."""
    try:
        status = path.stat()
    except (FileNotFoundError, ValueError) as error:
        if path.is_symlink():
            raise ImageError("a link to a file that is not there: restore that file") from error
        raise ImageError("no such file: check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise ImageError("a folder, not a photo: give the photos inside it")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("a pipe, socket or device, not a photo: give a regular file")
    return status


def _read_bytes(path: Location, max_megapixels: float) -> bytes:
    """The file's content. Raises ImageError where it is empty or too large to be a photo."""

    def check(size: int) -> None:
        if size == 0:
            raise ImageError("empty (0 bytes): copy it again from its source")
        if size > max_megapixels * 16e6 + 2**20:  # 16 bytes a pixel: RGBA of 32-bit floats
            raise ImageError(
                f"{size / 1e6:.0f} MB is more than a photo of {max_megapixels:g} megapixels takes: "
                "raise max_megapixels or export a smaller photo"
            )

    if isinstance(path, Address):
        return fetch(path, check)
    check(_check_file(path).st_size)
    return path.read_bytes()


def _open(data: bytes, max_megapixels: float) -> ImageFile.ImageFile | None:
    """The header. None for a TIFF of a pixel type that only OpenCV decodes."""
    allowed = int(max_megapixels * 1e6)
    if Image.MAX_IMAGE_PIXELS is not None:  # else Pillow refuses what the caller has allowed
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, allowed)
    image, tags = None, _tiff_tags(data)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"more than {max_megapixels:g} megapixels: raise max_megapixels or export a smaller photo"
        ) from error
    except UnidentifiedImageError:
        if not tags:
            raise
        width, height = tags.get(TiffImagePlugin.IMAGEWIDTH, 0), tags.get(TiffImagePlugin.IMAGELENGTH, 0)
    if width * height > allowed:
        raise ImageError(
            f"{width} x {height} pixels are more than {max_megapixels:g} megapixels: "
            "raise max_megapixels or export a smaller photo"
        )
    channels = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    planes = channels > 1 and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    deep = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8
    if (channels == 2) + planes + deep > 1:  # both decoders give wrong pixels for two of these at once
        raise ImageError(UNKNOWN_PIXELS)
    return image


def _tiff_tags(data: bytes) -> Mapping[int, Any]:
    """Tags of a TIFF's first page; none for other files."""
    if not data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return {}
    file = io.BytesIO(data)
    tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if b"+" in data[:4] else 8))
    file.seek(tags.next)
    tags.load(file)
    return tags


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether the file holds more than 8 bits a channel, which Pillow would cut to 8 for colour."""
    if image.mode == "F" or image.mode.startswith("I"):
        return True
    if image.mode not in ("RGB", "RGBA", "LA") or not image.tile:
        return False
    return ";16" in str(image.tile[0][3]) or _pnm_white(image) > 255


def _pnm_white(image: ImageFile.ImageFile) -> int:
    """The white that a PNM file states in its header; 0 for other files and for whole bytes."""
    codec, _, _, options = image.tile[0]
    return int(options[1]) if codec.startswith("ppm") and isinstance(options, tuple) else 0


def _load(image: ImageFile.ImageFile, data: bytes) -> None:
    """Decode all of it. Raises where the file is not whole, also where decoders are lenient."""
    if image.format == "JPEG" and image.fp and data.find(b"\xff\xd9", image.fp.tell()) < 0:
        raise ImageError("cut short (no end-of-image mark): copy it again from its source")
    if image.format == "PNG":
        Image.open(io.BytesIO(data), formats=("PNG",)).verify()  # checksums: Pillow skips those of pixels
    image.load()


def _decode_deep(data: bytes, image: ImageFile.ImageFile | None) -> tuple[NDArray[Any], float]:
    """Pixels, (H, W) or RGB (H, W, 3), at the file's depth, and the white of their number type."""
    white = 0.0
    if image is not None:
        white = float(_pnm_white(image))
        _load(image, data)  # OpenCV fills up what is missing, Pillow does not
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise ImageError(UNKNOWN_PIXELS)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ImageError("holds pixels that are not numbers (NaN or infinite): export it again")
    if not white:
        white = 1.0 if pixels.dtype.kind == "f" else float(np.iinfo(pixels.dtype).max)
    if pixels.ndim == 2:
        return pixels, white
    colour = pixels[:, :, 2::-1]
    if pixels.shape[2] == 4:
        alpha = np.clip(pixels[:, :, 3:] / white, 0, 1)
        colour = (colour * alpha).astype(pixels.dtype)
    return colour, white


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of an image of 8 bits or fewer; transparent pixels blended with black."""
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(pixels: NDArray[np.uint8], image: Image.Image) -> NDArray[np.uint8]:
    """Turned as EXIF says. For TIFF both decoders have done it, and Pillow has cleared the tag."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata, sound pixels
        return pixels
    swap, flip_rows, flip_cols = _TURNS.get(orientation, (0, 0, 0))
    if swap:
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if flip_rows else 1, :: -1 if flip_cols else 1]
