"""Photos in object stores and on servers, at addresses that fsspec knows, beside those in local files."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomaly.errors import ConfigError, DataError, ImageError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")


class Address(str):
    """Where a photo or a folder lies, with its protocol: s3://bucket/line3/0412.png."""

    __slots__ = ()

    def child(self, relative: str) -> Address:
        """What lies at `relative` below this folder."""
        return Address(f"{self.removesuffix('/')}/{relative}")

    @property
    def parent(self) -> Address:
        return Address(self.rpartition("/")[0])

    @property
    def suffix(self) -> str:
        """The ending with its dot, as `Path.suffix`."""
        return posixpath.splitext(self)[1]


Location = Path | Address


def locate(text: str) -> Location:
    """The place that a user wrote down; local files by `file://` too. Undoes `str` of every Location.

    Raises ConfigError for an address that is no plain one.
    """
    if not _ADDRESS.match(text):
        return Path(text)
    protocol, _, rest = text.partition("://")
    if "::" in text:
        raise ConfigError(f"{text!r} chains protocols: copy the photos to a plain address first")
    return Path(rest) if protocol.lower() in ("file", "local") else Address(text)


def open_store(address: Address) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it. Raises ConfigError where a package that
    knows the protocol is not installed."""
    import fsspec

    protocol = address.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(address)  # type: ignore[no-any-return]
    except ImportError as error:
        extra = ": pip install 'anomaly[s3]'" if protocol in ("s3", "s3a") else ""
        raise ConfigError(f"{protocol}:// addresses need a package more ({_reason(error)}){extra}") from None
    except ValueError as error:
        raise ConfigError(
            f"{address!r} is no address that can be read ({_reason(error)}): give a path, or an address of "
            "a protocol that fsspec knows, such as s3://"
        ) from None


def list_store(address: Address) -> list[str] | None:
    """Names of all files below a folder, relative to it; None for what is no folder.

    Raises DataError where there is no such thing, and where the store does not answer or refuses.
    """
    try:
        store, root = open_store(address)
        store.invalidate_cache()
        if store.info(root)["type"] != "directory":
            return None
        return [name.removeprefix(root.rstrip("/") + "/") for name in store.find(root)]
    except FileNotFoundError:
        raise DataError(f"{address!r} does not exist: check the address") from None
    except ConfigError:
        raise
    except Exception as error:  # each store raises types of its own
        raise DataError(
            f"{address!r} cannot be listed ({_reason(error)}): check the address, the credentials and the "
            "network"
        ) from None


def fetch(address: Address, check: Callable[[int], None]) -> bytes:
    """The content of a file. `check` is told its size first, and may refuse it by raising ImageError.

    Raises ImageError, without the address, for what cannot be read.
    """
    try:
        store, path = open_store(address)
        about = store.info(path)
        if about["type"] == "directory":
            raise IsADirectoryError
        if about.get("size") is not None:
            check(about["size"])
        data = store.cat_file(path)
    except (ConfigError, ImageError):
        raise
    except FileNotFoundError:
        raise ImageError("no such file: check the address") from None
    except IsADirectoryError:
        raise ImageError("a folder, not a photo: give the photos inside it") from None
    except Exception as error:
        raise ImageError(
            f"cannot be read ({_reason(error)}): check the address, the credentials and the network"
        ) from None
    check(len(data))
    return bytes(data)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
