"""Joining a Ray cluster, or starting one on this machine: what inspections and studies share."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from anomaly.errors import ConfigError

ANSWER = 10.0
"""Seconds that the cluster at RAY_ADDRESS is given to accept a connection. Ray itself waits for minutes."""
STORE = 512 * 2**20
"""Bytes of shared memory of a cluster on this machine: what waits to be recorded; more goes to the disk."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
"""Nothing is sent anywhere, and nothing written among our own sentences."""


def import_ray() -> None:
    """Import Ray, to be quiet. Raises ConfigError where it is missing."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: F401
    except ImportError:
        raise ConfigError("Ray is not installed: install it with: pip install 'anomaly[ray]'") from None


def connect(address: str | None, workers: int | None = None) -> None:
    """Join the cluster at `address`; None starts one of `workers` cores, or all, on this machine. Raises
    ConfigError where it does not answer."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        if address:
            _knock(address)
            ray.init(address=address, **quiet)
            return
        cores = workers or os.cpu_count() or 1
        ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=STORE, **quiet)
    except Exception as error:  # Ray raises many types here
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        cure = (
            f"check RAY_ADDRESS ({address}), that `ray status` answers there, with the Ray of this machine, "
            "and where the cluster asks for a token that RAY_AUTH_TOKEN is set here"
            if address
            else "look into the logs of /tmp/ray/session_latest"
        )
        raise ConfigError(f"the Ray cluster does not answer ({reason}): {cure}") from None


def _knock(address: str) -> None:
    """Raises OSError where nobody listens at [ray://]host:port; other forms are left to Ray."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
