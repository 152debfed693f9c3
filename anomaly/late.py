"""What takes long to build, built when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Calls `build` at the first call, and gives what it made to every caller, from any thread."""

    def __init__(self, build: Callable[[], T]) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._made: list[T] = []

    def __call__(self) -> T:
        with self._lock:
            if not self._made:
                self._made.append(self._build())
            return self._made[0]


class Late:
    """Stands for a network until something is asked of it."""

    def __init__(self, get: Callable[[], Any]) -> None:
        self._get = get

    def load(self) -> None:
        """Build it now."""
        self._get()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._get(), name)

    def __call__(self, *values: Any) -> Any:
        return self._get()(*values)


class LateMapping(Mapping[str, T]):
    """Items by name, some of them there, all others made together when one is asked for."""

    def __init__(self, names: list[str], there: Mapping[str, T], get: Callable[[], Mapping[str, T]]) -> None:
        self._names, self._there, self._get = names, there, get

    def __getitem__(self, name: str) -> T:
        return self._there[name] if name in self._there else self._get()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
