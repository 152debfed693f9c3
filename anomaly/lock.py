"""One process at a time writes into a folder. Its lock ends with the process, whatever ends that."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from anomaly.errors import ConfigError

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
"""File in the folder that is written; it holds the process id, and is removed at the end."""
TRIES = 100
"""How often a lock is looked for that its last writer is just removing."""


@contextmanager
def sole_writer(folder: Path, out: Path | None = None) -> Iterator[None]:
    """Keep every other process out of `folder`, which is made if need be, while the block runs.

    Raises ConfigError where another one writes there; `out` is what the user calls the folder. A folder that
    cannot be written is not locked, for whoever writes into it says so. Nor is any on Windows.
    """
    new = not folder.exists()
    lock = _locked(folder, out or folder)
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):  # the name goes first: who opens it later makes a lock of his own
                (folder / LOCK).unlink(missing_ok=True)
            os.close(lock)
            if new:
                with suppress(OSError):  # unless something was written
                    folder.rmdir()


def _locked(folder: Path, out: Path) -> int | None:
    """The open lock file; None where there cannot be one."""
    if sys.platform == "win32":
        return None
    for _ in range(TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except (FileNotFoundError, FileExistsError):
            continue  # its last writer is removing the folder
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(folder / LOCK)):
                with suppress(OSError):  # a full disk
                    os.ftruncate(lock, 0)
                    os.pwrite(lock, str(os.getpid()).encode(), 0)
                return lock
        except BlockingIOError:
            pid = os.pread(lock, 20, 0).decode("ascii", "replace")
            os.close(lock)
            who = f"another process (pid {pid})" if pid.isdigit() else "another process"
            raise ConfigError(f"{who} is writing into {out}: wait for it, or give another --out") from None
        except FileNotFoundError:
            pass
        except OSError:  # a file system without locks
            os.close(lock)
            return None
        os.close(lock)  # its last writer has removed the name between opening and locking: once more
    return None
