"""Tells another program of every verdict, by HTTP, without ever keeping the line waiting."""

from __future__ import annotations

import json
import queue
import threading
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from anomaly.data.images import one_line
from anomaly.errors import ConfigError

TRIES = 3
WAIT = (0.5, 2.0)
"""Seconds before the second and the third try."""
TIMEOUT = 5.0
WAITING = 1000
"""Verdicts that may wait to be sent; of more the oldest are dropped, and counted."""


class Webhook:
    """POSTs JSON objects from a thread of its own."""

    def __init__(self, url: str, say: Callable[[str], None] = lambda sentence: None) -> None:
        """`say` is told of the first call that fails. Raises ConfigError unless `url` is one of http or
        https."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"the webhook {url!r} is no address: give http://HOST/PATH or https://HOST/PATH"
            )
        self.url = url
        self.sent = self.failed = self.dropped = 0
        self._host, self._say = parts.hostname, say
        self._reason = ""
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(WAITING)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._labour, daemon=True)
        self._thread.start()

    @property
    def counts(self) -> str:
        """Its calls so far, for people."""
        return f"{self.sent} sent, {self.failed} failed, {self.dropped} dropped"

    def send(self, fields: dict[str, Any]) -> None:
        """Queue an object; returns at once."""
        while True:
            try:
                self._queue.put_nowait(fields)
                return
            except queue.Full:
                try:
                    self._queue.get_nowait()
                    self.dropped += 1
                except queue.Empty:
                    continue

    def close(self, seconds: float = TIMEOUT) -> None:
        """Send what waits, for at most `seconds`; what is left then counts as dropped."""
        self.send_end()
        self._thread.join(seconds)
        self._stop.set()
        self.dropped += self._thread.is_alive() + sum(item is not None for item in self._queue.queue)

    def send_end(self) -> None:
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self._stop.set()

    def _labour(self) -> None:
        while not self._stop.is_set() and (fields := self._queue.get()) is not None:
            for attempt in range(TRIES):
                if attempt and self._stop.wait(WAIT[attempt - 1]):
                    break
                if self._post(fields):
                    self.sent += 1
                    break
            else:
                self.failed += 1
                if self.failed == 1:  # the address itself may hold a secret
                    self._say(
                        f"the webhook at {self._host} fails ({self._reason}): check its address; photos are "
                        "judged on, and calls that fail are counted in heartbeat.json"
                    )

    def _post(self, fields: dict[str, Any]) -> bool:
        data = json.dumps(fields).encode()
        request = urllib.request.Request(self.url, data, {"Content-Type": "application/json"}, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                self._reason = f"HTTP status {answer.status}"
                return 200 <= int(answer.status) < 300
        except Exception as error:  # sockets, HTTP and TLS errors have no common type
            self._reason = one_line(getattr(error, "reason", None) or str(error) or type(error).__name__)
            return False
