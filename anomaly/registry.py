"""How a backbone, a scorer or a layout becomes available by being one file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from anomaly.errors import ConfigError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of thing. Every module of `package` is imported at the first question asked."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._items: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that makes what it stands on available as `name`. Raises ConfigError if taken."""

        def add(item: T) -> T:
            if name in self._items:
                raise ConfigError(f"two {self.kind}s are named {name!r}: rename one of them")
            self._items[name] = item
            return item

        return add

    def get(self, name: str) -> T:
        """What was registered as `name`. Raises ConfigError with the nearest name there is."""
        names = self.names()
        if name not in self._items:
            raise ConfigError(f"unknown {self.kind} {name!r}: {nearest(name, names)}")
        return self._items[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        if not self._discovered:
            for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            self._discovered = True
        return sorted(self._items)

    def summaries(self) -> dict[str, str]:
        """Name -> first line of the docstring."""
        return {name: (self._items[name].__doc__ or "").strip().partition("\n")[0] for name in self.names()}
